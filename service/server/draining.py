"""What SIGTERM does: the service says that it is not ready, still answers for a while, then stops.

A load balancer or Kubernetes needs some seconds to notice that this server is stopping; requests that arrive meanwhile
are answered, with `Connection: close`, so that a client opens its next connection to another server. Halfway, the
connections that no request uses are closed, while a client that sends at this moment can still connect again. At the
end uvicorn closes the listening socket and waits for the requests that it has accepted.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

logger = logging.getLogger("bentoml.convoke")


CLOSE = (b"connection", b"close")


class Drain:
    """The connections of a worker: how many are in use, and their end when it stops."""

    def __init__(self) -> None:
        self.is_on = False
        """Whether the worker stops: from then on, each response closes its connection."""
        self._config: Any = None
        self._state: Any = None

    def use(self, config: Any) -> None:
        """Act on the connections of the server with this configuration of uvicorn's."""
        self._config = config

    def watch(self, state: Any) -> None:
        """Act on the connections in this state of uvicorn's server; call it for each connection."""
        self._state = state

    def in_flight(self) -> int:
        """The requests that are received or answered now."""
        return sum(not connection.is_idle for connection in self._connections())

    def _connections(self) -> list[Any]:
        return [] if self._state is None else list(self._state.connections)

    def start(self, seconds: float) -> None:
        """Close each connection after its response, and idle ones after half of the seconds; on the event loop."""
        self.is_on = True
        if self._config is not None:  # uvicorn makes the headers of later seconds of it
            self._config.encoded_headers.append(CLOSE)
        if self._state is not None:
            self._state.default_headers.append(CLOSE)
        asyncio.get_running_loop().call_later(seconds / 2, self._close_idle)

    def _close_idle(self) -> None:
        for connection in self._connections():
            if connection.is_idle:
                connection.shutdown()


def postpone_sigterm(seconds: float, on_drain: Callable[[], None]) -> None:
    """From now on, run the server's own handler of SIGTERM only some seconds after the signal.

    A second signal stops the server at once. Call this in the main thread, on the server's event loop.

    Args:
        seconds: how long requests are still accepted; 0 stops at once.
        on_drain: called once, on the event loop, when the first signal arrives.
    """
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop):  # without a handler the process ends anyway
        return
    is_draining = False

    def drain(number: int, frame: FrameType | None) -> None:
        nonlocal is_draining
        if is_draining or not seconds:
            stop(number, frame)
            return
        is_draining = True
        loop.call_soon_threadsafe(on_drain)
        logger.info("stopping: not ready any more; requests are accepted for another %g s", seconds)
        loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, None)

    signal.signal(signal.SIGTERM, drain)
