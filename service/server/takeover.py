"""Puts our application and our protocol in the place of those that BentoML gives to uvicorn.

BentoML's tracing and timeout cost more per request than classifying a digit does, its timers, which it never cancels,
keep objects of each request for a minute, and the bodies that it reads have no limits. So it answers `BENTOML_PATHS`
only.

uvicorn reads the application and the protocol from its configuration each time that a connection opens, and the
`receive` of the lifespan is a method of an object that holds this configuration. Neither is promised:
`tests/service/server/test_uvicorn_internals.py` checks both.
"""

import logging
from functools import partial
from typing import Any

import bentoml
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import settings
from service.http import access
from service.server import accepting, files
from service.server.connections import Connection
from service.server.draining import Drain
from service.server.fast_path import FastPath
from service.server.limits import Limits
from service.settings import Settings

logger = logging.getLogger("bentoml.convoke")

BENTOML_PATHS = frozenset({"/livez", "/readyz", "/schema.json"})
"""The paths that BentoML answers, to GET and HEAD; our application answers every other request."""


class TakeOver:
    """BentoML middleware that acts once, when the worker has started."""

    def __init__(self, app: ASGIApp) -> None:
        self._bentoml = self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._bentoml(scope, receive, self._at_start(receive, send))
        else:
            await self._app(scope, receive, send)

    def _at_start(self, receive: Receive, send: Send) -> Send:
        async def forward(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                service = bentoml.get_current_service()
                self._app = _beside(self._bentoml, service.asgi)
                take_over(receive, service.asgi, settings.from_environment(), service.drain, service.fast_path)
            await send(message)

        return forward


def take_over(
    receive: Receive,
    application: ASGIApp,
    chosen: Settings,
    drain: Drain,
    fast_path: FastPath | None = None,
) -> None:
    """Give uvicorn our application and our protocol; `receive` is that of the lifespan."""
    config: Any = getattr(getattr(receive, "__self__", None), "config", None)
    if getattr(config, "http_protocol_class", None) is not HttpToolsProtocol:
        logger.warning(
            "this server is not uvicorn with httptools: connections and request headers are not limited, and requests "
            "pass through BentoML's own layers"
        )
        return
    limits = Limits(files.fit(chosen.max_connections), chosen.max_head_bytes, chosen.head_timeout_s, fast_path)
    drain.use(config)
    config.http_protocol_class = partial(_connect, limits, drain)
    config.timeout_keep_alive = chosen.keep_alive_s
    is_alone = chosen.workers == 1
    accepting.take_over(lambda: accepting.MAX_ACCEPTS if is_alone else 1 + len(limits.open) // 4, limits.refuse)
    config.loaded_app = _beside(access.cross_origin(config.loaded_app, chosen), application)


def _connect(limits: Limits, drain: Drain, **kwargs: Any) -> Connection:
    """A connection, as uvicorn makes it."""
    drain.watch(kwargs["server_state"])
    return Connection(limits=limits, **kwargs)


def _beside(bentoml_app: ASGIApp, application: ASGIApp) -> ASGIApp:
    """An application that leaves `BENTOML_PATHS` to BentoML."""

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        is_bentomls = scope["path"] in BENTOML_PATHS and scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        await (bentoml_app if is_bentomls else application)(scope, receive, send)

    return choose
