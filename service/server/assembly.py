"""Puts the parts of one worker together, for `worker.py` and for tests alike; nothing is loaded yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from service.http import access, asgi
from service.inference.predictor import Predictor
from service.inference.repository import Repository
from service.routes import classify, docs, models, native, oip, prometheus
from service.server.fleet import Fleet
from service.settings import Settings
from service.telemetry.facts import OnResponse
from service.telemetry.metrics import Metrics


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
        *prometheus.routes(fleet.metrics_text),
    ]
    routes += docs.routes(routes, settings)
    application = asgi.Application(access.protect(routes, settings), metrics, on_response)
    return Parts(metrics, repository, predictor, fleet, access.cross_origin(application, settings))
