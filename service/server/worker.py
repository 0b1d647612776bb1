"""One worker, from loading the models to the last response.

It is not part of app.py because it takes half a second to import, and the server that starts the workers does not need
it.
"""

import asyncio
import gc
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from service.routes import native
from service.routes.answer import render
from service.server import fleet, startup
from service.server.assembly import assemble
from service.server.draining import Drain, postpone_sigterm
from service.server.memory import Memory
from service.settings import Settings
from service.telemetry import log, tracing
from service.telemetry.metrics import Metrics
from service.telemetry.utilisation import INTERVAL_S, Utilisation

logger = logging.getLogger("bentoml.convoke")

IDLE_S = 1.0
"""Seconds without a response after which a load counts as over."""

SWITCH_S = 0.0002
"""How long a thread that waits for the interpreter's lock lets another one hold it. With Python's 5 ms a run started
later than its thread was free: 16 clients with reviews got 5 % fewer responses."""


class Worker:
    """One process: `asgi` and `fast_path` answer requests, and `drain` ends connections."""

    def __init__(self, settings: Settings, index: int) -> None:
        """Put the parts together; load no models yet.

        Args:
            settings: of the service.
            index: the number of this worker, from 1.
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
        self.asgi = parts.application
        self.fast_path = parts.fast_path
        self._repository, self._predictor, self._fleet = parts.repository, parts.predictor, parts.fleet
        self._inspector = parts.inspector
        self._feedback = parts.feedback
        self._drain_s, self._poll_s = settings.drain_s, settings.poll_s
        self._tasks: list[asyncio.Task[Any]] = []
        self.drain = Drain()
        self._utilisation = Utilisation(metrics, settings.workers, settings.decode_threads)

    async def start(self) -> None:
        """Load the models in a thread, while /livez and /readyz answer; then poll for new versions.

        The successor of a worker that died accepts no request before it is ready, because the other workers answer
        meanwhile.
        """
        postpone_sigterm(self._drain_s, self._drain)
        loading = asyncio.create_task(self._load())
        self._tasks = [loading]
        if self._fleet.join():
            await loading
        for task in (self._poll(loading), self._publish(), self._release_memory(loading), self._sample()):
            self._tasks.append(asyncio.create_task(task))
        if self._feedback is not None:
            self._tasks.append(asyncio.create_task(self._feedback.watch()))

    async def stop(self) -> None:
        """Start no more batches, and write what is left of metrics, log lines and spans."""
        for task in self._tasks:
            task.cancel()
        self._predictor.close()
        self._inspector.close()
        self._fleet.publish()
        self._requests.close()
        if self._tracer:
            await asyncio.to_thread(self._tracer.close)

    def is_ready(self) -> bool:
        """Whether all models are loaded, verified and warmed up, in all workers."""
        return self._fleet.all_ready()

    async def call(self, model: str, key: native.Key, items: list[str]) -> dict[str, Any]:
        """Answer a call of BentoML's clients from this process.

        Raises:
            ConvokeError: as `native.call`.
        """
        content: dict[str, Any] = json.loads(render(await native.call(self._predictor, model, key, [*items])))
        return content

    def _drain(self) -> None:
        """Stop being ready, and let each connection end."""
        self._repository.retire()
        self.drain.start(self._drain_s)

    async def _load(self) -> bool:
        """Load the models, and say whether to poll for new versions."""
        try:
            await asyncio.to_thread(self._repository.load, self._on_loaded)
        except Exception:
            if not self._repository.ready:
                logger.exception("loading the models failed; the service stays alive and is never ready")
                return False
            logger.exception("loading a version failed; retrying")
        _freeze_heap()
        sys.setswitchinterval(SWITCH_S)
        return True

    def _on_loaded(self) -> None:
        """Publish that this worker is ready, if it is: /readyz of the others waits for it. Blocks briefly."""
        self._fleet.publish()
        if self._repository.ready:
            logger.info("ready")

    async def _poll(self, loading: asyncio.Task[bool]) -> None:
        while await loading and self._poll_s:
            await asyncio.sleep(self._poll_s)
            try:
                await asyncio.to_thread(self._repository.scan)
            except Exception:
                logger.exception("looking for new versions failed; retrying")

    async def _release_memory(self, loading: asyncio.Task[bool]) -> None:
        """Return memory to the system after a load: no response for `IDLE_S`, and no request waits."""
        await loading
        memory, before = Memory(), self._predictor.answered
        while True:
            await asyncio.sleep(IDLE_S)
            now = self._predictor.answered
            if now == before and self._predictor.is_idle:
                await asyncio.to_thread(memory.release)
            before = now

    async def _sample(self) -> None:
        """Measure how busy this worker is."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._utilisation.sample(self._predictor.decode_s, self._predictor.parallel_runs, self.drain.in_flight())

    async def _publish(self) -> None:
        """Publish the state of this worker to the others, once a second."""
        while True:
            await asyncio.sleep(fleet.PUBLISH_S)
            await asyncio.to_thread(self._fleet.publish)


def _freeze_heap() -> None:
    """Exclude all objects that exist now from Python's garbage collection.

    BentoML's modules are 120,000 objects, and full collections over them stopped the worker for up to 350 ms. What is
    loaded now stays for good. Objects of requests are freed by reference counts, and cycles by the collector's younger
    generations.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
