"""The open-loop driver, against small servers of known behaviour."""

import itertools
import json
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import open_loop
from benchmarks.contender import Request
from benchmarks.open_loop import Driver, arrivals, summarise
from benchmarks.results import percentile_ms
from tests.serving import ROOT

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
BUSY_WITHOUT_RETRY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TRUNCATED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"
REQUEST = Request("/", "text/plain", b"x" * 3).encode(1)


@contextmanager
def responding(*responses: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that sends these responses in turn, over all connections: its port, and the bodies it has read."""
    turn, bodies = itertools.cycle(responses), list[bytes]()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                length = 0
                while line.strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                    line = self.rfile.readline()
                bodies.append(self.rfile.read(length))
                response = next(turn)
                for piece in (response[:20], response[20:]):
                    self.wfile.write(piece)
                if response in {TRUNCATED, BROKEN}:
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1], bodies
        finally:
            server.shutdown()
            thread.join()


def drive(port: int, count: int, request: bytes = REQUEST, **options: int) -> dict[str, float]:
    """The summary of `count` requests, a millisecond apart."""
    driver = Driver(port, [request], **options)
    driver.run([index / 1000 for index in range(count)], patience_s=5)
    return summarise(driver, count, count / 1000)


@pytest.mark.parametrize("response", [GOOD, CHUNKED])
def test_every_request_is_answered(response: bytes) -> None:
    """Complete responses, by length or in chunks, in several pieces, count as accepted requests; none is lost."""
    with responding(response) as (port, bodies):
        summary = drive(port, 40)
    assert (summary["sent"], summary["accepted"], summary["lost"], summary["other"]) == (40, 40, 0, 0)
    assert bodies == [b"xxx"] * 40
    assert 0 < summary["accepted_p50_ms"] <= summary["accepted_p99_ms"]


def test_goodput_counts_what_was_answered_in_time() -> None:
    """Accepted requests that were answered within the seconds of sending, for each of these seconds."""
    with responding(GOOD, BUSY) as (port, _):
        driver = Driver(port, [REQUEST], 1)
        driver.run([index / 1000 for index in range(40)], patience_s=5)
    assert summarise(driver, 40, 5)["goodput_per_s"] == 20 / 5
    assert summarise(driver, 40, 1e-9)["goodput_per_s"] == 0


def test_refusals_and_errors_are_counted() -> None:
    """429s are counted, also those with Retry-After, and server errors separately."""
    with responding(GOOD, BUSY, BUSY_WITHOUT_RETRY, BROKEN) as (port, _):
        summary = drive(port, 40, max_connections=1)
    assert (summary["accepted"], summary["refused"], summary["refused_with_retry_after"], summary["other"]) == (
        10,
        20,
        10,
        10,
    )
    assert summary["lost"] == 0


def test_a_truncated_response_is_lost() -> None:
    """A connection that ends within a response loses its request, and the next request gets a new connection."""
    with responding(GOOD, TRUNCATED) as (port, _):
        summary = drive(port, 20, max_connections=1)
    assert (summary["accepted"], summary["lost"], summary["broken"]) == (10, 10, 10)


def test_requests_to_a_closed_port_are_lost() -> None:
    """If no server listens on the port, requests are lost immediately."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        summary = drive(probe.getsockname()[1], 5)
    assert summary["lost"] == 5


def test_unanswered_requests_are_lost_at_the_deadline() -> None:
    """If a server accepts requests and never responds, all are lost, and the driver ends."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        driver = Driver(silent.getsockname()[1], [REQUEST])
        driver.run([0.0, 0.001], patience_s=0.05)
    summary = summarise(driver, 2, 1)
    assert (summary["lost"], summary["broken"]) == (2, 0)


def test_large_requests_arrive_complete() -> None:
    """A body of megabytes, more than a socket takes at once, arrives byte for byte."""
    body = bytes(range(256)) * (1 << 14)  # 4 MiB
    with responding(GOOD) as (port, bodies):
        summary = drive(port, 3, Request("/", "image/jpeg", body).encode(port))
    assert summary["accepted"] == 3
    assert bodies == [body] * 3


def test_waiting_for_a_connection_counts() -> None:
    """With one connection for requests that are all due at once, each is answered, and later ones take longer."""
    with responding(GOOD) as (port, _):
        driver = Driver(port, [REQUEST], 1)
        driver.run([0.0] * 30, patience_s=5)
    seconds = [outcome.seconds for outcome in driver.outcomes]
    assert len(seconds) == 30
    assert seconds == sorted(seconds)


def test_arrivals_are_a_poisson_process() -> None:
    """They are sorted, match the rate, and have exponential gaps: the standard deviation equals the mean."""
    times = arrivals(2000, 10, seed=3)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert min(gaps) >= 0
    assert times[-1] < 10
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.05)
    assert arrivals(2000, 10, seed=3) == times


def test_percentiles() -> None:
    """The nearest rank, in milliseconds; 0 without durations."""
    assert percentile_ms([index / 1000 for index in range(100)], 99) == 99
    assert percentile_ms([0.001, 0.002, 0.003], 50) == 2
    assert percentile_ms([], 50) == 0


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    """`python -m benchmarks.open_loop` reads the folder that wrk reads, and prints the summary."""
    with responding(GOOD) as (port, bodies):
        for index, body in enumerate((b"one", b"two")):
            (tmp_path / f"{index}.request").write_bytes(Request("/", "text/plain", body).encode(port))
        command = [sys.executable, "-m", open_loop.__name__, str(port), str(tmp_path), "--rate=200", "--seconds=0.2"]
        completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    summary = json.loads(completed.stdout)
    assert summary["sent"] == summary["accepted"] == len(bodies) > 10
    assert set(bodies) == {b"one", b"two"}
