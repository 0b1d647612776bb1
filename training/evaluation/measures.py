"""The figure by which versions are compared: its value, its interval, and whether a loss may be chance.

An accuracy, a recall and a precision are shares, with Wilson's interval. The others are drawn again and again.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from training.evaluation import classes
from training.evaluation.classes import Counts, Truth
from training.evaluation.metrics import Probabilities
from training.intervals import wilson
from training.recipe.gate import Gate

Outcome = npt.NDArray[Any]
"""What a model made of each example: its predicted label, int (N), or the score of a label, float (N)."""

_DRAWS = 1000  # of an interval
_SWAPS = 2000  # of a test
_EXTRA = 0.5


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Measure:
    """The metric of a gate, for a model with `labels`."""

    def __init__(self, gate: Gate, labels: Sequence[str]) -> None:
        self.gate = gate
        self._classes = len(labels)
        self._label = len(labels) - 1 if gate.label is None else list(labels).index(gate.label)
        self._is_score = gate.metric in {"roc-auc", "average-precision"}

    def outcome(self, probabilities: Probabilities) -> Outcome:
        """What counts of probabilities (N, classes)."""
        return probabilities[:, self._label] if self._is_score else probabilities.argmax(axis=1)

    def is_defined(self, truth: Truth) -> bool:
        """Whether the labels (N) of a split have the examples that the metric is about."""
        if self._is_score:
            return 0 < int((truth == self._label).sum()) < len(truth)
        return self.gate.label is None or bool((truth == self._label).any())

    def value(self, outcome: Outcome, truth: Truth) -> float:
        """The metric of an outcome for labels (N); a precision is 0 if nothing is classified as the label."""
        match self.gate.metric:
            case "accuracy":
                return float((outcome == truth).mean())
            case "roc-auc":
                return classes.roc_auc(outcome, truth == self._label)
            case "average-precision":
                return classes.average_precision(outcome, truth == self._label)
            case "balanced-accuracy":
                return self._count(outcome, truth).balanced_accuracy()
            case "macro-f1":
                return self._count(outcome, truth).macro_f1()
        share, n = self._share(outcome, truth)
        return share / max(n, 1)

    def estimate(self, outcome: Outcome, truth: Truth) -> Estimate:
        """The metric with its 95 % interval.

        Where the metric is no share, outcomes of each label are drawn with replacement 1,000 times (Efron, 1979), from
        those of its examples and half an example more that is wrong: else a few examples that are all right would have
        an interval without a width.
        """
        value = self.value(outcome, truth)
        if self.gate.metric in {"accuracy", "recall", "precision"}:
            n = len(truth) if self.gate.metric == "accuracy" else self._share(outcome, truth)[1]
            return Estimate(value, *wilson(value, n))
        order = np.argsort(truth, kind="stable")
        drawn = [self.value(each, truth[order]) for each in self._draw(outcome[order], truth[order])]
        low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
        return Estimate(value, min(low, value), max(high, value))

    def p_value(self, ours: Outcome, theirs: Outcome, truth: Truth) -> float:
        """The probability of a loss as large as that of `ours` against `theirs`, if both models are equally good.

        For an accuracy McNemar's exact test, one-sided; else 2,000 random exchanges of the outcomes of both models for
        an example (Noreen, 1989), of which it is the approximation. Scores are compared by their ranks.
        """
        if self.gate.metric == "accuracy":
            is_ours, is_theirs = ours == truth, theirs == truth
            return mcnemar(int((is_ours & ~is_theirs).sum()), int((is_theirs & ~is_ours).sum()))
        if self._is_score:
            ours, theirs = classes.ranks(ours), classes.ranks(theirs)
        different = np.flatnonzero(ours != theirs)
        if not len(different):
            return 1.0
        generator = np.random.default_rng(0)
        loss = self.value(ours, truth) - self.value(theirs, truth) + 1e-12
        as_large = 0
        for _ in range(_SWAPS):
            swapped = different[generator.random(len(different)) < 0.5]  # noqa: PLR2004
            one, other = ours.copy(), theirs.copy()
            one[swapped], other[swapped] = theirs[swapped], ours[swapped]
            as_large += self.value(one, truth) - self.value(other, truth) <= loss
        return (1 + as_large) / (1 + _SWAPS)

    def baseline(self, truth: Truth) -> tuple[str, float]:
        """What a model has that does not look at its input, and how it does that.

        It names the largest class, or, where the metric is about a label, always this label.
        """
        if self._is_score:
            return "equal scores for all", self.value(np.zeros(len(truth)), truth)
        if self.gate.label is None:
            return "always naming the largest class", self.value(
                np.full_like(truth, np.bincount(truth).argmax()), truth
            )
        return f"always naming {self.gate.label!r}", self.value(np.full_like(truth, self._label), truth)

    def _count(self, predictions: Outcome, truth: Truth) -> Counts:
        return classes.count(predictions, truth, self._classes)

    def _share(self, predictions: Outcome, truth: Truth) -> tuple[float, int]:
        """What is right of the label, and of how many examples."""
        named, is_label = predictions == self._label, truth == self._label
        correct = int((named & is_label).sum())
        match self.gate.metric:
            case "precision":
                return correct, int(named.sum())
            case "recall":
                return correct, int(is_label.sum())
        return 2 * correct, int(named.sum() + is_label.sum())  # F1

    def _draw(self, outcome: Outcome, truth: Truth) -> Iterator[Outcome]:
        """Outcomes of other examples, label by label; `truth` is sorted."""
        generator = np.random.default_rng(0)
        counts = np.bincount(truth)
        sizes, starts = counts[truth], (np.cumsum(counts) - counts)[truth]
        for _ in range(_DRAWS):
            places = (generator.random(len(truth)) * (sizes + _EXTRA)).astype(np.int64)
            drawn = outcome[starts + np.minimum(places, sizes - 1)]
            extra = places >= sizes
            if extra.any():
                drawn[extra] = self._wrong(generator, outcome, truth, extra)
            yield drawn

    def _wrong(
        self, generator: np.random.Generator, outcome: Outcome, truth: Truth, chosen: npt.NDArray[np.bool_]
    ) -> Outcome:
        """Outcomes that are wrong for the chosen examples: another label, or the score of an example of another."""
        n = int(chosen.sum())
        if not self._is_score:
            others: Outcome = (truth[chosen] + generator.integers(1, self._classes, n)) % self._classes
            return others
        positive = truth == self._label
        return np.where(
            positive[chosen], generator.choice(outcome[~positive], n), generator.choice(outcome[positive], n)
        )


def mcnemar(gained: int, lost: int) -> float:
    """The probability of `lost` or more losses among the examples in dispute, if both models are equally good.

    McNemar's exact test (1947), one-sided.
    """
    disputed = gained + lost
    ways, of_k = 0, math.comb(disputed, lost)
    for k in range(lost, disputed + 1):
        ways += of_k
        of_k = of_k * (disputed - k) // (k + 1)
    return ways / (1 << disputed)


def overall(labels: Sequence[str], truth: Truth) -> list[Measure]:
    """The figures over all labels that stand beside an accuracy; of two labels (N) also those of their scores."""
    gates = [Gate(metric="balanced-accuracy"), Gate(metric="macro-f1")]
    if len(labels) == 2:  # noqa: PLR2004 -- a score for each of two
        gates += [Gate(metric="roc-auc"), *(Gate(metric="average-precision", label=label) for label in labels)]
    return [measure for gate in gates if (measure := Measure(gate, labels)).is_defined(truth)]


def describe(measure: Measure, probabilities: Probabilities, truth: Truth) -> tuple[str, str, str]:
    """The title of a measure, its value for probabilities (N, classes) and labels (N), and its interval, for people."""
    value, low, high = measure.estimate(measure.outcome(probabilities), truth)
    return measure.gate.title, measure.gate.show(value), measure.gate.show_interval(low, high)
