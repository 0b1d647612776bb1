"""Fits the calibration that gives the least negative log-likelihood: a temperature, for texts by their length."""

import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.evaluation.metrics import fit_temperature
from training.network.calibrated import Calibration, stretch

_BOUND, _ENOUGH = 2.0, 1e-3  # of the exponent: where it is looked for, and how exactly


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
