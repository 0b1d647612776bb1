"""Figures of classes, compared with counts by hand and with direct definitions."""

import numpy as np
import pytest

from training.evaluation import classes

TRUTH = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.2, 0.4, 0.6, 0.7, 0.2, 0.6, 0.8, 0.9], np.float32)
PAIRS = np.stack([1 - SCORES, SCORES], axis=1)


def test_figures_of_two_classes_are_those_counted_by_hand() -> None:
    """Of 6 and 4 examples, 4 and 3 are right, and 5 are named as the second."""
    figures = classes.summary(PAIRS, TRUTH)
    assert figures["balanced accuracy"] == pytest.approx((4 / 6 + 3 / 4) / 2)
    assert figures["macro F1"] == pytest.approx((2 * 4 / (6 + 5) + 2 * 3 / (4 + 5)) / 2)
    assert classes.rows(PAIRS, TRUTH, ["ham", "spam"]) == [
        ["label", "n", "precision", "recall", "F1"],
        ["ham", "6", "80.00%", "66.67%", "72.73%"],
        ["spam", "4", "60.00%", "75.00%", "66.67%"],
    ]


def test_roc_auc_compares_every_pair() -> None:
    """The area is the share of pairs in the right order, and half of those with equal scores."""
    pairs = [(p > n) + 0.5 * (p == n) for p in SCORES[TRUTH == 1] for n in SCORES[TRUTH == 0]]
    assert classes.roc_auc(SCORES, TRUTH == 1) == pytest.approx(np.mean(pairs))


def test_average_precision_sums_over_thresholds() -> None:
    """Precision at each distinct score, weighted by the recall that it adds."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(SCORES.tolist()), reverse=True):
        named = np.float32(threshold) <= SCORES
        recall = (named & (TRUTH == 1)).sum() / 4
        total += (recall - before) * (named & (TRUTH == 1)).sum() / named.sum()
        before = recall
    assert classes.average_precision(SCORES, TRUTH == 1) == pytest.approx(total)


def test_absent_classes_have_no_figures() -> None:
    """A label without an example and never named is not counted; one class alone has no area under a curve."""
    probabilities = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    assert classes.rows(probabilities, np.array([0, 0, 1]), ["a", "b", "c"])[3] == ["c", "0", "-", "-", "-"]
    assert classes.summary(probabilities, np.array([0, 0, 1])) == {"balanced accuracy": 1.0, "macro F1": 1.0}
    assert "ROC AUC" not in classes.summary(PAIRS[:6], TRUTH[:6])
