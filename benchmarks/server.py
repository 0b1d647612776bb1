"""One contender's server on this machine: started, ready, asked, metered, stopped with all that it started."""

import http.client
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.contender import ROOT, Answer, Contender, Form, Request
from benchmarks.items import Kind, Runtime

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 15.0
ANSWER_DEADLINE_S = 60.0
_SAMPLE_S = 0.2
_BUSY_S = 0.03  # processor seconds, within one sample, of a server that still works
_SETTLE_DEADLINE_S = 30.0
_MIB = 1 << 20
_OURS_TO_SET = ("CONVOKE_", "BENTOML_", "BENCH_", "MLSERVER_", "RAY_", "LIT_")


class BenchmarkError(Exception):
    """Why something cannot be measured, in words for whoever started the benchmark."""


@dataclass(frozen=True)
class Used:
    """What a server used between two moments: processor seconds, and at its peak memory, all processes and the largest.

    Memory is the resident set; pages that processes share count in each.
    """

    cpu_s: float
    memory_mib: float
    largest_mib: float


class Server:
    """A started server: its port, how long it took to be ready, and its processes."""

    def __init__(self, contender: Contender, process: subprocess.Popen[bytes], port: int, began: float) -> None:
        self.contender = contender
        self.port = port
        self.start_s = 0.0
        self._process = process
        self._began = began
        self._root = psutil.Process(process.pid)

    def ask(self, request: Request) -> Answer:
        """Send one request.

        Raises:
            OSError, http.client.HTTPException: there is no answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_DEADLINE_S)
        try:
            headers = {"Content-Type": request.kind, **dict(request.headers)}
            connection.request("POST", request.path, request.body, headers)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def await_ready(self, requests: Sequence[Request]) -> None:
        """Ask until each of the requests has had an answer of 200, and note how long that took since the start.

        Raises:
            BenchmarkError: the server ends, or does not answer before the deadline.
        """
        deadline = self._began + START_DEADLINE_S
        waiting, said = list(requests), "no answer"
        while waiting:
            try:
                answer = self.ask(waiting[0])
                said = f"status {answer.status}: {answer.body[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                answer, said = None, str(error)
            if answer and answer.status == 200:  # noqa: PLR2004 -- OK
                del waiting[0]
                continue
            if self._process.poll() is not None:
                raise BenchmarkError(f"the server ended with code {self._process.returncode} before it answered")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"not ready within {START_DEADLINE_S:g} s of its start: {said}")
            time.sleep(0.02)
        self.start_s = time.monotonic() - self._began

    def check(self, form: Form, request: Request, expected: Sequence[str]) -> None:
        """Hold the labels of an answer against those of the model offline.

        Raises:
            BenchmarkError: one differs, or there is no good answer.
        """
        try:
            answer = self.ask(request)
        except (OSError, http.client.HTTPException) as error:
            raise BenchmarkError(f"POST {request.path}: no answer: {error}") from error
        if answer.status != 200:  # noqa: PLR2004 -- OK
            raise BenchmarkError(f"POST {request.path}: status {answer.status}: {answer.body[:300]!r}")
        found = form.labels(answer)
        if found != list(expected):
            raise BenchmarkError(f"POST {request.path}: says {found[:10]}, the model offline {list(expected)[:10]}")

    def settle(self) -> None:
        """Wait until the server has worked off what an ended load has left behind, at most for a while."""
        deadline = time.monotonic() + _SETTLE_DEADLINE_S
        before, spent = sum(_cpu_seconds(_family(self._root)).values()), _BUSY_S + 1
        while spent > _BUSY_S and time.monotonic() < deadline:
            time.sleep(_SAMPLE_S)
            now = sum(_cpu_seconds(_family(self._root)).values())
            spent, before = now - before, now

    @contextmanager
    def metered(self) -> Iterator[list[Used]]:
        """Meter what is done inside; the list has the result behind it."""
        meter, found = _Meter(self._root), list[Used]()
        meter.start()
        try:
            yield found
        finally:
            found.append(meter.stop())

    def stop(self) -> None:
        """End the server and what it started, politely, then not. BentoML's workers are in sessions of their own."""
        started = _family(self._root)
        self._process.terminate()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _, left = psutil.wait_procs(started, timeout=1)
        for process in left:
            with _gone_is_fine():
                process.kill()
        psutil.wait_procs(left, timeout=1)


class _Meter:
    """Samples a family of processes from a thread of its own."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._peak = self._largest = 0.0
        self._before: dict[int, float] = {}

    def start(self) -> None:
        self._before = _cpu_seconds(_family(self._root))
        self._thread.start()

    def stop(self) -> Used:
        self._ended.set()
        self._thread.join()
        after = _cpu_seconds(_family(self._root))
        spent = sum(seconds - self._before.get(pid, 0.0) for pid, seconds in after.items())
        return Used(round(spent, 3), round(self._peak, 1), round(self._largest, 1))

    def _sample(self) -> None:
        while True:
            sizes = [0.0]
            for process in _family(self._root):
                with _gone_is_fine():
                    sizes.append(process.memory_info().rss / _MIB)
            self._peak, self._largest = max(self._peak, sum(sizes)), max(self._largest, *sizes)
            if self._ended.wait(_SAMPLE_S):
                return


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    with suppress(psutil.NoSuchProcess):
        yield


def _family(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_seconds(processes: Sequence[psutil.Process]) -> dict[int, float]:
    """Processor seconds, in user and system mode, of each process so far."""
    found = {}
    for process in processes:
        with _gone_is_fine():
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


@contextmanager
def serving(
    contender: Contender, python: Path, models: Mapping[Kind, Path], runtime: Runtime, scratch: Path
) -> Iterator[Server]:
    """Start a contender and stop it at the end.

    Args:
        contender: whom.
        python: the interpreter of its environment.
        models: folder models/NAME/VERSION by kind; all lie in one models/.
        runtime: how it runs ONNX Runtime.
        scratch: an empty folder for its log and what it likes to write.

    Raises:
        BenchmarkError: what is done with it failed; the message ends with its log's last lines.
    """
    port = _free_port()
    (scratch / "home").mkdir()
    filled = {"{port}": str(port), "{folder}": str(scratch / "home")}
    command = [str(python), *(filled.get(word, word) for word in contender.arguments)]
    log = scratch / "log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(models, runtime, scratch),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    server = Server(contender, process, port, began)
    try:
        yield server
    except BenchmarkError as error:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise BenchmarkError("\n  ".join([f"{contender.name}: {error}", "The end of its log:", *tail])) from error
    finally:
        server.stop()


def _environment(models: Mapping[Kind, Path], runtime: Runtime, scratch: Path) -> dict[str, str]:
    """Ours, without what would set a contender up otherwise than stands here."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS_TO_SET)}
    return inherited | {
        "BENCH_MODELS": json.dumps({kind: str(path) for kind, path in models.items()}),
        "BENCH_PRECISION": runtime.precision,
        "BENCH_THREADS": str(runtime.threads),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(scratch / "bentoml"),
        "CONVOKE_MODELS": str(next(iter(models.values())).parents[1]),
        "CONVOKE_PROVIDER": "cpu",
        "CONVOKE_PRECISION": runtime.precision,
        "CONVOKE_THREADS": str(runtime.threads),
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(scratch / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
