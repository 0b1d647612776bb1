"""Calibration: what logits are divided by, so that probabilities are as high as answers are right.

One temperature for all examples (Guo et al., 2017, section 4.2). For texts it also depends on their length, since a
network that has learnt long and short texts is sure of itself to a different degree on each: a text of L tokens has
the temperature T * (L / 64)^e.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.evaluate import fit_temperature

REFERENCE = 64
"""The length in tokens at which the temperature is T: between a sentence and a review."""

_BOUND, _ENOUGH = 2.0, 1e-3  # of the exponent: where it is looked for, and how exactly


@dataclass(frozen=True)
class Calibration:
    """How a network's logits become probabilities."""

    temperature: float
    length_exponent: float = 0.0
    """0 for pictures, and where the length of a text changes nothing."""

    def probabilities(self, logits: Tensor, lengths: Tensor | None) -> Tensor:
        """Calibrated probabilities (N, classes) of logits; `lengths` are the texts' in tokens (N), None of pictures."""
        even = logits if lengths is None else logits / stretch(lengths, self.length_exponent)
        return torch.softmax(even / self.temperature, dim=1)


def stretch(lengths: Tensor, exponent: float) -> Tensor:
    """What the temperature is multiplied by for texts of so many tokens: (N) -> float32 (N, 1)."""
    return (lengths.to(torch.float32).unsqueeze(1) / REFERENCE) ** exponent


def fit(logits: Tensor, labels: Tensor, lengths: Tensor | None) -> Calibration:
    """The calibration of least negative log-likelihood; by length where there are `lengths`, in tokens (N)."""
    if lengths is None:
        return Calibration(fit_temperature(logits, labels))

    def tried(exponent: float) -> tuple[float, Calibration]:
        even = logits / stretch(lengths, exponent)
        temperature = fit_temperature(even, labels)
        return F.cross_entropy(even.double() / temperature, labels).item(), Calibration(temperature, exponent)

    low, high, golden = -_BOUND, _BOUND, (5**0.5 - 1) / 2
    while high - low > _ENOUGH:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if tried(left)[0] < tried(right)[0] else (left, high)
    return tried((low + high) / 2)[1]
