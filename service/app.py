"""The BentoML service, declared; `service/server/` does the work.

BentoML imports this module in the server, which starts the workers, and in each worker. It gives us processes,
configuration, health checks and the container. Every other path belongs to the worker's own ASGI application
(`service/server/takeover.py`), which has ten times the throughput of BentoML's request handling. BentoML's access log,
tracing and request metrics are off: they cost a third of the requests per second, and clients could make up values of
their labels.
"""

from typing import Any

import bentoml

from service.server import startup
from service.server.takeover import TakeOver


@bentoml.service(
    name="convoke",
    workers=startup.read_settings().workers,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Convoke:
    """Batched classification of images and texts over HTTP."""

    def __init__(self) -> None:
        from service.server.worker import Worker  # noqa: PLC0415 -- saves the server half a second

        self._worker = Worker(startup.read_settings(), bentoml.server_context.worker_index or 1)
        self.asgi, self.drain, self.fast_path = self._worker.asgi, self._worker.drain, self._worker.fast_path

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def announce() -> None:
        """Check and log the settings, in the server, before it starts its workers."""
        startup.announce()

    @bentoml.api  # type: ignore[untyped-decorator]
    async def classify_texts(self, model: str, texts: list[str]) -> dict[str, Any]:
        """Classify texts, for BentoML's own clients; POST /classify/{model} is faster."""
        return await self._worker.call(model, "texts", texts)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def classify_images(self, model: str, images: list[str]) -> dict[str, Any]:
        """Classify images in base64, for BentoML's own clients; POST /classify/{model} is faster."""
        return await self._worker.call(model, "images", images)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start to load the models."""
        await self._worker.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Finish what is running."""
        await self._worker.stop()

    async def __is_ready__(self) -> bool:
        """Whether /readyz answers 200."""
        return self._worker.is_ready()


Convoke.add_asgi_middleware(TakeOver)  # type: ignore[attr-defined]
