"""The BentoML service: builds the parts, mounts the routes.

BentoML gives processes, configuration, /livez, /readyz and the container; every other path belongs to the ASGI
application below, which is mounted past BentoML's own request handling (ten times the throughput). BentoML's access
log, tracing and request metrics stay off: they cost a third of the requests per second, and their labels come from
the caller's path.
"""

import asyncio
import gc
import logging
from typing import Any

import bentoml
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service import access, asgi, connections, providers, settings
from service.draining import Draining
from service.metrics import CONTENT_TYPE, Metrics
from service.predictor import Predictor
from service.repository import Repository
from service.routes import classify, docs, models, native, oip

logger = logging.getLogger("bentoml.convoke")


async def _mounted(scope: Scope, receive: Receive, send: Send) -> None:
    """Hands a request to the application of the service that BentoML has built in this worker."""
    await bentoml.get_current_service().asgi(scope, receive, send)


@bentoml.service(
    name="convoke",
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(_mounted, path="/")
class Convoke:
    """Batched classification of pictures and texts over HTTP."""

    def __init__(self) -> None:
        chosen = settings.from_environment()
        logger.info("settings: %s", ", ".join(f"{name}={value}" for name, value in chosen))
        providers.check(chosen.provider, chosen.precision)
        metrics = Metrics()
        self._repository = Repository(chosen, metrics)
        self._predictor = Predictor(self._repository, chosen, metrics)
        self._poll_s = chosen.poll_s
        self._loading: asyncio.Task[None] | None = None
        self._draining = Draining(chosen.drain_s, self._repository.retire)
        routes = [
            *classify.routes(self._predictor, chosen),
            *models.routes(self._repository),
            *oip.routes(self._predictor, self._repository, chosen),
            *native.routes(self._predictor, chosen),
            *docs.routes(chosen),
            _metrics_route(metrics),
        ]
        self.asgi = access.cross_origin(asgi.Application(access.protect(routes, chosen), metrics), chosen)

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
        """Load the models beside the event loop: /livez and /readyz answer meanwhile; new ones are looked for after."""
        self._draining.watch()
        self._loading = asyncio.create_task(self._load())

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Start no more batches."""
        if self._loading:
            self._loading.cancel()
        self._predictor.close()

    async def __is_ready__(self) -> bool:
        """What /readyz tells: every model is loaded, verified and warmed up."""
        return self._repository.ready

    async def _load(self) -> None:
        try:
            await asyncio.to_thread(self._repository.load)
        except Exception:
            logger.exception("the models could not be loaded; the service stays alive, and is never ready")
            return
        _spare_the_collector()
        if self._repository.ready:
            logger.info("ready")
        while self._poll_s:
            await asyncio.sleep(self._poll_s)
            try:
                await asyncio.to_thread(self._repository.scan)
            except Exception:
                logger.exception("looking for new versions failed; it is tried again")


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


def _metrics_route(metrics: Metrics) -> Route:
    async def text(_request: Request) -> Response:
        return Response(await asyncio.to_thread(metrics.text), media_type=CONTENT_TYPE)

    return Route("/metrics", text, methods=["GET"])
