"""Calibration: the temperature, for texts with the exponent of their length, of the lowest negative log-likelihood."""

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.network.calibrated import Calibration, stretch

_INVERSE, _INVERSE_TOLERANCE = (0.05, 20.0), 1e-4  # of 1/T: finer than the probabilities can show
_EXPONENT, _EXPONENT_TOLERANCE = (-2.0, 2.0), 1e-3


def fit(logits: Tensor, labels: Tensor, lengths: Tensor | None) -> Calibration:
    """The calibration of logits (N, classes); `lengths` (N) of texts are in tokens, None for images."""
    if lengths is None:
        return Calibration(fit_temperature(logits, labels))

    def scaled(exponent: float) -> Tensor:
        return logits / stretch(lengths, exponent)

    def loss(exponent: float) -> float:
        even = scaled(exponent)
        return F.cross_entropy(even.double() / fit_temperature(even, labels), labels).item()

    exponent = _minimum(loss, _EXPONENT, _EXPONENT_TOLERANCE)
    return Calibration(fit_temperature(scaled(exponent), labels), exponent)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T > 0 that minimises the negative log-likelihood of softmax(logits / T).

    Guo et al. (2017), section 4.2. The likelihood is convex in 1/T, so a golden-section search finds it.
    """
    exact = logits.double()
    return 1 / _minimum(lambda inverse: F.cross_entropy(exact * inverse, labels).item(), _INVERSE, _INVERSE_TOLERANCE)


def _minimum(function: Callable[[float], float], interval: tuple[float, float], tolerance: float) -> float:
    """The minimum of a function with a single one, by golden-section search."""
    (low, high), golden = interval, (5**0.5 - 1) / 2
    while high - low > tolerance:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if function(left) < function(right) else (left, high)
    return (low + high) / 2
