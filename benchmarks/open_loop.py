"""Open loop: send requests on schedule, whether or not earlier requests have been answered.

    python -m benchmarks.open_loop PORT FOLDER --rate 9000 --seconds 10

wrk waits for a response before it sends the next request, so it can never send more than the server takes. Here
requests arrive at random times (exponential gaps, a fixed seed). A request uses an idle connection, or a new one if all
are busy. Response times count from when a request was sent or, if it had to wait for a connection, from when it was
due; how late the driver itself was is reported apart. The driver runs on one thread with non-blocking sockets and
prints one JSON object.
"""

import argparse
import errno
import gc
import json
import random
import resource
import selectors
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.results import percentile_ms

MAX_CONNECTIONS = 16_000
"""Below the number of local ports. If all connections are busy, a request waits, and the wait counts as its own."""

_CHUNK = 1 << 18
_BROKEN, _UNANSWERED = 0, -1
_SPARE_FILES = 64
_MAX_SENT_AT_ONCE = 32
"""Requests that are sent before responses are read, so that a driver that is late still reads them in time."""


@dataclass(eq=False)
class _Connection:
    """A socket, the unsent bytes, the received bytes, and when its current request was due."""

    socket: socket.socket
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)
    due: float = 0.0
    busy: bool = False
    events: int = selectors.EVENT_READ


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request: status, seconds it took, whether the response had Retry-After, and when it ended.

    `end_s` counts in seconds from the start of the load.

    The status is 0 if the connection broke, and -1 if no response arrived in time.
    """

    status: int
    seconds: float
    retry_after: bool
    end_s: float


class Driver:
    """Sends requests on schedule and records their outcomes."""

    def __init__(self, port: int, requests: Sequence[bytes], max_connections: int = MAX_CONNECTIONS) -> None:
        self._port = port
        self._requests = requests
        self._available = max_connections
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Connection] = []
        self._busy = 0
        self._waiting: deque[tuple[bytes, float]] = deque()  # requests without a connection, and when they were due
        self._start = 0.0
        self.late_s: list[float] = []
        self.outcomes: list[Outcome] = []

    def run(self, arrivals: Sequence[float], patience_s: float) -> None:
        """Send a request at each of `arrivals` (seconds from now), then wait up to `patience_s` for the responses.

        A request without a response by then is lost, and so is a request whose connection breaks.
        """
        start = self._start = time.perf_counter()
        sent = 0
        end = (arrivals[-1] if arrivals else 0.0) + patience_s
        while (now := time.perf_counter() - start) < end and (sent < len(arrivals) or self._busy or self._waiting):
            limit = sent + _MAX_SENT_AT_ONCE
            while sent < min(len(arrivals), limit) and arrivals[sent] <= now:
                self.late_s.append(now - arrivals[sent])
                self._send(self._requests[sent % len(self._requests)], start + now)
                sent += 1
                now = time.perf_counter() - start
            pause = max(arrivals[sent] - now, 0) if sent < len(arrivals) else 0.1
            for key, mask in self._selector.select(pause):
                self._handle(key.data, mask)
            while self._waiting and (self._idle or self._available):
                self._send(*self._waiting.popleft())
        for key in list(self._selector.get_map().values()):
            if key.data.busy:
                self._finish(key.data, _UNANSWERED)
            self._close(key.data)
        self._selector.close()

    def _send(self, request: bytes, due: float) -> None:
        if not self._idle and not self._available:
            self._waiting.append((request, due))
            return
        connection = self._idle.pop() if self._idle else self._connect()
        connection.due, connection.busy, connection.unsent = due, True, memoryview(request)
        self._busy += 1
        self._handle(connection, selectors.EVENT_WRITE)

    def _connect(self) -> _Connection:
        new = socket.socket()
        new.setblocking(False)  # noqa: FBT003 -- its only argument
        new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        new.connect_ex(("127.0.0.1", self._port))
        connection = _Connection(new)
        self._selector.register(new, selectors.EVENT_READ, connection)
        self._available -= 1
        return connection

    def _handle(self, connection: _Connection, mask: int) -> None:
        """Write or read what the connection is ready for; a connection that breaks loses its request."""
        try:
            if mask & selectors.EVENT_WRITE and connection.unsent:
                self._write(connection)
            if mask & selectors.EVENT_READ:
                chunk = connection.socket.recv(_CHUNK)
                if not chunk:
                    raise ConnectionResetError("the server closed the connection")
                connection.received += chunk
                self._read(connection)
        except BlockingIOError:
            pass
        except OSError:
            if connection.busy:
                self._finish(connection, _BROKEN)
            self._close(connection)

    def _write(self, connection: _Connection) -> None:
        try:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # still connecting; the selector reports when it is connected
                raise
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if connection.events != events:
            connection.events = events
            self._selector.modify(connection.socket, events, connection)

    def _read(self, connection: _Connection) -> None:
        """Record the response if it is complete."""
        header_end = connection.received.find(b"\r\n\r\n")
        if header_end < 0:
            return
        header = bytes(connection.received[:header_end]).lower()
        if not _is_complete(header, connection.received, header_end + 4):
            return
        status = int(header[9:12])
        self._finish(connection, status, retry_after=b"\r\nretry-after:" in header)
        connection.received.clear()
        if b"\r\nconnection: close" in header:
            self._close(connection)
        else:
            self._idle.append(connection)

    def _finish(self, connection: _Connection, status: int, *, retry_after: bool = False) -> None:
        connection.busy = False
        self._busy -= 1
        now = time.perf_counter()
        self.outcomes.append(Outcome(status, now - connection.due, retry_after, now - self._start))

    def _close(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._available += 1


def _is_complete(header: bytes, received: bytearray, body_start: int) -> bool:
    """Whether a response's body has arrived, by its Content-Length or its last chunk."""
    index = header.find(b"\r\ncontent-length:")
    if index >= 0:
        return len(received) - body_start >= int(header[index + 17 :].split(b"\r\n", 1)[0])
    return b"\r\ntransfer-encoding: chunked" not in header or received.endswith(b"0\r\n\r\n")


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Arrival times in seconds from the start: a Poisson process with `rate` requests per second."""
    generator, time_s, times = random.Random(seed), 0.0, list[float]()
    while (time_s := time_s + generator.expovariate(rate)) < seconds:
        times.append(time_s)
    return times


def summarise(driver: Driver, sent: int, seconds: float) -> dict[str, float]:
    """Counts of outcomes, times in milliseconds, and accepted requests per second within the seconds of sending.

    `lost` counts requests without a response; `broken` of them had a connection that broke. `other` counts responses
    with an error status other than 429; `unavailable` of them had status 503.
    """
    accepted = [outcome.seconds for outcome in driver.outcomes if 0 < outcome.status < 400]  # noqa: PLR2004
    refused = [outcome for outcome in driver.outcomes if outcome.status == 429]  # noqa: PLR2004 -- too many requests
    refused_s = [outcome.seconds for outcome in refused]
    statuses = Counter(outcome.status for outcome in driver.outcomes)
    in_time = sum(0 < outcome.status < 400 and outcome.end_s <= seconds for outcome in driver.outcomes)  # noqa: PLR2004
    times = {
        "goodput_per_s": in_time / seconds,
        "accepted_p50_ms": percentile_ms(accepted, 50),
        "accepted_p99_ms": percentile_ms(accepted, 99),
        "refused_p50_ms": percentile_ms(refused_s, 50),
        "refused_p99_ms": percentile_ms(refused_s, 99),
        "driver_late_p99_ms": percentile_ms(driver.late_s, 99),
    }
    return {
        "sent": sent,
        "accepted": len(accepted),
        "refused": len(refused),
        "refused_with_retry_after": sum(outcome.retry_after for outcome in refused),
        "lost": statuses[_BROKEN] + statuses[_UNANSWERED] + sent - len(driver.outcomes),
        "broken": statuses[_BROKEN],
        "other": sum(n for status, n in statuses.items() if status >= 400 and status != 429),  # noqa: PLR2004
        "unavailable": statuses[503],
        **{name: round(value, 2) for name, value in times.items()},
    }


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_loop", description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int, help="the server's port on 127.0.0.1")
    parser.add_argument("folder", type=Path, help="the folder of encoded requests: 0.request, 1.request, ...")
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--seconds", type=float, required=True, help="how long to send")
    parser.add_argument("--patience", type=float, default=35.0, help="how long to wait for the last responses (35 s)")
    args = parser.parse_args()
    max_files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], MAX_CONNECTIONS + _SPARE_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
    paths = sorted(args.folder.glob("*.request"), key=lambda path: int(path.stem))
    driver = Driver(args.port, [path.read_bytes() for path in paths], max_files - _SPARE_FILES)
    gc.disable()  # a pause of the driver would count as the server's
    schedule = arrivals(args.rate, args.seconds)
    driver.run(schedule, args.patience)
    print(json.dumps(summarise(driver, len(schedule), args.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
