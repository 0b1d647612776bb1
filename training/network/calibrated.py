"""Logits -> calibrated probabilities.

The logits of all examples are divided by one temperature (Guo et al., 2017, section 4.2). For texts it also depends on
the length, since a network's confidence is not equally well calibrated on short and on long texts: for a text of L
tokens the temperature is T * (L / 64)^e.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

REFERENCE = 64
"""The length in tokens at which the temperature is T, between that of a sentence and that of a review."""


@dataclass(frozen=True)
class Calibration:
    """How a network's logits become probabilities."""

    temperature: float
    length_exponent: float = 0.0
    """The exponent e; 0 for images."""

    def probabilities(self, logits: Tensor, lengths: Tensor | None) -> Tensor:
        """Logits (N, classes) -> calibrated probabilities; `lengths` (N) of texts are in tokens, None for images."""
        if lengths is not None:
            logits = logits / stretch(lengths, self.length_exponent)
        return torch.softmax(logits / self.temperature, dim=1)


def stretch(lengths: Tensor, exponent: float) -> Tensor:
    """The factor (L / 64)^e of the temperature for texts of these lengths in tokens: (N) -> float32 (N, 1)."""
    return (lengths.to(torch.float32).unsqueeze(1) / REFERENCE) ** exponent
