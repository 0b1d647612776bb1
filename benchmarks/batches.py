"""The cost of an item in a batch: microseconds of CPU time, and how much the largest run adds to memory.

    .venv/serve/bin/python -m benchmarks.batches [MODELS]

Each graph of the latest versions in models/ runs with each batch size (and length of texts) in its own process, on one
thread. The limits in `contract/spec.py` were chosen from these figures.
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

from benchmarks.versions import latest_versions
from contract import manifest as contract
from contract.manifest import Precision
from contract.session import options

_SIZES = (1, 4, 8, 16, 32, 128)
_LENGTHS = (30, 250, 1000)  # tokens: a sentence, a review, a long review
_SECONDS = 0.5  # for each measurement


def main() -> None:
    """Print a line for each batch."""
    models = Path(sys.argv[1] if len(sys.argv) > 1 else "models")
    context = multiprocessing.get_context("spawn")
    for folder, manifest in latest_versions(models).items():
        has_fixed_shape = manifest.input.has_fixed_shape
        for precision, length, size in product(manifest.precisions, (1,) if has_fixed_shape else _LENGTHS, _SIZES):
            with context.Pool(1) as pool:
                cost_s, mib = pool.apply(_measure, (folder, precision, size, length))
            shape = f"{size} images" if has_fixed_shape else f"{size} texts of {length} tokens"
            name = f"{manifest.model} {manifest.version}, {precision}"
            print(f"{name}: {shape}: {cost_s * 1e6:,.0f} us per item, {mib:.0f} MiB", flush=True)


def _measure(folder: Path, precision: Precision, size: int, length: int) -> tuple[float, float]:
    """Seconds of CPU time per item (the median of many runs), and the MiB that the runs added to peak memory."""
    manifest = contract.read(folder)
    spec = manifest.input
    session = ort.InferenceSession(folder / manifest.graph(precision), options(1), providers=["CPUExecutionProvider"])
    values = np.random.default_rng(0).integers(1, spec.values.stop, spec.shape(size, length), dtype=spec.dtype)
    feed = {spec.tensor: values}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    durations_s: list[float] = []
    deadline = time.perf_counter() + _SECONDS
    while len(durations_s) < 3 or time.perf_counter() < deadline:  # noqa: PLR2004 -- enough for a median
        start = time.thread_time()
        session.run(None, feed)
        durations_s.append(time.thread_time() - start)
    return median(durations_s) / size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()
