"""Why a model gives a label: how much the prediction changes when a part of the item is hidden.

The runs go through the queue of the predictions, in small batches that run only when no prediction waits. The batches
of an item are always the same, so an explanation is deterministic.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import ConvokeError
from contract.inputs import Items
from contract.occlusion import Occlusions, TextOcclusions, Weights
from service.errors import DeadlineExceeded, InvalidRequest, Overloaded
from service.inference.decoding import Item
from service.inference.predictor import Predictor, Row
from service.inference.version import Version
from service.settings import Settings

_MIN_PROBABILITY = 1e-9  # float32 gives no smaller share of a sum of 1 with a meaning
_SHOWN_LABELS = 20


@dataclass(frozen=True)
class Explanation:
    """The weights of an item's parts, and the probability that they explain."""

    version: Version
    label: str
    row: Row
    """The probabilities of the item (classes,)."""
    occlusions: Occlusions
    weights: Weights
    """For each variant the fall of the label's log-odds: positive where the hidden part speaks for the label."""
    decode_s: float
    infer_s: float
    larger: tuple[TextOcclusions, Weights] | None = None
    """Runs of two or three words of a text, around the strongest ones, and their weights."""

    @property
    def score(self) -> float:
        """The probability of the label."""
        return float(self.row[self.version.manifest.labels.index(self.label)])

    @property
    def runs(self) -> int:
        """How many items the model ran: the item itself and its variants."""
        return len(self.weights) + 1 + (0 if self.larger is None else len(self.larger[0]))

    def report(self) -> dict[str, Any]:
        """The parts and their weights, and for a text its strongest n-grams, for JSON."""
        found = self.occlusions.report(self.weights)
        if isinstance(self.occlusions, TextOcclusions):
            found["ngrams"] = self.occlusions.ngrams(self.weights, self.larger)
        return found


class Explainer:
    """Explains predictions by occlusion."""

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self._predictor = predictor
        self._settings = settings
        self._active: Counter[str] = Counter()

    async def explain(
        self, version: Version, item: Item, label: str | None, *, is_gone: Callable[[], bool] = lambda: False
    ) -> Explanation:
        """Explain why a version gives an encoded item its label, or what speaks for another one.

        Args:
            version: the version that answers.
            item: the encoded item.
            label: what to explain; None for the predicted label.
            is_gone: whether the client has closed its connection.

        Raises:
            ConvokeError: the item cannot be read.
            InvalidRequest: the model has no such label.
            Overloaded: as many explanations of this model are being made as the settings allow.
            DeadlineExceeded, ClientGone, InferenceFailed: as `Predictor.run_in_background`.
        """
        if isinstance(item, ConvokeError):
            raise item
        if label is not None:
            place_of(version, label)
        limit = self._settings.max_explanations
        if self._active[version.name] >= limit:
            raise Overloaded(f"{limit} explanations of {version.name} are being made already; try again in a moment")
        self._active[version.name] += 1
        try:
            return await self._explain(version, item, label, is_gone)
        finally:
            self._active[version.name] -= 1

    async def _explain(
        self, version: Version, item: Item, label: str | None, is_gone: Callable[[], bool]
    ) -> Explanation:
        start = time.perf_counter()
        deadline = start + self._settings.request_timeout_s
        occlusions = await self._predictor.in_decoder(version, partial(version.preprocessor.occlude, item))
        decoded = time.perf_counter()

        async def run(items: Items) -> list[Row]:
            left_s = deadline - time.perf_counter()
            if left_s <= 0:
                raise DeadlineExceeded("the explanation could not be made in time; the service is busy")
            return await self._predictor.run_in_background(version, items, timeout_s=left_s, is_gone=is_gone)

        async def weigh(parts: Occlusions) -> Weights:
            rows = [row]
            for first, stop in _batches(version, parts):
                rows += await run(parts.variants(first, stop))
            return fall_of_log_odds(np.stack(rows), target, parts.blank)

        (row,) = await run([occlusions.whole])
        target = int(row.argmax()) if label is None else version.manifest.labels.index(label)
        weights = await weigh(occlusions)
        runs_of_words = await self._predictor.in_decoder(version, partial(occlusions.larger, weights))
        larger = None if runs_of_words is None else (runs_of_words, await weigh(runs_of_words))
        infer_s = time.perf_counter() - decoded
        name = version.manifest.labels[target]
        return Explanation(version, name, row, occlusions, weights, decoded - start, infer_s, larger)


def place_of(version: Version, label: str) -> int:
    """The position of a label.

    Raises:
        InvalidRequest: the model has no such label.
    """
    labels = version.manifest.labels
    if label in labels:
        return labels.index(label)
    known = ", ".join(labels[:_SHOWN_LABELS]) + (", ..." if len(labels) > _SHOWN_LABELS else "")
    raise InvalidRequest(f"unknown label {label[:40]!r}; the labels of {version.name} are {known}")


def fall_of_log_odds(rows: npt.NDArray[np.float32], target: int, blank: Collection[int] = ()) -> Weights:
    """How much the log-odds of a label fall in each variant of an item: (1 + variants, classes) -> (variants,).

    Log-odds, log(p / (1 - p)), add up where probabilities near 1 hardly change (Robnik-Sikonja & Kononenko, 2008). A
    variant in which nothing is left has the odds of chance.
    """
    shares = rows.astype(np.float64)
    shares[[place + 1 for place in blank]] = 1 / rows.shape[1]
    label = shares[:, target]
    others = np.delete(shares, target, axis=1).sum(axis=1)  # exact near 0, in contrast to 1 - p
    log_odds = np.log(np.maximum(label, _MIN_PROBABILITY)) - np.log(np.maximum(others, _MIN_PROBABILITY))
    falls: Weights = log_odds[0] - log_odds[1:]
    return falls


def _batches(version: Version, occlusions: Occlusions) -> Iterator[tuple[int, int]]:
    """The positions of the variants of each batch: a quarter of what a run takes, so that predictions wait briefly."""
    spec = version.manifest.input
    size = max(spec.max_run_items // 4, 1)
    if spec.max_batch_tokens is not None:
        size = max(spec.max_batch_tokens // 4 // len(occlusions.whole), 1)
    size = min(size, version.manifest.max_batch)
    for first in range(0, len(occlusions), size):
        yield first, min(first + size, len(occlusions))
