"""Measures the service beside its peers: `make bench`, about 15 minutes; ARGS="--only convoke,fastapi" for some.

Each contender in turn is one server on this machine, on the processor, with the same published models, the same
pictures and texts, and the same threads and files for ONNX Runtime (the service alone would take int8 where it is
faster; here it does with --precision int8, and then all do). Before it is timed, a contender must give every item the
label that the model gives it offline. wrk sends the closed loops, open_loop.py the overloads; both share the machine's
processors with the server, so compare ratios within one run on a quiet machine: absolute numbers do not travel. Rows
are saved as they come, and --resume goes on where a run was stopped. GPUs are not measured here.

The ceiling is the service's own decoding and ONNX Runtime in a plain loop without HTTP, on one thread and on one a
processor, an item and 16 items a run.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import load, plot, results, tables, workloads
from benchmarks.contender import CONTENDERS, ROOT, Contender
from benchmarks.items import Kind, Model, Runtime
from benchmarks.measure import Bench
from benchmarks.results import CEILING, Record
from benchmarks.server import BenchmarkError
from benchmarks.workloads import FAMILIES, Exam

KEYS = (CEILING, *(one.key for one in CONTENDERS))


def main() -> int:
    """Measure every contender, print the tables, and save figures and plot."""
    words = _words()
    if not load.is_installed():
        print("make bench needs wrk, which sends the requests. Install it:", file=sys.stderr)
        print("  Debian, Ubuntu: apt-get install wrk    macOS: brew install wrk", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` stops the servers then, too
    try:
        with _models(Path(os.environ.get("CONVOKE_MODELS") or ROOT / "models")) as folders:
            record = _measure(words, folders)
    except BenchmarkError as error:
        print(f"make bench: {error}", file=sys.stderr)
        return 1
    report = tables.report(record)
    print(report)
    (words.out / "serving.md").write_text(report + "\n", encoding="utf-8")
    plot.draw(record.rows, record.about, words.out / "serving.png")
    print(f"Saved: {words.out}/serving.json, serving.md, serving.png", file=sys.stderr)
    return 1 if record.failures else 0


def _words() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=_positive, default=4, help="seconds a workload (default: %(default)s)")
    parser.add_argument("--only", type=_some_of(KEYS), default=KEYS, metavar="A,B", help=f"some of {', '.join(KEYS)}")
    parser.add_argument(
        "--workloads", type=_some_of(FAMILIES), default=FAMILIES, metavar="A,B", help=f"some of {', '.join(FAMILIES)}"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "int8"),
        default="float32",
        help="the files of models that come in several, for all (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=_positive, default=1, help="ONNX Runtime's threads a run, for all (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs/bench", help="folder of the figures (default: runs/bench)"
    )
    parser.add_argument("--resume", action="store_true", help="keep what the folder has from a run of the same words")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1")
    return value


def _some_of(known: Sequence[str]) -> "type[tuple[str, ...]]":
    def parse(text: str) -> tuple[str, ...]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not known; there are {', '.join(known)}")
        return tuple(text.split(","))

    return parse  # type: ignore[return-value]


@contextmanager
def _models(root: Path) -> Iterator[dict[Kind, Path]]:
    """A models/ of the versions that are measured alone, for all contenders: their folders by kind."""
    with tempfile.TemporaryDirectory(prefix="models") as name:
        copies = {}
        for kind, folder in workloads.find(root).items():
            copies[kind] = Path(name) / folder.parent.name / folder.name
            shutil.copytree(folder, copies[kind])
        yield copies


def _measure(words: argparse.Namespace, folders: Mapping[Kind, Path]) -> Record:
    """All that was asked for; a contender that fails is noted, and the others go on."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {line}", file=sys.stderr, flush=True)

    pythons = {"bench": Path(sys.executable), "peers": Path(sys.prefix).parent / "peers/bin/python"}
    there = {name: python for name, python in pythons.items() if python.exists()}
    runtime = Runtime(words.threads, words.precision)
    models = {kind: Model.load(kind, folder, runtime) for kind, folder in folders.items()}
    about = results.machine(there) | {"seconds": words.seconds, "threads": words.threads}
    about["precision"] = words.precision
    about["models"] = {kind: f"{model.manifest.model}/{model.manifest.version}" for kind, model in models.items()}
    record = Record(words.out / "serving.json", about)
    if words.resume:
        record.resume()
    say(f"{about['cpu']}, {about['processors']} processors, load {about['load']}; models {about['models']}")
    for kind in ("digits", "photos", "reviews"):
        if kind not in models:
            say(f"there is no model of {kind} here: its workloads are left out")
    bench = Bench(Exam(models), record, frozenset(words.workloads), words.seconds, runtime, say)
    if CEILING in words.only:
        bench.ceiling()
    for contender in CONTENDERS:
        if contender.key in words.only:
            _try(bench, contender, there, folders)
    return record


def _try(bench: Bench, contender: Contender, pythons: Mapping[str, Path], folders: Mapping[Kind, Path]) -> None:
    python = pythons.get(contender.environment)
    if python is None:
        reason = f"{contender.name} is left out: its environment is not there; `make bench` installs it"
        bench.say(reason)
        bench.record.fail(contender.key, reason)
        return
    try:
        bench.contender(contender, python, folders)
    except BenchmarkError as error:
        bench.say(str(error))
        bench.record.fail(contender.key, str(error))


if __name__ == "__main__":
    sys.exit(main())
