"""Starlette with a small batcher of its own and the scores of all classes, as a careful user would write it.

Each model has a queue and a task. The task runs in one batch what has arrived since its last run: digits on the event
loop, which is fastest for digits, other items in a thread. They are decoded in the same places.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.contenders import inference

_MAX_BATCH = 64


class Batcher:
    """One model, its waiting items and the futures of their scores."""

    def __init__(self, model: inference.Model, *, inline: bool) -> None:
        self._model = model
        self._inline = inline
        self._waiting = list[tuple[inference.Array, asyncio.Future[list[float]]]]()
        self._arrived = asyncio.Event()

    async def scores(self, encoded: bytes) -> dict[str, float]:
        """The score of each label."""
        decode = self._model.decode
        item = decode(encoded) if self._inline else await run_in_threadpool(decode, encoded)
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return dict(zip(self._model.labels, await future, strict=True))

    async def run(self) -> None:
        """Run what is waiting, without end."""
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
            if not self._waiting:
                self._arrived.clear()
            items = self._model.collate([item for item, _ in batch])
            probabilities = self._model.probabilities
            rows = probabilities(items) if self._inline else await run_in_threadpool(probabilities, items)
            for (_, future), row in zip(batch, rows.tolist(), strict=True):
                if not future.cancelled():
                    future.set_result(row)


def create() -> Starlette:
    """The application, with its models loaded."""
    batchers = {kind: Batcher(model, inline=kind == "digits") for kind, model in inference.load_models().items()}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(batcher.run()) for batcher in batchers.values()]
        yield
        for task in tasks:
            task.cancel()

    async def raw(request: Request) -> JSONResponse:
        scores = await batchers[request.path_params["kind"]].scores(await request.body())
        return JSONResponse({"label": max(scores, key=scores.__getitem__), "scores": scores})

    return Starlette(routes=[Route("/raw/{kind}", raw, methods=["POST"])], lifespan=lifespan)
