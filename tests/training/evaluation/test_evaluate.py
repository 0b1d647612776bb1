"""Metrics and temperature, compared with values calculated by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name

from training.data.dataset import Split
from training.evaluation.calibration import fit_temperature
from training.evaluation.metrics import (
    Mistake,
    chance_calibration_error,
    expected_calibration_error,
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
    """Four predictions in three of 15 bins: gaps of |1.92 - 1|, |0.62 - 1| and |0.5 - 0|, over 4."""
    assert calibration_error([0.97, 0.95, 0.62, 0.5], [1, 0, 1, 0]) == pytest.approx((0.92 + 0.38 + 0.5) / 4)


def test_gaps_cancel_within_a_bin_only() -> None:
    """Over- and underconfidence cancel in the same bin, not across bins."""
    assert calibration_error([0.5, 0.5], [1, 0]) == pytest.approx(0)
    assert calibration_error([0.75, 0.25], [0, 1]) == pytest.approx(0.75)


def test_perfectly_calibrated_predictions_have_no_error() -> None:
    """Seven of ten predictions are correct at a confidence of 0.7."""
    assert calibration_error([0.7] * 10, [1] * 7 + [0] * 3) == pytest.approx(0, abs=1e-6)


def test_full_confidence_belongs_to_the_last_bin() -> None:
    """A wrong prediction with confidence 1 and a correct one with 0.95 share a bin: |1.95 - 1| over 2."""
    assert calibration_error([1.0, 0.95], [0, 1]) == pytest.approx(0.95 / 2)


@pytest.mark.parametrize(("count", "low", "high"), [(100, 0.03, 0.05), (10_000, 0.003, 0.005)])
def test_chance_alone_gives_a_calibration_error(count: int, low: float, high: float) -> None:
    """In a bin of confidence 0.8 the mean gap is sqrt(2 / pi) * sqrt(0.8 * 0.2 / n), and 95 % are below 1.96 sigma."""
    confidence = np.full(count, 0.8, np.float32)
    mean, percentile = chance_calibration_error(confidence)
    assert low < mean < high
    assert mean == pytest.approx(math.sqrt(2 / math.pi * 0.16 / count), rel=0.1)
    assert percentile == pytest.approx(1.96 * math.sqrt(0.16 / count), rel=0.1)


def test_metrics_equal_values_calculated_by_hand() -> None:
    """Accuracy, negative log-likelihood and calibration error of three examples."""
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.25, 0.25, 0.5]], np.float32)
    actual = metrics(probabilities, torch.tensor([0, 2, 2]))
    assert actual.n == 3
    assert actual.accuracy == pytest.approx(2 / 3)
    assert actual.nll == pytest.approx(-(math.log(0.7) + math.log(0.4) + math.log(0.5)) / 3)
    assert actual.ece == pytest.approx((0.3 + abs(0.5 + 0.5 - 1)) / 3, abs=1e-6)


def test_a_label_with_probability_0_has_a_finite_loss() -> None:
    """A probability that was rounded to 0 counts as 1e-12."""
    assert metrics(np.array([[1.0, 0.0]], np.float32), torch.tensor([1])).nll == pytest.approx(12 * math.log(10))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    """For labels drawn from softmax(z) and logits T * z, the fit gives T, within sampling error."""
    torch.manual_seed(0)
    calibrated = torch.randn(20_000, 5) * 2
    labels = torch.distributions.Categorical(logits=calibrated).sample()  # type: ignore[no-untyped-call]
    assert fit_temperature(calibrated * temperature, labels) == pytest.approx(temperature, rel=0.04)


def test_the_temperature_has_the_lowest_negative_log_likelihood() -> None:
    """With 10,000 examples the penalty has no weight: no neighbour has a lower loss, and no prediction changes."""
    torch.manual_seed(0)
    outputs = torch.randn(10_000, 4) * 3
    labels = torch.where(torch.rand(10_000) < 0.7, outputs.argmax(dim=1), torch.randint(0, 4, (10_000,)))
    best = fit_temperature(outputs, labels)

    def loss(temperature: float) -> float:
        return F.cross_entropy(outputs.double() / temperature, labels).item()

    assert best > 1
    assert loss(best) < min(loss(best * 0.99), loss(best * 1.01), loss(1.0))
    assert torch.equal(torch.softmax(outputs / best, dim=1).argmax(dim=1), outputs.argmax(dim=1))


def test_few_examples_without_mistakes_do_not_make_probabilities_of_1() -> None:
    """100 examples, all right with a probability of 95 %, give about the (n + 1) / (n + 2) of Laplace, not 1."""
    logits = torch.eye(2).repeat(50, 1) * math.log(19)
    temperature = fit_temperature(logits, torch.arange(2).repeat(50))
    assert 0.97 < float(torch.softmax(logits[0] / temperature, dim=0)[0]) < 0.998


def test_a_worthless_network_has_no_temperature_of_its_bound() -> None:
    """Logits without any relation to the labels become nearly uniform, short of the bound of 20."""
    torch.manual_seed(0)
    logits, labels = torch.randn(100, 2) * 3, torch.randint(0, 2, (100,))
    assert 1.5 < fit_temperature(logits, labels) < 8


def test_the_temperature_of_100_examples_scatters_little() -> None:
    """For calibrated networks, it is within 0.75 and 1.35 in 95 of 100 draws of 100 examples."""
    torch.manual_seed(0)
    fitted = []
    for _ in range(100):
        logits = torch.randn(100, 2) * 2
        labels = torch.distributions.Categorical(logits=logits).sample()  # type: ignore[no-untyped-call]
        fitted.append(fit_temperature(logits, labels))
    low, high = np.quantile(fitted, [0.025, 0.975])
    assert low > 0.75
    assert high < 1.35


def test_mistakes_are_listed_with_the_most_confident_first() -> None:
    """Indices, labels, predictions and probabilities of misclassified examples only."""
    probabilities = np.array([[0.75, 0.25], [0.125, 0.875], [0.5, 0.5], [1, 0], [0.25, 0.75]], np.float32)
    actual = mistakes(probabilities, torch.tensor([1, 0, 0, 0, 1]))
    assert actual == [
        Mistake(index=1, label=0, prediction=1, probability=0.875),
        Mistake(index=0, label=1, prediction=0, probability=0.75),
    ]


def test_logits_do_not_depend_on_mode_or_batch_size(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split]
) -> None:
    """They equal the network's outputs in evaluation mode, for any batch size and any mode of the network before."""
    recipe, split = recipe_with(), stripes(23)
    network = build(recipe)
    with torch.inference_mode():
        expected = network.eval()(normalise(recipe)(split.inputs))
    for batch_size in (1, 4, 23, 1000):
        actual = logits(network.train(), normalise(recipe), split, batch_size)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_outputs_for_texts_are_in_the_split_s_order(batch_size: int) -> None:
    """The output of each text is in its place, whatever its length; `run` receives int64 ids with little padding."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 41, (300, 1), generator=generator)
    tokens = torch.randint(1, 99, (300, 40), generator=generator, dtype=torch.int32) * (torch.arange(40) < lengths)
    split = Split(tokens, torch.zeros(300, dtype=torch.int64))
    widths: list[tuple[int, int]] = []

    def run(batch: torch.Tensor) -> torch.Tensor:
        assert batch.dtype == torch.int64
        assert len(batch) <= batch_size
        widths.append((batch.shape[1], int((batch != 0).sum(dim=1).max())))
        return torch.stack([batch.sum(dim=1), batch[:, 0]], dim=1)

    outputs = in_order(split, run, batch_size)
    assert torch.equal(outputs, torch.stack([tokens.sum(dim=1), tokens[:, 0]], dim=1).long())
    assert all(width == longest for width, longest in widths)


def test_the_longest_text_bounds_a_batch() -> None:
    """Of 1,000 texts of 1 to 1,000 words, no batch has more than 20,000 tokens, padding included, and few have less."""
    tokens = (torch.arange(1000) <= torch.arange(1000)[:, None]).int()
    sizes: list[int] = []

    def run(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(batch.numel())
        return batch.sum(dim=1)

    outputs = in_order(Split(tokens, torch.zeros(1000, dtype=torch.int64)), run, 1000)
    assert outputs.tolist() == list(range(1, 1001))
    assert max(sizes) <= 20_000
    assert len(sizes) < 35


def test_long_texts_are_in_small_batches() -> None:
    """300 texts of 2,000 words in batches of ten, or 20,000 tokens, although a thousand texts are allowed."""
    split = Split(torch.ones(300, 2000, dtype=torch.int32), torch.zeros(300, dtype=torch.int64))
    sizes: list[int] = []

    def run(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return batch[:, 0]

    assert len(in_order(split, run, 1000)) == 300
    assert sizes == [10] * 30


def test_outputs_for_images_are_in_order() -> None:
    """10 images in batches of 4 give 10 outputs in order."""
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    split = Split(images, torch.zeros(10, dtype=torch.int64))
    assert in_order(split, lambda batch: batch.flatten(), 4).tolist() == list(range(10))
