"""Measures one contender, or the loop without HTTP, under the requested workloads."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import ceiling, load, workloads
from benchmarks.contender import ROOT, Contender, Form
from benchmarks.items import Kind, Runtime
from benchmarks.results import CEILING, Record, Row, find
from benchmarks.server import BenchmarkError, Server, Usage, serving
from benchmarks.workloads import CLOSED, OVERLOADS, ItemSet, Workload

WARM_UP_S = 1
IDLE_S = 10.0
SETTLE_S = 2.0
PATIENCE_S = 35.0
"""How long to wait for the last responses of an overload: longer than the service's own deadline."""
OVERLOAD_FACTOR = 2
CEILING_BATCH = 16


@dataclass(frozen=True)
class Bench:
    """One run: the items, the families of workloads, seconds for each workload, and how ONNX Runtime runs."""

    item_set: ItemSet
    record: Record
    families: frozenset[str]
    seconds: int
    runtime: Runtime
    log: Callable[[str], None]

    @property
    def closed_loops(self) -> list[Workload]:
        """The requested closed loops whose models are available."""
        return [loop for loop in CLOSED if loop.family in self.families and loop.is_possible(self.item_set)]

    def ceiling(self) -> None:
        """Measure the loops without HTTP, each for a quarter of a workload's time."""
        seconds = max(self.seconds / 4, 0.5)
        for family, workload in {loop.family: loop for loop in self.closed_loops}.items():
            for threads in workloads.thread_counts():
                for batch in (1,) if workload.per_request > 1 else (1, CEILING_BATCH):
                    form = f"{threads} thread{'s' * (threads > 1)}, batch {batch * workload.per_request}"
                    if self.record.has(CEILING, form, family):
                        continue
                    result = ceiling.measure(workload.work(self.item_set, batch), threads, seconds)
                    row = Row(CEILING, "no HTTP", form, family, more={"threads": threads, "batch": batch})
                    self._add(_with_load(row, result, batch * workload.items_per_step(self.item_set)))

    def contender(self, contender: Contender, python: Path, models: Mapping[Kind, Path]) -> None:
        """Start a contender, check its labels, and measure the workloads that have no row yet.

        Raises:
            BenchmarkError: the contender does not start, fails, or gives a wrong label.
        """
        self._record_machine_speed(contender.key)
        main_form = contender.forms[0]
        with (
            tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True) as name,
            serving(contender, python, models, self.runtime, Path(name)) as server,
        ):
            self._start(server)
            for workload in self.closed_loops:
                for form in contender.forms if workload.every_form else [main_form]:
                    if not self.record.has(contender.key, form.name, workload.key):
                        self._closed_loop(server, Path(name), workload, form)
            for key, (_, closed) in OVERLOADS.items() if "overload" in self.families else ():
                workload = next(loop for loop in CLOSED if loop.key == closed)
                if workload.is_possible(self.item_set) and not self.record.has(contender.key, main_form.name, key):
                    self._overload(server, Path(name), key, workload)
            if "idle" in self.families and not self.record.has(contender.key, main_form.name, "idle"):
                self._idle(server)

    def _record_machine_speed(self, moment: str) -> None:
        """Measure the same loop before each contender, so that a disturbed run can be recognised."""
        if self.item_set.batches:
            work = ceiling.run_tensor(self.item_set.models["digits"], [self.item_set.batches[0].tensor])
            self.record.about["loops_per_s"][moment] = ceiling.measure(work, 1, 0.5).requests_per_s

    def _start(self, server: Server) -> None:
        """Wait until every model responds, then run the correctness check in every request format."""
        forms, names = server.contender.forms, list(self.item_set.encoded)
        with server.meter() as meter:
            server.await_ready([self.item_set.requests(forms[0], name)[0] for name in names])
        if not self.record.has(server.contender.key, forms[0].name, "start"):
            row = _row(server, forms[0], "start", meter.usage)
            self._add(replace(row, more={"seconds": round(server.start_s, 2)}))
        for form in forms:
            for name in names:
                self.item_set.check(server, form, name)

    def _closed_loop(self, server: Server, folder: Path, workload: Workload, form: Form) -> None:
        requests = workload.requests(self.item_set, form)
        if requests is None:
            self.log(f"{server.contender.name}: {workload.title}: not supported")
            return
        if workload.per_request > 1:
            self.item_set.check_batches(server, form)
        load.write([request.encode(server.port) for request in requests], folder)
        load.closed_loop(server.port, folder, workload.connections, WARM_UP_S)
        server.settle()
        with server.meter() as meter:
            seconds = self.seconds * workload.duration_factor
            result = load.closed_loop(server.port, folder, workload.connections, seconds)
            server.settle()
        self._add(_with_load(_row(server, form, workload.key, meter.usage), result, workload.per_request))

    def _overload(self, server: Server, folder: Path, key: str, workload: Workload) -> None:
        """Send twice as many requests per second as the closed loop reached."""
        form = server.contender.forms[0]
        requests = workload.requests(self.item_set, form)
        assert requests
        load.write([request.encode(server.port) for request in requests], folder)
        measured = find(self.record.rows, server.contender.key, workload.key, form.name)
        if measured:
            capacity = measured.requests_per_s
        else:
            capacity = load.closed_loop(server.port, folder, workload.connections, self.seconds).requests_per_s
        rate = max(OVERLOAD_FACTOR * capacity, 1.0)
        with server.meter() as meter:
            outcomes = _open_loop(server.port, folder, rate, 2 * self.seconds)
        row = _row(server, form, key, meter.usage)
        errors = int(outcomes["lost"] + outcomes["other"])
        self._add(replace(row, errors=errors, more={"rate": round(rate, 1), **outcomes}))
        if outcomes["lost"]:
            self.item_set.check(server, form, workload.names[0])

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
        memory_mib=usage.memory_mib, largest_mib=usage.largest_mib, cpu_s=usage.cpu_s,
    )  # fmt: skip


def _with_load(row: Row, result: load.Load, items: int) -> Row:
    """A row with the result of a loop, at `items` items for each request."""
    return replace(
        row,
        requests_per_s=result.requests_per_s,
        items_per_s=round(result.requests_per_s * items, 2),
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        errors=result.errors,
        cpu_s_per_1000=round(row.cpu_s / max(result.succeeded * items, 1) * 1000, 4),
    )


def _open_loop(port: int, folder: Path, rate: float, seconds: float) -> dict[str, float]:
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
