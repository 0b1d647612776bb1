"""Limits of a worker's connections: how many are open, and how large and how slow the header of a request may be.

With httptools uvicorn limits none of these, and BentoML passes on none of uvicorn's options: a client that never
completes its header would occupy a connection for good, and memory for all that it sends. So `Connection` takes the
place of uvicorn's protocol. It costs a request two comparisons; timers run only for new connections and for headers
that arrive in pieces.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from contract.errors import ConvokeError
from service.errors import HeaderTooLarge, InvalidRequest, SlowHeader
from service.server.draining import CLOSE
from service.server.fast_path import FastPath, Plan, Reply
from service.server.headers import header_fault, new_parser
from service.server.limits import RESERVE, Limits, response

logger = logging.getLogger("bentoml.convoke")

_LINGER_S = 2.0
"""How long the rest of a request is discarded after a response that did not wait for it. If the connection were closed
at once, it would be reset, and most clients would report the reset instead of the response."""

_HALF_CLOSED_S = 2.0
"""How long a client that sends no more may wait for its response."""

_GRACE_S = 0.2
"""How long an idle connection stays open when the server stops: a request may be on its way."""

_SOON_S = 0.1
"""How long the fast path waits for the body of a request, which many clients send apart from the header."""

_MAX_PIPELINED = 16
_MAX_AHEAD_BYTES = 1 << 16

_HEALTH_PATHS = frozenset({b"/livez", b"/readyz", b"/metrics", b"/v2/health/live", b"/v2/health/ready"})
"""The paths that are answered above the limit of connections: an orchestrator stops a worker that fails them."""


@dataclass(slots=True)
class _Partial:
    """A request of the fast path of which `data` has arrived; its body is at `start:stop`."""

    plan: Plan
    start: int
    stop: int
    data: bytearray
    started: float
    timer: asyncio.TimerHandle


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits; a request beyond them gets an error of the usual form."""

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
        self._fast_path = limits.fast_path
        self._partial: _Partial | None = None  # a request of the fast path whose body has not arrived
        self._on_fast_path = False  # a request of the fast path has no response yet
        self._ahead = b""  # what arrives before that response
        self._used_at = 0.0
        self._is_last = False  # close after the response

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a header. Above the limit of connections the newest wait, and the oldest is refused for each."""
        super().connection_made(transport)
        self._limits.open.add(self)
        self._expect_header()
        if self._is_above_limit:
            self._is_surplus = True
            waiting = self._limits.waiting
            waiting[self] = None
            if len(waiting) > RESERVE:
                oldest = next(iter(waiting))
                oldest._refuse(self._limits.too_many())  # noqa: SLF001 -- of the same class
                oldest.transport.close()  # at once: each connection that lingers takes a file descriptor

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._limits.open.discard(self)
        self._limits.waiting.pop(self, None)
        self._stop_timer()
        self._drop_partial()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer the requests that have arrived, although the client sends no more; a piece of one is a 400.

        A client that closed the whole connection looks the same, so it counts as gone if the response takes longer
        than `_HALF_CLOSED_S`.
        """
        self._leave_fast_path()
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
        if self._on_fast_path:
            self._is_last = True
        else:
            self.cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Give what arrived to the fast path, or else to the parser."""
        if self._is_refused or (self._fast_path is not None and self._take_fast_path(self._fast_path, data)):
            return
        self._receive_ordinarily(data)

    def _receive_ordinarily(self, data: bytes) -> None:
        """Parse what arrived, and limit the header, or the trailers after a body, which the parser keeps as well."""
        self._read_bytes, bodies = len(data), self._bodies
        self._parse(data)
        if self._in_header or (self._in_body and self._bodies == bodies):
            self._header_bytes += len(data)
            if self._header_bytes > self._limits.header_bytes:
                self._refuse(self._too_large())
            elif self._in_header and self._timer is None:
                self._expect_header()

    def _take_fast_path(self, fast_path: FastPath, data: bytes) -> bool:
        """Whether what arrived is a request that the fast path answers, or a part of it; otherwise nothing was done."""
        if self._on_fast_path:
            self._ahead += data
            if len(self._ahead) > _MAX_AHEAD_BYTES:
                self.flow.pause_reading()
            return True
        if self._partial is not None:
            return self._continue(fast_path, self._partial, data)
        if not data.startswith(b"POST /") or self._is_surplus or self._in_header or not self._is_between_requests:
            return False
        read = fast_path.read(data)
        if read is None:
            return False
        plan, start, stop = read
        if len(data) < stop:
            timer = self.loop.call_later(_SOON_S, self._leave_fast_path)
            self._partial = _Partial(plan, start, stop, bytearray(data), time.perf_counter(), timer)
            return True
        return len(data) == stop and self._start_on_fast_path(fast_path, plan, data[start:], time.perf_counter())

    @property
    def _is_between_requests(self) -> bool:
        """Whether what arrives now is the start of a request, and no earlier one waits for its response."""
        cycle: RequestResponseCycle | None = self.cycle
        is_free = cycle is None or (cycle.response_complete and not cycle.more_body)
        return is_free and not (self.flow.write_paused or self.transport.is_closing())

    def _continue(self, fast_path: FastPath, partial: "_Partial", data: bytes) -> bool:
        """Add what arrived to a request whose body was incomplete."""
        partial.data += data
        if len(partial.data) < partial.stop:
            return True
        self._drop_partial()
        received, body = bytes(partial.data), bytes(memoryview(partial.data)[partial.start :])
        is_exact = len(received) == partial.stop
        if not (is_exact and self._start_on_fast_path(fast_path, partial.plan, body, partial.started)):
            self._receive_ordinarily(received)
        return True

    def _start_on_fast_path(self, fast_path: FastPath, plan: Plan, body: bytes, started: float) -> bool:
        self._on_fast_path = True
        if self._timer is not None:
            self._stop_timer()
        if not fast_path.start(plan, body, started, self._reply, self.transport.is_closing):
            self._on_fast_path = False
            return False
        return True

    def _reply(self, reply: Reply) -> None:
        """Send the response to the request on the fast path, and go on with what arrived meanwhile."""
        self._on_fast_path = False
        if self.transport.is_closing():
            return
        default_fields = self.server_state.default_headers
        is_last = CLOSE in default_fields or self._is_last
        if self._is_last and CLOSE not in default_fields:
            default_fields = [*default_fields, CLOSE]
        self.transport.write(reply.bytes_after(default_fields))
        self.server_state.total_requests += 1
        if is_last:
            self._stop_timer()
            self.transport.close()
            return
        self._used_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if self._last_error is not None:
            self._send_error(self._last_error)
        elif self._ahead:
            ahead, self._ahead = self._ahead, b""
            self.flow.resume_reading()
            self.data_received(ahead)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, unless a request of the fast path was answered meanwhile: it does not set the timer."""
        idle_s = self.loop.time() - self._used_at
        is_busy = self._on_fast_path or self._partial is not None
        if is_busy or idle_s < self.timeout_keep_alive:
            left_s = self.timeout_keep_alive if is_busy else self.timeout_keep_alive - idle_s
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Close the connection after the response to its request, or to one that arrives within `_GRACE_S`."""
        self._leave_fast_path()
        self._is_last = True
        if self._is_answering:
            if not self._on_fast_path:
                super().shutdown()
        elif not self.transport.is_closing():
            self.loop.call_later(_GRACE_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._is_answering and self._partial is None:
            self.transport.close()

    def _leave_fast_path(self) -> None:
        """Let a request whose body has not arrived soon take the ordinary path."""
        if self._partial is not None:
            received = bytes(self._partial.data)
            self._drop_partial()
            self._receive_ordinarily(received)

    def _drop_partial(self) -> None:
        if self._partial is not None:
            self._partial.timer.cancel()
            self._partial = None

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
                self.parser = new_parser(self)
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
        if (fault := header_fault(self.headers, is_old=is_old)) is not None:
            self._error = InvalidRequest(fault)
            raise self._error
        if self._is_surplus:
            self._limits.waiting.pop(self, None)
            self._is_surplus = self._is_above_limit
            if self._is_surplus and self.url.partition(b"?")[0] not in _HEALTH_PATHS:
                self._error = self._limits.too_many()
                raise self._error
        self._stop_timer()
        self._header_bytes = 0
        super().on_headers_complete()
        if self._is_surplus or self._is_last:
            self.cycle.keep_alive = False
            if CLOSE not in self.cycle.default_headers:
                self.cycle.default_headers = [*self.cycle.default_headers, CLOSE]
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
        return not (self._in_header or self._in_body or self._is_answering or self._partial)

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
        return self._on_fast_path or (cycle is not None and not cycle.response_complete)

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
        self.transport.write(response(error))
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
