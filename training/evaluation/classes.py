"""Figures of each class, and of all classes together, where accuracy alone misleads: few examples of some classes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from training.evaluation.metrics import ClassMetrics, Probabilities, by_class

Truth = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating[Any]]

FEW = 20
"""Examples of a label below which its recall has an interval of over 40 percentage points."""
_MAX_LISTED = 8
MAX_RECORDED = 1000
"""Labels up to which `figures` has those of each."""


class Counts(NamedTuple):
    """For each label, int (classes): its examples, those classified as it, and those of both."""

    n: Truth
    predicted: Truth
    correct: Truth

    def balanced_accuracy(self) -> float:
        """The mean recall of the labels that occur."""
        present = self.n > 0
        return _mean(self.correct[present] / self.n[present])

    def macro_f1(self) -> float:
        """The mean F1 of the labels that occur or are named."""
        total = self.n + self.predicted
        return _mean(2 * self.correct[total > 0] / total[total > 0])


def count(predictions: Truth, truth: Truth, classes: int) -> Counts:
    """Count predictions and labels (N)."""
    hits = truth[predictions == truth]
    return Counts(*(np.bincount(values, minlength=classes) for values in (truth, predictions, hits)))


def f1(figures: ClassMetrics) -> float | None:
    """The harmonic mean of precision and recall; None for a label that neither occurs nor is named."""
    total = figures.n + figures.predicted
    return 2 * figures.correct / total if total else None


def figures(probabilities: Probabilities, truth: Truth, labels: Sequence[str]) -> dict[str, Any]:
    """Figures over all classes and of each, as JSON has them, for probabilities (N, classes) and labels (N).

    `balanced_accuracy` and `macro_f1`; of two labels `roc_auc`, and `average_precision` of each; under `classes`, for
    each of up to 1,000 labels, its `n`, `precision`, `recall` and `f1`, None where there is nothing to count.
    """
    counts = count(probabilities.argmax(axis=1), truth, len(labels))
    table: dict[str, Any] = {"balanced_accuracy": counts.balanced_accuracy(), "macro_f1": counts.macro_f1()}
    is_binary = len(labels) == 2 and 0 < truth.sum() < len(truth)  # noqa: PLR2004 -- a score for each of two
    if is_binary:
        table["roc_auc"] = roc_auc(probabilities[:, 1], truth == 1)
    if len(labels) <= MAX_RECORDED:
        each = by_class(probabilities.argmax(axis=1), truth, len(labels))
        table["classes"] = {
            label: {"n": one.n, "precision": one.precision, "recall": one.recall, "f1": f1(one)}
            for label, one in zip(labels, each, strict=True)
        }
    if is_binary:
        for place, label in enumerate(labels):
            precision = average_precision(probabilities[:, place], truth == place)
            table["classes"][label]["average_precision"] = precision
    return table


def rows(probabilities: Probabilities, truth: Truth, labels: Sequence[str]) -> list[list[str]]:
    """A table with a row for each label: examples, precision, recall and F1; `-` where there is nothing to count."""
    each = by_class(probabilities.argmax(axis=1), truth, len(labels))
    table = [["label", "n", "precision", "recall", "F1"]]
    for label, one in zip(labels, each, strict=True):
        shares = ("-" if share is None else f"{share:.2%}" for share in (one.precision, one.recall, f1(one)))
        table.append([label, f"{one.n:,}", *shares])
    return table


def note(truth: Truth, labels: Sequence[str]) -> str:
    """A sentence about the labels of which a split (N) has too few examples to say much; empty if it has none."""
    counts = np.bincount(truth, minlength=len(labels)).tolist()
    few = sorted((n, label) for n, label in zip(counts, labels, strict=True) if n < FEW)
    if not few:
        return ""
    listed = ", ".join(f"{label} ({n})" for n, label in few[:_MAX_LISTED])
    more = f" and {len(few) - _MAX_LISTED} others" if len(few) > _MAX_LISTED else ""
    return f"The figures of labels with fewer than {FEW} examples say little: {listed}{more}."


def confusion(probabilities: Probabilities, truth: Truth) -> npt.NDArray[np.int64]:
    """How many examples of each label (row) are classified as each (column): int (classes, classes)."""
    classes = probabilities.shape[1]
    places = truth * classes + probabilities.argmax(axis=1)
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)


def roc_auc(scores: Scores, positive: npt.NDArray[np.bool_]) -> float:
    """The probability that a positive example has a higher score than a negative one; equal scores count half.

    Scores and whether each is positive: (N), with examples of both. It is the statistic of Mann & Whitney (1947).
    """
    n = int(positive.sum())
    return float((ranks(scores)[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def ranks(scores: Scores) -> npt.NDArray[np.float64]:
    """The ranks of scores (N), from 1; equal scores have their mean rank."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return means


def average_precision(scores: Scores, positive: npt.NDArray[np.bool_]) -> float:
    """The precision at each threshold, weighted by the recall that the threshold adds."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, values=True))  # of examples with equal scores
    correct = np.cumsum(positive[order])[last]
    return float((np.diff(correct, prepend=0) * correct / (last + 1)).sum() / positive.sum())


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0
