"""The sliding window of what a model does, and its cost."""

import sys
import time

import numpy as np

from contract import reference
from contract.manifest import read as read_manifest
from service.telemetry.drift import (
    REQUEST_ITEMS,
    SAMPLE_ITEMS,
    SLICE_ITEMS,
    SLICE_S,
    SLICES,
    Watch,
    Watches,
    compare,
    complete,
)
from service.telemetry.metrics import Metrics
from tests.serving import ROOT

DIGITS = ROOT / "models/digits/1"
MANIFEST = read_manifest(DIGITS)
KEY = ("digits", "1")


def _reference() -> reference.Reference:
    found = reference.read(DIGITS, MANIFEST)
    assert found is not None
    return found


def _image(value: int = 30) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((28, 28, 1), value, np.uint8)


def _row(label: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    row = np.full(10, 0.001, np.float32)
    row[label] = 0.991
    return row


def test_a_window_forgets_what_is_older() -> None:
    """It holds the last ten slices; a slice ends after a minute, if it has 100 items."""
    now = [0.0]
    watch = Watch(MANIFEST, _reference(), None, clock=lambda: now[0])
    for minute in range(SLICES + 3):
        for _ in range(SLICE_ITEMS):
            watch.add([_image()], [_row(0 if minute < 3 else 1)])
        watch.count()
        now[0] += SLICE_S
    assert watch.window()["label"][:2] == [0, SLICES * SLICE_ITEMS]


def test_a_slice_with_few_items_goes_on() -> None:
    """At low traffic the window is longer than ten minutes instead of empty."""
    now = [0.0]
    watch = Watch(MANIFEST, _reference(), None, clock=lambda: now[0])
    for _ in range(3 * SLICES):
        watch.add([_image()], [_row()])
        watch.count()
        now[0] += 10 * SLICE_S
    assert sum(watch.window()["score"]) == 3 * SLICES


def test_memory_is_bounded() -> None:
    """Between two counts at most 256 items are kept, of one request at most 64, spread over it, and no view of it."""
    watch = Watch(MANIFEST, _reference(), None)
    images = np.stack([_image(number % 256) for number in range(1000)])
    before = sys.getrefcount(images)
    watch.add(images, [_row(number // 100) for number in range(1000)])
    assert sys.getrefcount(images) == before
    watch.count()
    assert sum(watch.window()["score"]) <= REQUEST_ITEMS
    assert all(watch.window()["label"][:10])
    for _ in range(10 * SAMPLE_ITEMS):
        watch.add([_image()], [_row()])
    watch.count()
    assert sum(watch.window()["score"]) <= SAMPLE_ITEMS + REQUEST_ITEMS


def test_items_with_an_error_are_not_counted() -> None:
    """An item without a row has no score."""
    watch = Watch(MANIFEST, _reference(), None)
    watch.add([_image(), _image()], [_row(), ValueError("failed")])
    watch.count()
    assert sum(watch.window()["score"]) == 1


def test_workers_are_added_up_before_they_are_compared() -> None:
    """Two workers with 150 items each have an index together, and neither alone; it is large if all are one digit."""
    total = Metrics()
    for worker in range(2):
        metrics = Metrics()
        watches = Watches(metrics)
        watch = watches.add(MANIFEST, _reference(), None)
        for _ in range(150):
            watch.add([_image()], [_row(1)])
        watches.count()
        assert {drift.index for drift in compare(metrics, *KEY, _reference())} == {None}, worker
        total.add(metrics.snapshot())
    complete(total, {KEY: _reference()})
    assert total.drift.labels(*KEY, "label").numbers()[0] > 1
    assert b'convoke_drift{model="digits",quantity="label",version="1"}' in total.text()
    assert b'convoke_drift_items{bin="1",model="digits",quantity="label",version="1"} 300.0' in total.text()


def test_a_version_that_is_not_watched_any_more_has_no_items() -> None:
    """Its gauges fall to 0; those of its successor under the same number stay."""
    metrics = Metrics()
    watches = Watches(metrics)
    old, new = watches.add(MANIFEST, _reference(), None), watches.add(MANIFEST, _reference(), None)
    new.add([_image()], [_row(4)])
    watches.remove(old)
    watches.count()
    assert metrics.drift_items.labels(*KEY, "label", "4").numbers() == [1]
    watches.remove(new)
    watches.count()
    assert metrics.drift_items.labels(*KEY, "label", "4").numbers() == [0]


def test_a_request_pays_less_than_a_microsecond() -> None:
    """The best of several runs over a second's sample, and over what is above it."""
    watch = Watch(MANIFEST, _reference(), None)
    items, rows = [_image()], [_row()]
    best_s = [float("inf")] * 2
    for kind in [0, 1] * 10:
        if not kind:
            watch.count()
        start = time.thread_time()
        for _ in range(SAMPLE_ITEMS):
            watch.add(items, rows)
        best_s[kind] = min(best_s[kind], (time.thread_time() - start) / SAMPLE_ITEMS)
    assert max(best_s) < 1e-6
