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
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import InvalidRequest, MethodNotAllowed, RouteNotFound, ServiceError, let_go
from service.metrics import Metrics
from service.routes import pending

logger = logging.getLogger("bentoml.convoke")

BENTOML_PATHS = frozenset({"/livez", "/readyz", "/schema.json"})
"""What BentoML answers; all else is ours to answer, or to refuse."""

_PATHS, _SHORT = 1024, 200  # the paths whose routes are remembered, and how long they are at most
_NO_TIMING: dict[str, float] = {}
_COUNTER = count()
_HEALTH = {"/livez", "/readyz"}  # BentoML answers these itself; only methods that it does not take come here
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


Told = Callable[[Scope, int, float], None]
"""Called when an answer begins, with its request's scope, its status, and the seconds until then."""


class Application:
    """An ASGI application of routes whose answers all carry X-Request-ID and Server-Timing.

    An answer is complete before its first byte is sent, so whatever fails becomes an answer, too.
    """

    def __init__(self, routes: Sequence[Route], metrics: Metrics, told: Sequence[Told] = ()) -> None:
        self.routes = tuple(routes)
        self._metrics = metrics
        self._told = told
        self._by_head: dict[str, list[Route]] = defaultdict(list)
        for route in routes:
            self._by_head[_head(route.path)].append(route)
        self._match = lru_cache(_PATHS)(self._match_anew)
        self._known = ", ".join(f"{_methods(route)} {route.path}" for route in routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a WebSocket, which no route here speaks
            await send({"type": "websocket.close"})
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        scope["convoke.id"] = request_id.decode()
        try:
            response = await self._respond(scope, receive)
        except Exception:  # the caller is told no more than that; what is left is to say why
            logger.exception("request %s failed", scope["convoke.id"])
            failure = ServiceError("something went wrong inside the service; its log has the details")
            response = self._refuse(scope, failure)
        seconds = time.perf_counter() - began
        response.raw_headers += [(b"x-request-id", request_id), (b"server-timing", _timing(scope, seconds))]
        # The route's pattern, not the path: a caller must not be able to make up labels.
        self._metrics.answered(scope.get("convoke.route", "none"), response.status_code, seconds)
        for tell in self._told:
            tell(scope, response.status_code, seconds)
        await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        try:
            route = self._route(scope)
            response: Response = await route.endpoint(Request(scope, receive))
        except ServiceError as error:
            return self._refuse(scope, error)
        except HTTPException as error:
            return self._refuse(scope, InvalidRequest(f"{scope['method']} {scope['path'][:200]}: {error.detail}"))
        finally:
            pending.release(scope)
        if "convoke.error" in scope:  # an endpoint that answers errors in a shape of its own
            self._metrics.errors.labels(scope["convoke.error"]).inc()
        return response

    def _refuse(self, scope: Scope, error: ServiceError) -> Response:
        scope["convoke.error"] = error.code
        self._metrics.errors.labels(error.code).inc()
        let_go(error)
        # Clients of the Open Inference Protocol want the message alone, also for a route that is not there.
        is_protocol = scope["path"] == "/v2" or scope["path"].startswith("/v2/")
        return JSONResponse({"error": str(error) if is_protocol else error.body()}, error.status, error.headers)

    def _route(self, scope: Scope) -> Route:
        """The route of a request, its parameters put into the scope.

        Raises:
            RouteNotFound, MethodNotAllowed: there is none.
        """
        method, path = scope["method"], scope["path"]
        # Only short paths are remembered: what a caller makes up is as long as it likes.
        route, parameters = (self._match if len(path) < _SHORT else self._match_anew)(method, path)
        scope["path_params"] = parameters.copy()
        scope["convoke.route"] = route.path
        return route

    def _match_anew(self, method: str, path: str) -> tuple[Route, dict[str, Any]]:
        """The route of a method and path, and its parameters.

        Raises:
            RouteNotFound, MethodNotAllowed: as `_route`.
        """
        allowed = {"GET", "HEAD"} if path in _HEALTH else set()
        for route in self._by_head.get(_head(path), ()):
            match = route.path_regex.match(path)
            if match is None:
                continue
            if method in (route.methods or ()):
                parameters = match.groupdict().items()
                return route, {name: route.param_convertors[name].convert(text) for name, text in parameters}
            allowed |= route.methods or set()
        here = f"{method} {path[:200]}"
        if allowed:
            listed = ", ".join(sorted(allowed))
            raise MethodNotAllowed(f"{here}: this path takes {listed}", allowed=listed)
        raise RouteNotFound(f"{here}: there is no such route; there are {self._known}")


def _head(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _methods(route: Route) -> str:
    return "/".join(sorted((route.methods or set()) - {"HEAD"}))


def _timing(scope: Scope, seconds: float) -> bytes:
    timing: dict[str, float] = scope.get("convoke.timing", _NO_TIMING)
    parts = "".join([f"{name};dur={value * 1000:.3f}, " for name, value in timing.items()])
    return f"{parts}total;dur={seconds * 1000:.3f}".encode()


def _request_id(scope: Scope) -> bytes:
    """The caller's X-Request-ID where it is plain and short, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value)
    return b"%s%012x" % (_worker(os.getpid()), next(_COUNTER))


@lru_cache
def _worker(_process: int) -> bytes:
    """Ten random bytes in hexadecimal digits, which tell this process's request ids from all others."""
    return secrets.token_hex(10).encode()


class Bypass:
    """BentoML middleware that leads requests to our routes past all of BentoML's own.

    BentoML's tracing and timeout cost more a request than classifying a digit does, and its timers, never cancelled,
    keep objects of each request for a minute. And what BentoML reads for itself has no limits; so no more is left to it
    than `BENTOML_PATHS`. Starlette builds its stack of middleware once, before the lifespan's
    first message; that message, which passes through here, names the application, whose stack is then wrapped.
    """

    def __init__(self, app: ASGIApp, ours: Callable[[], ASGIApp]) -> None:
        self._app = app
        self._ours = ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            outer = scope["app"]
            outer.middleware_stack = self._past(outer.middleware_stack)
        await self._app(scope, receive, send)

    def _past(self, stack: ASGIApp) -> ASGIApp:
        find = lru_cache(self._ours)  # the worker's own, which lives as long as its middleware

        async def choose(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan" or scope["path"] in BENTOML_PATHS:
                await stack(scope, receive, send)
            else:
                await find()(scope, receive, send)

        return choose
