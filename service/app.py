"""The BentoML service: builds the parts, mounts the routes.

BentoML imports this module in the server, which starts the workers, and in each worker; `announce` runs in the server.

BentoML gives processes, configuration, /livez, /readyz and the container; every other path belongs to the ASGI
application below, which is mounted past BentoML's own request handling (ten times the throughput). BentoML's access
log, tracing and request metrics stay off: they cost a third of the requests per second, and their labels come from
the caller's path.
"""

import asyncio
import gc
import logging
import os
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLConfigException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service import access, asgi, connections, fleet, keys, log, providers, settings, tracing
from service.draining import Draining
from service.errors import ProviderError
from service.metrics import CONTENT_TYPE, Metrics
from service.predictor import Predictor
from service.repository import Repository
from service.routes import classify, docs, models, native, oip

logger = logging.getLogger("bentoml.convoke")


def _settings() -> settings.Settings:
    try:
        return settings.from_environment()
    except settings.SettingsError as error:
        raise BentoMLConfigException(str(error)) from error


async def _mounted(scope: Scope, receive: Receive, send: Send) -> None:
    """Hands a request to the application of the service that BentoML has built in this worker."""
    await bentoml.get_current_service().asgi(scope, receive, send)


@bentoml.service(
    name="convoke",
    workers=_settings().workers,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(_mounted, path="/")
class Convoke:
    """Batched classification of pictures and texts over HTTP."""

    def __init__(self) -> None:
        chosen = _settings()
        log.set_up(chosen.log_format)
        metrics = Metrics()
        self._repository = Repository(chosen, metrics)
        self._predictor = Predictor(self._repository, chosen, metrics)
        self._fleet = _fleet(chosen, metrics, self._repository)
        self._poll_s = chosen.poll_s
        self._tasks: list[asyncio.Task[Any]] = []
        self._draining = Draining(chosen.drain_s, self._repository.retire)
        self._requests = log.RequestLog(chosen.log_format, metrics.log_lines_lost.labels())
        exporter = tracing.chosen_exporter()
        self._tracer = tracing.Tracer(tracing.make_exporter(exporter)) if exporter else None
        told = [self._requests.answered] if chosen.access_log else []
        if self._tracer:
            told.append(self._tracer.answered)
        routes = [
            *classify.routes(self._predictor, chosen),
            *models.routes(self._repository),
            *oip.routes(self._predictor, self._repository, chosen, is_ready=self._fleet.all_ready),
            *native.routes(self._predictor, chosen),
            *docs.routes(chosen),
            _metrics_route(self._fleet),
        ]
        self.asgi = access.cross_origin(asgi.Application(access.protect(routes, chosen), metrics, told), chosen)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def announce() -> None:
        """In the server, before any worker: say what is set, refuse what cannot be had, make the workers' folder."""
        chosen = _settings()
        log.set_up(chosen.log_format)
        logger.info("settings: %s", settings.described(chosen))
        for name, _ in settings.unknown():
            logger.warning("%s is no setting, and is ignored", name)
        try:
            providers.check(chosen.provider, chosen.precision)
            if chosen.api_keys_file is not None:
                keys.read(chosen.api_keys_file)
            if exporter := tracing.chosen_exporter():
                tracing.make_exporter(exporter).shutdown()
        except (ProviderError, settings.SettingsError) as error:
            raise BentoMLConfigException(str(error)) from error
        if chosen.workers > 1:
            fleet.make_folder()

    @bentoml.api  # type: ignore[untyped-decorator]
    async def classify_texts(self, model: str, texts: list[str]) -> dict[str, Any]:
        """Classify texts, for BentoML's own clients; others find POST /classify/{model} faster."""
        return await native.classify(self._predictor, model, texts)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def classify_images(self, model: str, images: list[str]) -> dict[str, Any]:
        """Classify pictures in base64, for BentoML's own clients; others find POST /classify/{model} faster."""
        return await native.classify(self._predictor, model, [native.picture(image) for image in images])

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start_loading(self) -> None:
        """Load the models beside the event loop: /livez and /readyz answer meanwhile; new ones are looked for after.

        Who takes the place of a worker that died is seen by no caller before it is ready: the others answer meanwhile.
        """
        self._draining.watch()
        loading = asyncio.create_task(self._load())
        self._tasks = [loading]
        if self._fleet.join():
            await loading
        self._tasks += [asyncio.create_task(self._look_for_versions(loading)), asyncio.create_task(self._publish())]

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Start no more batches; bring what is known of requests to where it belongs."""
        for task in self._tasks:
            task.cancel()
        self._predictor.close()
        self._fleet.publish()
        self._requests.close()
        if self._tracer:
            await asyncio.to_thread(self._tracer.close)

    async def __is_ready__(self) -> bool:
        """What /readyz tells: every model is loaded, verified and warmed up, in every worker."""
        return self._fleet.all_ready()

    async def _load(self) -> bool:
        """Load the models, and say whether there is any sense in looking for new ones."""
        try:
            await asyncio.to_thread(self._repository.load)
        except Exception:
            logger.exception("the models could not be loaded; the service stays alive, and is never ready")
            return False
        _spare_the_collector()
        await asyncio.to_thread(self._fleet.publish)  # the others' /readyz waits for it
        if self._repository.ready:
            logger.info("ready")
        return True

    async def _look_for_versions(self, loading: asyncio.Task[bool]) -> None:
        while await loading and self._poll_s:
            await asyncio.sleep(self._poll_s)
            try:
                await asyncio.to_thread(self._repository.scan)
            except Exception:
                logger.exception("looking for new versions failed; it is tried again")

    async def _publish(self) -> None:
        """Tell the other workers, once a second, what there is to tell."""
        while self._fleet.folder is not None:
            await asyncio.sleep(fleet.PUBLISH_S)
            await asyncio.to_thread(self._fleet.publish)


Convoke.add_asgi_middleware(connections.Guard)  # type: ignore[attr-defined]
Convoke.add_asgi_middleware(asgi.Bypass, ours=lambda: bentoml.get_current_service().asgi)  # type: ignore[attr-defined]


def _spare_the_collector() -> None:
    """Keep Python's garbage collector from walking the whole worker again and again.

    BentoML's modules are 120,000 objects, and its timeout leaves a timer behind for a minute after each request. Full
    collections over both stopped the worker for up to 350 ms. What is loaded now stays for good; what requests leave
    is freed by reference counts, and cycles by the collector's younger generations.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _fleet(chosen: settings.Settings, metrics: Metrics, repository: Repository) -> fleet.Fleet:
    """This worker among those of its server."""
    folder = os.environ.get(fleet.FOLDER)
    return fleet.Fleet(
        metrics,
        lambda: repository.ready,
        workers=chosen.workers,
        index=bentoml.server_context.worker_index or 1,
        folder=Path(folder) if folder else None,
    )


def _metrics_route(workers: fleet.Fleet) -> Route:
    async def text(_request: Request) -> Response:
        return Response(await asyncio.to_thread(workers.metrics_text), media_type=CONTENT_TYPE)

    return Route("/metrics", text, methods=["GET"])
