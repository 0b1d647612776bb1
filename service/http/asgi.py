"""The shell around all routes: dispatch, request ids, timings, metrics and error responses.

Endpoints take Starlette's requests and return its responses. Dispatch is one lookup, since Starlette's own layers take
as much time as classifying a digit.
"""

import logging
import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import count

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from contract.errors import ConvokeError
from service.errors import MethodNotAllowed, RouteNotFound, clear_tracebacks
from service.http import pending
from service.http.query import check_query
from service.http.route import ErrorForm, Route, code_and_message
from service.telemetry.facts import OnResponse, RequestFacts, attach
from service.telemetry.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")

INTERNAL_ERROR = "internal error; the service's log has the details"

_CACHED_PATHS, _CACHED_LENGTH = 1024, 200  # clients make up paths, so the cache is bounded in number and in length
_COUNTER = count()
_HEALTH = {"/livez", "/readyz"}  # BentoML answers GET and HEAD, and passes other methods on
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class Application:
    """An ASGI application of routes whose responses all carry X-Request-ID and Server-Timing.

    A response is complete before its first byte is sent, so whatever fails becomes a response, too.
    """

    def __init__(self, routes: Sequence[Route], metrics: Metrics, on_response: Sequence[OnResponse] = ()) -> None:
        self.routes = tuple(routes)
        self._metrics = metrics
        self._on_response = on_response
        self._by_segment: dict[str, list[tuple[re.Pattern[str], Route]]] = defaultdict(list)
        for route in routes:
            self._by_segment[_first_segment(route.path)].append((_pattern(route), route))
        self._match_cached = lru_cache(_CACHED_PATHS)(self._match)
        self._listed = ", ".join(f"{route.method} {route.path}" for route in routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a WebSocket: no route supports it
            await send({"type": "websocket.close"})
            return
        started = time.perf_counter()
        method = scope["method"]
        headers = scope["headers"]
        facts = RequestFacts(request_id(headers), method if method in _METHODS else "other", headers)
        attach(scope, facts)
        try:
            response = await self._respond(scope, receive, facts)
        except Exception:  # the reason is for the log, not for the client
            logger.exception("request %s failed", facts.id)
            response = self.refuse(scope["path"], ConvokeError(INTERNAL_ERROR), facts)
        response.raw_headers += self.report(facts, response.status_code, started)
        await response(scope, receive, send)

    def report(self, facts: RequestFacts, status: int, started: float) -> list[tuple[bytes, bytes]]:
        """Count and log a request whose response starts now, and give the headers that every response has."""
        facts.status, facts.total_s = status, time.perf_counter() - started
        self._metrics.on_response(facts)
        for report in self._on_response:
            report(facts)
        return [(b"x-request-id", facts.id.encode()), (b"server-timing", _server_timing(facts))]

    def refuse(self, path: str, error: ConvokeError, facts: RequestFacts) -> Response:
        """An error as the response to a request."""
        facts.error = error.code
        clear_tracebacks(error)
        return JSONResponse({"error": self._error_form(path)(error)}, error.status, error.headers)

    async def _respond(self, scope: Scope, receive: Receive, facts: RequestFacts) -> Response:
        method, path = scope["method"], scope["path"]
        try:
            route, parameters = self.match(method, path)
            scope["path_params"] = parameters.copy()
            facts.route = route.path
            if scope["query_string"] and route.query is not None:
                check_query(scope["query_string"], route.query)
            return await route.endpoint(Request(scope, receive))
        except ConvokeError as error:
            return self.refuse(path, error, facts)
        finally:
            pending.release(facts)

    def _error_form(self, path: str) -> ErrorForm:
        """The error form of the routes whose first segment is that of a path, whether or not one of them matches."""
        routes = self._by_segment.get(_first_segment(_plain(path)))
        return routes[0][1].error_form if routes else code_and_message

    def match(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """As `_match`, from a cache."""
        return (self._match_cached if len(path) < _CACHED_LENGTH else self._match)(method, path)

    def _match(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route of a method and path, and the parameters in the path.

        Doubled slashes, and one at the end, do not matter.

        Raises:
            RouteNotFound, MethodNotAllowed: no route matches.
        """
        plain = _plain(path)
        if plain in _HEALTH and plain != path and method in _TO_HEALTH.methods:
            return _TO_HEALTH, {}
        allowed = {"GET", "HEAD"} if plain in _HEALTH else set()
        for pattern, route in self._by_segment.get(_first_segment(plain), ()):
            match = pattern.match(plain)
            if match is None:
                continue
            if method in route.methods:
                return route, match.groupdict()
            allowed |= route.methods
        received = f"{method} {path[:200]}"
        if allowed:
            methods = ", ".join(sorted(allowed))
            raise MethodNotAllowed(f"{received}: method not allowed; this path takes {methods}", allowed=methods)
        raise RouteNotFound(f"{received}: route not found; the routes are {self._listed}")


async def _redirect(request: Request) -> Response:
    return RedirectResponse(_plain(request.scope["path"]), 308)


_TO_HEALTH = Route("/health", "GET", _redirect, needs=None, query=None)
"""From /livez/ and the like to /livez, which BentoML answers under this path only."""


def _pattern(route: Route) -> re.Pattern[str]:
    """The pattern of a route's path; the id of a request may have slashes."""
    return compile_path(route.path.replace("{request_id}", "{request_id:path}"))[0]


def _plain(path: str) -> str:
    """A path without empty segments."""
    return re.sub("/{2,}", "/", path).rstrip("/") or "/"


def _first_segment(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _server_timing(facts: RequestFacts) -> bytes:
    parts = "".join([f"{name};dur={seconds * 1000:.3f}, " for name, seconds in facts.timings_s.items()])
    return f"{parts}total;dur={facts.total_s * 1000:.3f}".encode()


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's X-Request-ID if it is short and of plain characters, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return f"{_worker(os.getpid())}{next(_COUNTER):012x}"


@lru_cache
def _worker(_process: int) -> str:
    """Ten random bytes in hexadecimal, which make the request ids of a process unique."""
    return secrets.token_hex(10)
