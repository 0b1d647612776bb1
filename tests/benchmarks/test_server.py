"""Starting, requesting, metering and stopping a server, with tiny servers."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from benchmarks import server
from benchmarks.ceiling import measure
from benchmarks.contender import Contender, Form, Request
from benchmarks.fleet import Fleet
from benchmarks.items import Kind, Runtime
from benchmarks.server import BenchmarkError, Server, serving

ECHO = """
import http.server, json, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
held = bytearray(48 << 20)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"work":
            sum(range(4_000_000))
        response = json.dumps({"label": body.decode(), "models": os.environ["BENCH_MODELS"]}).encode()
        self.send_response(503 if body == b"bad" else 200)
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
FORM = Form(
    "plain", lambda _kind, _name, item: request(item), None, lambda response: [json.loads(response.body)["label"]]
)


def request(body: bytes) -> Request:
    """A request with this body."""
    return Request("/", "text/plain", body)


@contextmanager
def started(program: str, folder: Path) -> Iterator[Server]:
    """A server that runs this program."""
    contender = Contender("tiny", "Tiny", "bench", ("-c", program, "{port}"), (FORM,))
    models: dict[Kind, Path] = {"digits": folder / "models/digits/1"}
    with serving(contender, Path(sys.executable), models, Runtime(), folder) as running:
        yield running


def test_the_labels_of_a_server_are_checked(tmp_path: Path) -> None:
    """It is ready once it responds, it gets the models' folders, and a wrong label or status is an error."""
    with started(ECHO, tmp_path) as running:
        running.await_ready([request(b"7"), request(b"8")])
        assert running.start_s > 0
        response = running.send(request(b"7"))
        assert json.loads(json.loads(response.body)["models"]) == {"digits": str(tmp_path / "models/digits/1")}
        running.check(FORM, request(b"7"), ["7"])
        with pytest.raises(BenchmarkError, match=r"'7'.*'8'"):
            running.check(FORM, request(b"7"), ["8"])
        with pytest.raises(BenchmarkError, match="status 503"):
            running.check(FORM, request(b"bad"), ["bad"])


def test_all_processes_are_metered_and_ended(tmp_path: Path) -> None:
    """Memory is that of all processes and of the largest, work uses CPU seconds, and no process outlives the server."""
    with started(ECHO, tmp_path) as running:
        running.await_ready([request(b"7")])
        with running.meter() as busy:
            for _ in range(5):
                running.send(request(b"work"))
        running.settle()
        with running.meter() as quiet:
            pass
        children = psutil.Process(running._process.pid).children(recursive=True)  # noqa: SLF001
        assert len(children) == 1
    assert busy.usage.largest_mib > 48
    assert busy.usage.memory_mib > busy.usage.largest_mib
    assert busy.usage.cpu_s > 0.05 > quiet.usage.cpu_s
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in children)


def test_only_the_measured_server_of_a_fleet_runs(tmp_path: Path) -> None:
    """The others are paused, one that fails leaves the fleet with its name and log, and all end with it."""
    failures: list[tuple[str, str]] = []
    servers: list[Server] = []
    states: list[list[str]] = []
    fleet = Fleet(lambda contender, reason: failures.append((contender.key, reason)))
    programs = {"one": ECHO, "two": ECHO, "bad": "import sys; print('no such graph'); sys.exit(3)"}
    contenders = {
        Contender(key, key.title(), "bench", ("-c", program, "{port}"), (FORM,)): Path(sys.executable)
        for key, program in programs.items()
    }

    def start(running: Server) -> None:
        running.await_ready([request(b"7")])
        servers.append(running)

    def measure_one(running: Server) -> None:
        running.check(FORM, request(b"7"), ["7"])
        states.append([psutil.Process(other._process.pid).status() for other in servers])  # noqa: SLF001

    with fleet.start(contenders, {"digits": tmp_path / "models/digits/1"}, Runtime(), 2, start):
        fleet.each(measure_one)
        fleet.each(measure_one)
    assert [key for key, _ in failures] == ["bad"]
    assert "no such graph" in failures[0][1]
    assert [[status == psutil.STATUS_STOPPED for status in both] for both in states] == [
        [False, True],
        [True, False],
    ] * 2
    assert not any(psutil.pid_exists(running._process.pid) for running in servers)  # noqa: SLF001


def test_a_server_that_exits_is_reported_with_its_log(tmp_path: Path) -> None:
    """A server that exits before it is ready is an error with its name, exit code and last lines of its log."""
    with (
        pytest.raises(BenchmarkError, match=r"(?s)Tiny: .*code 3.*no such graph"),
        started("import sys; print('no such graph'); sys.exit(3)", tmp_path) as running,
    ):
        running.await_ready([request(b"7")])


def test_a_server_that_is_never_ready_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not ready at the deadline is an error with the reason."""
    monkeypatch.setattr(server, "START_DEADLINE_S", 0.0)
    with pytest.raises(BenchmarkError, match="within 0 s"), started(ECHO, tmp_path) as running:
        running.await_ready([request(b"bad")])


def test_the_ceiling_counts_all_threads() -> None:
    """Every step of every thread is counted once, and an error in a thread is raised."""
    steps: list[int] = []
    result = measure(steps.append, 2, 0.05)
    assert result.succeeded == len(steps)
    assert {step % 2 for step in steps} == {0, 1}
    with pytest.raises(ZeroDivisionError):
        measure(lambda _step: 1 // 0, 2, 0.05)  # type: ignore[arg-type]
