"""Metrics and calibration, held against values worked out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name

from training.data.dataset import Split
from training.evaluation.metrics import (
    Mistake,
    chance_calibration_error,
    expected_calibration_error,
    fit_temperature,
    in_order,
    logits,
    metrics,
    mistakes,
)
from training.network.build import build, normalise
from training.recipe.schema import Recipe


def calibration_error(confidence: list[float], correct: list[int]) -> float:
    return expected_calibration_error(np.array(confidence, np.float32), np.array(correct, bool))


def test_the_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    """Four answers in three of 15 bins: gaps of |1.92 - 1|, |0.62 - 1| and |0.5 - 0|, over 4."""
    assert calibration_error([0.97, 0.95, 0.62, 0.5], [1, 0, 1, 0]) == pytest.approx((0.92 + 0.38 + 0.5) / 4)


def test_gaps_cancel_within_a_bin_only() -> None:
    """Over- and underconfidence make up for each other in one bin, not across two."""
    assert calibration_error([0.5, 0.5], [1, 0]) == pytest.approx(0)
    assert calibration_error([0.75, 0.25], [0, 1]) == pytest.approx(0.75)


def test_confidence_that_is_right_as_often_as_it_says_has_no_error() -> None:
    """Seven of ten answers right at a confidence of 0.7: 0."""
    assert calibration_error([0.7] * 10, [1] * 7 + [0] * 3) == pytest.approx(0, abs=1e-6)


def test_full_confidence_belongs_to_the_last_bin() -> None:
    """A confidence of 1 that is wrong and one of 0.95 that is right share a bin: |1.95 - 1| over 2."""
    assert calibration_error([1.0, 0.95], [0, 1]) == pytest.approx(0.95 / 2)


@pytest.mark.parametrize(("count", "low", "high"), [(100, 0.03, 0.05), (10_000, 0.003, 0.005)])
def test_chance_alone_makes_a_calibration_error(count: int, low: float, high: float) -> None:
    """One bin of confidence 0.8: the mean gap is sqrt(2 / pi) * sqrt(0.8 * 0.2 / n), and a perfect model is within."""
    confidence = np.full(count, 0.8, np.float32)
    usual, highest = chance_calibration_error(confidence)
    assert low < usual < high
    assert usual == pytest.approx(math.sqrt(2 / math.pi * 0.16 / count), rel=0.1)
    assert highest == pytest.approx(1.96 * math.sqrt(0.16 / count), rel=0.1)


def test_metrics_are_those_worked_out_by_hand() -> None:
    """Accuracy, likelihood and calibration error of three examples."""
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.25, 0.25, 0.5]], np.float32)
    found = metrics(probabilities, torch.tensor([0, 2, 2]))
    assert found.n == 3
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.4) + math.log(0.5)) / 3)
    assert found.ece == pytest.approx((0.3 + abs(0.5 + 0.5 - 1)) / 3, abs=1e-6)


def test_a_label_given_no_probability_costs_a_finite_amount() -> None:
    """A probability of 0 that rounding made is taken as 1e-12."""
    assert metrics(np.array([[1.0, 0.0]], np.float32), torch.tensor([1])).nll == pytest.approx(12 * math.log(10))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    """Labels drawn from softmax(z) and logits T * z: the fit gives T, within the draw's error."""
    torch.manual_seed(0)
    calibrated = torch.randn(20_000, 5) * 2
    labels = torch.distributions.Categorical(logits=calibrated).sample()  # type: ignore[no-untyped-call]
    assert fit_temperature(calibrated * temperature, labels) == pytest.approx(temperature, rel=0.04)


def test_the_temperature_is_the_one_of_least_likelihood_loss() -> None:
    """No neighbour has a lower negative log-likelihood, and no answer changes."""
    torch.manual_seed(0)
    outputs = torch.randn(500, 4) * 3
    labels = torch.where(torch.rand(500) < 0.7, outputs.argmax(dim=1), torch.randint(0, 4, (500,)))
    found = fit_temperature(outputs, labels)

    def loss(temperature: float) -> float:
        return F.cross_entropy(outputs.double() / temperature, labels).item()

    assert found > 1
    assert loss(found) < min(loss(found * 0.99), loss(found * 1.01), loss(1.0))
    assert torch.equal(torch.softmax(outputs / found, dim=1).argmax(dim=1), outputs.argmax(dim=1))


def test_a_network_without_a_mistake_has_a_temperature_all_the_same() -> None:
    """Where the likelihood has no minimum the search ends at its bound of 1/20, finite and above 0."""
    assert fit_temperature(torch.eye(3) * 2, torch.arange(3)) == pytest.approx(0.05, rel=1e-3)


def test_mistakes_are_listed_with_the_most_confident_first() -> None:
    """Places, labels, answers and probabilities of what was misread, and of nothing else."""
    probabilities = np.array([[0.75, 0.25], [0.125, 0.875], [0.5, 0.5], [1, 0], [0.25, 0.75]], np.float32)
    found = mistakes(probabilities, torch.tensor([1, 0, 0, 0, 1]))
    assert found == [
        Mistake(index=1, label=0, prediction=1, probability=0.875),
        Mistake(index=0, label=1, prediction=0, probability=0.75),
    ]


def test_logits_are_the_network_s_in_evaluation_mode_however_they_are_batched(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split]
) -> None:
    """Neither the batch size nor the mode that the network was left in changes an output."""
    recipe, split = recipe_with(), stripes(23)
    network = build(recipe)
    with torch.inference_mode():
        expected = network.eval()(normalise(recipe)(split.inputs))
    for batch_size in (1, 4, 23, 1000):
        found = logits(network.train(), normalise(recipe), split, batch_size)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_texts_come_back_in_the_split_s_order(batch_size: int) -> None:
    """Whatever their lengths, each text's result stands in its place; `run` gets int64 ids without needless padding."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 41, (300, 1), generator=draw)
    tokens = torch.randint(1, 99, (300, 40), generator=draw, dtype=torch.int32) * (torch.arange(40) < lengths)
    split = Split(tokens, torch.zeros(300, dtype=torch.int64))
    widths: list[tuple[int, int]] = []

    def run(batch: torch.Tensor) -> torch.Tensor:
        assert batch.dtype == torch.int64
        assert len(batch) <= batch_size
        widths.append((batch.shape[1], int((batch != 0).sum(dim=1).max())))
        return torch.stack([batch.sum(dim=1), batch[:, 0]], dim=1)

    found = in_order(split, run, batch_size)
    assert torch.equal(found, torch.stack([tokens.sum(dim=1), tokens[:, 0]], dim=1).long())
    assert all(width == longest for width, longest in widths)


def test_long_texts_come_in_small_batches() -> None:
    """300 texts of 2,000 words: ten at a time, which are 20,000 tokens, though a thousand texts are allowed."""
    split = Split(torch.ones(300, 2000, dtype=torch.int32), torch.zeros(300, dtype=torch.int64))
    sizes: list[int] = []

    def run(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return batch[:, 0]

    assert len(in_order(split, run, 1000)) == 300
    assert sizes == [10] * 30


def test_pictures_come_back_in_order() -> None:
    """Batches of 4 of 10 pictures, put together again."""
    pictures = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    split = Split(pictures, torch.zeros(10, dtype=torch.int64))
    assert in_order(split, lambda batch: batch.flatten(), 4).tolist() == list(range(10))
