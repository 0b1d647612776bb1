"""Figures of classes, compared with counts by hand and with direct definitions."""

import numpy as np
import pytest
from sklearn import metrics

from training.evaluation import classes

TRUTH = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.2, 0.4, 0.6, 0.7, 0.2, 0.6, 0.8, 0.9], np.float32)
PAIRS = np.stack([1 - SCORES, SCORES], axis=1)


def test_figures_of_two_classes_are_those_counted_by_hand() -> None:
    """Of 6 and 4 examples, 4 and 3 are right, and 5 are named as the second."""
    figures = classes.figures(PAIRS, TRUTH, ["ham", "spam"])
    assert figures["balanced_accuracy"] == pytest.approx((4 / 6 + 3 / 4) / 2)
    assert figures["macro_f1"] == pytest.approx((2 * 4 / (6 + 5) + 2 * 3 / (4 + 5)) / 2)
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
    figures = classes.figures(probabilities, np.array([0, 0, 1]), ["a", "b", "c"])
    assert (figures["balanced_accuracy"], figures["macro_f1"]) == (1.0, 1.0)
    assert figures["classes"]["c"] == {"n": 0, "precision": None, "recall": None, "f1": None}
    assert "roc_auc" not in classes.figures(PAIRS[:6], TRUTH[:6], ["a", "b"])


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c", "d", "e"]])
def test_figures_are_those_of_scikit_learn(labels: list[str]) -> None:
    """On uneven classes with noise and equal scores, each figure is that of scikit-learn."""
    generator = np.random.default_rng(1)
    n = len(labels)
    truth = generator.choice(n, 400, p=np.arange(1, n + 1) / np.arange(1, n + 1).sum())
    scores = np.round(generator.random((400, n)) + 0.5 * np.eye(n)[truth], 1) + 0.01
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    predictions = probabilities.argmax(axis=1)
    actual = classes.figures(probabilities, truth, labels)
    assert actual["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, predictions))
    assert actual["macro_f1"] == pytest.approx(metrics.f1_score(truth, predictions, average="macro"))
    expected = np.array(metrics.precision_recall_fscore_support(truth, predictions)).T
    each = [[actual["classes"][label][key] for key in ("precision", "recall", "f1", "n")] for label in labels]
    np.testing.assert_allclose(each, expected)
    np.testing.assert_array_equal(classes.confusion(probabilities, truth), metrics.confusion_matrix(truth, predictions))
    if n == 2:
        assert actual["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, probabilities[:, 1]))
        for place, label in enumerate(labels):
            expected_precision = metrics.average_precision_score(truth == place, probabilities[:, place])
            assert actual["classes"][label]["average_precision"] == pytest.approx(expected_precision)
