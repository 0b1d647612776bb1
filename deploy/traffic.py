"""Constant traffic over kept connections, and what became of each request: the load of the rehearsals.

A request is lost if its connection broke before the response was complete. Clients do not retry, so that no loss is
hidden. A refused connection is counted apart: nothing was sent, and a balancer takes another server.
"""

import http.client
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

TIMEOUT_S = 30.0
REFUSED_PAUSE_S = 0.05


@dataclass
class Result:
    """Requests that were sent, by outcome, and the seconds of those that were answered with 200."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Lost requests by the name of the error."""
    refused: int = 0
    """Connections that were refused."""
    seconds: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests that were lost, or answered with a status of 500 or above."""
        failures = sum(
            count for status, count in self.statuses.items() if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
        )
        return sum(self.lost.values()) + failures

    def __str__(self) -> str:
        p99_ms = statistics.quantiles(self.seconds, n=100)[98] * 1000 if len(self.seconds) > 1 else float("nan")
        others = {status: count for status, count in self.statuses.items() if status != http.HTTPStatus.OK}
        return (
            f"sent {self.sent}, answered {self.statuses[http.HTTPStatus.OK]}, other statuses {others or 0}, "
            f"lost {dict(self.lost) or 0}, refused {self.refused}, p99 {p99_ms:.0f} ms"
        )


class Traffic:
    """Clients that send a request again and again, each over a kept connection of its own, until the block ends."""

    def __init__(self, port: int, path: str, body: bytes, *, clients: int, pause_s: float = 0.0) -> None:
        """Prepare the clients.

        Args:
            port: of a server on this machine.
            path: of the POST requests.
            body: of the requests.
            clients: how many connections.
            pause_s: the pause of a client between two requests.
        """
        self.result = Result()
        self._port, self._path, self._body, self._pause_s = port, path, body, pause_s
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._clients = [threading.Thread(target=self._send) for _ in range(clients)]

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def stop(self) -> None:
        """Let the clients end after their request."""
        self._stop.set()

    def __exit__(self, *_: object) -> None:
        self.stop()
        for client in self._clients:
            client.join()

    def _send(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        while not self._stop.wait(self._pause_s):
            status, fault, start = 0, "", time.perf_counter()
            try:
                connection.request("POST", self._path, self._body, {"Content-Type": "application/octet-stream"})
                response = connection.getresponse()
                response.read()
                status = response.status
            except ConnectionRefusedError:
                connection.close()
                self._stop.wait(REFUSED_PAUSE_S)
                with self._lock:
                    self.result.refused += 1
                continue
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                fault = type(error).__name__
            seconds = time.perf_counter() - start
            with self._lock:
                self.result.sent += 1
                if fault:
                    self.result.lost[fault] += 1
                    continue
                self.result.statuses[status] += 1
                if status == http.HTTPStatus.OK:
                    self.result.seconds.append(seconds)
        connection.close()
