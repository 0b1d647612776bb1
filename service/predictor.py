"""Model name + items -> predictions: the one door behind every front end."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from service.batching import Batcher, Observer
from service.errors import ServiceError, TooLarge
from service.metrics import Metrics
from service.preprocess import Pixels, image_to_pixels, is_tiny
from service.repository import Repository, Version
from service.settings import Settings

logger = logging.getLogger("bentoml.convoke")


@dataclass(frozen=True)
class Prediction:
    """One item's answer: the best label, its probability, and probabilities by label, the highest first."""

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """The answer to one request: a prediction or an error an item, in order, and where the seconds went."""

    model: str
    version: str
    predictions: list[Prediction | ServiceError]
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

    def check(self, model: str) -> str:
        """A model's name, once it is known to be served, so that no body is read in vain.

        Raises:
            ModelNotFound, NotReady: the model cannot be asked.
        """
        return self._repository.get(model).name

    async def classify(self, model: str, items: Sequence[bytes], *, top: int | None = None) -> Answer:
        """Classify encoded pictures.

        Args:
            model: the model's name.
            items: one encoded picture each.
            top: how many labels to give a probability for; all where it is None.

        Raises:
            ModelNotFound, NotReady: the model cannot be asked.
            TooLarge: more items than a request may hold.
            Overloaded, DeadlineExceeded: the queue is full, or the answer came too late.
        """
        version = self._repository.get(model)
        if len(items) > self._settings.max_items:
            raise TooLarge(f"the request holds {len(items)} items; at most {self._settings.max_items} are taken")
        began = time.perf_counter()
        decoded = await self._decode(version, items)
        pixels = [item for item in decoded if not isinstance(item, ServiceError)]
        decode_s = time.perf_counter() - began
        if not pixels:
            return self._answer(version, decoded, [], top, decode_s, 0.0, 0.0)
        batch = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)  # k x (H, W, C) -> (k, H, W, C)
        timeout_s = self._settings.request_timeout_s
        outcome = await self._batcher(version).submit(batch, timeout_s=timeout_s)
        return self._answer(version, decoded, outcome.rows, top, decode_s, outcome.queue_s, outcome.infer_s)

    def close(self) -> None:
        """Start no more batches."""
        for batcher in self._batchers.values():
            batcher.close()

    async def _decode(self, version: Version, items: Sequence[bytes]) -> list[Pixels | ServiceError]:
        """Pixels or an error an item. Decoding leaves the event loop, but for one picture of a few pixels."""
        decode = partial(_decode_each, version, items, self._settings.max_pixels)
        if len(items) == 1 and is_tiny(items[0]):
            return decode()
        return await asyncio.get_running_loop().run_in_executor(None, decode)

    def _batcher(self, version: Version) -> Batcher:
        batcher = self._batchers.get(version)
        if batcher is None:
            batcher = self._batchers[version] = Batcher(
                version.session.run,
                max_batch=version.manifest.max_batch,
                max_items=self._settings.max_queue_items,
                observer=self._observer(version),
            )
        return batcher

    def _observer(self, version: Version) -> Observer:
        labels = (version.name, version.number)
        batch_items = self._metrics.batch_items.labels(*labels)
        compute_seconds = self._metrics.compute_seconds.labels(*labels)
        queue_seconds = self._metrics.queue_seconds.labels(*labels)

        def batch(items: int, seconds: float) -> None:
            batch_items.observe(items)
            compute_seconds.observe(seconds)

        def waited(_items: int, seconds: float) -> None:
            queue_seconds.observe(seconds)

        return Observer(self._metrics.queue_items.labels(*labels).set, batch, waited)

    def _answer(
        self,
        version: Version,
        decoded: Sequence[Pixels | ServiceError],
        rows: Sequence[npt.NDArray[np.float32] | ServiceError],
        top: int | None,
        decode_s: float,
        queue_s: float,
        infer_s: float,
    ) -> Answer:
        remaining = iter(rows)
        results = [item if isinstance(item, ServiceError) else next(remaining) for item in decoded]
        predictions = [
            result if isinstance(result, ServiceError) else _prediction(result, version.manifest.labels, top)
            for result in results
        ]
        errors = [item for item in predictions if isinstance(item, ServiceError)]
        for error in errors:
            self._metrics.errors.labels(error.code).inc()
            if error.status >= 500:  # noqa: PLR2004 -- ours, not the caller's
                logger.error("model %s version %s: %s", version.name, version.number, error, exc_info=error)
        self._metrics.items.labels(version.name, version.number).inc(len(predictions) - len(errors))
        return Answer(version.name, version.number, predictions, decode_s, queue_s, infer_s)


def _decode_each(version: Version, items: Sequence[bytes], max_pixels: int) -> list[Pixels | ServiceError]:
    def one(item: bytes) -> Pixels | ServiceError:
        try:
            return image_to_pixels(item, version.manifest.input, max_pixels=max_pixels)
        except ServiceError as error:
            return error

    return [one(item) for item in items]


def _prediction(row: npt.NDArray[np.float32], labels: list[str], top: int | None) -> Prediction:
    """A row of probabilities (classes,) -> labels and scores, the highest first, to six decimals."""
    order = np.argsort(-row, kind="stable")[:top]
    scores = {labels[index]: round(float(row[index]), 6) for index in order}
    label = labels[int(order[0])]
    return Prediction(label, scores[label], scores)
