"""What a processor can do: the figures of a short run against a server of known behaviour, and the arguments."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, Self

import pytest

from benchmarks import capacity, load
from benchmarks.contender import CONTENDERS
from benchmarks.server import Usage

BUSY_S = 0.02


class OneAtATime(BaseHTTPRequestHandler):
    """Takes `BUSY_S` for each POST, and says in /metrics for which share of the time it was busy."""

    protocol_version = "HTTP/1.1"
    started = busy_s = 0.0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(BUSY_S)
        OneAtATime.busy_s += BUSY_S
        self.answer(json.dumps({"predictions": [{"label": "7"}]}).encode())

    def do_GET(self) -> None:
        share = OneAtATime.busy_s / (time.monotonic() - OneAtATime.started)
        OneAtATime.busy_s, OneAtATime.started = 0.0, time.monotonic()
        self.answer(f"# TYPE convoke_utilisation gauge\nconvoke_utilisation {share}\n".encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionResetError):  # wrk closes its connections when its time is over
            super().handle()


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OneAtATime)
    Thread(target=server.serve_forever, daemon=True).start()
    OneAtATime.started = time.monotonic()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(not load.is_installed(), reason="wrk is not installed")
def test_the_utilisation_is_read_at_capacity_and_at_half_of_it(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection is answered without a pause, so the server is busy; then half as many requests are sent."""

    class Meter:
        usage = Usage(2.0, 100.0, 80.0)

        def __enter__(self) -> Self:
            capacity.read(port)  # the share counts from now
            return self

        def __exit__(self, *_: object) -> None:
            pass

    convoke: Any = CONTENDERS[0]
    server: Any = SimpleNamespace(contender=convoke, port=port, folder=tmp_path, meter=Meter)
    request = convoke.forms[0].single("digits", "digits", b"\x89PNG")
    items: Any = SimpleNamespace(check_items=lambda *_: None, encoded={"digits": [b""]}, requests=lambda *_: [request])
    monkeypatch.setitem(capacity.LOOPS, "digits", ("digits-1", 1))
    measured = capacity.measure(server, items, "digits", long_s=2, read_s=1.5)
    assert 2 < measured.requests_per_s <= 1 / BUSY_S
    assert measured.requests_per_cpu_s == pytest.approx(measured.requests_per_s, rel=0.2)
    assert measured.full > 0.1
    assert 0.2 < measured.half / measured.full < 0.9
    assert measured.memory_mib == 80
    assert measured.cells()[0] == "digits"


@pytest.mark.parametrize("arguments", [["--only", "letters"], ["--processors", "0"], ["--processors", "10000"]])
def test_wrong_arguments_are_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 2, and the message has the values that may be given."""
    monkeypatch.setattr(sys, "argv", ["capacity", *arguments])
    assert capacity.main() == 2
    assert "large" in capsys.readouterr().err
