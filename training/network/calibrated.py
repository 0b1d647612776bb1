"""Logits -> calibrated probabilities.

The logits of all examples are divided by one temperature (Guo et al., 2017, section 4.2). For texts it also depends on
the length, since a network's confidence is not equally well calibrated on short and on long texts: for a text of L
tokens the temperature is T * (L / 64)^e. Beyond the lengths that the calibration was fitted on, it stays as it is
there.
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
    length_range: tuple[int, int] | None = None
    """The shortest and the longest text, in tokens, on which the exponent was fitted; None for no bounds."""

    def probabilities(self, logits: Tensor, lengths: Tensor | None) -> Tensor:
        """Logits (N, classes) -> calibrated probabilities; `lengths` (N) of texts are in tokens, None for images."""
        if lengths is not None:
            logits = logits / self.stretch(lengths)
        return torch.softmax(logits / self.temperature, dim=1)

    def stretch(self, lengths: Tensor) -> Tensor:
        """The factor of the temperature for texts of these lengths in tokens: (N) -> float32 (N, 1)."""
        return stretch(self.clamp(lengths), self.length_exponent)

    def clamp(self, lengths: Tensor) -> Tensor:
        """Lengths (N) in tokens, those outside of `length_range` moved to its ends."""
        return lengths if self.length_range is None else lengths.clamp(*self.length_range)


def stretch(lengths: Tensor, exponent: float) -> Tensor:
    """The factor (L / 64)^e for texts of these lengths in tokens: (N) -> float32 (N, 1)."""
    return (lengths.to(torch.float32).unsqueeze(1) / REFERENCE) ** exponent
