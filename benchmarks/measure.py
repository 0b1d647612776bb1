"""Measures the contenders, and the loop without HTTP, under the requested workloads."""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import ceiling, load, workloads
from benchmarks.contender import CONVOKE, ROOT, Contender, Form
from benchmarks.fleet import Fleet
from benchmarks.items import Kind, Runtime
from benchmarks.results import CEILING, Record, Row, find
from benchmarks.server import BenchmarkError, Server, Usage
from benchmarks.workloads import CLOSED, MANY, OVERLOADS, ItemSet, Overload, Workload

WARM_UP_S = 1
IDLE_S = 10.0
SETTLE_S = 2.0
PATIENCE_S = 10.0
"""How long to wait for the last responses of an overload: many times as long as Convoke lets a request wait."""
CEILING_BATCH = 16
PEERS_FACTOR = 2
"""The overload at which peers are measured, too; more takes them minutes."""


@dataclass(frozen=True)
class Pass:
    """One pass of a closed loop: what wrk counted, and what the server used."""

    load: load.Load
    usage: Usage


@dataclass(frozen=True)
class Bench:
    """One run: the items, the keys of workloads, seconds for each pass, passes, and how ONNX Runtime runs."""

    item_set: ItemSet
    record: Record
    keys: frozenset[str]
    seconds: int
    passes: int
    runtime: Runtime
    log: Callable[[str], None]

    @property
    def closed_loops(self) -> list[Workload]:
        """The requested closed loops whose models are available."""
        return [loop for loop in CLOSED if loop.key in self.keys and loop.is_possible(self.item_set)]

    def ceiling(self) -> None:
        """Measure the loops without HTTP, each for a quarter of a workload's time."""
        seconds = max(self.seconds * self.passes / 4, 0.5)
        families = {family: loop for loop in self.closed_loops if (family := loop.ceiling)}
        for family, workload in families.items():
            for threads in workloads.thread_counts():
                for batch in (1,) if workload.per_request > 1 else (1, CEILING_BATCH):
                    form = f"{threads} thread{'s' * (threads > 1)}, batch {batch * workload.per_request}"
                    if self.record.has(CEILING, form, family):
                        continue
                    result = ceiling.measure(workload.work(self.item_set, batch), threads, seconds)
                    row = Row(CEILING, "no HTTP", form, family, more={"threads": threads, "batch": batch})
                    items = batch * workload.items_per_step(self.item_set)
                    self._add(with_passes(row, [Pass(result, Usage(0.0, 0.0, 0.0))], items))

    def contenders(self, contenders: Mapping[Contender, Path], models: Mapping[Kind, Path]) -> None:
        """Measure contenders, each with the interpreter of its environment, where rows are missing."""
        for workers in sorted({loop.workers for loop in CLOSED}):
            loops = [loop for loop in self.closed_loops if loop.workers == workers]
            missing = {
                contender: python
                for contender, python in contenders.items()
                if any(self._missing(contender, loop) for loop in loops)
                or (workers == 1 and self._is_missing_more(contender))
            }
            if not missing:
                continue
            fleet = Fleet(self._fail)
            with fleet.start(missing, models, self.runtime, workers, partial(self._start, workers)):
                for loop in loops:
                    self._closed_loop(fleet, loop)
                if workers == 1:
                    fleet.each(self._more)

    def _fail(self, contender: Contender, reason: str) -> None:
        self.log(reason)
        self.record.fail(contender.key, reason)

    def _missing(self, contender: Contender, loop: Workload) -> list[Form]:
        """The formats in which a contender takes a workload that have no row yet."""
        return [form for form in loop.forms(contender) if not self.record.has(contender.key, form.name, loop.key)]

    def _is_missing_more(self, contender: Contender) -> bool:
        keys = {overload.key for overload in self._overloads(contender)} | ({"idle"} & self.keys)
        return any(find(self.record.rows, contender.key, key) is None for key in keys)

    def _overloads(self, contender: Contender) -> list[Overload]:
        """The requested overloads that a contender takes."""
        return [
            overload
            for overload in OVERLOADS
            if overload.key in self.keys
            and overload.loop.is_possible(self.item_set)
            and overload.loop.forms(contender)
            and (contender.key == CONVOKE or overload.factor == PEERS_FACTOR)
        ]

    def _record_machine_speed(self, moment: str) -> None:
        """Measure the same loop before each workload, so that a disturbed run can be recognised."""
        if self.item_set.batches:
            work = ceiling.run_tensor(self.item_set.models["digits"], [self.item_set.batches[MANY][0].tensor])
            self.record.about["loops_per_s"][moment] = ceiling.measure(work, 1, 0.5).requests_per_s

    def _start(self, workers: int, server: Server) -> None:
        """Wait until every model responds, then run the correctness check in every request format."""
        forms = server.contender.forms
        with server.meter() as meter:
            server.await_ready(self.item_set.first_requests(forms[0]))
        self.log(f"{server.contender.name}: ready after {server.start_s:.1f} s")
        if workers == 1 and not self.record.has(server.contender.key, forms[0].name, "start"):
            row = _row(server, forms[0], "start", meter.usage)
            self.record.add(replace(row, more={"seconds": round(server.start_s, 2)}))
        for form in forms:
            self.item_set.check(server, form)
        server.measure_idle()

    def _closed_loop(self, fleet: Fleet, workload: Workload) -> None:
        """Measure a workload in several passes, in each of which every contender has its turn."""
        self._record_machine_speed(workload.key)
        is_long = workload.duration_factor > 1
        passes: dict[tuple[Server, Form], list[Pass]] = defaultdict(list)

        def measure(server: Server) -> None:
            for form in self._missing(server.contender, workload):
                passes[server, form].append(self._pass(server, workload, form))

        def add(server: Server) -> None:
            for form in self._missing(server.contender, workload):
                done = passes[server, form]
                usage = Usage(
                    sum(one.usage.cpu_s for one in done),
                    max(one.usage.memory_mib for one in done),
                    max(one.usage.largest_mib for one in done),
                )
                self._add(with_passes(_row(server, form, workload.key, usage), done, workload.per_request))

        for _ in range(1 if is_long else self.passes):
            fleet.each(measure)
        fleet.each(add)

    def _pass(self, server: Server, workload: Workload, form: Form) -> Pass:
        requests = workload.requests(self.item_set, form)
        load.write([request.encode(server.port) for request in requests], server.folder)
        if (warmth := (form.name, *workload.names)) not in server.warm:
            load.closed_loop(server.port, server.folder, workload.connections, WARM_UP_S)
            server.warm.add(warmth)
        server.settle()
        with server.meter() as meter:
            seconds = self.seconds * workload.duration_factor
            result = load.closed_loop(server.port, server.folder, workload.connections, seconds)
            server.settle()
        return Pass(result, meter.usage)

    def _more(self, server: Server) -> None:
        """Measure what is not a closed loop: overloads and the idle server."""
        form = server.contender.forms[0]
        for overload in self._overloads(server.contender):
            if not self.record.has(server.contender.key, form.name, overload.key):
                self._overload(server, overload)
        if "idle" in self.keys and not self.record.has(server.contender.key, form.name, "idle"):
            self._idle(server)

    def _overload(self, server: Server, overload: Overload) -> None:
        """Send a multiple of the requests per second that the closed loop reached."""
        form, loop = server.contender.forms[0], overload.loop
        requests = loop.requests(self.item_set, form)
        load.write([request.encode(server.port) for request in requests], server.folder)
        measured = find(self.record.rows, server.contender.key, loop.key, form.name)
        if measured:
            capacity = measured.requests_per_s
        else:
            capacity = load.closed_loop(server.port, server.folder, loop.connections, self.seconds).requests_per_s
        rate = max(overload.factor * capacity, 1.0)
        server.settle()
        with server.meter() as meter:
            outcomes = open_loop(server.port, server.folder, rate, 2 * self.seconds)
        row = _row(server, form, overload.key, meter.usage)
        errors = int(outcomes["lost"] + outcomes["other"])
        more = {"rate": round(rate, 1), "goodput": round(outcomes["goodput_per_s"] / max(capacity, 1.0), 3), **outcomes}
        self._add(replace(row, errors=errors, more=more))
        server.settle()
        if outcomes["lost"]:
            self.item_set.check_items(server, form, loop.names[0])

    def _idle(self, server: Server) -> None:
        server.settle()
        time.sleep(SETTLE_S)
        with server.meter() as meter:
            time.sleep(IDLE_S)
        row = _row(server, server.contender.forms[0], "idle", meter.usage)
        self._add(replace(row, more={"percent": round(meter.usage.cpu_s / IDLE_S * 100, 2)}))

    def _add(self, row: Row) -> None:
        self.record.add(row)
        self.log(str(row))


def _row(server: Server, form: Form, workload: str, usage: Usage) -> Row:
    return Row(
        server.contender.key, server.contender.name, form.name, workload,
        memory_mib=usage.memory_mib, largest_mib=usage.largest_mib, cpu_s=round(usage.cpu_s, 3),
    )  # fmt: skip


def with_passes(row: Row, passes: Sequence[Pass], items: int) -> Row:
    """A row with the medians of passes of a loop, at `items` items for each request."""
    loads = [one.load for one in passes]
    requests_per_s = median(load.requests_per_s for load in loads)
    efficiencies = [one.load.succeeded / one.usage.cpu_s for one in passes if one.usage.cpu_s]
    return replace(
        row,
        requests_per_s=requests_per_s,
        items_per_s=round(requests_per_s * items, 2),
        p50_ms=median(load.p50_ms for load in loads),
        p99_ms=median(load.p99_ms for load in loads),
        slowest_ms=median(load.slowest_ms for load in loads),
        errors=sum(load.errors for load in loads),
        requests_per_cpu_s=round(median(efficiencies), 1) if efficiencies else 0.0,
        passes=[load.requests_per_s for load in loads],
    )


def open_loop(port: int, folder: Path, rate: float, seconds: float) -> dict[str, float]:
    """The summary of open_loop.py, run in its own process so that nothing here disturbs its timing.

    Raises:
        BenchmarkError: the process failed.
    """
    command = [sys.executable, "-m", "benchmarks.open_loop", str(port), str(folder)]
    command += [f"--rate={rate}", f"--seconds={seconds}", f"--patience={PATIENCE_S}"]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds + 120)
    if completed.returncode:
        reason = completed.stderr.strip()[-500:]
        raise BenchmarkError(f"the open loop failed with exit code {completed.returncode}: {reason}")
    outcomes: dict[str, float] = json.loads(completed.stdout)
    return outcomes
