"""One contender's server on this machine: starts it, sends requests, measures its use of resources, stops it."""

import http.client
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

import psutil  # type: ignore[import-untyped]

from benchmarks.contender import ROOT, Contender, Form, Request, Response
from benchmarks.items import Kind, Runtime

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 15.0
RESPONSE_DEADLINE_S = 60.0
_SAMPLE_S = 0.2
_BUSY_S = 0.03  # a server that uses more CPU seconds than this in _SAMPLE_S is still working
_SETTLE_DEADLINE_S = 30.0
_IDLE_SAMPLES = 5
_MIB = 1 << 20
_CONTROLLED = ("CONVOKE_", "BENTOML_", "BENCH_", "MLSERVER_", "RAY_", "LIT_")


class BenchmarkError(Exception):
    """A contender or a workload cannot be measured; the message says why."""


@dataclass(frozen=True)
class Usage:
    """A server's use of resources over a period: CPU seconds, peak memory of all processes and of the largest process.

    Memory is the resident set size; pages that processes share count once for each process.
    """

    cpu_s: float
    memory_mib: float
    largest_mib: float


class Server:
    """A running server: its port, its processes, and how long it took to become ready.

    `warm` holds what it has been warmed up with: a request format and names of items.
    """

    def __init__(
        self, contender: Contender, process: subprocess.Popen[bytes], port: int, started: float, log: Path
    ) -> None:
        self.contender = contender
        self.port = port
        self.folder = log.parent
        self.warm = set[tuple[str, ...]]()
        self.start_s = 0.0
        self._idle_cpu_s = 0.0
        self._process = process
        self._started = started
        self._log = log
        self._root = psutil.Process(process.pid)

    def send(self, request: Request) -> Response:
        """Send one request.

        Raises:
            OSError, http.client.HTTPException: no response arrived.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=RESPONSE_DEADLINE_S)
        try:
            headers = {"Content-Type": request.content_type, **dict(request.headers)}
            connection.request("POST", request.path, request.body, headers)
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, received, response.read())
        finally:
            connection.close()

    def await_ready(self, requests: Sequence[Request]) -> None:
        """Repeat each request until its response is 200, and record the seconds since the start.

        Raises:
            BenchmarkError: the server exited, or is not ready at the deadline.
        """
        deadline = self._started + START_DEADLINE_S
        waiting = list(requests)
        while waiting:
            try:
                response = self.send(waiting[0])
                if response.status == 200:  # noqa: PLR2004 -- OK
                    del waiting[0]
                    continue
                reason = f"status {response.status}: {response.body[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                reason = str(error)
            if self._process.poll() is not None:
                raise BenchmarkError(f"the server exited with code {self._process.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"not ready within {START_DEADLINE_S:g} s of its start: {reason}")
            time.sleep(0.02)
        self.start_s = time.monotonic() - self._started

    def measure_idle(self) -> None:
        """Measure what the server takes without requests, since some poll; `settle` does not wait for less."""
        self._idle_cpu_s = median(self._sample_cpu_s() for _ in range(_IDLE_SAMPLES))

    def check(self, form: Form, request: Request, expected: Sequence[str]) -> None:
        """Compare the labels of a response with the expected ones.

        Raises:
            BenchmarkError: a label differs, or the request failed.
        """
        try:
            response = self.send(request)
        except (OSError, http.client.HTTPException) as error:
            raise BenchmarkError(f"POST {request.path}: no response: {error}") from error
        if response.status != 200:  # noqa: PLR2004 -- OK
            raise BenchmarkError(f"POST {request.path}: status {response.status}: {response.body[:300]!r}")
        labels = form.labels(response)
        if labels != list(expected):
            raise BenchmarkError(f"POST {request.path}: labels {labels[:10]}, expected {list(expected)[:10]}")

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let a paused server run within a `with` block."""
        self._signal(psutil.Process.resume)
        try:
            yield
        finally:
            self.pause()

    def pause(self) -> None:
        """Stop all processes where they are, so that they take no processor time until they are awake."""
        self._signal(psutil.Process.suspend)

    def _signal(self, action: Callable[[psutil.Process], None]) -> None:
        for process in _processes(self._root):
            with suppress(psutil.NoSuchProcess):
                action(process)

    def explain(self, error: Exception) -> BenchmarkError:
        """An error with the server's name and the last lines of its log."""
        tail = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        return BenchmarkError("\n  ".join([f"{self.contender.name}: {error}", "Last lines of its log:", *tail]))

    def settle(self) -> None:
        """Wait until the server has finished the work that a load left behind, or until a deadline."""
        deadline = time.monotonic() + _SETTLE_DEADLINE_S
        while self._sample_cpu_s() > _BUSY_S + self._idle_cpu_s and time.monotonic() < deadline:
            pass

    def _sample_cpu_s(self) -> float:
        """The CPU seconds that the server takes in _SAMPLE_S."""
        before = sum(_cpu_seconds(self._root).values())
        time.sleep(_SAMPLE_S)
        return sum(_cpu_seconds(self._root).values()) - before

    def meter(self) -> "Meter":
        """Measure the server's use of resources within a `with` block; `.usage` holds the result."""
        return Meter(self._root)

    def stop(self) -> None:
        """Terminate the server and its descendants, and kill those that remain.

        A process group would not do: BentoML starts its workers in sessions of their own.
        """
        started = _processes(self._root)
        self._process.terminate()
        self._signal(psutil.Process.resume)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _, remaining = psutil.wait_procs(started, timeout=1)
        for process in remaining:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(remaining, timeout=1)


class Meter:
    """Samples a process and its descendants from a thread."""

    usage: Usage

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._peak = self._largest = 0.0
        self._before: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._before = _cpu_seconds(self._root)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        spent = sum(seconds - self._before.get(pid, 0.0) for pid, seconds in _cpu_seconds(self._root).items())
        self.usage = Usage(round(spent, 3), round(self._peak, 1), round(self._largest, 1))

    def _sample(self) -> None:
        while True:
            sizes = [0.0]
            for process in _processes(self._root):
                with suppress(psutil.NoSuchProcess):
                    sizes.append(process.memory_info().rss / _MIB)
            self._peak, self._largest = max(self._peak, sum(sizes)), max(self._largest, *sizes)
            if self._ended.wait(_SAMPLE_S):
                return


def _processes(root: psutil.Process) -> list[psutil.Process]:
    """A process and its descendants; empty if it has exited."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_seconds(root: psutil.Process) -> dict[int, float]:
    """CPU seconds so far, user and system, of a process and its descendants, by process id."""
    seconds = {}
    for process in _processes(root):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds[process.pid] = times.user + times.system
    return seconds


@contextmanager
def serving(
    contender: Contender, python: Path, models: Mapping[Kind, Path], runtime: Runtime, scratch: Path, workers: int = 1
) -> Iterator[Server]:
    """Start a contender, and stop it at the end.

    Args:
        contender: which contender.
        python: the interpreter of its environment.
        models: the folder models/NAME/VERSION of each kind; all lie in the same models/.
        runtime: how it runs ONNX Runtime.
        scratch: an empty folder for its log and its own files.
        workers: the number of its workers or replicas.

    Raises:
        BenchmarkError: the block failed; the message ends with the last lines of the server's log.
    """
    port = _free_port()
    (scratch / "home").mkdir()
    values = {"{port}": str(port), "{folder}": str(scratch / "home")}
    command = [str(python), *(values.get(argument, argument) for argument in contender.arguments)]
    log = scratch / "log"
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(models, runtime, scratch, workers),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    server = Server(contender, process, port, started, log)
    try:
        yield server
    except BenchmarkError as error:
        raise server.explain(error) from error
    finally:
        server.stop()


def _environment(models: Mapping[Kind, Path], runtime: Runtime, scratch: Path, workers: int) -> dict[str, str]:
    """The current environment, with every variable that configures a contender set here or removed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_CONTROLLED)}
    return inherited | {
        "BENCH_MODELS": json.dumps({kind: str(path) for kind, path in models.items()}),
        "BENCH_PRECISION": runtime.precision,
        "BENCH_THREADS": str(runtime.threads),
        "BENCH_WORKERS": str(workers),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(scratch / "bentoml"),
        "CONVOKE_MODELS": str(next(iter(models.values())).parents[1]),
        "CONVOKE_PROVIDER": "cpu",
        "CONVOKE_PRECISION": runtime.precision,
        "CONVOKE_THREADS": str(runtime.threads),
        "CONVOKE_WORKERS": str(workers),
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(scratch / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "WEB_CONCURRENCY": str(workers),  # uvicorn's
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
