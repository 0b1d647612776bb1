"""Logits -> calibrated probabilities.

One temperature divides the logits of all examples (Guo et al., 2017, section 4.2). For texts it also depends on their
length, since a network that has learnt long and short texts is sure of itself to a different degree on each: a text of
L tokens has the temperature T * (L / 64)^e.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

REFERENCE = 64
"""The length in tokens at which the temperature is T: between a sentence and a review."""


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
