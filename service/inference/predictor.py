"""Model name + items -> predictions: the one door behind every front end."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from contract.errors import ConvokeError, TooLarge
from contract.inputs import Array, Items, Preprocessor
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed
from service.inference.batching import PATIENCE_S, Batcher, Observer
from service.inference.decoding import Decoders
from service.inference.repository import Repository, Version
from service.settings import Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")

Item = bytes | str | Array | ConvokeError
"""An encoded item, a decoded one, or the reason why a front end could not read it."""
Row = npt.NDArray[np.float32]

_PART = 1 << 15  # bytes or characters that take far longer to decode than to hand to another thread


@dataclass(frozen=True)
class Answer:
    """The answer to one request: a row (classes,) or an error an item, in order, and where the seconds went."""

    version: Version
    rows: Sequence[Row | ConvokeError]
    decode_s: float
    queue_s: float
    infer_s: float


@dataclass(frozen=True)
class Probabilities:
    """A row (classes,) an item, in order, and where the seconds went."""

    rows: list[Row]
    decode_s: float
    queue_s: float
    infer_s: float


class Predictor:
    """Predicts with whatever versions its repository serves."""

    def __init__(self, repository: Repository, settings: Settings, metrics: Metrics) -> None:
        self._repository = repository
        self._settings = settings
        self._metrics = metrics
        self._batchers: dict[Version, Batcher] = {}
        self._decoders = Decoders(settings.decode_threads)
        self.answered = 0
        """Requests so far."""

    def resolve(self, model: str, version: str | None = None) -> Version:
        """The version that answers a request: resolved once, before the body is read, and then passed on.

        Args:
            model: the model's name.
            version: the number of a loaded version; the one that is served where it is None.

        Raises:
            ModelNotFound, NotReady: no such version can answer.
        """
        return self._repository.get(model, version)

    async def classify(
        self,
        version: Version,
        items: list[Item],
        *,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Classify encoded pictures or texts, whichever the model takes.

        Args:
            version: the one that answers, from `resolve`.
            items: one picture or text each; an error stays in its place. Emptied once they are decoded, so that what
                waits for its turn holds no body.
            is_gone: whether the caller has gone away; asked where it had to wait.

        Raises:
            TooLarge: more items than a request may hold.
            Overloaded, DeadlineExceeded, ClientGone: the queue is full, the answer came too late, nobody waits for it.
        """
        return await self._predict(version, items, is_gone)

    async def infer(
        self, version: Version, items: list[Item] | Array, *, is_gone: Callable[[], bool] = lambda: False
    ) -> Probabilities:
        """Probabilities (classes,) of each item: encoded, or what the graph takes, (H, W, C) or (L).

        Pictures that are what the graph takes may come as one array, (N, H, W, C).

        Raises:
            ConvokeError: as `classify`; or that of the first item that failed, since none can have it in its place.
        """
        found = await self._predict(version, items, is_gone)
        rows: list[Row] = []
        for place, row in enumerate(found.rows):
            if isinstance(row, ConvokeError):
                raise type(row)(f"item {place}: {row}") from row
            rows.append(row)
        return Probabilities(rows, found.decode_s, found.queue_s, found.infer_s)

    async def _predict(self, version: Version, items: list[Item] | Array, is_gone: Callable[[], bool]) -> Answer:
        if len(items) > self._settings.max_items:
            raise TooLarge(f"the request holds {len(items)} items; at most {self._settings.max_items} are taken")
        timeout_s = self._settings.request_timeout_s
        began = time.perf_counter()
        count = len(items)
        decoded: Items | Sequence[Array | ConvokeError]
        if _are_decoded(items):
            decoded = items
        else:
            assert isinstance(items, list)
            decoded = await self._decode(version, items, timeout_s, is_gone)
            items.clear()
        readable = decoded if isinstance(decoded, np.ndarray) else [item for item in decoded if _is_array(item)]
        decode_s = time.perf_counter() - began
        if len(readable) == 0:
            errors = [item for item in decoded if isinstance(item, ConvokeError)]
            return self._count(Answer(version, errors, decode_s, 0.0, 0.0))
        left_s = max(timeout_s - decode_s, 0.0)
        outcome = await self._batcher(version).submit(readable, timeout_s=left_s, is_gone=is_gone)
        if len(readable) == count:
            return self._count(Answer(version, outcome.rows, decode_s, outcome.queue_s, outcome.infer_s))
        remaining = iter(outcome.rows)
        rows = [item if isinstance(item, ConvokeError) else next(remaining) for item in decoded]
        return self._count(Answer(version, rows, decode_s, outcome.queue_s, outcome.infer_s))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is decoded, runs or waits."""
        return all(batcher.is_idle for batcher in self._batchers.values())

    def close(self) -> None:
        """Start no more batches."""
        self._decoders.close()
        for batcher in self._batchers.values():
            batcher.close()

    async def _decode(
        self, version: Version, items: Sequence[Item], timeout_s: float, is_gone: Callable[[], bool]
    ) -> list[Array | ConvokeError]:
        """Pixels, token ids or an error an item. It leaves the event loop, but for one short text or tiny picture.

        Raises:
            Overloaded, DeadlineExceeded, ClientGone: as `classify`.
        """
        if len(items) == 1 and (not isinstance(items[0], bytes | str) or version.preprocessor.is_quick(items[0])):
            return [_decode(version.preprocessor, items[0], math.inf)]
        until = time.perf_counter() + timeout_s
        try:
            with self._batcher(version).room(len(items)):
                async with asyncio.timeout(timeout_s):
                    parts = await asyncio.gather(
                        *(self._decode_in_turn(version, part, until, is_gone) for part in _parts(items))
                    )
        except TimeoutError as error:
            raise DeadlineExceeded(f"not decoded within {timeout_s:g} s; the service is overloaded") from error
        return [item for part in parts for item in part]

    async def _decode_in_turn(
        self, version: Version, items: Sequence[Item], until: float, is_gone: Callable[[], bool]
    ) -> list[Array | ConvokeError]:
        began = time.perf_counter()
        async with self._decoders.turn(version.name):
            if time.perf_counter() - began > PATIENCE_S and is_gone():
                raise ClientGone("the client went away before its turn came")
            return await self._decoders.run(partial(_decode_each, version.preprocessor, items, until))

    def _batcher(self, version: Version) -> Batcher:
        batcher = self._batchers.get(version)
        if batcher is None:
            self._retire()
            preprocessor, session = version.preprocessor, version.session
            batcher = self._batchers[version] = Batcher(
                partial(preprocessor.run, session.run),
                max_batch=version.manifest.max_batch,
                max_items=self._settings.max_queue_items,
                max_tokens=version.manifest.input.max_batch_tokens,
                lanes=session.lanes,
                is_quick=lambda batch: session.is_quick(preprocessor.extent(batch)),
                runs_alone=lambda batch: session.runs_alone(preprocessor.extent(batch)),
                observer=self._observer(version),
            )
        return batcher

    def _retire(self) -> None:
        """Let go of versions that are not loaded any more, once nobody waits for them."""
        loaded = set(self._repository.loaded())
        for version, batcher in list(self._batchers.items()):
            if version not in loaded and batcher.is_idle:
                batcher.close()
                del self._batchers[version]

    def _observer(self, version: Version) -> Observer:
        labels = (version.name, version.number)
        batch_items = self._metrics.batch_items.labels(*labels)
        compute_seconds = self._metrics.compute_seconds.labels(*labels)
        queue_seconds = self._metrics.queue_seconds.labels(*labels)
        busy_seconds = self._metrics.busy_seconds.labels(*labels)

        def batch(items: int, seconds: float) -> None:
            batch_items.observe(items)
            compute_seconds.observe(seconds, items)
            busy_seconds.inc(seconds)

        def waited(items: int, seconds: float) -> None:
            queue_seconds.observe(seconds, items)

        return Observer(self._metrics.queue_items.labels(*labels).set, batch, waited)

    def _count(self, found: Answer) -> Answer:
        """Enter what became of the items into the metrics, and failures of ours into the log."""
        self.answered += 1
        version = found.version
        errors = [row for row in found.rows if isinstance(row, ConvokeError)]
        for error in errors:
            self._metrics.item_errors.labels(version.name, version.number, error.code).inc()
            if error.status >= 500:  # noqa: PLR2004 -- ours, not the caller's
                logger.error("model %s version %s: %s", version.name, version.number, error, exc_info=error)
        self._metrics.items.labels(version.name, version.number).inc(len(found.rows) - len(errors))
        return found


def _are_decoded(items: list[Item] | Array) -> TypeGuard[Items]:
    return isinstance(items, np.ndarray) or all(map(_is_array, items))


def _is_array(item: Item) -> TypeGuard[Array]:
    return isinstance(item, np.ndarray)


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Items in parts that are each worth a thread's while: one large picture, or many small ones."""
    start = size = 0
    for stop, item in enumerate(items, start=1):
        size += len(item) if isinstance(item, bytes | str) else 0
        if size >= _PART or stop == len(items):
            yield items[start:stop]
            start, size = stop, 0


def _decode_each(preprocessor: Preprocessor, items: Sequence[Item], until: float) -> list[Array | ConvokeError]:
    """Decode items as long as a client can still be waiting for them: up to `until`, in `time.perf_counter()`."""
    return [_decode(preprocessor, item, until) for item in items]


def _decode(preprocessor: Preprocessor, item: Item, until: float) -> Array | ConvokeError:
    if not isinstance(item, bytes | str):
        return item
    if time.perf_counter() > until:
        return DeadlineExceeded("not decoded in time")
    try:
        return preprocessor.decode(item)
    except ConvokeError as error:
        return error
    except Exception as error:  # noqa: BLE001 -- whatever a decoder raises, the neighbours of this item get their answers
        failure = InferenceFailed(f"preprocessing failed on this item: {error}")
        failure.__cause__ = error
        return failure
