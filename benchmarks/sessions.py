"""How ONNX Runtime sessions are best set up on this machine's processors: threads, processes, spinning, arena.

    .venv/serve/bin/python -m benchmarks.sessions        # or: make bench-sessions

For each graph of the highest versions in models/, each way to run it works in processes of its own, in rounds that
take turns, and medians are told. On a machine that does other work as well, items a second of processor time say
more than items a second: they leave out the time that a process waited. Saves the figures as JSON.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import onnxruntime as ort

from contract import batches
from contract import manifest as contract
from contract.manifest import Manifest
from contract.session import options

_SIZES = (1, 32, 256)
_PACED = (50, 0.02)  # runs, and seconds between two of them


@dataclass(frozen=True)
class Way:
    """One way to run a graph: `callers` threads of the program share a session that computes on `threads`."""

    name: str
    processes: int = 1
    callers: int = 1
    threads: int = 1
    spinning: bool = False
    arena: bool = False


@dataclass(frozen=True)
class Work:
    """What one process did: items, seconds of the processor, seconds on the clock."""

    items: int
    processor_s: float
    wall_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds, whose medians are told (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement (default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where versions are (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench-sessions.json"), help="where the figures go")
    words = parser.parse_args()
    found = {}
    for folder in highest(words.models):
        for precision in contract.read(folder).precisions:
            title = f"{folder.parent.name} {folder.name}, {precision}"
            found[title] = _measure(folder, precision, words.rounds, words.seconds)
            print(f"\n{title}\n{_table(found[title])}", flush=True)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors"
    words.out.write_text(json.dumps({"machine": machine, "rounds": words.rounds, "found": found}, indent=2))


def highest(models: Path) -> list[Path]:
    """The folder of the highest version of each model."""
    homes = [home for home in sorted(models.iterdir()) if home.is_dir()]
    return [
        max((path for path in home.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)) for home in homes
    ]


def _ways(count: int) -> list[Way]:
    return [
        Way("one run at a time, on 1 thread"),
        Way(f"one run at a time, on {count} threads", threads=count),
        Way(f"{count} runs at once in one process, 1 thread each", callers=count),
        Way(f"{count} processes, 1 thread each", processes=count),
        Way(f"one run on {count} threads that spin", threads=count, spinning=True),
        Way("one run on 1 thread, with the arena", arena=True),
    ]


def _measure(folder: Path, precision: contract.Precision, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Figures of each way: a column's name -> its median over the rounds."""
    teams = [Team(way, folder, precision) for way in _ways(max(os.cpu_count() or 2, 2))]
    taken: dict[str, dict[str, list[float]]] = {team.way.name: {} for team in teams}
    for _ in range(rounds):
        for team in teams:
            for column, figure in team.figures(seconds).items():
                taken[team.way.name].setdefault(column, []).append(figure)
    for team in teams:
        taken[team.way.name]["peak MiB"] = [team.close()]
    return {name: {column: median(figures) for column, figures in row.items()} for name, row in taken.items()}


class Team:
    """The processes that run a graph one way."""

    def __init__(self, way: Way, folder: Path, precision: contract.Precision) -> None:
        self.way = way
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        for _ in range(way.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(way, folder, precision, theirs))
            process.start()
            self._ends.append(ours)
            self._processes.append(process)
        self._ask(("run", 1, 0.0))

    def figures(self, seconds: float) -> dict[str, float]:
        """One measurement of everything but memory."""
        found: dict[str, float] = {}
        for size in _SIZES:
            work = self._ask(("run", size, seconds))
            items = sum(one.items for one in work)
            found[f"items/s at {size}"] = items / max(one.wall_s for one in work)
            found[f"per processor second at {size}"] = items / sum(one.processor_s for one in work)
        paced = self._ask(("paced", 1, 0.0))
        found["ms of processor a run, paced"] = (
            1000 * sum(one.processor_s for one in paced) / sum(one.items for one in paced)
        )
        idle = self._ask(("idle", 1, seconds))
        found["idle, % of a processor"] = 100 * sum(one.processor_s for one in idle) / seconds
        return found

    def close(self) -> float:
        """End the processes, and tell what memory they took at most, in MiB."""
        self._ask(("run", 0, 0.0))
        peak = sum(one.processor_s for one in self._ask(("peak", 1, 0.0)))
        for end, process in zip(self._ends, self._processes, strict=True):
            end.send(None)
            process.join()
        return peak

    def _ask(self, task: tuple[str, int, float]) -> list[Work]:
        for end in self._ends:
            end.send(task)
        return [end.recv() for end in self._ends]


def _worker(way: Way, folder: Path, precision: contract.Precision, end: Connection) -> None:
    manifest = contract.read(folder)
    chosen = options(way.threads, spinning=way.spinning, arena=way.arena)
    graph = folder / manifest.graph(precision)
    session = ort.InferenceSession(graph, chosen, providers=["CPUExecutionProvider"])
    while (task := end.recv()) is not None:
        end.send(_do(session, manifest, way, *task))


def _do(session: ort.InferenceSession, manifest: Manifest, way: Way, what: str, size: int, seconds: float) -> Work:
    if what == "peak":
        return Work(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0.0)
    name = session.get_inputs()[0].name
    feed = {name: batches.example(manifest, size or manifest.max_batch)}
    began_s, processor_s = time.perf_counter(), time.process_time()
    runs = 0
    if what == "idle":
        time.sleep(seconds)
    elif what == "paced":
        runs, pause_s = _PACED
        for _ in range(runs):
            session.run(None, feed)
            time.sleep(pause_s)
    else:
        runs = _run_for(session, feed, way.callers, seconds)
    return Work(runs * size, time.process_time() - processor_s, time.perf_counter() - began_s)


def _run_for(session: ort.InferenceSession, feed: dict[str, batches.Batch], callers: int, seconds: float) -> int:
    """How often so many callers run a batch between them until the time is over; once each at least."""
    runs = [0] * callers
    until = time.perf_counter() + seconds

    def call(caller: int) -> None:
        while not runs[caller] or time.perf_counter() < until:
            session.run(None, feed)
            runs[caller] += 1

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(1, callers)]
    for thread in threads:
        thread.start()
    call(0)
    for thread in threads:
        thread.join()
    return sum(runs)


def _table(found: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(found.values())))
    head = f"| way | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}"
    rows = [f"| {name} | {' | '.join(f'{row[column]:,.4g}' for column in columns)} |" for name, row in found.items()]
    return "\n".join([head, *rows])


if __name__ == "__main__":
    main()
