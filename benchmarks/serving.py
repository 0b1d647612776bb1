"""Measures the service beside its peers: `make bench`, about 25 minutes; ARGS=--quick for 5 of them.

Each contender is one server on this machine's processors, with the same published models, the same items, and the same
threads and precision for ONNX Runtime. The servers run beside each other, all but the measured one paused, and each
workload is measured in several passes in which the contenders take turns, since the speed of machines changes: the
figures are medians. Photos of 12 megapixels, overloads and an idle server are measured once. (On its own, the service
would use int8 where that is faster; --precision int8 uses it for all contenders.) Before a contender is measured, it
must give every item the label that the model gives it offline. wrk sends the closed loops and open_loop.py the
overloads. Both share the processors with the server, so compare ratios within one run on a quiet machine, not absolute
numbers of different machines. Rows are saved one by one, and --resume continues an interrupted run. GPUs are not
measured.

The ceiling is the service's own decoding and ONNX Runtime in a plain loop without HTTP, on one thread and on one thread
for each processor, with batches of 1 and 16 items.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from benchmarks import load, plot, results, tables
from benchmarks.contender import CONTENDERS, ROOT, Contender
from benchmarks.contenders import triton_python
from benchmarks.contenders.triton_python import UnavailableError
from benchmarks.items import Kind, Model, Runtime
from benchmarks.measure import Bench
from benchmarks.results import CEILING, Record
from benchmarks.server import BenchmarkError
from benchmarks.workloads import ALL, FAMILIES, QUICK, ItemSet, find_models, workload_keys

KEYS = (CEILING, *(contender.key for contender in CONTENDERS))


def main() -> int:
    """Measure every contender, print the tables, and save the figures and the plot."""
    args = _arguments()
    if not load.is_installed():
        print("make bench needs wrk, which sends the requests. Install it:", file=sys.stderr)
        print("  Debian, Ubuntu: apt-get install wrk    macOS: brew install wrk", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` stops the servers
    try:
        with _models(Path(os.environ.get("CONVOKE_MODELS") or ROOT / "models")) as folders:
            record = _measure(args, folders)
    except BenchmarkError as error:
        print(f"make bench: {error}", file=sys.stderr)
        return 1
    report = tables.report(record)
    print(report)
    (args.out / "serving.md").write_text(report + "\n", encoding="utf-8")
    plot.draw(record.rows, record.about, args.out / "serving.png")
    print(f"Saved: {args.out}/serving.json, serving.md, serving.png", file=sys.stderr)
    return 1 if record.failures else 0


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seconds", type=_positive, help="seconds for each pass of a workload (default: 2; with --quick 1)")
    add("--passes", type=_positive, default=3, help="passes of each workload (default: %(default)s)")
    add("--quick", action="store_true", help=f"a part in about 5 minutes: {', '.join(sorted(QUICK))}")
    add("--only", type=_names(KEYS), default=KEYS, metavar="A,B", help=f"contenders: {', '.join(KEYS)} (default: all)")
    add(
        "--workloads",
        type=_names(FAMILIES),
        default=FAMILIES,
        metavar="A,B",
        help=f"workloads: {', '.join(FAMILIES)} (default: all)",
    )
    add(
        "--precision",
        choices=("float32", "int8"),
        default="float32",
        help="precision for all contenders, where a model has several (default: %(default)s)",
    )
    add("--threads", type=_positive, default=1, help="ONNX Runtime's threads for each run (default: %(default)s)")
    add("--out", type=Path, default=ROOT / "runs/bench", help="folder for the results (default: runs/bench)")
    add("--resume", action="store_true", help="keep the rows in that folder that were measured with the same settings")
    args = parser.parse_args()
    args.seconds = args.seconds or (1 if args.quick else 2)
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return value


def _names(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Parser of a comma-separated list of allowed names."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"unknown name {name!r}; allowed: {', '.join(allowed)}")
        return names

    return parse


@contextmanager
def _models(root: Path) -> Iterator[dict[Kind, Path]]:
    """A temporary models/ that holds only the measured versions: their folders by kind."""
    with tempfile.TemporaryDirectory(prefix="models") as name:
        copies = {}
        for kind, folder in find_models(root).items():
            copies[kind] = Path(name) / folder.parent.name / folder.name
            shutil.copytree(folder, copies[kind])
        yield copies


def _measure(args: argparse.Namespace, folders: Mapping[Kind, Path]) -> Record:
    """Measure everything requested; a contender that fails is recorded, and the others continue."""
    start = time.monotonic()

    def log(line: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {line}", file=sys.stderr, flush=True)

    installed = _environments()
    runtime = Runtime(args.threads, args.precision)
    models = {kind: Model.load(kind, folder, runtime) for kind, folder in folders.items()}
    about = results.machine(installed) | {
        "seconds": args.seconds,
        "passes": args.passes,
        "threads": args.threads,
        "precision": args.precision,
        "models": {kind: f"{model.manifest.model}/{model.manifest.version}" for kind, model in models.items()},
    }
    record = Record(args.out / "serving.json", about)
    if args.resume:
        record.resume()
    versions = ", ".join(about["models"].values())
    log(f"{about['cpu']}, {about['processors']} processors, load {about['load']}; models: {versions}")
    for kind in get_args(Kind):
        if kind not in models:
            log(f"no model for {kind}: skipping its workloads")
    keys = workload_keys(args.workloads) & (QUICK if args.quick else ALL)
    bench = Bench(ItemSet(models), record, keys, args.seconds, args.passes, runtime, log)
    if CEILING in args.only:
        bench.ceiling()
    contenders = {}
    for contender in CONTENDERS:
        if contender.key in args.only:
            try:
                contenders[contender] = _python(contender, installed, log)
            except UnavailableError as error:
                log(f"{contender.name}: {error}")
                record.skip(contender.key, f"{contender.name}: {error}")
    bench.contenders(contenders, folders)
    return record


def _environments() -> dict[str, Path]:
    """The Python of each environment that is installed."""
    pythons = {"bench": Path(sys.executable), "peers": Path(sys.prefix).parent / "peers/bin/python"}
    return {name: python for name, python in pythons.items() if python.exists()}


def _python(contender: Contender, installed: Mapping[str, Path], log: Callable[[str], None]) -> Path:
    """The Python that starts a contender.

    Raises:
        UnavailableError: its environment is missing and cannot be installed.
    """
    if contender.environment == "triton":
        if not triton_python.is_installed():
            log(f"{contender.name}: installing it, which takes some minutes, once")
        triton_python.install()
        return installed["bench"]
    if contender.environment not in installed:
        raise UnavailableError(f".venv/{contender.environment} is missing; `make bench` installs it")
    return installed[contender.environment]


if __name__ == "__main__":
    sys.exit(main())
