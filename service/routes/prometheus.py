"""GET /metrics: the metrics of all workers, in Prometheus's text format."""

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from service.http.route import Route
from service.telemetry.metrics import CONTENT_TYPE


def routes(text: Callable[[], bytes]) -> list[Route]:
    """The routes of this front end; `text` makes the response and may block for a moment."""

    async def metrics(_request: Request) -> Response:
        return Response(await asyncio.to_thread(text), media_type=CONTENT_TYPE)

    return [Route("/metrics", "GET", metrics, needs="metrics", query=None)]
