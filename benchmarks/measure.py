"""Measures one contender, and the loop without HTTP, under the workloads that were asked for."""

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
from benchmarks.results import CEILING, Record, Row
from benchmarks.server import BenchmarkError, Server, Used, serving
from benchmarks.workloads import CLOSED, OVERLOADS, Exam, Workload

WARM_UP_S = 1
IDLE_S = 10.0
SETTLE_S = 2.0
PATIENCE_S = 35.0
"""How long an overload's last answers are waited for: a little more than the service's own deadline."""
TIMES_CAPACITY = 2
CEILING_BATCH = 16


@dataclass(frozen=True)
class Bench:
    """One run: what is asked, which workloads, for how long, and how ONNX Runtime is run."""

    exam: Exam
    record: Record
    families: frozenset[str]
    seconds: int
    runtime: Runtime
    say: Callable[[str], None]

    @property
    def closed(self) -> list[Workload]:
        """The closed loops that were asked for and whose models are there."""
        return [one for one in CLOSED if one.family in self.families and one.is_possible(self.exam)]

    def ceiling(self) -> None:
        """Measure the loops without HTTP, a quarter of a workload's time each."""
        seconds = max(self.seconds / 4, 0.5)
        for family, workload in {one.family: one for one in self.closed}.items():
            for threads in workloads.thread_counts():
                for batch in (1,) if workload.per_request > 1 else (1, CEILING_BATCH):
                    form = f"{threads} thread{'s' * (threads > 1)}, {batch * workload.per_request} a run"
                    if self.record.has(CEILING, form, family):
                        continue
                    found = ceiling.measure(workload.work(self.exam, batch), threads, seconds)
                    row = Row(CEILING, "no HTTP", form, family, more={"threads": threads, "batch": batch})
                    self._add(_loaded(row, found, batch * workload.items(self.exam)))

    def contender(self, contender: Contender, python: Path, models: Mapping[Kind, Path]) -> None:
        """Start a contender, check its answers and measure what has no row yet.

        Raises:
            BenchmarkError: it does not start, breaks down or answers wrongly.
        """
        self._note_speed(contender.key)
        with (
            tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True) as name,
            serving(contender, python, models, self.runtime, Path(name)) as server,
        ):
            self._start(server)
            for workload in self.closed:
                for form in contender.forms if workload.every_form else contender.forms[:1]:
                    if not self.record.has(contender.key, form.name, workload.key):
                        self._closed_loop(server, Path(name), workload, form)
            for overload, capacity in OVERLOADS.items() if "overload" in self.families else ():
                workload = next(one for one in CLOSED if one.key == capacity)
                if workload.is_possible(self.exam) and not self.record.has(
                    contender.key, contender.forms[0].name, overload
                ):
                    self._overload(server, Path(name), overload, workload)
            if "idle" in self.families and not self.record.has(contender.key, contender.forms[0].name, "idle"):
                self._idle(server)

    def _note_speed(self, moment: str) -> None:
        """Note how fast one and the same loop runs now, so that a disturbed run can be told."""
        if self.exam.batches:
            work = ceiling.run_tensor(self.exam.models["digits"], [self.exam.batches[0].tensor])
            self.record.about["loops_per_s"][moment] = ceiling.measure(work, 1, 0.5).requests_per_s

    def _start(self, server: Server) -> None:
        """Wait until every model answers; then every answer must be right."""
        forms, names = server.contender.forms, list(self.exam.encoded)
        with server.metered() as used:
            server.await_ready([self.exam.requests(forms[0], name)[0] for name in names])
        if not self.record.has(server.contender.key, forms[0].name, "start"):
            row = _row(server, forms[0], "start", used[0])
            self._add(replace(row, more={"seconds": round(server.start_s, 2)}))
        for form in forms:
            for name in names:
                self.exam.check(server, form, name)

    def _closed_loop(self, server: Server, folder: Path, workload: Workload, form: Form) -> None:
        requests = workload.requests(self.exam, form)
        if requests is None:
            self.say(f"{server.contender.name}: {workload.title}: no form of its own takes that")
            return
        if workload.per_request > 1:
            self.exam.check(server, form, "many")
        load.write([request.wire(server.port) for request in requests], folder)
        load.closed_loop(server.port, folder, workload.connections, WARM_UP_S)
        server.settle()
        with server.metered() as used:
            found = load.closed_loop(server.port, folder, workload.connections, self.seconds * workload.longer)
            server.settle()
        self._add(_loaded(_row(server, form, workload.key, used[0]), found, workload.per_request))

    def _overload(self, server: Server, folder: Path, key: str, workload: Workload) -> None:
        """Send twice as many requests a second as were answered with every connection busy."""
        form = server.contender.forms[0]
        requests = workload.requests(self.exam, form)
        assert requests
        load.write([request.wire(server.port) for request in requests], folder)
        known = self.record.find(server.contender.key, workload.key, form.name)
        if known:
            capacity = known.requests_per_s
        else:
            capacity = load.closed_loop(server.port, folder, workload.connections, self.seconds).requests_per_s
        rate = max(TIMES_CAPACITY * capacity, 1.0)
        with server.metered() as used:
            found = _open_loop(server.port, folder, rate, 2 * self.seconds)
        row = _row(server, form, key, used[0])
        self._add(replace(row, errors=int(found["lost"] + found["other"]), more={"rate": round(rate, 1), **found}))
        if found["lost"]:
            self.exam.check(server, form, workload.names[0])

    def _idle(self, server: Server) -> None:
        server.settle()
        time.sleep(SETTLE_S)
        with server.metered() as used:
            time.sleep(IDLE_S)
        row = _row(server, server.contender.forms[0], "idle", used[0])
        self._add(replace(row, more={"percent": round(used[0].cpu_s / IDLE_S * 100, 2)}))

    def _add(self, row: Row) -> None:
        self.record.add(row)
        self.say(row.told())


def _row(server: Server, form: Form, workload: str, used: Used) -> Row:
    return Row(
        server.contender.key, server.contender.name, form.name, workload,
        memory_mib=used.memory_mib, largest_mib=used.largest_mib, cpu_s=used.cpu_s,
    )  # fmt: skip


def _loaded(row: Row, found: load.Load, items: int) -> Row:
    """A row with what a loop found, of so many items a request."""
    return replace(
        row,
        requests_per_s=found.requests_per_s,
        items_per_s=round(found.requests_per_s * items, 2),
        p50_ms=found.p50_ms,
        p99_ms=found.p99_ms,
        errors=found.errors,
        cpu_s_per_1000=round(row.cpu_s / max(found.good * items, 1) * 1000, 4),
    )


def _open_loop(port: int, folder: Path, rate: float, seconds: float) -> dict[str, float]:
    """What open_loop.py found, in a process of its own, so that nothing here disturbs its clock.

    Raises:
        BenchmarkError: it fails.
    """
    words = [sys.executable, "-m", "benchmarks.open_loop", str(port), str(folder)]
    words += [f"--rate={rate}", f"--seconds={seconds}", f"--patience={PATIENCE_S}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds + 120)
    if done.returncode:
        raise BenchmarkError(f"the open loop failed with code {done.returncode}: {done.stderr.strip()[-500:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found
