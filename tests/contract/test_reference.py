"""Histograms of what a version does with its test data, and their difference from what it does now."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from contract import reference
from contract.errors import ModelRefused
from contract.manifest import read as read_manifest
from contract.manifest import sha256
from contract.reference import (
    REFERENCE,
    Counter,
    Histogram,
    Quantity,
    Reference,
    Values,
    make,
    measure,
    stability_index,
)
from contract.text import Beginning


def test_the_index_is_that_of_the_formula() -> None:
    """The sum of (a - e) ln(a / e) over the shares, with half an item added to each bin; 0 for equal shares."""
    expected = (0.8 - 0.5) * math.log(0.8 / 0.5) + (0.2 - 0.5) * math.log(0.2 / 0.5)
    assert stability_index([499.5, 499.5], [799.5, 199.5]) == pytest.approx(expected)
    assert stability_index([10, 30, 60], [10, 30, 60]) == 0
    assert 0 < stability_index([0, 100], [100, 0]) < 20


def test_images_have_a_brightness() -> None:
    """The mean of the pixels, from 0 to 1, beside the highest score and its label."""
    rows = np.array([[0.1, 0.9], [0.7, 0.3]], np.float32)
    measured = measure(rows, np.stack([np.full((2, 3, 1), 51, np.uint8), np.full((2, 3, 1), 255, np.uint8)]), None)
    assert {name: values.round(6).tolist() for name, values in measured.items()} == {
        "score": [0.9, 0.7],
        "label": [1, 0],
        "brightness": [0.2, 1],
    }


def test_texts_have_a_length_and_a_share_of_unknown_tokens() -> None:
    """A text that is cut off counts with its whole length, and with the tokens that the model reads."""
    cut = np.array([1, 1, 5, 6]).view(Beginning)
    cut.total = 400
    rows = np.array([[0.1, 0.9]] * 2, np.float32)
    measured = measure(rows, [np.array([1, 7]), cut], 1)
    assert measured["length"].tolist() == [2, 400]
    assert measured["unknown"].tolist() == [0.5, 0.5]
    assert "unknown" not in measure(rows, [np.array([1, 7]), cut], None)


def test_bins_hold_equal_parts() -> None:
    """Numbers are counted up to the deciles, equal edges once; a value that equals an edge is below it."""
    values: dict[Quantity, Values] = {
        "score": np.linspace(0.9, 1, 1000),
        "brightness": np.linspace(0.2, 0.9, 1000),
        "length": np.repeat([3.0, 9.0], 500),
    }
    made = make(values, ["a", "b"], "noise")
    assert all(99 <= count <= 101 for count in made.quantities["brightness"].counts)
    assert made.quantities["score"].edges == [0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99]
    assert made.quantities["length"] == Histogram(edges=[3, 9], labels=[], counts=[500, 500, 0])
    assert made.quantities["length"].bins == ["3", "9", "+Inf"]


@pytest.mark.parametrize("classes", [2, 20, 21, 500])
def test_frequent_labels_have_a_bin_each(classes: int) -> None:
    """Up to 20, in their order; the others share one."""
    labels = [f"label {number}" for number in range(classes)]
    values = np.repeat(np.arange(classes), np.arange(1, classes + 1))
    made = make({"score": values / classes, "label": values}, labels, "noise").quantities["label"]
    assert made.labels == labels[-20:]
    assert made.counts == [*range(max(classes - 20, 0) + 1, classes + 1), sum(range(max(classes - 20, 0) + 1))]
    assert Counter([], made.labels, labels).count(values).tolist() == made.counts
    assert made.bins[-1] == "other labels"


def test_a_label_called_other_labels_is_not_the_bin_of_the_others() -> None:
    """The bins have different names whatever the labels are."""
    bins = Histogram(edges=[], labels=["other labels", "other labels'"], counts=[1, 1, 0]).bins
    assert len(set(bins)) == len(bins) == 3


def _with_reference(version: Path, content: str) -> Path:
    (version / REFERENCE).write_text(content, encoding="utf-8")
    manifest = read_manifest(version)
    files = {**manifest.files, REFERENCE: sha256(version / REFERENCE)}
    manifest.model_copy(update={"files": files}).write(version)
    return version


def test_a_reference_is_read_as_it_was_written(version: Path) -> None:
    """A version whose manifest lists no reference has none, even if the file is there."""
    assert isinstance(reference.read(version, read_manifest(version)), Reference)
    made = make({"score": np.linspace(0, 1, 300), "label": np.arange(300) % 10}, list("0123456789"), "noise")
    made.write(version)
    _with_reference(version, (version / REFERENCE).read_text(encoding="utf-8"))
    assert reference.read(version, read_manifest(version)) == made
    manifest = read_manifest(version)
    without = {name: sha for name, sha in manifest.files.items() if name != REFERENCE}
    assert reference.read(version, manifest.model_copy(update={"files": without})) is None


@pytest.mark.parametrize(
    ("quantities", "fault"),
    [
        ({"score": {"edges": [0.5, 0.4], "counts": [1, 1, 1]}}, "edges"),
        ({"score": {"edges": [0.5], "counts": [1, 1, 1]}}, "one more"),
        ({"score": {"edges": [0.5], "counts": [1, 1]}}, "2 items instead of 3"),
        ({"colour": {"edges": [0.5], "counts": [1, 2]}}, "colour"),
        ({"score": {"edges": [0.5], "counts": [-1, 4]}}, "score"),
        ({}, "quantities"),
        (None, "JSON"),
    ],
)
def test_a_broken_reference_is_refused(quantities: object, fault: str, version: Path) -> None:
    """The reason names the file and what is wrong with it."""
    content = "{" if quantities is None else json.dumps({"n": 3, "data": "x", "quantities": quantities})
    with pytest.raises(ModelRefused, match=rf"reference\.json.*{fault}"):
        reference.read(_with_reference(version, content), read_manifest(version))
