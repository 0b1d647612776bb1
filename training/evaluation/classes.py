"""Figures of each class, and of all classes together, where accuracy alone misleads: few examples of some classes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.evaluation.metrics import ClassMetrics, Probabilities, by_class

Truth = npt.NDArray[np.int64]


def f1(figures: ClassMetrics) -> float | None:
    """The harmonic mean of precision and recall; None for a label that neither occurs nor is named."""
    total = figures.n + figures.predicted
    return 2 * figures.correct / total if total else None


def summary(probabilities: Probabilities, truth: Truth) -> dict[str, float]:
    """Figures over all classes, for probabilities (N, classes) and labels (N).

    `balanced accuracy` is the mean recall of the labels that occur, and `macro F1` the mean F1 of those that occur or
    are named. Of two labels, `ROC AUC` and `average precision` are those of the second one's probability.
    """
    classes = probabilities.shape[1]
    each = by_class(probabilities.argmax(axis=1), truth, classes)
    figures = {
        "balanced accuracy": _mean([one.recall for one in each]),
        "macro F1": _mean([f1(one) for one in each]),
    }
    if classes == 2 and 0 < truth.sum() < len(truth):  # noqa: PLR2004 -- a score for each of two
        scores = probabilities[:, 1]
        figures["ROC AUC"] = roc_auc(scores, truth == 1)
        figures["average precision"] = average_precision(scores, truth == 1)
    return figures


def rows(probabilities: Probabilities, truth: Truth, labels: Sequence[str]) -> list[list[str]]:
    """A table with a row for each label: examples, precision, recall and F1; `-` where there is nothing to count."""
    each = by_class(probabilities.argmax(axis=1), truth, len(labels))
    table = [["label", "n", "precision", "recall", "F1"]]
    for label, one in zip(labels, each, strict=True):
        shares = ("-" if share is None else f"{share:.2%}" for share in (one.precision, one.recall, f1(one)))
        table.append([label, f"{one.n:,}", *shares])
    return table


def roc_auc(scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]) -> float:
    """The probability that a positive example has a higher score than a negative one; equal scores count half.

    Scores and whether each is positive: (N), with examples of both. It is the statistic of Mann & Whitney (1947).
    """
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    n = int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def average_precision(scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]) -> float:
    """The precision at each threshold, weighted by the recall that the threshold adds."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, values=True))  # of examples with equal scores
    correct = np.cumsum(positive[order])[last]
    return float((np.diff(correct, prepend=0) * correct / (last + 1)).sum() / positive.sum())


def _mean(values: Sequence[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / max(len(present), 1)
