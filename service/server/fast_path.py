"""The fast path: small plain requests, answered without an ASGI scope, coroutine or task.

It takes complete POST requests whose route can answer them so (`Route.prepare`), and leaves all others, and whatever it
does not understand, to the ordinary path, which then receives the same bytes. Routes, keys, limits, errors, metrics and
log are those of the ordinary path. What a header means is worked out once, since clients repeat it: they change only
Content-Length.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httptools
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from contract.errors import ConvokeError
from service.errors import Overloaded
from service.http.asgi import INTERNAL_ERROR, Application, request_id
from service.http.query import check_query
from service.http.route import Header, IsGone, MakeContent, Start
from service.server.headers import header_fault, new_parser
from service.settings import Settings
from service.telemetry.facts import RequestFacts

logger = logging.getLogger("bentoml.convoke")

MAX_BODY_BYTES = 1 << 16
"""Larger bodies take the ordinary path, which limits the memory for all of them together."""

_MAX_PLANS, _MAX_CACHED_BYTES = 1024, 2048  # clients make up headers, so the cache is bounded in number and in length
_LENGTH = b"\r\nContent-Length: "
_MAX_DIGITS = 9  # of Content-Length
_NOT_PLAIN = frozenset({b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"})
_UNIQUE = frozenset({b"baggage", b"traceparent", b"tracestate", b"x-request-id"})
"""The headers that differ from request to request, so that caching what they belong to is useless."""

Fields = Sequence[tuple[bytes, bytes]]

_default: tuple[Fields, int, bytes] = ((), 0, b"")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the requests with one header have in common."""

    path: str
    route: str
    fields: Fields
    request_id: str | None
    """The client's own, if it sent one."""
    start: Start


@dataclass(slots=True)
class Reply:
    """A response: its status, its fields as a part of the header, and its body."""

    status: int
    fields: bytes
    body: bytes

    def bytes_after(self, default_fields: Fields) -> bytes:
        """The response as it is sent; `default_fields` come first, as in uvicorn's responses."""
        return b"%b%b%b\r\n%b" % (STATUS_LINE[self.status], _joined_once(default_fields), self.fields, self.body)


class FastPath:
    """Makes plans for headers, and answers requests by them."""

    def __init__(self, application: Application, settings: Settings) -> None:
        self._application = application
        self._max_bytes = min(MAX_BODY_BYTES, settings.max_body_bytes)
        self._max_header_bytes = settings.max_head_bytes
        self._left_out = _NOT_PLAIN | {b"origin"} if settings.cors_origins else _NOT_PLAIN
        self._plans: dict[bytes, Plan | None] = {}

    def read(self, data: bytes) -> tuple[Plan, int, int] | None:
        """The plan for the request at the start of `data`, and where its body starts and stops.

        None if the header is incomplete, or if the request takes the ordinary path.
        """
        start = data.find(b"\r\n\r\n") + 4
        place = data.find(_LENGTH, 0, start)
        if place < 0:
            place = data.find(_LENGTH.lower(), 0, start)
        place += len(_LENGTH)
        end = data.find(b"\r", place, start)
        digits = data[place:end]
        if not (len(_LENGTH) <= place < end <= place + _MAX_DIGITS and digits.isdigit()):
            return None
        length = int(digits)
        if not 0 < length <= self._max_bytes:
            return None
        key = data[:place] + data[end:start]
        try:
            plan = self._plans[key]
        except KeyError:
            plan = self._plan(key, data[:start], digits)
        return None if plan is None else (plan, start, start + length)

    def start(
        self,
        plan: Plan,
        body: bytes,
        started: float,
        reply: Callable[[Reply], None],
        is_gone: IsGone,
    ) -> bool:
        """Start to answer a request; `reply` is called later.

        Args:
            plan: for its header.
            body: its body.
            started: when its header arrived, in `time.perf_counter()`.
            reply: receives the response.
            is_gone: whether the client has closed its connection.

        Returns:
            False if the request takes the ordinary path; then nothing was done.
        """
        facts = RequestFacts(plan.request_id or request_id(()), "POST", plan.fields, plan.route)
        facts.body_bytes = len(body)

        def on_content(make: MakeContent) -> None:
            reply(self._reply(plan, facts, started, make))

        try:
            plan.start(facts, body, on_content, is_gone)
        except Overloaded as error:
            reply(self._as_reply(self._application.refuse(plan.path, error, facts), facts, started))
        except Exception:  # noqa: BLE001 -- the ordinary path meets it again, and makes it a response
            return False
        return True

    def _reply(self, plan: Plan, facts: RequestFacts, started: float, make: MakeContent) -> Reply:
        """The response to a request; whatever fails becomes a response, too."""
        try:
            content = make()
        except ConvokeError as error:
            return self._as_reply(self._application.refuse(plan.path, error, facts), facts, started)
        except Exception:
            logger.exception("request %s failed", facts.id)
            response = self._application.refuse(plan.path, ConvokeError(INTERNAL_ERROR), facts)
            return self._as_reply(response, facts, started)
        ((_, identity), (_, timing)) = self._application.report(facts, 200, started)
        own = [(name.lower().encode(), value.encode()) for name, value in content.headers.items()]
        fields = b"%bcontent-length: %d\r\ncontent-type: %b\r\nx-request-id: %b\r\nserver-timing: %b\r\n" % (
            _joined(own), len(content.body), content.media_type.encode(), identity, timing,
        )  # fmt: skip
        return Reply(200, fields, content.body)

    def _as_reply(self, response: Response, facts: RequestFacts, started: float) -> Reply:
        fields = [*response.raw_headers, *self._application.report(facts, response.status_code, started)]
        return Reply(response.status_code, _joined(fields), bytes(response.body))

    def _plan(self, key: bytes, header: bytes, digits: bytes) -> Plan | None:
        """Make a plan, and keep it for other requests with this header unless it names a single request."""
        reader = _Reader()
        plan = self._plan_for(reader, digits) if reader.read(header) else None
        if len(key) <= _MAX_CACHED_BYTES and not any(name in _UNIQUE for name, _ in reader.fields):
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _plan_for(self, reader: "_Reader", digits: bytes) -> Plan | None:
        names = [name for name, _ in reader.fields]
        lengths = [value for name, value in reader.fields if name == b"content-length"]
        if lengths != [digits] or not self._left_out.isdisjoint(names) or header_fault(reader.fields, is_old=False):
            return None
        if reader.size > self._max_header_bytes or b"%" in reader.url or b"#" in reader.url:
            return None
        try:
            url = httptools.parse_url(reader.url)
            path = url.path.decode("ascii")
            route, parameters = self._application.match("POST", path)
            if url.query and route.query is not None:
                check_query(url.query, route.query)
            header = Header(parameters, url.query or b"", reader.fields)
            start = route.prepare(header) if route.prepare is not None else None
        except (ConvokeError, httptools.HttpParserError, UnicodeDecodeError):  # the ordinary path answers
            return None
        sent_id = request_id(reader.fields) if b"x-request-id" in names else None
        return start and Plan(path, route.path, reader.fields, sent_id, start)


class _Reader:
    """Receives the parts of one header from the parser."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.size = 0
        self._is_complete = False

    def read(self, header: bytes) -> bool:
        """Whether this is the header of a POST request of HTTP/1.1, after which the connection stays open."""
        parser = new_parser(self)
        try:
            parser.feed_data(header)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return False
        self.size = len(header)
        is_plain = parser.get_method() == b"POST" and parser.get_http_version() == "1.1"
        return self._is_complete and is_plain and parser.should_keep_alive()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._is_complete = True

    def on_body(self, _body: bytes) -> None:
        self._is_complete = False  # for the parser the header ended sooner


def _joined_once(fields: Fields) -> bytes:
    """The same for fields that stay for many responses: uvicorn makes a new list once a second, for the date."""
    global _default  # noqa: PLW0603 -- the last result
    if _default[0] is not fields or _default[1] != len(fields):  # a drain adds one
        _default = fields, len(fields), _joined(fields)
    return _default[2]


def _joined(fields: Fields) -> bytes:
    """Fields as a part of a header."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])
