"""What an item of a batch costs: microseconds of processor time, and the memory that the largest run takes.

    .venv/serve/bin/python -m benchmarks.batches

For each graph of the highest versions in models/, each size of a batch (and length of a text) in a process of its own,
on one thread. It is what the bounds in `contract/batches.py` were chosen by.
"""

import multiprocessing
import resource
import sys
import time
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from benchmarks.sessions import highest
from contract import batches
from contract import manifest as contract
from contract.manifest import Precision
from contract.session import options
from contract.spec import ImageInput

_SIZES = (1, 4, 8, 16, 32, 128)
_LENGTHS = (30, 250, 1000)  # tokens: a sentence, a review, a long one
_SECONDS = 0.5  # of one measurement


def main() -> None:
    """Print a line a batch."""
    models = Path(sys.argv[1] if len(sys.argv) > 1 else "models")
    context = multiprocessing.get_context("spawn")
    for folder in highest(models):
        manifest = contract.read(folder)
        lengths = (1,) if isinstance(manifest.input, ImageInput) else _LENGTHS
        for precision, length, size in product(manifest.precisions, lengths, _SIZES):
            with context.Pool(1) as pool:
                cost_s, mib = pool.apply(_measure, (folder, precision, size, length))
            shape = f"{size} texts of {length} tokens" if lengths is _LENGTHS else f"{size} pictures"
            name = f"{folder.parent.name} {folder.name}, {precision}"
            print(f"{name}: {shape}: {cost_s * 1e6:,.0f} us an item, {mib:.0f} MiB", flush=True)


def _measure(folder: Path, precision: Precision, size: int, length: int) -> tuple[float, float]:
    """Seconds of processor time an item, the median of many runs, and MiB that the runs took at most."""
    manifest = contract.read(folder)
    graph = folder / manifest.graph(precision)
    session = ort.InferenceSession(graph, options(1), providers=["CPUExecutionProvider"])
    batch = batches.example(manifest, size, length)
    draw, most = np.random.default_rng(0), 256 if isinstance(manifest.input, ImageInput) else manifest.input.vocabulary
    feed = {session.get_inputs()[0].name: draw.integers(1, most, batch.shape).astype(batch.dtype)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times_s: list[float] = []
    until = time.perf_counter() + _SECONDS
    while len(times_s) < 3 or time.perf_counter() < until:  # noqa: PLR2004 -- a median needs them
        began = time.thread_time()
        session.run(None, feed)
        times_s.append(time.thread_time() - began)
    return median(times_s) / size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()
