"""Starting, asking, metering and stopping a server, tried on tiny ones."""

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
        answer = json.dumps({"label": body.decode(), "models": os.environ["BENCH_MODELS"]}).encode()
        self.send_response(503 if body == b"bad" else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
FORM = Form("plain", lambda _kind, _name, item: ask(item), None, lambda answer: [json.loads(answer.body)["label"]])


def ask(body: bytes) -> Request:
    """A request with this body."""
    return Request("/", "text/plain", body)


@contextmanager
def started(program: str, folder: Path) -> Iterator[Server]:
    """A server that runs this program."""
    contender = Contender("tiny", "Tiny", "bench", ("-c", program, "{port}"), (FORM,))
    models: dict[Kind, Path] = {"digits": folder / "models/digits/1"}
    with serving(contender, Path(sys.executable), models, Runtime(), folder) as running:
        yield running


def test_a_server_is_asked_and_checked(tmp_path: Path) -> None:
    """It is ready once it answers, is told where the models are, and a wrong label or status is an error."""
    with started(ECHO, tmp_path) as running:
        running.await_ready([ask(b"7"), ask(b"8")])
        assert running.start_s > 0
        answer = running.ask(ask(b"7"))
        assert json.loads(json.loads(answer.body)["models"]) == {"digits": str(tmp_path / "models/digits/1")}
        running.check(FORM, ask(b"7"), ["7"])
        with pytest.raises(BenchmarkError, match="says \\['7'\\], the model offline \\['8'\\]"):
            running.check(FORM, ask(b"7"), ["8"])
        with pytest.raises(BenchmarkError, match="status 503"):
            running.check(FORM, ask(b"bad"), ["bad"])


def test_the_whole_family_is_metered_and_ended(tmp_path: Path) -> None:
    """Memory is that of all processes and of the largest, work shows in processor seconds, and nobody outlives it."""
    with started(ECHO, tmp_path) as running:
        running.await_ready([ask(b"7")])
        with running.metered() as busy:
            for _ in range(5):
                running.ask(ask(b"work"))
        running.settle()
        with running.metered() as quiet:
            pass
        family = psutil.Process(running._process.pid).children(recursive=True)  # noqa: SLF001
        assert len(family) == 1
    assert busy[0].largest_mib > 48
    assert busy[0].memory_mib > busy[0].largest_mib
    assert busy[0].cpu_s > 0.05 > quiet[0].cpu_s
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


def test_a_server_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    """One that ends before it answers is an error with its name, its code and its last words."""
    with (
        pytest.raises(BenchmarkError, match=r"(?s)Tiny: the server ended with code 3.*no such graph"),
        started("import sys; print('no such graph'); sys.exit(3)", tmp_path) as running,
    ):
        running.await_ready([ask(b"7")])


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not ready at the deadline is an error that says what it answered."""
    monkeypatch.setattr(server, "START_DEADLINE_S", 0.0)
    with pytest.raises(BenchmarkError, match="not ready within 0 s"), started(ECHO, tmp_path) as running:
        running.await_ready([ask(b"bad")])


def test_the_ceiling_counts_all_threads() -> None:
    """Every turn of every thread is counted once, and an error in one is raised."""
    turns: list[int] = []
    found = measure(turns.append, 2, 0.05)
    assert found.good == len(turns)
    assert {turn % 2 for turn in turns} == {0, 1}
    with pytest.raises(ZeroDivisionError):
        measure(lambda _turn: 1 // 0, 2, 0.05)  # type: ignore[arg-type]
