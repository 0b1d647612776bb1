"""The best set-up of ONNX Runtime sessions on this machine's processors: threads, processes, spinning, arena.

    .venv/serve/bin/python -m benchmarks.sessions        # or: make bench-sessions

Each graph of the latest versions in models/ is run in several configurations, each in its own processes. The
configurations take turns, and the table shows medians over all rounds. On a machine with other work, compare items per
CPU second: unlike items per second, they leave out the time for which a process waited. Saves the figures as JSON.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import onnxruntime as ort

from benchmarks.results import markdown_table
from benchmarks.versions import latest_versions
from contract import batches, processors
from contract import manifest as contract
from contract.manifest import Manifest
from contract.session import options

_SIZES = (1, 32, 256)
_PACED_RUNS, _PACED_PAUSE_S = 50, 0.02


@dataclass(frozen=True)
class Configuration:
    """How a graph is run: in each process, `callers` threads share one session that computes on `threads` threads."""

    name: str
    processes: int = 1
    callers: int = 1
    threads: int = 1
    spinning: bool = False
    arena: bool = False


@dataclass(frozen=True)
class Work:
    """What one process did: items, seconds of CPU time, seconds of wall time."""

    items: int
    cpu_s: float
    wall_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="number of rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement (default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of models (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench-sessions.json"), help="output file (%(default)s)")
    args = parser.parse_args()
    figures = {}
    for folder, manifest in latest_versions(args.models).items():
        for precision in manifest.precisions:
            title = f"{manifest.model} {manifest.version}, {precision}"
            figures[title] = _measure(folder, precision, args.rounds, args.seconds)
            print(f"\n{title}\n{_table(figures[title])}", flush=True)
    machine = f"{platform.processor() or platform.machine()}, {processors.count()} processors"
    args.out.write_text(json.dumps({"machine": machine, "rounds": args.rounds, "found": figures}, indent=2))


def _configurations(count: int) -> list[Configuration]:
    return [
        Configuration("one run at a time, 1 thread"),
        Configuration(f"one run at a time, {count} threads", threads=count),
        Configuration(f"{count} concurrent runs in one process, 1 thread each", callers=count),
        Configuration(f"{count} processes, 1 thread each", processes=count),
        Configuration(f"one run at a time, {count} threads with spinning", threads=count, spinning=True),
        Configuration("one run at a time, 1 thread, with the arena", arena=True),
    ]


def _measure(folder: Path, precision: contract.Precision, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """The figures of each configuration: the median of each column over the rounds."""
    teams = [Team(configuration, folder, precision) for configuration in _configurations(max(processors.count(), 2))]
    columns: dict[str, dict[str, list[float]]] = {team.configuration.name: {} for team in teams}
    for _ in range(rounds):
        for team in teams:
            for column, figure in team.figures(seconds).items():
                columns[team.configuration.name].setdefault(column, []).append(figure)
    for team in teams:
        columns[team.configuration.name]["peak MiB"] = [team.close()]
    return {name: {column: median(figures) for column, figures in row.items()} for name, row in columns.items()}


class Team:
    """The processes that run a graph in one configuration."""

    def __init__(self, configuration: Configuration, folder: Path, precision: contract.Precision) -> None:
        self.configuration = configuration
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(configuration.processes):
            pipe, worker_pipe = context.Pipe()
            process = context.Process(target=_worker, args=(configuration, folder, precision, worker_pipe))
            process.start()
            self._pipes.append(pipe)
            self._processes.append(process)
        self._run(("run", 1, 0.0))

    def figures(self, seconds: float) -> dict[str, float]:
        """One measurement of every column except memory."""
        figures: dict[str, float] = {}
        for size in _SIZES:
            results = self._run(("run", size, seconds))
            items = sum(work.items for work in results)
            figures[f"items/s at batch {size}"] = items / max(work.wall_s for work in results)
            figures[f"items/CPU s at batch {size}"] = items / sum(work.cpu_s for work in results)
        paced = self._run(("paced", 1, 0.0))
        runs = sum(work.items for work in paced)
        figures["CPU ms per run at 50 runs/s"] = 1000 * sum(work.cpu_s for work in paced) / runs
        idle = self._run(("idle", 1, seconds))
        figures["idle, % of a processor"] = 100 * sum(work.cpu_s for work in idle) / seconds
        return figures

    def close(self) -> float:
        """Run the largest batch, end the processes, and return their peak memory in MiB."""
        self._run(("run", 0, 0.0))
        for pipe in self._pipes:
            pipe.send(None)
        peak_mib: float = sum(pipe.recv() for pipe in self._pipes)
        for process in self._processes:
            process.join()
        return peak_mib

    def _run(self, task: tuple[str, int, float]) -> list[Work]:
        """Do a task (its name, batch size, seconds) in every process at once."""
        for pipe in self._pipes:
            pipe.send(task)
        return [pipe.recv() for pipe in self._pipes]


def _worker(configuration: Configuration, folder: Path, precision: contract.Precision, pipe: Connection) -> None:
    """Do the tasks from a pipe until None arrives; then send the peak memory in MiB."""
    manifest = contract.read(folder)
    session_options = options(configuration.threads, spinning=configuration.spinning, arena=configuration.arena)
    graph = folder / manifest.graph(precision)
    session = ort.InferenceSession(graph, session_options, providers=["CPUExecutionProvider"])
    while (task := pipe.recv()) is not None:
        pipe.send(_do(session, manifest, configuration.callers, *task))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _do(session: ort.InferenceSession, manifest: Manifest, callers: int, task: str, size: int, seconds: float) -> Work:
    """Do one task; batch size 0 stands for the largest batch."""
    feed = {session.get_inputs()[0].name: batches.example(manifest.input, size or manifest.max_batch)}
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    runs = 0
    if task == "idle":
        time.sleep(seconds)
    elif task == "paced":
        runs = _PACED_RUNS
        for _ in range(runs):
            session.run(None, feed)
            time.sleep(_PACED_PAUSE_S)
    else:
        runs = _run_for(session, feed, callers, seconds)
    return Work(runs * size, time.process_time() - cpu_s, time.perf_counter() - wall_s)


def _run_for(session: ort.InferenceSession, feed: dict[str, batches.Batch], callers: int, seconds: float) -> int:
    """Run a batch from several threads until the time is over, at least once in each; returns the number of runs."""
    runs = [0] * callers
    deadline = time.perf_counter() + seconds

    def call(caller: int) -> None:
        while not runs[caller] or time.perf_counter() < deadline:
            session.run(None, feed)
            runs[caller] += 1

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(1, callers)]
    for thread in threads:
        thread.start()
    call(0)
    for thread in threads:
        thread.join()
    return sum(runs)


def _table(figures: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(figures.values())))
    cells = [(name, *(f"{row[column]:,.4g}" for column in columns)) for name, row in figures.items()]
    return "\n".join(markdown_table(("configuration", *columns), cells))


if __name__ == "__main__":
    main()
