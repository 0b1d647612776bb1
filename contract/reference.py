"""What a version does with its test data, as histograms, which the service compares with what it does now.

The quantities are the highest score and its label, the brightness of images, and the length and the share of unknown
tokens of texts. `reference.json` in a version's folder holds them; versions without that file are served all the same.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from contract.errors import ModelRefused
from contract.manifest import Count, Label, Manifest, read_text
from contract.spec import Section
from contract.text import Beginning

REFERENCE: Final = "reference.json"

MIN_ITEMS = 200
"""Fewer items, on either side, are not compared: by chance alone the index would often be above 0.1."""

Quantity = Literal["score", "label", "brightness", "length", "unknown"]
Values = npt.NDArray[Any]
"""A quantity of N items: float64 (N), or the places of labels, int64 (N)."""
Counts = npt.NDArray[np.int64]

_QUANTILES = 10
_MAX_LABELS = 20


class Histogram(Section):
    """The counts of one quantity: of numbers up to each edge, then above the last; or of each label, then of others."""

    edges: Annotated[list[float], Field(default_factory=list, max_length=32)]
    labels: Annotated[list[Label], Field(default_factory=list, max_length=_MAX_LABELS)]
    counts: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 53)]], Field(min_length=1, max_length=33)]

    @model_validator(mode="after")
    def _is_consistent(self) -> "Histogram":
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError("edges do not rise")
        if (self.edges and self.labels) or len(self.counts) != len(self.edges or self.labels) + 1:
            raise ValueError("counts do not fit the edges or labels: one more is expected")
        return self

    @property
    def bins(self) -> list[str]:
        """The name of each bin: the upper edge, or the label."""
        if not self.labels:
            return [*(f"{edge:.6g}" for edge in self.edges), "+Inf"]
        others = "other labels"
        while others in self.labels:
            others += "'"
        return [*self.labels, others]


class Reference(Section):
    """The histograms of a version over n items."""

    n: Count
    data: str
    """What they were computed on."""
    quantities: Annotated[dict[Quantity, Histogram], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_consistent(self) -> "Reference":
        for name, histogram in self.quantities.items():
            if sum(histogram.counts) != self.n:
                raise ValueError(f"{name} has {sum(histogram.counts)} items instead of {self.n}")
        return self

    def write(self, folder: Path) -> None:
        """Write the reference into a version's folder."""
        (folder / REFERENCE).write_text(self.model_dump_json(indent=1, exclude_defaults=True) + "\n", encoding="utf-8")


def read(folder: Path, manifest: Manifest) -> Reference | None:
    """The reference in a version's folder; None if the manifest does not list one.

    Raises:
        ModelRefused: it is listed, but cannot be read.
    """
    if REFERENCE not in manifest.files:
        return None
    path = folder / REFERENCE
    try:
        return Reference.model_validate(json.loads(read_text(path)))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ModelRefused(f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{path}: cannot be read as JSON: {error}") from error


def measure(rows: Values, items: Sequence[Values] | Values, unknown_id: int | None) -> dict[Quantity, Values]:
    """The quantities of N items, each float64 or int64 (N).

    Args:
        rows: their probabilities, (N, classes).
        items: what the graph took, each uint8 (H, W, C), or the token ids of a text, int64 (L).
        unknown_id: the id of unknown tokens, if the tokenizer has one.
    """
    quantities: dict[Quantity, Values] = {"score": rows.max(axis=1).astype(float), "label": rows.argmax(axis=1)}
    if items[0].ndim > 1:
        return {**quantities, "brightness": np.array([item.mean() / 255 for item in items])}
    lengths = [item.total if isinstance(item, Beginning) else len(item) for item in items]
    quantities["length"] = np.array(lengths, float)
    if unknown_id is not None:
        quantities["unknown"] = np.array([np.count_nonzero(item == unknown_id) / len(item) for item in items])
    return quantities


def make(quantities: Mapping[Quantity, Values], labels: Sequence[str], data: str) -> Reference:
    """The histograms of quantities that `measure` gave.

    Labels have a bin each, the 20 most frequent ones if there are more; the other quantities have bins between their
    deciles. Those of scores are rounded, so that another precision of the graph is not a difference.

    Args:
        quantities: of the same N items each.
        labels: those of the model, in order.
        data: what the items are.
    """
    histograms = {}
    for name, values in quantities.items():
        edges: list[float] = []
        binned: list[str] = []
        if name == "label":
            order = np.bincount(values, minlength=len(labels)).argsort(kind="stable")[::-1]
            binned = [labels[place] for place in sorted(order[:_MAX_LABELS])]
        else:
            deciles = np.quantile(values, np.arange(1, _QUANTILES) / _QUANTILES, method="inverted_cdf")
            edges = sorted({_coarse(edge) if name == "score" else float(f"{edge:.6g}") for edge in deciles})
        counts = Counter(edges, binned, labels).count(values).tolist()
        histograms[name] = Histogram(edges=edges, labels=binned, counts=counts)
    return Reference(n=len(quantities["score"]), data=data, quantities=histograms)


def _coarse(score: float) -> float:
    """A score whose difference from 1 has one significant digit, and is at least 0.0001."""
    return round(1 - float(f"{max(1 - score, 1e-4):.0e}"), 6)


class Counter:
    """Counts values in the bins of a histogram."""

    def __init__(self, edges: Sequence[float], binned: Sequence[str], labels: Sequence[str]) -> None:
        """Count nothing yet.

        Args:
            edges: upper edges of the bins of a number.
            binned: labels with a bin of their own.
            labels: those of the model, in order.
        """
        bins = {label: place for place, label in enumerate(binned)}
        self._edges = np.array(edges)
        self._bin_of_label = np.array([bins.get(label, len(bins)) for label in labels])
        self._is_of_labels = bool(bins)
        self._bins = len(edges or binned) + 1

    def count(self, values: Values) -> Counts:
        """The number of values (N) in each bin, int64 (bins)."""
        places = self._bin_of_label[values] if self._is_of_labels else self._edges.searchsorted(values)
        return np.bincount(places, minlength=self._bins)


def stability_index(expected: Sequence[float], actual: Sequence[float]) -> float:
    """The population stability index of two histograms with the same bins (Siddiqi, "Credit Risk Scorecards", 2006).

    The sum over the bins of (a - e) ln(a / e), where a and e are shares; 0 if they are equal. Half an item is added to
    each bin, so that empty bins have a logarithm.
    """
    e, a = (np.array(counts, float) + 0.5 for counts in (expected, actual))
    e, a = e / e.sum(), a / a.sum()
    return float(((a - e) * np.log(a / e)).sum())
