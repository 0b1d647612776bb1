"""The shell around all routes: request ids, timing, metrics, and errors of one shape."""

import logging
import re
import time
import uuid
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InvalidRequest, MethodNotAllowed, RouteNotFound, ServiceError
from service.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


def application(routes: Sequence[BaseRoute], metrics: Metrics) -> ASGIApp:
    """An ASGI application of routes whose answers all carry X-Request-ID and Server-Timing."""
    known = ", ".join(f"{_method(route)} {route.path}" for route in routes if isinstance(route, Route))

    def refuse(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ServiceError)
        metrics.errors.labels(error.code).inc()
        return _error(error)

    def refuse_route(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        here = f"{request.method} {request.url.path}"
        match error.status_code:
            case 404:
                answer: ServiceError = RouteNotFound(f"{here}: there is no such route; there are {known}")
            case 405:
                allowed = (error.headers or {}).get("Allow", "another method")
                answer = MethodNotAllowed(f"{here}: this path takes {allowed}")
            case _:
                answer = InvalidRequest(f"{here}: {error.detail}")
        metrics.errors.labels(answer.code).inc()
        return JSONResponse({"error": answer.body()}, error.status_code, error.headers)

    def fail(_request: Request, _failure: Exception) -> JSONResponse:
        metrics.errors.labels(ServiceError.code).inc()
        return _error(ServiceError("something went wrong inside the service; its log has the details"))

    app = Starlette(
        routes=routes, exception_handlers={ServiceError: refuse, HTTPException: refuse_route, Exception: fail}
    )
    return _Shell(app, metrics)


def _method(route: Route) -> str:
    return "/".join(sorted((route.methods or set()) - {"HEAD"}))


def _error(error: ServiceError) -> JSONResponse:
    return JSONResponse({"error": error.body()}, error.status, error.headers)


class _Shell:
    """Adds to every answer what no route should have to think of."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        answered = False

        async def send_with_headers(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                seconds = time.perf_counter() - began
                timing = {**scope.get("convoke.timing", {}), "total": seconds}
                values = ", ".join(f"{name};dur={value * 1000:.3f}" for name, value in timing.items())
                headers = [(b"x-request-id", request_id), (b"server-timing", values.encode())]
                message["headers"] = [*message.get("headers", ()), *headers]
                self._count(scope, message["status"], seconds)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:  # the application has answered 500 already; what is left is to say why
            logger.exception("request %s failed", request_id.decode())
            if not answered:
                raise

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's pattern, not the path: a caller must not be able to make up labels.
        route = getattr(scope.get("route"), "path", "") or "none"
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)


def _request_id(scope: Scope) -> bytes:
    """The caller's X-Request-ID where it is plain and short, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value)
    return uuid.uuid4().hex.encode()
