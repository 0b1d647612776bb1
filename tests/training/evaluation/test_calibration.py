"""Calibration: one temperature, or one that depends on the length of a text."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name

from training.evaluation.calibration import fit, fit_temperature
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
