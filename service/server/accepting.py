"""Accepts connections until none waits, in place of uvloop, which accepts one in each turn of its event loop.

A turn is as long as everything that is ready in it. Of 256 clients that connect at once, the last would wait half a
second for its connection.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

MakeProtocol = Callable[[], asyncio.Protocol]
Count = Callable[[], int]
Refuse = Callable[[socket.socket, int], bool]

logger = logging.getLogger("bentoml.convoke")

MAX_ACCEPTS = 1024
"""Connections accepted in one turn by a worker that is alone. A turn under load takes a tenth of a second, and the
system drops what does not fit into its queue of 2,048 meanwhile. Several workers share the waiting connections, so each
accepts fewer: one more than a quarter of those that it has, whose requests make its turns long."""

_PAUSE_S = 0.5
"""After an error, such as too many open files."""


class Acceptor:
    """Accepts the connections of one listening socket; has what uvicorn uses of `asyncio.Server`."""

    def __init__(
        self, listener: socket.socket, make_protocol: MakeProtocol, max_accepts: Count, refuse: Refuse
    ) -> None:
        """Start to accept connections.

        Args:
            listener: the socket, which listens already. The caller closes it.
            make_protocol: makes the protocol of a connection.
            max_accepts: how many connections are accepted in a turn.
            refuse: answers and closes a connection that cannot be served, and says whether it did.
        """
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = listener
        self._make_protocol = make_protocol
        self._max_accepts = max_accepts
        self._refuse = refuse
        self._opening: set[asyncio.Task[Any]] = set()
        listener.settimeout(0)
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept the connections that wait, and then no more.

        The server process has the socket, too, and closes it later. Connections that the system took until then would
        be reset, so the socket itself stops to listen; a worker that is started anew makes it listen again.
        """
        if self._listener is not None:
            self._max_accepts = lambda: 1 << 16
            self._accept()
            self._loop.remove_reader(self._listener.fileno())
            with contextlib.suppress(OSError):  # another worker was sooner
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener = None

    async def wait_closed(self) -> None:
        """Wait for the connections that are being opened."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(self._max_accepts()):
            if self._listener is None:
                return
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("connections cannot be accepted: %s; trying again in %g s", error, _PAUSE_S)
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_PAUSE_S, self._resume)
                return
            connection.settimeout(0)
            if connection.family != getattr(socket, "AF_UNIX", None):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._refuse(connection, len(self._opening)):
                continue
            opening = self._loop.create_task(self._loop.connect_accepted_socket(self._make_protocol, connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def _resume(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)


def take_over(max_accepts: Count, refuse: Refuse = lambda _connection, _opening: False) -> None:
    """Let servers that are made of a socket from now on, in this event loop, be `Acceptor`s."""
    loop: Any = asyncio.get_running_loop()
    create_server = loop.create_server

    async def create(make_protocol: MakeProtocol, *args: Any, **kwargs: Any) -> Any:
        listener = kwargs.get("sock")
        if listener is None or kwargs.get("ssl") or os.name == "nt":
            return await create_server(make_protocol, *args, **kwargs)
        listener.listen(kwargs.get("backlog") or 100)
        return Acceptor(listener, make_protocol, max_accepts, refuse)

    loop.create_server = create
