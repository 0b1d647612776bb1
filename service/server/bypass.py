"""Leads requests past BentoML's own layers to our application."""

from collections.abc import Callable
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

BENTOML_PATHS = frozenset({"/livez", "/readyz", "/schema.json"})
"""What BentoML answers; all else is ours to answer, or to refuse."""


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
