"""The shell around all routes: dispatch, request ids, timing, metrics, and errors of one shape.

Routes are Starlette's, and endpoints take its requests and give its responses; but the way from a request to its
endpoint is one lookup here, since Starlette's own layers cost as much as classifying a digit.
"""

import logging
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequest, MethodNotAllowed, RouteNotFound, ServiceError
from service.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class Application:
    """An ASGI application of routes whose answers all carry X-Request-ID and Server-Timing."""

    def __init__(self, routes: Sequence[Route], metrics: Metrics) -> None:
        self.routes = tuple(routes)
        self._metrics = metrics
        self._by_head: dict[str, list[Route]] = defaultdict(list)
        for route in routes:
            self._by_head[_head(route.path)].append(route)
        self._known = ", ".join(f"{_methods(route)} {route.path}" for route in routes)

    def owns(self, path: str) -> bool:
        """Whether a path begins as one of the routes does."""
        return _head(path) in self._by_head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a WebSocket, which no route here speaks
            await send({"type": "websocket.close"})
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        answered = False

        async def send_with_headers(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                seconds = time.perf_counter() - began
                message["headers"] += [(b"x-request-id", request_id), (b"server-timing", _timing(scope, seconds))]
                # The route's pattern, not the path: a caller must not be able to make up labels.
                self._metrics.answered(scope.get("convoke.route", "none"), message["status"], seconds)
            await send(message)

        try:
            response = await self._respond(scope, receive)
            await response(scope, receive, send_with_headers)
        except Exception:  # the caller is told no more than that; what is left is to say why
            logger.exception("request %s failed", request_id.decode())
            if answered:
                raise
            failure = ServiceError("something went wrong inside the service; its log has the details")
            await self._refuse(failure)(scope, receive, send_with_headers)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        try:
            route = self._route(scope)
            response: Response = await route.endpoint(Request(scope, receive))
        except ServiceError as error:
            return self._refuse(error)
        except HTTPException as error:
            return self._refuse(InvalidRequest(f"{scope['method']} {scope['path'][:200]}: {error.detail}"))
        if "convoke.error" in scope:  # an endpoint that answers errors in a shape of its own
            self._metrics.errors.labels(scope["convoke.error"]).inc()
        return response

    def _refuse(self, error: ServiceError) -> Response:
        self._metrics.errors.labels(error.code).inc()
        return JSONResponse({"error": error.body()}, error.status, error.headers)

    def _route(self, scope: Scope) -> Route:
        """The route of a request, its parameters put into the scope.

        Raises:
            RouteNotFound, MethodNotAllowed: there is none.
        """
        method, path = scope["method"], scope["path"]
        allowed: set[str] = set()
        for route in self._by_head.get(_head(path), ()):
            match = route.path_regex.match(path)
            if match is None:
                continue
            if method in (route.methods or ()):
                parameters = match.groupdict().items()
                scope["path_params"] = {name: route.param_convertors[name].convert(text) for name, text in parameters}
                scope["convoke.route"] = route.path
                return route
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
    timing: dict[str, Any] = scope.get("convoke.timing", {})
    parts = [f"{name};dur={value * 1000:.3f}" for name, value in timing.items()]
    return ", ".join([*parts, f"total;dur={seconds * 1000:.3f}"]).encode()


def _request_id(scope: Scope) -> bytes:
    """The caller's X-Request-ID where it is plain and short, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value)
    return uuid.uuid4().hex.encode()


class Bypass:
    """BentoML middleware that leads requests to our routes past all of BentoML's own.

    BentoML's tracing and timeout cost more a request than classifying a digit does, and its timers, never cancelled,
    keep objects of each request for a minute. Starlette builds its stack of middleware once, before the lifespan's
    first message; that message, which passes through here, names the application, whose stack is then wrapped.
    """

    def __init__(self, app: ASGIApp, ours: Callable[[], Application]) -> None:
        self._app = app
        self._ours = ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            outer = scope["app"]
            outer.middleware_stack = self._past(outer.middleware_stack)
        await self._app(scope, receive, send)

    def _past(self, stack: ASGIApp) -> ASGIApp:
        async def choose(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                ours = self._ours()
                if ours.owns(scope["path"]):
                    await ours(scope, receive, send)
                    return
            await stack(scope, receive, send)

        return choose
