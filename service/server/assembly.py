"""Puts the parts of one worker together, for `worker.py` and for tests alike; nothing is loaded yet."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from service.http import access, asgi
from service.http.route import Route
from service.inference.predictor import Predictor
from service.inference.repository import Repository
from service.routes import classify, docs, models, native, oip
from service.server.fleet import Fleet
from service.settings import Settings
from service.telemetry.facts import OnResponse
from service.telemetry.metrics import CONTENT_TYPE, Metrics


@dataclass(frozen=True)
class Parts:
    """What a worker is made of; `application` is the ASGI application that answers."""

    metrics: Metrics
    repository: Repository
    predictor: Predictor
    fleet: Fleet
    application: ASGIApp


def assemble(
    settings: Settings,
    *,
    index: int = 1,
    folder: Path | None = None,
    metrics: Metrics | None = None,
    on_response: Sequence[OnResponse] = (),
) -> Parts:
    """The parts of one worker.

    Args:
        settings: the service's.
        index: this worker's place among those of its server, from 1.
        folder: where the workers of the server publish their metrics; None where there is one worker.
        metrics: the worker's, where a caller has put them to use already.
        on_response: called with the facts of each request when its response starts.

    Raises:
        SettingsError: the file of API keys cannot be read.
    """
    metrics = metrics or Metrics()
    repository = Repository(settings, metrics)
    predictor = Predictor(repository, settings, metrics)
    fleet = Fleet(metrics, lambda: repository.ready, workers=settings.workers, index=index, folder=folder)
    routes = [
        *classify.routes(predictor, settings),
        *models.routes(repository),
        *oip.routes(predictor, repository, settings, is_ready=fleet.all_ready),
        *native.routes(predictor, settings),
        *docs.routes(settings),
        _metrics_route(fleet.metrics_text),
    ]
    application = asgi.Application(access.protect(routes, settings), metrics, on_response)
    return Parts(metrics, repository, predictor, fleet, access.cross_origin(application, settings))


def _metrics_route(text: Callable[[], bytes]) -> Route:
    async def metrics(_request: Request) -> Response:
        return Response(await asyncio.to_thread(text), media_type=CONTENT_TYPE)

    return Route("/metrics", metrics, methods=["GET"])
