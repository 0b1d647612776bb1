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
from benchmarks.open_loop import Driver, arrivals, percentile_ms, summarise
from tests.serving import ROOT

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
BUSY_RUDELY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"
REQUEST = Request("/", "text/plain", b"x" * 3).wire(1)


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives these answers in turn, over all connections; its port, and the bodies it has read."""
    turn, bodies = itertools.cycle(answers), list[bytes]()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.readline():
                length = 0
                while head.strip():
                    if head.lower().startswith(b"content-length:"):
                        length = int(head.split(b":")[1])
                    head = self.rfile.readline()
                bodies.append(self.rfile.read(length))
                answer = next(turn)
                for piece in (answer[:20], answer[20:]):
                    self.wfile.write(piece)
                if answer in {CUT, BROKEN}:
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
    """What becomes of so many requests, a millisecond apart."""
    driver = Driver(port, [request], **options)
    driver.run([index / 1000 for index in range(count)], patience_s=5)
    return summarise(driver, count)


@pytest.mark.parametrize("answer", [GOOD, CHUNKED])
def test_every_request_is_answered(answer: bytes) -> None:
    """Whole answers, by length or in chunks, in however many pieces, are accepted requests; none is lost."""
    with answering(answer) as (port, bodies):
        found = drive(port, 40)
    assert (found["sent"], found["accepted"], found["lost"], found["other"]) == (40, 40, 0, 0)
    assert bodies == [b"xxx"] * 40
    assert 0 < found["accepted_p50_ms"] <= found["accepted_p99_ms"]


def test_refusals_are_told_apart() -> None:
    """429s are counted, those with Retry-After too, and server errors on their own."""
    with answering(GOOD, BUSY, BUSY_RUDELY, BROKEN) as (port, _):
        found = drive(port, 40, max_connections=1)
    assert (found["accepted"], found["refused"], found["refused_with_retry_after"], found["other"]) == (10, 20, 10, 10)
    assert found["lost"] == 0


def test_an_answer_that_is_cut_off_is_lost() -> None:
    """A connection that ends inside of an answer loses its request, and the next request has a new one."""
    with answering(GOOD, CUT) as (port, _):
        found = drive(port, 20, max_connections=1)
    assert (found["accepted"], found["lost"], found["broken"]) == (10, 10, 10)


def test_nobody_there_is_lost() -> None:
    """Requests to a port that nobody listens on are lost, at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found = drive(probe.getsockname()[1], 5)
    assert found["lost"] == 5


def test_silence_is_lost_when_patience_ends() -> None:
    """A server that takes requests and never answers loses them all, and the driver ends."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        driver = Driver(silent.getsockname()[1], [REQUEST])
        driver.run([0.0, 0.001], patience_s=0.05)
    found = summarise(driver, 2)
    assert (found["lost"], found["broken"]) == (2, 0)


def test_large_requests_arrive_whole() -> None:
    """A body of megabytes, more than a socket takes at once, arrives byte for byte."""
    body = bytes(range(256)) * (1 << 14)  # 4 MiB
    with answering(GOOD) as (port, bodies):
        found = drive(port, 3, Request("/", "image/jpeg", body).wire(port))
    assert found["accepted"] == 3
    assert bodies == [body] * 3


def test_waiting_for_a_connection_is_on_its_own_time() -> None:
    """With one connection for requests that are all due at once, each is answered, and later ones have longer times."""
    with answering(GOOD) as (port, _):
        driver = Driver(port, [REQUEST], 1)
        driver.run([0.0] * 30, patience_s=5)
    seconds = [one.seconds for one in driver.answered]
    assert len(seconds) == 30
    assert seconds == sorted(seconds)


def test_arrivals_are_a_poisson_process() -> None:
    """They are in order and in time, as many as the rate says, their gaps exponential: deviation equals mean."""
    found = arrivals(2000, 10, seed=3)
    gaps = [after - before for before, after in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert min(gaps) >= 0
    assert found[-1] < 10
    assert len(found) == pytest.approx(20_000, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.05)
    assert arrivals(2000, 10, seed=3) == found


def test_percentiles() -> None:
    """The nearest rank, in milliseconds; of nothing, 0."""
    assert percentile_ms([index / 1000 for index in range(100)], 99) == 99
    assert percentile_ms([0.001, 0.002, 0.003], 50) == 2
    assert percentile_ms([], 50) == 0


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    """`python -m benchmarks.open_loop` reads the folder that wrk reads, and prints the summary."""
    with answering(GOOD) as (port, bodies):
        for index, body in enumerate((b"one", b"two")):
            (tmp_path / f"{index}.request").write_bytes(Request("/", "text/plain", body).wire(port))
        words = [sys.executable, "-m", open_loop.__name__, str(port), str(tmp_path), "--rate=200", "--seconds=0.2"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert found["sent"] == found["accepted"] == len(bodies) > 10
    assert set(bodies) == {b"one", b"two"}
