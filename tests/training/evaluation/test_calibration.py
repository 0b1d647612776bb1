"""Calibration: one temperature, or one that depends on the length of a text."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name

from training.evaluation.calibration import MIN_EXAMPLES, fit, fit_temperature, interval
from training.network.calibrated import Calibration, stretch


def drawn(count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Calibrated logits (N, 2), labels drawn from them, and lengths from 5 to 600 tokens."""
    torch.manual_seed(0)
    logits = torch.randn(count, 2) * 2
    labels = torch.distributions.Categorical(logits=logits).sample()  # type: ignore[no-untyped-call]
    return logits, labels, torch.exp(torch.empty(count).uniform_(1.6, 6.4)).long()


def test_images_have_one_temperature() -> None:
    """Without lengths only the temperature is fitted, and probabilities are softmax(logits / T)."""
    logits, labels, _ = drawn(1000)
    actual = fit(logits * 3, labels, None)
    assert actual == Calibration(fit_temperature(logits * 3, labels))
    expected = torch.softmax(logits / actual.temperature, dim=1)
    assert torch.equal(actual.probabilities(logits, None), expected)


@pytest.mark.parametrize(("temperature", "exponent"), [(1.5, -0.4), (0.7, 0.3), (1.0, 0.0)])
def test_a_known_calibration_is_recovered(temperature: float, exponent: float) -> None:
    """For labels drawn from softmax(z) and logits z * T * (L / 64)^e, the fit gives T and e, within sampling error."""
    logits, labels, lengths = drawn()
    uncalibrated = logits * temperature * stretch(lengths, exponent)
    actual = fit(uncalibrated, labels, lengths)
    assert actual.temperature == pytest.approx(temperature, rel=0.04)
    assert actual.length_exponent == pytest.approx(exponent, abs=0.03)
    recovered = actual.probabilities(uncalibrated, lengths)
    assert (recovered - torch.softmax(logits, dim=1)).abs().max() < 0.03


def test_the_calibration_has_the_lowest_negative_log_likelihood() -> None:
    """No neighbour has a lower loss, and no prediction changes."""
    logits, labels, lengths = drawn(2000)
    uncalibrated = logits * stretch(lengths, -0.3)
    actual = fit(uncalibrated, labels, lengths)

    def loss(temperature: float, exponent: float) -> float:
        probabilities = Calibration(temperature, exponent).probabilities(uncalibrated.double(), lengths)
        return F.nll_loss(probabilities.log(), labels).item()

    best = loss(actual.temperature, actual.length_exponent)
    for factor, step in ((1.02, 0), (0.98, 0), (1, 0.02), (1, -0.02)):
        assert best < loss(actual.temperature * factor, actual.length_exponent + step)
    assert torch.equal(actual.probabilities(uncalibrated, lengths).argmax(dim=1), logits.argmax(dim=1))


def test_too_few_examples_keep_a_temperature_of_1() -> None:
    """Below the minimum nothing is fitted, and there is no interval."""
    logits, labels, lengths = drawn(MIN_EXAMPLES - 1)
    for each in (None, lengths):
        assert fit(logits * 5, labels, each) == Calibration(1.0)
    assert interval(Calibration(1.0), logits, labels, None) is None


def test_the_interval_covers_the_true_temperature() -> None:
    """The 95 % interval holds the temperature of the draws in most of 40 samples, and shrinks as 1/sqrt(n)."""
    covered, widths = 0, {}
    for count in (200, 3200):
        for seed in range(20):
            torch.manual_seed(seed)
            logits = torch.randn(count, 2) * 2
            labels = torch.distributions.Categorical(logits=logits).sample()  # type: ignore[no-untyped-call]
            calibration = fit(logits * 1.2, labels, None)
            bounds = interval(calibration, logits * 1.2, labels, None)
            assert bounds is not None
            covered += bounds[0] <= 1.2 <= bounds[1]
            widths[count] = bounds[1] - bounds[0]
    assert covered >= 35
    assert widths[200] / widths[3200] == pytest.approx(4, rel=0.35)


def test_the_exponent_is_not_used_beyond_the_lengths_seen() -> None:
    """Texts of 1,000 and of 10,000 tokens have the temperature of the longest texts in the validation split."""
    logits, labels, lengths = drawn(2000)
    short = lengths.clamp(max=60)
    calibration = fit(logits * stretch(short, 0.4), labels, short)
    assert calibration.length_range is not None
    assert calibration.length_range[1] <= 60
    factors = calibration.stretch(torch.tensor([calibration.length_range[1], 1000, 10_000])).flatten()
    assert factors.tolist() == [factors[0].item()] * 3


def test_lengths_that_are_all_equal_have_no_exponent() -> None:
    """The factor of the length cannot be known from texts of one length."""
    logits, labels, _ = drawn(500)
    assert fit(logits, labels, torch.full((500,), 12)) == Calibration(fit_temperature(logits, labels))
