"""Open loop: requests leave when their time has come, whether the ones before have been answered or not.

    python -m benchmarks.open_loop PORT FOLDER --rate 9000 --seconds 10

wrk waits for an answer before it sends the next request, so it can never send more than the server takes. Here arrivals
are random (exponential gaps, a fixed seed), each on a connection of its own as long as others are busy, and times count
from when a request should have left. One thread, non-blocking sockets, one JSON object on standard output.
"""

import argparse
import errno
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

MAX_CONNECTIONS = 16_000
"""Fewer than this machine has ports and a process may open; a request that finds none free waits, on its own time."""

_CHUNK = 1 << 18
_BROKEN, _UNANSWERED = 0, -1
_SPARE_FILES = 64


@dataclass(eq=False)
class _Connection:
    """A socket, what is still to be sent, what has come, and when its request should have left."""

    socket: socket.socket
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)
    due: float = 0.0
    busy: bool = False


@dataclass(frozen=True)
class Answered:
    """One request's end: its status, seconds since it was due, and whether Retry-After stood.

    The status is 0 where its connection broke, -1 where patience ended.
    """

    status: int
    seconds: float
    retry_after: bool


class Driver:
    """Sends requests on schedule and notes what comes of each."""

    def __init__(self, port: int, requests: Sequence[bytes], max_connections: int = MAX_CONNECTIONS) -> None:
        self._port = port
        self._requests = requests
        self._free = max_connections
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Connection] = []
        self._busy = 0
        self._waiting: deque[tuple[bytes, float]] = deque()  # requests without a connection, and when they were due
        self.late_s: list[float] = []
        self.answered: list[Answered] = []

    def run(self, arrivals: Sequence[float], patience_s: float) -> None:
        """Send a request at each of the given seconds from now; wait so long for answers after the last.

        What has no answer then is lost, and so is what a connection broke under.
        """
        began = time.perf_counter()
        sent = 0
        end = (arrivals[-1] if arrivals else 0.0) + patience_s
        while (now := time.perf_counter() - began) < end and (sent < len(arrivals) or self._busy or self._waiting):
            while sent < len(arrivals) and arrivals[sent] <= now:
                self.late_s.append(now - arrivals[sent])
                self._send(self._requests[sent % len(self._requests)], began + arrivals[sent])
                sent += 1
                now = time.perf_counter() - began
            pause = max(arrivals[sent] - now, 0) if sent < len(arrivals) else 0.1
            for key, mask in self._selector.select(pause):
                self._serve(key.data, mask)
            while self._waiting and (self._idle or self._free):
                self._send(*self._waiting.popleft())
        for key in list(self._selector.get_map().values()):
            if key.data.busy:
                self._finish(key.data, _UNANSWERED)
            self._drop(key.data)
        self._selector.close()

    def _send(self, request: bytes, due: float) -> None:
        if not self._idle and not self._free:
            self._waiting.append((request, due))
            return
        connection = self._idle.pop() if self._idle else self._connect()
        connection.due, connection.busy, connection.unsent = due, True, memoryview(request)
        self._busy += 1
        self._serve(connection, selectors.EVENT_WRITE)

    def _connect(self) -> _Connection:
        new = socket.socket()
        new.setblocking(False)  # noqa: FBT003 -- its only argument
        new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        new.connect_ex(("127.0.0.1", self._port))
        connection = _Connection(new)
        self._selector.register(new, selectors.EVENT_READ, connection)
        self._free -= 1
        return connection

    def _serve(self, connection: _Connection, mask: int) -> None:
        """Do what a connection is ready for; one that breaks loses its request."""
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
            self._drop(connection)

    def _write(self, connection: _Connection) -> None:
        try:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # the selector says when it is connected
                raise
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if self._selector.get_key(connection.socket).events != events:
            self._selector.modify(connection.socket, events, connection)

    def _read(self, connection: _Connection) -> None:
        """Take an answer off a connection, if it is whole."""
        head_end = connection.received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(connection.received[:head_end]).lower()
        if not _is_whole(head, connection.received, head_end + 4):
            return
        status = int(head[9:12])
        self._finish(connection, status, retry_after=b"\r\nretry-after:" in head)
        connection.received.clear()
        if b"\r\nconnection: close" in head:
            self._drop(connection)
        else:
            self._idle.append(connection)

    def _finish(self, connection: _Connection, status: int, *, retry_after: bool = False) -> None:
        connection.busy = False
        self._busy -= 1
        self.answered.append(Answered(status, time.perf_counter() - connection.due, retry_after))

    def _drop(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._free += 1


def _is_whole(head: bytes, received: bytearray, start: int) -> bool:
    """Whether an answer's body has come: by its Content-Length, or its last chunk."""
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        return len(received) - start >= int(head[at + 17 :].split(b"\r\n", 1)[0])
    return b"\r\ntransfer-encoding: chunked" not in head or received.endswith(b"0\r\n\r\n")


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """When requests arrive, in seconds from the start: a Poisson process of `rate` a second."""
    chance, at, found = random.Random(seed), 0.0, list[float]()
    while (at := at + chance.expovariate(rate)) < seconds:
        found.append(at)
    return found


def summarise(driver: Driver, sent: int) -> dict[str, float]:
    """What became of the requests, in numbers: counts, and times in milliseconds.

    Lost are those without an answer, also under connections that are `broken`; other are answers of an error that is no
    429, the 503 of them `unavailable`.
    """
    accepted = [one.seconds for one in driver.answered if 0 < one.status < 400]  # noqa: PLR2004
    refused = [one for one in driver.answered if one.status == 429]  # noqa: PLR2004 -- too many requests
    statuses = Counter(one.status for one in driver.answered)
    return {
        "sent": sent,
        "accepted": len(accepted),
        "refused": len(refused),
        "refused_with_retry_after": sum(one.retry_after for one in refused),
        "lost": statuses[_BROKEN] + statuses[_UNANSWERED] + sent - len(driver.answered),
        "broken": statuses[_BROKEN],
        "other": sum(n for status, n in statuses.items() if status >= 400 and status != 429),  # noqa: PLR2004
        "unavailable": statuses[503],
        "accepted_p50_ms": percentile_ms(accepted, 50),
        "accepted_p99_ms": percentile_ms(accepted, 99),
        "refused_p50_ms": percentile_ms([one.seconds for one in refused], 50),
        "refused_p99_ms": percentile_ms([one.seconds for one in refused], 99),
        "driver_late_p99_ms": percentile_ms(driver.late_s, 99),
    }


def percentile_ms(seconds: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of some seconds, in milliseconds; 0 of none."""
    if not seconds:
        return 0.0
    return round(sorted(seconds)[min(int(len(seconds) * share / 100), len(seconds) - 1)] * 1000, 2)


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_loop", description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int, help="where the server listens, on 127.0.0.1")
    parser.add_argument("folder", type=Path, help="the folder of whole requests: 0.request, 1.request, ...")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True, help="seconds to send for")
    parser.add_argument("--patience", type=float, default=35.0, help="seconds to wait for the last answers")
    words = parser.parse_args()
    most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], MAX_CONNECTIONS + _SPARE_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    paths = sorted(words.folder.glob("*.request"), key=lambda path: int(path.stem))
    driver = Driver(words.port, [path.read_bytes() for path in paths], most - _SPARE_FILES)
    schedule = arrivals(words.rate, words.seconds)
    driver.run(schedule, words.patience)
    print(json.dumps(summarise(driver, len(schedule))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
