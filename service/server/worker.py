"""One worker: its parts put together, and its life from loading the models to the last answer.

Apart from app.py since it takes half a second to import, which the server, that only starts workers, is spared.
"""

import asyncio
import gc
import json
import logging
import os
from pathlib import Path
from typing import Any

from service.routes import native
from service.routes.answer import render
from service.server import fleet, startup
from service.server.assembly import assemble
from service.server.draining import Draining
from service.server.memory import Memory
from service.settings import Settings
from service.telemetry import log, tracing
from service.telemetry.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")

REST_S = 1.0
"""Seconds without an answer after which a load counts as over."""


class Worker:
    """Repository, queues and routes of one process; `asgi` is what answers."""

    def __init__(self, settings: Settings, index: int) -> None:
        """Put the parts together; nothing is loaded yet.

        Args:
            settings: the service's.
            index: this worker's place among those of its server, from 1.
        """
        startup.format_logs(settings.log_format)
        metrics = Metrics()
        self._requests = log.RequestLog(settings.log_format, metrics.log_lines_lost.labels())
        exporter = tracing.chosen_exporter()
        self._tracer = tracing.Tracer(tracing.make_exporter(exporter)) if exporter else None
        on_response = [self._requests.on_response] if settings.access_log else []
        if self._tracer:
            on_response.append(self._tracer.on_response)
        folder = os.environ.get(fleet.FOLDER)
        parts = assemble(
            settings,
            index=index,
            folder=Path(folder) if folder else None,
            metrics=metrics,
            on_response=on_response,
        )
        self._repository, self._predictor, self._fleet = parts.repository, parts.predictor, parts.fleet
        self.asgi = parts.application
        self._poll_s = settings.poll_s
        self._tasks: list[asyncio.Task[Any]] = []
        self._draining = Draining(settings.drain_s, self._repository.retire)

    async def start(self) -> None:
        """Load the models beside the event loop: /livez and /readyz answer meanwhile; new ones are looked for after.

        Who takes the place of a worker that died is seen by no caller before it is ready: the others answer meanwhile.
        """
        self._draining.watch()
        loading = asyncio.create_task(self._load())
        self._tasks = [loading]
        if self._fleet.join():
            await loading
        for task in (self._look_for_versions(loading), self._publish(), self._give_back(loading)):
            self._tasks.append(asyncio.create_task(task))

    async def stop(self) -> None:
        """Start no more batches; bring what is known of requests to where it belongs."""
        for task in self._tasks:
            task.cancel()
        self._predictor.close()
        self._fleet.publish()
        self._requests.close()
        if self._tracer:
            await asyncio.to_thread(self._tracer.close)

    def is_ready(self) -> bool:
        """Whether every model is loaded, verified and warmed up, in every worker."""
        return self._fleet.all_ready()

    async def call(self, model: str, key: native.Key, items: list[str]) -> dict[str, Any]:
        """A call of BentoML's clients inside of this process.

        Raises:
            ConvokeError: as `native.call`.
        """
        content: dict[str, Any] = json.loads(render(await native.call(self._predictor, model, key, [*items])))
        return content

    async def _load(self) -> bool:
        """Load the models, and say whether there is any sense in looking for new ones."""
        try:
            await asyncio.to_thread(self._repository.load, self._tell)
        except Exception:
            if not self._repository.ready:
                logger.exception("the models could not be loaded; the service stays alive, and is never ready")
                return False
            logger.exception("not every version could be loaded; it is tried again")
        _spare_the_collector()
        return True

    def _tell(self) -> None:
        """Say that this worker is ready, if it is: the others' /readyz waits for it. Blocks for a moment."""
        self._fleet.publish()
        if self._repository.ready:
            logger.info("ready")

    async def _look_for_versions(self, loading: asyncio.Task[bool]) -> None:
        while await loading and self._poll_s:
            await asyncio.sleep(self._poll_s)
            try:
                await asyncio.to_thread(self._repository.scan)
            except Exception:
                logger.exception("looking for new versions failed; it is tried again")

    async def _give_back(self, loading: asyncio.Task[bool]) -> None:
        """Give memory back to the system when a load is over: for a second nobody was answered, and nobody waits."""
        await loading
        memory, before = Memory(), self._predictor.answered
        while True:
            await asyncio.sleep(REST_S)
            now = self._predictor.answered
            if now == before and self._predictor.is_idle:
                await asyncio.to_thread(memory.give_back)
            before = now

    async def _publish(self) -> None:
        """Tell the other workers, once a second, what there is to tell."""
        while self._fleet.folder is not None:
            await asyncio.sleep(fleet.PUBLISH_S)
            await asyncio.to_thread(self._fleet.publish)


def _spare_the_collector() -> None:
    """Keep Python's garbage collector from walking the whole worker again and again.

    BentoML's modules are 120,000 objects, and its timeout leaves a timer behind for a minute after each request. Full
    collections over both stopped the worker for up to 350 ms. What is loaded now stays for good; what requests leave
    is freed by reference counts, and cycles by the collector's younger generations.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
