"""The BentoML service, which passes BentoML's calls to a worker.

BentoML imports this module in the server, which starts the workers, and in each worker. `announce` runs in the server,
which does not import the parts of a worker.

BentoML provides processes, configuration, /livez, /readyz and the container. Every other path belongs to the worker's
ASGI application, which is mounted past BentoML's own request handling (ten times the throughput). BentoML's access log,
tracing and request metrics stay off: they cost a third of the requests per second, and the client's path becomes a
label.
"""

import gc
import logging
from http import HTTPStatus
from typing import Any, Literal

import bentoml
from bentoml.exceptions import BentoMLConfigException, BentoMLException
from starlette.types import Receive, Scope, Send

from contract import providers
from contract.errors import ConvokeError, ProviderError
from service import settings
from service.http import keys
from service.server import connections, fleet
from service.server.bypass import Bypass
from service.telemetry import log, tracing

logger = logging.getLogger("bentoml.convoke")


def _settings() -> settings.Settings:
    try:
        return settings.from_environment()
    except settings.SettingsError as error:
        raise BentoMLConfigException(str(error)) from error


async def _mounted(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass a request to the application of the service that BentoML has built in this worker."""
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
    """Batched classification of images and texts over HTTP."""

    def __init__(self) -> None:
        from service.server.worker import Worker  # noqa: PLC0415 -- saves the server half a second

        self._worker = Worker(_settings(), bentoml.server_context.worker_index or 1)
        self.asgi = self._worker.asgi

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def announce() -> None:
        """In the server, before it starts a worker: log the settings, check them, and make the workers' folder."""
        chosen = _settings()
        log.set_up(chosen.log_format)
        logger.info("settings: %s", settings.described(chosen))
        for name, _ in settings.unknown():
            logger.warning("unknown setting %s is ignored", name)
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
        gc.freeze()  # imported modules stay for good
        gc.enable()

    @bentoml.api  # type: ignore[untyped-decorator]
    async def classify_texts(self, model: str, texts: list[str]) -> dict[str, Any]:
        """Classify texts, for BentoML's own clients; POST /classify/{model} is faster."""
        return await self._call(model, "texts", texts)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def classify_images(self, model: str, images: list[str]) -> dict[str, Any]:
        """Classify images in base64, for BentoML's own clients; POST /classify/{model} is faster."""
        return await self._call(model, "images", images)

    async def _call(self, model: str, key: Literal["texts", "images"], items: list[str]) -> dict[str, Any]:
        """A call from this process; HTTP requests reach the same code through `service/routes/native.py`.

        Raises:
            BentoMLException: the call failed; with the status that the HTTP routes answer.
        """
        try:
            return await self._worker.call(model, key, items)
        except ConvokeError as error:
            status = HTTPStatus(error.status) if error.status in set(HTTPStatus) else HTTPStatus.BAD_REQUEST
            raise BentoMLException(f"{error.code}: {error}", error_code=status) from error

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


Convoke.add_asgi_middleware(connections.Guard)  # type: ignore[attr-defined]
Convoke.add_asgi_middleware(Bypass, ours=lambda: bentoml.get_current_service().asgi)  # type: ignore[attr-defined]
