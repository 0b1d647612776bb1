"""Calibration: one temperature, or one that depends on the length of a text."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name

from training.evaluation.calibration import fit
from training.evaluation.metrics import fit_temperature
from training.network.calibrated import Calibration, stretch


def drawn(count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Calibrated logits (N, 2), labels drawn from them, and lengths from 5 to 600 tokens."""
    torch.manual_seed(0)
    logits = torch.randn(count, 2) * 2
    labels = torch.distributions.Categorical(logits=logits).sample()  # type: ignore[no-untyped-call]
    return logits, labels, torch.exp(torch.empty(count).uniform_(1.6, 6.4)).long()


def test_pictures_have_one_temperature() -> None:
    """Without lengths the fit is the temperature's, and probabilities are softmax(logits / T)."""
    logits, labels, _ = drawn(1000)
    found = fit(logits * 3, labels, None)
    assert found == Calibration(fit_temperature(logits * 3, labels))
    expected = torch.softmax(logits / found.temperature, dim=1)
    assert torch.equal(found.probabilities(logits, None), expected)


@pytest.mark.parametrize(("temperature", "exponent"), [(1.5, -0.4), (0.7, 0.3), (1.0, 0.0)])
def test_the_calibration_that_was_put_in_is_found(temperature: float, exponent: float) -> None:
    """Labels drawn from softmax(z), logits z * T * (L / 64)^e: the fit gives T and e, within the draw's error."""
    logits, labels, lengths = drawn()
    spoilt = logits * temperature * stretch(lengths, exponent)
    found = fit(spoilt, labels, lengths)
    assert found.temperature == pytest.approx(temperature, rel=0.04)
    assert found.length_exponent == pytest.approx(exponent, abs=0.03)
    mended = found.probabilities(spoilt, lengths)
    assert (mended - torch.softmax(logits, dim=1)).abs().max() < 0.03


def test_it_is_the_one_of_least_likelihood_loss() -> None:
    """No neighbour has a lower negative log-likelihood, and no answer changes."""
    logits, labels, lengths = drawn(2000)
    spoilt = logits * stretch(lengths, -0.3)
    found = fit(spoilt, labels, lengths)

    def loss(temperature: float, exponent: float) -> float:
        probabilities = Calibration(temperature, exponent).probabilities(spoilt.double(), lengths)
        return F.nll_loss(probabilities.log(), labels).item()

    best = loss(found.temperature, found.length_exponent)
    for factor, step in ((1.02, 0), (0.98, 0), (1, 0.02), (1, -0.02)):
        assert best < loss(found.temperature * factor, found.length_exponent + step)
    assert torch.equal(found.probabilities(spoilt, lengths).argmax(dim=1), logits.argmax(dim=1))
