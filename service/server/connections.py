"""What a connection may do before a route hears of it: how many there are, how long and how large a request's head is.

uvicorn bounds none of these with httptools, and BentoML hands none of uvicorn's options on: a client that never ends
its head is waited for without end, and what it sends is kept. So the protocol below takes the place of uvicorn's. It
costs a request two comparisons; timers run for new connections and for heads that came in pieces.
"""

import asyncio
import http
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from contract.errors import ConvokeError
from service.errors import HeaderTooLarge, InvalidRequest, SlowHeader, TooManyConnections

logger = logging.getLogger("bentoml.convoke")

_LINGER_S = 2.0
"""How long what a client still sends is thrown away after an answer that did not wait for it. Closing at once would
reset the connection, and most clients would report that instead of the answer."""

_MAX_PIPELINED = 16
_QUIET_S = 10.0  # between two lines in the log about connections that were turned away


@dataclass(frozen=True)
class Limits:
    """What one worker's connections may do."""

    connections: int
    head_bytes: int
    head_timeout_s: float


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with bounds; what is beyond them is refused in the shape of all errors."""

    _complained = 0.0

    def __init__(self, *words: Any, limits: Limits, **named: Any) -> None:
        super().__init__(*words, **named)
        self._limits = limits
        self._in_head = False
        self._head_bytes = 0  # in a head, before this read; behind a body, of what is no body
        self._read_bytes = 0
        self._bodies = 0
        self._fault: ConvokeError | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._deaf = False  # what comes now is thrown away

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head, unless there are too many connections already."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(TooManyConnections(f"{self._limits.connections} connections are open, and no more are taken"))
            self._complain()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand bytes to the parser, and see how far they brought the head, or what follows a body."""
        if self._deaf:
            return
        self._read_bytes, bodies = len(data), self._bodies
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(self._too_large())
            elif self._deadline is None:
                self._expect_head()
        elif self._bodies == bodies and self._in_body:
            # A chunked body may end in further headers, which the parser keeps.
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        """A head begins; one too many before the first was answered is a fault."""
        self._in_head, self._head_bytes = True, 0
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._fault = InvalidRequest(f"more than {_MAX_PIPELINED} requests were sent ahead of their answers")
            raise self._fault
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is whole; one that came in a single read may still be too large."""
        self._in_head = False
        if self._head_bytes + self._read_bytes > self._limits.head_bytes and self._exact() > self._limits.head_bytes:
            self._fault = self._too_large()
            raise self._fault
        self._stop_waiting()
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count that there was some."""
        self._bodies += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A body is whole; where it was thrown away, the connection may go on to the next head."""
        if self._deadline is not None:
            self._stop_waiting()
            self._expect_head()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Where an answer did not wait for the body's end, wait a little for it here, and let nothing of it stay."""
        super().on_response_complete()
        if self._in_body:
            self._stop_waiting()
            self._deadline = self.loop.call_later(_LINGER_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not read, or what a method above found."""
        self._refuse(self._fault or InvalidRequest(f"this is no HTTP/1.1 request: {msg}"))

    @property
    def _in_body(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.more_body

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _refuse(self, error: ConvokeError) -> None:
        """Answer an error, unless another answer is under way, and close once the client had time to read it."""
        self._stop_waiting()
        self._unset_keepalive_if_required()
        self._deaf = True
        if self.transport.is_closing():
            return
        if self._is_answering:
            self.transport.close()
            return
        self.transport.write(_answer(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.close)

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self._limits.head_timeout_s, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        if self._in_head:
            self._refuse(SlowHeader(f"the head of the request did not arrive within {self._limits.head_timeout_s:g} s"))
        else:  # a connection opened in advance, as browsers do, and never used
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _exact(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _too_large(self) -> HeaderTooLarge:
        return HeaderTooLarge(f"the head of the request has more than {self._limits.head_bytes} bytes")

    def _complain(self) -> None:
        now = time.monotonic()
        if now - Connection._complained > _QUIET_S:
            Connection._complained = now
            logger.warning("connections are turned away: %d are open", self._limits.connections)


def _answer(error: ConvokeError) -> bytes:
    """An error as the whole of an HTTP answer that ends its connection."""
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
