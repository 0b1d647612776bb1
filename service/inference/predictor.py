"""Items -> probabilities: every front end calls the predictor."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

from contract.errors import ConvokeError, TooLarge, UnsupportedMediaType
from contract.inputs import Array, ImagePreprocessor, Items
from contract.text import Beginning
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed
from service.inference.batching import Batcher, Observer
from service.inference.decoding import Decoders, Item, are_small, attempt, decode_each, decode_quickly, parts
from service.inference.entries import CLIENT_CHECK_S, OutcomeOrError
from service.inference.repository import Repository
from service.inference.version import Version
from service.settings import Settings
from service.telemetry.drift import Watch, Watches
from service.telemetry.metrics import Metrics

logger = logging.getLogger("bentoml.convoke")

Decoded = TypeVar("Decoded")

Row = npt.NDArray[np.float32]

_NONE: Mapping[int, tuple[int, int]] = {}


@dataclass(slots=True)
class Answer:
    """The result of a request: a row (classes,) or an error for each item, in order, and the seconds of each step."""

    version: Version
    rows: Sequence[Row | ConvokeError]
    decode_s: float
    queue_s: float
    infer_s: float
    truncated: Mapping[int, tuple[int, int]] = field(default_factory=lambda: _NONE)
    """Position of a text that is longer than the model reads -> tokens that it read, tokens of the text."""

    def probabilities(self) -> list[Row]:
        """The row (classes,) of each item.

        Raises:
            ConvokeError: the error of the first item that failed, with its position.
        """
        rows: list[Row] = []
        for place, row in enumerate(self.rows):
            if isinstance(row, ConvokeError):
                raise type(row)(f"item {place}: {row}") from row
            rows.append(row)
        return rows


AnswerOrError = Answer | Exception
OnAnswer = Callable[[AnswerOrError], None]


class Predictor:
    """Predicts with the versions that a repository has loaded."""

    def __init__(self, repository: Repository, settings: Settings, metrics: Metrics) -> None:
        self._repository = repository
        self._settings = settings
        self._metrics = metrics
        self._batchers: dict[Version, Batcher] = {}
        self.watches = Watches(metrics)
        self._watched: dict[Version, Watch] = {}

        def on_start(model: str, seconds: float) -> None:
            metrics.decode_wait_seconds.labels(model).observe(seconds)

        self._decoders = Decoders(settings.decode_threads, on_start)
        self._small_decoders = Decoders(1, on_start)
        self._tasks: set[asyncio.Task[None]] = set()
        self.answered = 0
        """How many requests were answered."""

    def resolve(self, model: str, version: str | None = None) -> Version:
        """The version that answers a request: resolved once, before the body is read, and then passed on.

        Args:
            model: the model's name.
            version: the number of a loaded version; None for the version that is served.

        Raises:
            ModelNotFound, NotReady: no such version can answer.
        """
        return self._repository.get(model, version)

    def check_capacity(self, version: Version) -> None:
        """Check that a version can take one more item, before the body of its request is read: refusing costs little.

        Raises:
            Overloaded: it cannot.
        """
        self._batcher(version).check_capacity(1)

    async def predict(
        self, version: Version, items: list[Item] | Array, *, is_gone: Callable[[], bool] = lambda: False
    ) -> Answer:
        """The probabilities of each item, or its error.

        Args:
            version: the version that answers, from `resolve`.
            items: encoded or decoded items; decoded items of a fixed shape may come as one array. Errors stay in their
                places. A list of encoded items is emptied once they are decoded, so that waiting requests hold no body.
            is_gone: whether the client has closed its connection; called if the request had to wait.

        Raises:
            TooLarge: more items than a request may hold.
            Overloaded, DeadlineExceeded, ClientGone: the queue is full, the request took too long, or its client left.
        """
        count = len(items)
        if count > self._settings.max_items:
            raise TooLarge(f"too many items: {count} (maximum {self._settings.max_items})")
        self._batcher(version).check_capacity(count)
        timeout_s = self._settings.request_timeout_s
        start = time.perf_counter()
        decoded: Items | Sequence[Array | ConvokeError]
        truncated = _NONE
        if _are_decoded(items):
            decoded = items
        else:
            assert isinstance(items, list)
            decoded = await self._decode(version, items, timeout_s, is_gone)
            items.clear()
            if version.manifest.input.is_text:
                truncated = _truncated(decoded)
        arrays = decoded if isinstance(decoded, np.ndarray) else [item for item in decoded if _is_array(item)]
        decode_s = time.perf_counter() - start
        if len(arrays) == 0:
            errors = [item for item in decoded if isinstance(item, ConvokeError)]
            return self._count(Answer(version, errors, decode_s, 0.0, 0.0))
        left_s = max(timeout_s - decode_s, 0.0)
        outcome = await self._batcher(version).submit(arrays, timeout_s=left_s, is_gone=is_gone)
        if version in self._watched:
            self._watched[version].add(arrays, outcome.rows)
        rows: Sequence[Row | ConvokeError] = outcome.rows
        if len(arrays) < count:
            remaining = iter(outcome.rows)
            rows = [item if isinstance(item, ConvokeError) else next(remaining) for item in decoded]
        return self._count(Answer(version, rows, decode_s, outcome.queue_s, outcome.infer_s, truncated))

    def start(
        self, version: Version, items: list[Item] | Array, on_done: OnAnswer, *, is_gone: Callable[[], bool]
    ) -> None:
        """As `predict`, without waiting: `on_done` is called later, with the answer or the error.

        Decoded items, and one that is quickly decoded, cost no task.

        Raises:
            Overloaded: the queue is full.
        """
        start = time.perf_counter()
        self._batcher(version).check_capacity(len(items))
        decoded: Items
        if len(items) == 1 and not isinstance(items, np.ndarray):
            item = decode_quickly(version.preprocessor, items[0])
            if not isinstance(item, np.ndarray):  # it takes longer, or is an error, which is not looked for again
                self._start_task(version, items if item is None else [item], on_done, is_gone)
                return
            decoded = [item]
        elif _are_decoded(items) and 0 < len(items) <= self._settings.max_items:
            decoded = items
        else:
            self._start_task(version, items, on_done, is_gone)
            return
        truncated = _truncated(decoded) if version.manifest.input.is_text else _NONE
        decode_s = time.perf_counter() - start

        def on_outcome(outcome: OutcomeOrError) -> None:
            if isinstance(outcome, ConvokeError):
                on_done(outcome)
            else:
                if version in self._watched:
                    self._watched[version].add(decoded, outcome.rows)
                answer = Answer(version, outcome.rows, decode_s, outcome.queue_s, outcome.infer_s, truncated)
                on_done(self._count(answer))

        self._batcher(version).put(decoded, on_outcome, timeout_s=self._settings.request_timeout_s, is_gone=is_gone)

    def _start_task(
        self, version: Version, items: list[Item] | Array, on_done: OnAnswer, is_gone: Callable[[], bool]
    ) -> None:
        """The same for any items: `predict` in a task."""

        async def run() -> None:
            answer: AnswerOrError
            try:
                answer = await self.predict(version, items, is_gone=is_gone)
            except Exception as error:  # noqa: BLE001 -- `on_done` makes a response of it
                answer = error
            on_done(answer)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)  # the loop alone would let it be collected
        task.add_done_callback(self._tasks.discard)

    async def predict_all(
        self, version: Version, item: Item, *, is_gone: Callable[[], bool] = lambda: False
    ) -> tuple[Answer, list[tuple[int, ...]]]:
        """The probabilities of each digit of an image, line by line, and their boxes.

        A box is left, top, right and bottom, in pixels of the upright image.

        Raises:
            UnsupportedMediaType: the model does not search for digits.
            ConvokeError: the image cannot be decoded, or shows no digit; or as `predict`.
        """
        preprocessor = version.preprocessor
        if isinstance(item, ConvokeError):
            raise item
        if not (isinstance(preprocessor, ImagePreprocessor) and isinstance(item, bytes)):
            raise UnsupportedMediaType("the model takes no images; ?several=true is for models of digits")
        start = time.perf_counter()
        async with self._decoders.turn(version.name):
            digits = await self._decoders.run(partial(attempt, preprocessor.decode_all, item))
        if isinstance(digits, ConvokeError):
            raise digits
        decode_s = time.perf_counter() - start
        answer = await self.predict(version, [pixels for pixels, _ in digits], is_gone=is_gone)
        return replace(answer, decode_s=decode_s), [box for _, box in digits]

    async def in_decoder(self, version: Version, work: Callable[[], Decoded]) -> Decoded:
        """Run a function that decodes something for a version in a decoding thread, in its turn."""
        async with self._decoders.turn(version.name):
            return await self._decoders.run(work)

    async def run_in_background(
        self, version: Version, items: Items, *, timeout_s: float, is_gone: Callable[[], bool]
    ) -> list[Row]:
        """The row (classes,) of each decoded item, from one batch that runs when no prediction waits.

        Raises:
            InferenceFailed: the model failed on an item.
            DeadlineExceeded, ClientGone: as `predict`.
        """
        outcome = await self._batcher(version).submit(items, timeout_s=timeout_s, is_gone=is_gone, in_background=True)
        rows: list[Row] = []
        for row in outcome.rows:
            if isinstance(row, InferenceFailed):
                raise row
            rows.append(row)
        return rows

    @property
    def is_idle(self) -> bool:
        """Whether no item is decoded, waits or runs."""
        return all(batcher.is_idle for batcher in self._batchers.values())

    @property
    def decode_s(self) -> dict[str, float]:
        """Seconds for which each model has taken decoding threads."""
        small = self._small_decoders.busy_s
        return {
            model: self._decoders.busy_s.get(model, 0.0) + small.get(model, 0.0)
            for model in {**self._decoders.busy_s, **small}
        }

    @property
    def parallel_runs(self) -> dict[str, int]:
        """How many runs of each served model may take place at the same time."""
        return {version.name: version.session.parallel_runs for version in self._repository.serving()}

    def close(self) -> None:
        """Let running work finish, and start no more."""
        self._decoders.close()
        self._small_decoders.close()
        for batcher in self._batchers.values():
            batcher.close()

    async def _decode(
        self, version: Version, items: Sequence[Item], timeout_s: float, is_gone: Callable[[], bool]
    ) -> list[Array | ConvokeError]:
        """Decode items: a single quick item on the event loop, others in threads.

        Raises:
            DeadlineExceeded, ClientGone: as `predict`.
        """
        if len(items) == 1 and (quick := decode_quickly(version.preprocessor, items[0])) is not None:
            return [quick]
        start = time.perf_counter()
        deadline = start + timeout_s
        batcher = self._batcher(version)
        try:
            with batcher.reserve(len(items)):
                async with asyncio.timeout(timeout_s):
                    done = await asyncio.gather(
                        *(self._decode_part(version, part, deadline, is_gone) for part in parts(items))
                    )
        except TimeoutError as error:
            raise DeadlineExceeded(f"decoding timed out after {timeout_s:g} s; the service is overloaded") from error
        decoded = [item for part in done for item in part]
        if failed := sum(isinstance(item, ConvokeError) for item in decoded):
            batcher.count_failed(failed, start)
        return decoded

    async def _decode_part(
        self, version: Version, items: Sequence[Item], deadline: float, is_gone: Callable[[], bool]
    ) -> list[Array | ConvokeError]:
        start = time.perf_counter()
        decoders = self._small_decoders if are_small(items) else self._decoders
        async with decoders.turn(version.name):
            if time.perf_counter() - start > CLIENT_CHECK_S and is_gone():
                raise ClientGone("the client closed its connection while its request waited")
            return await decoders.run(partial(decode_each, version.preprocessor, items, deadline))

    def _batcher(self, version: Version) -> Batcher:
        batcher = self._batchers.get(version)
        if batcher is None:
            self._remove_unloaded()
            preprocessor, session = version.preprocessor, version.session
            batcher = self._batchers[version] = Batcher(
                partial(preprocessor.run, session.run),
                max_batch=version.manifest.max_batch,
                max_items=self._settings.max_queue_items,
                max_wait_s=self._settings.max_wait_s,
                max_tokens=version.manifest.input.max_batch_tokens,
                parallel_runs=(self._settings.parallel_runs if session.is_on_cpu else 0) or session.parallel_runs,
                extent=preprocessor.extent,
                is_quick=session.is_quick,
                observer=self._observer(version),
            )
            if version.reference is not None:
                watch = self.watches.add(version.manifest, version.reference, preprocessor.unknown_id)
                self._watched[version] = watch
        return batcher

    def _remove_unloaded(self) -> None:
        """Remove the idle queues of versions that are not loaded any more."""
        loaded = set(self._repository.loaded())
        for version, batcher in list(self._batchers.items()):
            if version not in loaded and batcher.is_idle:
                batcher.close()
                del self._batchers[version]
                if version in self._watched:
                    self.watches.remove(self._watched.pop(version))

    def _observer(self, version: Version) -> Observer:
        labels = (version.name, version.number)
        batch_items = self._metrics.batch_items.labels(*labels)
        compute_seconds = self._metrics.compute_seconds.labels(*labels)
        queue_seconds = self._metrics.queue_seconds.labels(*labels)
        busy_seconds = self._metrics.busy_seconds.labels(*labels)

        def on_batch(items: int, seconds: float) -> None:
            batch_items.observe(items)
            compute_seconds.observe(seconds, items)
            busy_seconds.inc(seconds)

        def on_wait(items: int, seconds: float) -> None:
            queue_seconds.observe(seconds, items)

        return Observer(self._metrics.queue_items.labels(*labels).set, on_batch, on_wait, busy_seconds.inc)

    def _count(self, answer: Answer) -> Answer:
        """Record the results of the items in the metrics, and errors of the service in the log."""
        self.answered += 1
        version = answer.version
        errors = [row for row in answer.rows if isinstance(row, ConvokeError)]
        for error in errors:
            self._metrics.item_errors.labels(version.name, version.number, error.code).inc()
            if error.status >= 500:  # noqa: PLR2004 -- not an error of the client
                logger.error("model %s version %s: %s", version.name, version.number, error, exc_info=error)
        self._metrics.items.labels(version.name, version.number).inc(len(answer.rows) - len(errors))
        return answer


def _truncated(decoded: Items | Sequence[Array | ConvokeError]) -> Mapping[int, tuple[int, int]]:
    return {place: (len(item), item.total) for place, item in enumerate(decoded) if type(item) is Beginning}


def _are_decoded(items: list[Item] | Array) -> TypeGuard[Items]:
    return isinstance(items, np.ndarray) or all(map(_is_array, items))


def _is_array(item: Item) -> TypeGuard[Array]:
    return isinstance(item, np.ndarray)
