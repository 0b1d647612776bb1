"""Everything that a GPU changes, in one command of under eight minutes that installs nothing.

    .venv/train/bin/python -m benchmarks.gpu             # or: make bench-gpu

Each model is run by batch size in float32, TF32, float16 and int8, where a version has it and a provider runs it, with
and without CUDA graphs, by TensorRT if its libraries are installed, and compared with the CPU. Then steps of training
`alexnet`, and one process with NCCL. Prints tables and saves the figures as JSON. Without a GPU nothing is measured,
and the exit status is 2; `--provider cpu` tries the program itself.
"""

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime as ort
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 -- its usual name

from benchmarks.results import markdown_table, percentile_ms
from benchmarks.versions import latest_versions
from contract import batches, providers
from contract.errors import ConvokeError
from contract.manifest import Manifest, Precision
from contract.session import Session
from training.data.schema import Image
from training.fit.optimise import optimiser
from training.fit.precision import autocast, prepare
from training.network.build import build
from training.recipe import schema as recipes
from training.recipe.schema import Recipe

SIZES = (1, 8, 32, 128)
BUDGET_S = 420.0
"""After this time no more is started, and what was left out is named."""


@dataclass(frozen=True)
class Setup:
    """How a model is run."""

    name: str
    provider: providers.Provider
    precision: Precision = "float32"
    tf32: bool = False
    cuda_graphs: bool = False


@dataclass(frozen=True)
class Figure:
    """A model in a set-up at a batch size; `difference` is the largest one from the CPU's float32 probabilities."""

    model: str
    setup: str
    batch: int
    items_per_s: float
    p50_ms: float
    p99_ms: float
    difference: float


SETUPS = (
    Setup("CUDA, float32", "cuda"),
    Setup("CUDA, TF32", "cuda", tf32=True),
    Setup("CUDA, TF32, graphs", "cuda", tf32=True, cuda_graphs=True),
    Setup("CUDA, float16", "cuda", "float16"),
    Setup("CUDA, float16, graphs", "cuda", "float16", cuda_graphs=True),
    Setup("TensorRT, float32", "tensorrt"),
    Setup("TensorRT, float16", "tensorrt", "float16"),
    Setup("CPU, float32", "cpu"),
    Setup("CPU, int8", "cpu", "int8"),
)


TRAININGS = (
    ("the usual script: float32", False, False, "float32"),
    ("the usual script: TF32", True, False, "float32"),
    ("channels last, TF32", True, True, "float32"),
    ("channels last, bfloat16: Convoke", True, True, "bfloat16"),
)
"""Name, whether TF32 is allowed, whether Convoke's memory layout is used, and the precision of each way to train."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of models (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement (default: %(default)s)")
    parser.add_argument("--provider", choices=["cuda", "cpu"], default="cuda", help="cpu tries the program itself")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu.json"), help="output file (default: %(default)s)")
    args = parser.parse_args()
    is_cpu = args.provider == "cpu"
    if not is_cpu and not torch.cuda.is_available():
        print(_explain_no_gpu(), file=sys.stderr)
        sys.exit(2)
    end = time.monotonic() + BUDGET_S
    setups = [setup for setup in SETUPS if not is_cpu or setup.provider == "cpu"]
    figures: list[Figure] = []
    omitted: list[str] = []
    for folder, manifest in latest_versions(args.models).items():
        figures += measure(folder, manifest, setups, args.seconds, omitted, end)
    device = torch.device(args.provider)
    training = _training(device, args.seconds, end)
    seconds = _all_reduce(device)
    machine = "CPU" if is_cpu else torch.cuda.get_device_name()
    print(f"{machine}, ONNX Runtime {ort.__version__}, torch {torch.__version__}\n")
    header = ("model", "run", "batch", "items/s", "p50 ms", "p99 ms", "difference from the CPU")
    print(*markdown_table(header, (_cells(figure) for figure in figures), 2), sep="\n")
    print(
        "", *markdown_table(("alexnet, a step", "images/s"), [(k, f"{v:,.0f}") for k, v in training.items()]), sep="\n"
    )
    print(f"\n{'gloo' if is_cpu else 'NCCL'}, one process: all-reduce of 64 MiB in {seconds * 1000:.2f} ms")
    print(*(f"left out: {reason}" for reason in omitted), sep="\n")
    record = {"machine": machine, "figures": [asdict(figure) for figure in figures], "training_images_per_s": training}
    args.out.write_text(json.dumps({**record, "all_reduce_s": seconds, "left_out": omitted}, indent=2))


def _explain_no_gpu() -> str:
    driver = "there is no driver of NVIDIA's"
    if providers.has_nvidia_driver():
        driver = "NVIDIA's driver is installed, but does not fit or shows no GPU: look at nvidia-smi"
    return (
        f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda or '(none)'}, finds no GPU ({driver}).\n"
        "Nothing was measured and no file was written: CUDA, TensorRT, TF32, float16, CUDA graphs and NCCL need one.\n"
        "To try the program itself on this processor: --provider cpu. Its figures say nothing about a GPU."
    )


def _cells(figure: Figure) -> tuple[str, ...]:
    numbers = f"{figure.items_per_s:,.0f}", f"{figure.p50_ms:.2f}", f"{figure.p99_ms:.2f}", f"{figure.difference:.1g}"
    return figure.model, figure.setup, str(figure.batch), *numbers


def measure(
    folder: Path, manifest: Manifest, setups: list[Setup], seconds: float, omitted: list[str], end: float
) -> Iterator[Figure]:
    """One model in all set-ups; what cannot run is added to `omitted` with the reason."""
    sizes = sorted({min(size, manifest.max_batch) for size in SIZES})
    reference = Session(folder / manifest.graph("float32"), manifest, provider="cpu")
    expected = {size: reference.run(batches.example(manifest.input, size)) for size in sizes}
    for setup in setups:
        name = f"{manifest.model} {manifest.version}"
        if setup.precision not in manifest.precisions:
            omitted.append(f"{name}, {setup.name}: the version has no graph in {setup.precision}")
            continue
        if time.monotonic() > end:
            omitted.append(f"{name}, {setup.name}: no time was left")
            continue
        try:
            session = open_session(folder, manifest, setup)
        except ConvokeError as error:
            omitted.append(f"{name}, {setup.name}: {error}")
            continue
        for size in sizes:
            batch = batches.example(manifest.input, size)
            difference = float(np.abs(session.run(batch) - expected[size]).max())
            durations_s = _time(partial(session.run, batch), seconds)
            yield Figure(
                name, setup.name, size, size * len(durations_s) / sum(durations_s),
                percentile_ms(durations_s, 50), percentile_ms(durations_s, 99), difference,
            )  # fmt: skip


def open_session(folder: Path, manifest: Manifest, setup: Setup) -> Session:
    """A session; the service itself always allows TF32."""
    options = providers.cuda_options

    def cuda_options(*, cuda_graphs: bool) -> dict[str, str]:
        return {**options(cuda_graphs=cuda_graphs), "use_tf32": str(int(setup.tf32))}

    with patch.object(providers, "cuda_options", cuda_options):
        return Session(
            folder / manifest.graph(setup.precision), manifest, provider=setup.provider, precision=setup.precision,
            cuda_graphs=setup.cuda_graphs,
        )  # fmt: skip


def _time(run: Callable[[], object], seconds: float) -> list[float]:
    """The durations of runs, after three that are not counted."""
    durations_s: list[float] = []
    for _ in range(3):
        run()
    while not durations_s or sum(durations_s) < seconds:
        start = time.perf_counter()
        run()
        durations_s.append(time.perf_counter() - start)
    return durations_s


def _training(device: torch.device, seconds: float, end: float) -> dict[str, float]:
    """Images a second of whole steps on a batch that lies on the device, as the usual script trains and as Convoke."""
    recipe = recipes.load("alexnet")
    rates: dict[str, float] = {}
    for name, tf32, is_ours, precision in TRAININGS:
        if time.monotonic() > end:
            continue
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        step, count = _step(recipe, device, precision, is_ours=is_ours)
        durations_s = _time(step, seconds)
        rates[name] = count * len(durations_s) / sum(durations_s)
    return rates


def _step(recipe: Recipe, device: torch.device, precision: str, *, is_ours: bool) -> tuple[Callable[[], None], int]:
    """A function that trains one step, and the images of a batch."""
    spec = recipe.input
    assert isinstance(spec, Image)
    count = int(recipe.batch_size) if device.type == "cuda" else 4  # on processors the program itself is tried
    torch.manual_seed(0)
    network = build(recipe)
    network = prepare(network, recipe, device) if is_ours else network.to(device)
    network.train()
    steps = optimiser(recipe.optimiser, network.parameters())
    images = torch.randn(count, spec.channels, spec.height, spec.width, device=device)
    if is_ours:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count, device=device) % 2

    def step() -> None:
        with autocast(device, precision):
            outputs = network(images)
        steps.zero_grad()
        F.cross_entropy(outputs.float(), labels).backward()  # type: ignore[no-untyped-call]
        steps.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step, count


def _all_reduce(device: torch.device) -> float:
    """Seconds of an all-reduce of 64 MiB in a group of one process, which shows that the library loads and runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=0, world_size=1)
    values: Any = torch.ones(16 << 20, device=device)

    def reduce() -> None:
        dist.all_reduce(values)
        if device.type == "cuda":
            torch.cuda.synchronize()

    try:
        return float(np.median(_time(reduce, 0.2)))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
