"""Whether a model receives and answers something else than its test data: drift, by the population stability index.

A request only leaves its items and rows in a list. Once a second a thread counts them in the bins of the version's
reference (`contract/reference.py`). Each worker publishes its counts over a sliding window as a gauge; the worker that
answers a request adds them up and computes the index.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from contract.manifest import Manifest
from contract.reference import (
    MIN_ITEMS,
    Counter,
    Counts,
    Histogram,
    Quantity,
    Reference,
    Values,
    measure,
    stability_index,
)
from service.telemetry.metrics import Metrics

MODERATE, LARGE = 0.1, 0.25
"""The indices from which a difference counts as moderate and as large; the usual rule of thumb (Siddiqi, 2006)."""

SLICE_S, SLICES, SLICE_ITEMS = 60.0, 10, 100
"""The window is the last `SLICES` slices; each lasts `SLICE_S` seconds, or longer until it has `SLICE_ITEMS`."""

SAMPLE_ITEMS, SAMPLE_BYTES, REQUEST_ITEMS = 256, 8 << 20, 64
"""What is counted at most in a second, by model and worker, and of one request, from which items are taken evenly."""

References = Mapping[tuple[str, str], Reference]
"""Model and version -> its reference."""


class Watch:
    """What one version did lately: `add` is called for each request, `count` once a second."""

    def __init__(
        self,
        manifest: Manifest,
        reference: Reference,
        unknown_id: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch nothing yet.

        Args:
            manifest: of the version.
            reference: of the version.
            unknown_id: the id of unknown tokens, if its input has them.
            clock: the time in seconds.
        """
        self._counters = {
            name: Counter(histogram.edges, histogram.labels, manifest.labels)
            for name, histogram in reference.quantities.items()
        }
        self._unknown_id = unknown_id
        self._clock = clock
        spec = manifest.input
        item_bytes = prod(spec.shape(1, spec.max_length)) * np.dtype(spec.dtype).itemsize
        self._at_once = max(min(SAMPLE_ITEMS, SAMPLE_BYTES // item_bytes), 1)
        self._left = self._at_once
        self._pending: list[tuple[Sequence[Any] | Values, Sequence[Any]]] = []
        self._slices: deque[_Slice] = deque(maxlen=SLICES)

    def add(self, items: Sequence[Any] | Values, rows: Sequence[Any]) -> None:
        """Keep decoded items and what the model gave for each, a row (classes,) or an error, to be counted."""
        if self._left > 0:
            if len(rows) > 1:
                step = -(-len(rows) // min(REQUEST_ITEMS, self._left))
                items, rows = [item.copy() for item in items[::step]], rows[::step]
            self._pending.append((items, rows))
            self._left -= len(rows)

    def count(self) -> None:
        """Count what was kept since the last time."""
        pending, self._pending, self._left = self._pending, [], self._at_once
        pairs = [
            pair for items, rows in pending for pair in zip(items, rows, strict=True) if isinstance(pair[1], np.ndarray)
        ]
        if not pairs:
            return
        now = self._clock()
        if not self._slices or (self._slices[-1].items >= SLICE_ITEMS and now - self._slices[-1].start >= SLICE_S):
            self._slices.append(_Slice(now, 0, {}))
        current = self._slices[-1]
        current.items += len(pairs)
        measured = measure(np.stack([row for _, row in pairs]), [item for item, _ in pairs], self._unknown_id)
        for name, counter in self._counters.items():
            counts = counter.count(measured[name])
            current.counts[name] = current.counts[name] + counts if name in current.counts else counts

    def window(self) -> dict[Quantity, list[int]]:
        """The count of each bin in the window, of each quantity."""
        return {
            name: np.sum([slice_.counts[name] for slice_ in self._slices], axis=0).tolist()
            for name in self._counters
            if self._slices
        }


@dataclass(slots=True)
class _Slice:
    """A part of the window."""

    start: float
    items: int
    counts: dict[Quantity, Counts]


@dataclass(frozen=True)
class Drift:
    """One quantity of a version: its reference, the window of all workers, and the index of their difference."""

    quantity: Quantity
    histogram: Histogram
    counts: list[int]
    index: float | None
    """None with too few items."""


class Watches:
    """The watches of all loaded versions of a worker, and their gauges."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._watches: dict[tuple[str, str], tuple[Watch, Reference]] = {}
        self._lock = threading.Lock()

    def add(self, manifest: Manifest, reference: Reference, unknown_id: int | None) -> Watch:
        """Start to watch a version."""
        watch = Watch(manifest, reference, unknown_id)
        key = manifest.model, str(manifest.version)
        with self._lock:
            self._watches[key] = watch, reference
            self._set(key, reference, {})
        return watch

    def remove(self, watch: Watch) -> None:
        """Stop to watch a version, unless another one has its number; its gauges are 0 from now on.

        A worker cannot remove the gauges of others.
        """
        with self._lock:
            for key, (other, reference) in list(self._watches.items()):
                if other is watch:
                    del self._watches[key]
                    self._set(key, reference, {})

    def count(self) -> None:
        """Count what was kept, and set the gauges. Blocks for less than a millisecond."""
        with self._lock:
            for key, (watch, reference) in self._watches.items():
                watch.count()
                self._set(key, reference, watch.window())

    def _set(self, key: tuple[str, str], reference: Reference, window: Mapping[Quantity, Sequence[int]]) -> None:
        for name, histogram in reference.quantities.items():
            bins = histogram.bins
            for name_of_bin, count in zip(bins, window.get(name, [0] * len(bins)), strict=True):
                self._metrics.drift_items.labels(*key, name, name_of_bin).set(count)


def compare(total: Metrics, model: str, version: str, reference: Reference) -> list[Drift]:
    """The drift of a version, from the metrics of all workers added up."""
    found = []
    for name, histogram in reference.quantities.items():
        series = (total.drift_items.labels(model, version, name, name_of_bin) for name_of_bin in histogram.bins)
        counts = [round(each.numbers()[0]) for each in series]
        index = stability_index(histogram.counts, counts) if sum(counts) >= MIN_ITEMS else None
        found.append(Drift(name, histogram, counts, index))
    return found


def complete(total: Metrics, references: References) -> None:
    """Set the indices in the metrics of all workers added up."""
    for (model, version), reference in references.items():
        for drift in compare(total, model, version, reference):
            if drift.index is not None:
                total.drift.labels(model, version, drift.quantity).set(drift.index)
