"""The limits of a worker's connections, and the refusal of those above them."""

import contextlib
import http
import json
import logging
import math
import re
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contract.errors import ConvokeError
from service.errors import TooManyConnections
from service.server.fast_path import FastPath

if TYPE_CHECKING:
    from service.server.connections import Connection

logger = logging.getLogger("bentoml.convoke")

_WARNING_INTERVAL_S = 10.0

_EARLY_BYTES = 1 << 16
RESERVE = 32
"""How many connections above the limit may wait for their header, so that its path is known before it is refused."""


@dataclass(frozen=True)
class Limits:
    """The limits of one worker's connections."""

    connections: int
    header_bytes: int
    header_timeout_s: float
    fast_path: FastPath | None = None
    """Answers small plain requests; None if all requests take the ordinary path."""
    waiting: "dict[Connection, None]" = field(default_factory=dict, compare=False, repr=False)
    """The connections above the limit whose header has not arrived, the oldest first."""
    open: "set[Connection]" = field(default_factory=set, compare=False, repr=False)
    warned_at: list[float] = field(default_factory=lambda: [-math.inf], compare=False, repr=False)
    """When the log last said that connections are refused."""

    def too_many(self) -> TooManyConnections:
        """The error of a connection above the limit; the log says from time to time that they are refused."""
        now = time.monotonic()
        if now - self.warned_at[0] > _WARNING_INTERVAL_S:
            self.warned_at[0] = now
            logger.warning("new connections are refused: %d are open", self.connections)
        return TooManyConnections(f"too many open connections (maximum {self.connections})")

    def refuse(self, connection: socket.socket, opening: int) -> bool:
        """Refuse a new connection that the reserve has no place for, if its whole request has arrived.

        It costs a fraction of a connection of the event loop. Requests for health are left to the reserve.

        Args:
            connection: the connection.
            opening: how many others were accepted and are not open yet.

        Returns:
            Whether it was refused and closed.
        """
        if len(self.open) + opening < self.connections + RESERVE:
            return False
        try:
            data = connection.recv(_EARLY_BYTES, socket.MSG_PEEK)
        except OSError:  # nothing has arrived
            return False
        header, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: ?([0-9]{1,9})(\r\n|$)", header, re.IGNORECASE)
        is_whole = length is not None and len(body) == int(length[1]) and len(data) < _EARLY_BYTES
        if not is_whole or header.startswith((b"GET ", b"HEAD ")):
            return False
        with connection, contextlib.suppress(OSError):  # the client may have gone
            connection.recv(_EARLY_BYTES)
            connection.send(response(self.too_many()))
            connection.shutdown(socket.SHUT_WR)
        return True


def response(error: ConvokeError) -> bytes:
    """An error as a complete HTTP response that ends its connection."""
    body = json.dumps({"error": error.body()}).encode()
    headers = {
        **error.headers,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
