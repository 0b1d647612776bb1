"""The shell around all routes: dispatch, request ids, timing, metrics, and errors of one shape.

Routes are Starlette's, and endpoints take its requests and give its responses; but the way from a request to its
endpoint is one lookup here, since Starlette's own layers cost as much as classifying a digit.
"""

import logging
import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from contract.errors import ConvokeError
from service.errors import InvalidRequest, MethodNotAllowed, RouteNotFound, clear_tracebacks
from service.http import pending
from service.http.route import ErrorForm, Route, code_and_message
from service.telemetry.facts import OnResponse, RequestFacts, attach
from service.telemetry.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")

_PATHS, _SHORT = 1024, 200  # the paths whose routes are remembered, and how long they are at most
_COUNTER = count()
_HEALTH = {"/livez", "/readyz"}  # BentoML answers these itself; only methods that it does not take come here
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
        self._by_segment: dict[str, list[Route]] = defaultdict(list)
        for route in routes:
            self._by_segment[_first_segment(route.path)].append(route)
        self._match = lru_cache(_PATHS)(self._match_anew)
        self._known = ", ".join(f"{_methods(route)} {route.path}" for route in routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a WebSocket, which no route speaks
            await send({"type": "websocket.close"})
            return
        began = time.perf_counter()
        method = scope["method"]
        facts = RequestFacts(_request_id(scope), method if method in _METHODS else "other", scope["headers"])
        attach(scope, facts)
        try:
            response = await self._respond(scope, receive, facts)
        except Exception:  # the client learns no more than that; the log has the reason
            logger.exception("request %s failed", facts.id)
            failure = ConvokeError("something went wrong inside the service; its log has the details")
            response = self._refuse(scope, failure, facts)
        facts.status, facts.total_s = response.status_code, time.perf_counter() - began
        response.raw_headers += [(b"x-request-id", facts.id.encode()), (b"server-timing", _server_timing(facts))]
        self._metrics.on_response(facts)
        for report in self._on_response:
            report(facts)
        await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, facts: RequestFacts) -> Response:
        try:
            route, parameters = self._route(scope)
            scope["path_params"] = parameters.copy()
            facts.route = route.path
            return await route.endpoint(Request(scope, receive))
        except ConvokeError as error:
            return self._refuse(scope, error, facts)
        except HTTPException as error:
            failure = InvalidRequest(f"{scope['method']} {scope['path'][:200]}: {error.detail}")
            return self._refuse(scope, failure, facts)
        finally:
            pending.release(facts)

    def _refuse(self, scope: Scope, error: ConvokeError, facts: RequestFacts) -> Response:
        facts.error = error.code
        clear_tracebacks(error)
        return JSONResponse({"error": self._error_form(scope["path"])(error)}, error.status, error.headers)

    def _error_form(self, path: str) -> ErrorForm:
        """The form of errors of the routes that begin as a path does, whether or not one of them matches it whole."""
        routes = self._by_segment.get(_first_segment(path))
        return routes[0].error_form if routes else code_and_message

    def _route(self, scope: Scope) -> tuple[Route, dict[str, Any]]:
        """The route of a request and the parameters in its path.

        Raises:
            RouteNotFound, MethodNotAllowed: no route matches.
        """
        method, path = scope["method"], scope["path"]
        # Only short paths are remembered: what a client makes up can be long.
        return (self._match if len(path) < _SHORT else self._match_anew)(method, path)

    def _match_anew(self, method: str, path: str) -> tuple[Route, dict[str, Any]]:
        """The route of a method and path, and its parameters.

        Raises:
            RouteNotFound, MethodNotAllowed: as `_route`.
        """
        allowed = {"GET", "HEAD"} if path in _HEALTH else set()
        for route in self._by_segment.get(_first_segment(path), ()):
            match = route.path_regex.match(path)
            if match is None:
                continue
            if method in (route.methods or ()):
                parameters = match.groupdict().items()
                return route, {name: route.param_convertors[name].convert(text) for name, text in parameters}
            allowed |= route.methods or set()
        received = f"{method} {path[:200]}"
        if allowed:
            listed = ", ".join(sorted(allowed))
            raise MethodNotAllowed(f"{received}: method not allowed; this path takes {listed}", allowed=listed)
        raise RouteNotFound(f"{received}: route not found; the routes are {self._known}")


def _first_segment(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _methods(route: Route) -> str:
    return "/".join(sorted((route.methods or set()) - {"HEAD"}))


def _server_timing(facts: RequestFacts) -> bytes:
    parts = "".join([f"{name};dur={seconds * 1000:.3f}, " for name, seconds in facts.timings_s.items()])
    return f"{parts}total;dur={facts.total_s * 1000:.3f}".encode()


def _request_id(scope: Scope) -> str:
    """The client's X-Request-ID where it is plain and short, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return f"{_worker(os.getpid())}{next(_COUNTER):012x}"


@lru_cache
def _worker(_process: int) -> str:
    """Ten random bytes in hexadecimal digits, which tell this process's request ids from all others."""
    return secrets.token_hex(10)
