"""The figures by which versions are compared: their values, intervals and the test of a loss."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from training.errors import RecipeError
from training.evaluation import classes
from training.evaluation.measures import Measure, mcnemar, overall
from training.intervals import wilson
from training.recipe.gate import Gate
from training.recipe.schema import Recipe

LABELS = ["common", "rare"]
ALL = [
    *(Gate(metric=name) for name in ("accuracy", "balanced-accuracy", "macro-f1", "roc-auc")),
    *(Gate(metric=name, label="rare") for name in ("average-precision", "precision", "recall", "f1")),
]


def noisy(n: int, seed: int = 0, signal: float = 0.5) -> tuple[Any, Any]:
    """Probabilities (n, 2) and labels (n), one in five of them rare."""
    generator = np.random.default_rng(seed)
    truth = (generator.random(n) < 0.2).astype(np.int64)
    rare = np.clip(generator.random(n) * 0.6 + signal * truth * generator.random(n), 0, 1)
    return np.stack([1 - rare, rare], axis=1).astype(np.float32), truth


@pytest.mark.parametrize("gate", ALL, ids=lambda gate: gate.metric)
def test_a_value_is_that_of_scikit_learn_and_of_the_figures_of_a_run(gate: Gate) -> None:
    """The gate computes what `metrics.jsonl` has, and scikit-learn the same."""
    probabilities, truth = noisy(500)
    predictions = probabilities.argmax(axis=1)
    expected = {
        "accuracy": metrics.accuracy_score(truth, predictions),
        "balanced-accuracy": metrics.balanced_accuracy_score(truth, predictions),
        "macro-f1": metrics.f1_score(truth, predictions, average="macro"),
        "roc-auc": metrics.roc_auc_score(truth, probabilities[:, 1]),
        "average-precision": metrics.average_precision_score(truth, probabilities[:, 1]),
        "precision": metrics.precision_score(truth, predictions),
        "recall": metrics.recall_score(truth, predictions),
        "f1": metrics.f1_score(truth, predictions),
    }[gate.metric]
    measure = Measure(gate, LABELS)
    assert measure.value(measure.outcome(probabilities), truth) == pytest.approx(expected)
    figures = classes.figures(probabilities, truth, LABELS)
    assert gate.of(float((predictions == truth).mean()), figures) == pytest.approx(expected)


@pytest.mark.parametrize("gate", ALL, ids=lambda gate: gate.metric)
def test_an_interval_covers_the_value_of_all_examples(gate: Gate) -> None:
    """In at least 13 of 16 samples of 150 examples the interval has the value of 100,000 of the same kind."""
    measure = Measure(gate, LABELS)
    everything, truths = noisy(100_000, seed=9)
    expected = measure.value(measure.outcome(everything), truths)
    hits = 0
    for seed in range(16):
        probabilities, truth = noisy(150, seed=100 + seed)
        estimate = measure.estimate(measure.outcome(probabilities), truth)
        assert estimate.low <= estimate.value <= estimate.high
        hits += estimate.low <= expected <= estimate.high
    assert hits >= 13


@pytest.mark.parametrize("gate", ALL, ids=lambda gate: gate.metric)
def test_a_perfect_figure_of_few_examples_has_a_wide_interval(gate: Gate) -> None:
    """Of 12 examples that are all right, no interval is a point; of 5,000, it is narrow."""
    for n, widest, narrowest in ((12, 1.0, 0.02), (5000, 0.02, 0.0)):
        truth = (np.arange(n) % 4 == 0).astype(np.int64)
        estimate = Measure(gate, LABELS).estimate(
            Measure(gate, LABELS).outcome(np.eye(2, dtype=np.float32)[truth] * 0.8 + 0.1), truth
        )
        assert estimate.value == estimate.high == 1
        assert narrowest <= estimate.high - estimate.low <= widest


def test_shares_have_wilsons_interval() -> None:
    """Accuracy over all, recall over the label's examples, precision over what is classified as it."""
    truth, predictions = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 0])
    for gate, n in ((ALL[0], 6), (Gate(metric="recall", label="rare"), 2), (Gate(metric="precision", label="rare"), 2)):
        value, *bounds = Measure(gate, LABELS).estimate(predictions, truth)
        assert tuple(bounds) == wilson(value, n)


@pytest.mark.parametrize("gate", ALL[1:], ids=lambda gate: gate.metric)
def test_a_test_finds_losses_and_no_others(gate: Gate) -> None:
    """A much worse model has p below 5 %, an equal or a better one has not; equal answers have p = 1."""
    measure = Measure(gate, LABELS)
    good, truth = noisy(400, signal=1.0)
    poor = good.copy()
    poor[::3] = poor[::3, ::-1]
    good_outcome, poor_outcome = measure.outcome(good), measure.outcome(poor)
    assert measure.p_value(poor_outcome, good_outcome, truth) < 0.01
    assert measure.p_value(good_outcome, poor_outcome, truth) > 0.95
    assert measure.p_value(good_outcome, good_outcome, truth) == 1


def test_exchanges_agree_with_mcnemar() -> None:
    """Of two recalls that differ in few examples, the test by exchanges has the p-value of coins."""
    truth = np.ones(40, np.int64)
    ours, theirs = truth.copy(), truth.copy()
    ours[:7], theirs[30:32] = 0, 0
    measure = Measure(Gate(metric="recall", label="rare"), LABELS)
    assert measure.p_value(ours, theirs, truth) == pytest.approx(mcnemar(2, 7), abs=0.02)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 1), (1, 0), (3, 4), (2, 8), (5, 5)])
def test_mcnemar_is_that_of_fair_coins(gained: int, lost: int) -> None:
    """The share of throws with `lost` or more tails among all throws of as many coins as examples in dispute."""
    throws = [sum(throw) for throw in product((0, 1), repeat=gained + lost)]
    assert mcnemar(gained, lost) == pytest.approx(sum(tails >= lost for tails in throws) / len(throws), abs=1e-15)


def test_figures_that_do_not_exist_are_left_out() -> None:
    """Scores need examples of both labels."""
    assert [each.gate.metric for each in overall(LABELS, np.zeros(4, np.int64))] == ["balanced-accuracy", "macro-f1"]
    assert len(overall(LABELS, np.array([0, 1]))) == 5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"metric": "auc"}, "gate.metric: unknown metric 'auc'.*roc-auc"),
        ({"metric": "recall"}, "label is required with metric = 'recall'"),
        ({"metric": "accuracy", "label": "left"}, "label: has no effect with metric = 'accuracy'"),
        ({"metric": "f1", "label": "top"}, "gate.label: 'top' is not in labels: left, middle, right"),
        ({"metric": "roc-auc"}, "gate.metric: 'roc-auc' needs two labels, but the recipe has 3"),
        ({"metrics": "f1"}, "gate.metrics: unknown key.*metric"),
    ],
)
def test_a_gate_that_cannot_be_measured_is_refused_in_the_recipe(
    table: dict[str, str], message: str, recipe_with: Any
) -> None:
    """The error names the key, the value and what is allowed, before anything is read."""
    with pytest.raises(RecipeError, match=message):
        recipe_with(gate=table)
    assert isinstance(recipe_with(gate={"metric": "f1", "label": "left"}), Recipe)
    with pytest.raises(RecipeError, match=r"gate\.metric: has no effect with data\.folds"):
        recipe_with(gate={"metric": "macro-f1"}, data={"name": "mnist", "validation": 100, "folds": 2})


def test_a_label_that_is_a_number_needs_no_quotes() -> None:
    """`--set gate.label=7` is the label "7"."""
    assert Gate.model_validate({"metric": "recall", "label": 7}).label == "7"
