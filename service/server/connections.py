"""Limits of a worker's connections: how many are open, and how large and how slow the header of a request may be.

With httptools uvicorn limits none of these, and BentoML passes on none of uvicorn's options: a client that never
completes its header would occupy a connection for good, and memory for all that it sends. So `Connection` takes the
place of uvicorn's protocol. It costs a request two comparisons; timers run only for new connections and for headers
that arrive in pieces.
"""

import asyncio
import http
import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from contract.errors import ConvokeError
from service.errors import HeaderTooLarge, InvalidRequest, SlowHeader, TooManyConnections
from service.server.draining import CLOSE

logger = logging.getLogger("bentoml.convoke")

_LINGER_S = 2.0
"""How long the rest of a request is discarded after a response that did not wait for it. If the connection were closed
at once, it would be reset, and most clients would report the reset instead of the response."""

_HALF_CLOSED_S = 2.0
"""How long a client that sends no more may wait for its response."""

_MAX_PIPELINED = 16
_WARNING_INTERVAL_S = 10.0

_HEALTH_PATHS = frozenset({b"/livez", b"/readyz", b"/metrics", b"/v2/health/live", b"/v2/health/ready"})
"""The paths that are answered above the limit of connections: an orchestrator stops a worker that fails them."""

_SINGLE_HEADERS = frozenset({
    b"authorization", b"content-type", b"inference-header-content-length", b"x-api-key",
})  # fmt: skip
"""The headers of which two different values are an error, because this service uses one value of each."""

_RESERVE = 32
"""How many connections above the limit may wait for their header, so that its path is known before it is refused."""


@dataclass(frozen=True)
class Limits:
    """The limits of one worker's connections."""

    connections: int
    header_bytes: int
    header_timeout_s: float
    waiting: "dict[Connection, None]" = field(default_factory=dict, compare=False, repr=False)
    """The connections above the limit whose header has not arrived, the oldest first."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits; a request beyond them gets an error of the usual form."""

    _warned_at = float("-inf")

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._in_header = False
        self._header_bytes = 0  # of the header, or of trailers after a body, before the current read
        self._read_bytes = 0
        self._bodies = 0
        self._error: ConvokeError | None = None
        self._last_error: ConvokeError | None = None  # to be sent after the responses to earlier requests
        self._timer: asyncio.TimerHandle | None = None
        self._is_refused = False  # from then on, what arrives is discarded
        self._is_surplus = False  # opened above the limit of connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a header. Above the limit of connections the newest wait, and the oldest is refused for each."""
        super().connection_made(transport)
        self._expect_header()
        if self._is_above_limit:
            self._is_surplus = True
            waiting = self._limits.waiting
            waiting[self] = None
            if len(waiting) > _RESERVE:
                oldest = next(iter(waiting))
                oldest._refuse(oldest._too_many())  # noqa: SLF001 -- of the same class
                oldest.transport.close()  # at once: each connection that lingers takes a file descriptor

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._limits.waiting.pop(self, None)
        self._stop_timer()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer the requests that have arrived, although the client sends no more; a piece of one is a 400.

        A client that closed the whole connection looks the same, so it counts as gone if the response takes longer
        than `_HALF_CLOSED_S`.
        """
        if self._is_refused:
            return self._last_error is not None
        if self._in_header or (self._in_body and self._is_answering):
            part = "header" if self._in_header else "body"
            self._refuse(InvalidRequest(f"the client sent no more data before the {part} of the request was complete"))
            return True
        if not self._is_answering:
            return False
        self._stop_timer()
        self._timer = self.loop.call_later(_HALF_CLOSED_S, self.transport.close)
        self.cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, and limit the header, or the trailers after a body, which the parser keeps as well."""
        if self._is_refused:
            return
        self._read_bytes, bodies = len(data), self._bodies
        self._parse(data)
        if self._in_header or (self._in_body and self._bodies == bodies):
            self._header_bytes += len(data)
            if self._header_bytes > self._limits.header_bytes:
                self._refuse(self._too_large())
            elif self._in_header and self._timer is None:
                self._expect_header()

    def _parse(self, data: bytes) -> None:
        """Parse data as uvicorn does, but ignore each offer to upgrade the connection.

        The parser takes what follows such an offer for another protocol and stops, also if it is the request's body.
        So a new parser gets the header without the offer, and then what follows (RFC 9110, section 7.8).
        """
        self._unset_keepalive_if_required()
        while data and not self._is_refused:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(InvalidRequest("unsupported method CONNECT: this server is not a proxy"))
                    return
                data = self._header_without_upgrade() + rest
                self.parser = _parser(self)
            except httptools.HttpParserError as error:
                self.send_400_response(str(error))
                return
            else:
                return

    def _header_without_upgrade(self) -> bytes:
        """The header that the parser has read, without its Upgrade headers."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        """A header starts. It is an error if too many requests before it wait for their responses."""
        self._in_header, self._header_bytes = True, 0
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._error = InvalidRequest(f"too many requests sent ahead of their responses (maximum {_MAX_PIPELINED})")
            raise self._error
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A header is complete. If it arrived in a single read, it may still be too large."""
        self._in_header = False
        limit = self._limits.header_bytes
        if self._header_bytes + self._read_bytes > limit and self._exact_header_bytes() > limit:
            self._error = self._too_large()
            raise self._error
        if self.parser.should_upgrade():  # `_parse` repeats the header without the offer
            return
        is_old = self.parser.get_http_version() == "1.0"
        if (fault := _fault(self.headers, is_old=is_old)) is not None:
            self._error = InvalidRequest(fault)
            raise self._error
        if self._is_surplus:
            self._limits.waiting.pop(self, None)
            self._is_surplus = self._is_above_limit
            if self._is_surplus and self.url.partition(b"?")[0] not in _HEALTH_PATHS:
                self._error = self._too_many()
                raise self._error
        self._stop_timer()
        self._header_bytes = 0
        super().on_headers_complete()
        if self._is_surplus:
            self.cycle.keep_alive = False
        elif is_old and self.parser.should_keep_alive() and CLOSE not in self.cycle.default_headers:
            self.cycle.keep_alive = True
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"keep-alive")]

    def on_body(self, body: bytes) -> None:
        """Count the pieces of bodies."""
        self._bodies += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A body is complete. If it was discarded, the next header may follow."""
        if self.parser.should_upgrade():
            return
        if self._timer is not None:
            self._stop_timer()
            self._expect_header()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """If the response did not wait for the end of the body, discard the rest, for a limited time."""
        is_last = not self.pipeline
        super().on_response_complete()
        if self._last_error is not None:
            if is_last:
                self._send_error(self._last_error)
        elif self._in_body:
            self._stop_timer()
            self._timer = self.loop.call_later(_LINGER_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that the parser could not read, or that a method above refused."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.more_body:
            message = f"not an HTTP/1.1 request: {msg}"
        else:
            message = f"not an HTTP/1.1 request after the previous one; does Content-Length count its whole body? {msg}"
        self._refuse(self._error or InvalidRequest(message))

    @property
    def is_idle(self) -> bool:
        """Whether no request is being received or answered."""
        return not (self._in_header or self._in_body or self._is_answering)

    @property
    def _is_above_limit(self) -> bool:
        return len(self.connections) > self._limits.connections

    @property
    def _in_body(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.more_body

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _refuse(self, error: ConvokeError) -> None:
        """Send an error after the responses to earlier requests, and close once the client had time to read it."""
        if self._is_refused:
            return
        self._limits.waiting.pop(self, None)
        self._stop_timer()
        self._unset_keepalive_if_required()
        self._is_refused = True
        if self.transport.is_closing():
            return
        if self._is_answering and (not self._in_body or self._abandon()):
            self._last_error = error
            self.flow.resume_reading()  # to notice that the client has gone
        elif self._is_answering:
            self.transport.close()
        else:
            self._send_error(error)

    def _abandon(self) -> bool:
        """Drop the last request, whose body cannot be completed, and say whether earlier ones wait for responses."""
        cycle: RequestResponseCycle = self.cycle
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
            return True
        if not cycle.response_started:
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()
        return False

    def _send_error(self, error: ConvokeError) -> None:
        """Send an error as the last response, and close once the client had time to read it."""
        self._last_error = None
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        self.transport.write(_response(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)

    def _expect_header(self) -> None:
        self._timer = self.loop.call_later(self._limits.header_timeout_s, self._on_timeout)

    def _on_timeout(self) -> None:
        self._timer = None
        if self._in_header:
            limit_s = self._limits.header_timeout_s
            self._refuse(SlowHeader(f"the header of the request did not arrive within {limit_s:g} s"))
        else:  # a connection that was opened in advance, as browsers do, and not used
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _exact_header_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _too_large(self) -> HeaderTooLarge:
        return HeaderTooLarge(f"the header of the request is too large (maximum {self._limits.header_bytes} bytes)")

    def _too_many(self) -> TooManyConnections:
        now = time.monotonic()
        if now - Connection._warned_at > _WARNING_INTERVAL_S:
            Connection._warned_at = now
            logger.warning("new connections are refused: %d are open", self._limits.connections)
        return TooManyConnections(f"too many open connections (maximum {self._limits.connections})")


def _parser(protocol: Connection) -> httptools.HttpRequestParser:
    """A parser with the leniency that uvicorn gives its own."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _fault(headers: list[tuple[bytes, bytes]], *, is_old: bool) -> str | None:
    """What is wrong with the headers of a request (RFC 9112, sections 3.2 and 6.1); `is_old` for HTTP/1.0."""
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts != 1 and (hosts or not is_old):
        return "more than one header Host" if hosts else "missing header Host"
    if b"transfer-encoding" in names:
        codings = b", ".join(value for name, value in headers if name == b"transfer-encoding")
        if is_old or codings.lower() != b"chunked":
            return (
                f"unsupported Transfer-Encoding {codings.decode('latin-1')!r}; only chunked is supported, in HTTP/1.1"
            )
    distinct = set(names)
    if len(distinct) < len(names):
        for single in _SINGLE_HEADERS & distinct:
            if len({value for name, value in headers if name == single}) > 1:
                return f"more than one header {single.decode()}, with different values"
    return None


def _response(error: ConvokeError) -> bytes:
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
