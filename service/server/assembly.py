"""Puts the parts of a worker together, for `worker.py` and for the tests; loads no models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from service.http import access, asgi
from service.inference.explain import Explainer
from service.inference.feedback import Feedback
from service.inference.inspect import Inspector
from service.inference.predictor import Predictor
from service.inference.repository import Repository
from service.routes import classify, docs, drift, explain, feedback, inspect, models, native, oip, page, prometheus
from service.server import swagger
from service.server.fast_path import FastPath
from service.server.fleet import Fleet
from service.settings import Settings
from service.telemetry.drift import complete
from service.telemetry.facts import OnResponse
from service.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Parts:
    """The parts of a worker; `application` is the ASGI application that answers requests."""

    metrics: Metrics
    repository: Repository
    predictor: Predictor
    inspector: Inspector
    fleet: Fleet
    application: ASGIApp
    fast_path: FastPath | None
    """None if the settings switch it off."""
    feedback: Feedback | None
    """None if the settings switch it off."""


def assemble(
    settings: Settings,
    *,
    index: int = 1,
    folder: Path | None = None,
    metrics: Metrics | None = None,
    on_response: Sequence[OnResponse] = (),
) -> Parts:
    """Make the parts of a worker.

    Args:
        settings: of the service.
        index: the number of this worker, from 1.
        folder: where the workers of a server publish their metrics; None if this worker is alone.
        metrics: those of this worker, if the caller uses them already.
        on_response: called with the facts of each request when its response starts.

    Raises:
        SettingsError: the file of API keys cannot be read.
    """
    metrics = metrics or Metrics()
    repository = Repository(settings, metrics)
    predictor = Predictor(repository, settings, metrics)
    inspector = Inspector(predictor, repository, settings)
    fleet = Fleet(
        metrics,
        lambda: repository.ready,
        workers=settings.workers,
        index=index,
        folder=folder,
        refresh=predictor.watches.count,
        complete=lambda total: complete(total, repository.references()),
    )
    kept = None if settings.feedback_dir is None else Feedback(settings.feedback_dir, settings, metrics)
    routes = [
        *classify.routes(predictor, settings, kept),
        *feedback.routes(kept, settings),
        *explain.routes(predictor, Explainer(predictor, settings), inspector, settings),
        *inspect.routes(predictor, inspector, settings),
        *models.routes(repository),
        *drift.routes(repository, fleet.total),
        *oip.routes(predictor, repository, settings, is_ready=fleet.all_ready),
        *native.routes(predictor, settings),
        *prometheus.routes(fleet.metrics_text),
        *page.routes(settings),
    ]
    routes += docs.routes(routes, settings, swagger.folder())
    application = asgi.Application(access.protect(routes, settings), metrics, on_response)
    fast_path = FastPath(application, settings) if settings.fast_path else None
    return Parts(
        metrics, repository, predictor, inspector, fleet, access.cross_origin(application, settings), fast_path, kept
    )
