"""Calibration: the temperature, for texts with the exponent of their length, that makes probabilities true.

It has the lowest negative log-likelihood on the validation split, summed with a penalty for distance from 1, so that
few examples move it little. With b = 1/T, the penalty is 16 (b - 1 - log b): about that of a normal distribution of
log T with a standard deviation of 1/4, and convex in b, as the likelihood is (Guo et al., 2017, section 4.2). 100
examples that are all right give a T of about 0.6, not 0; thousands of examples outweigh the penalty.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.network.calibrated import Calibration, stretch

MIN_EXAMPLES = 30
"""With fewer validation examples the temperature stays 1."""
_TEMPERATURE_PRIOR, _EXPONENT_PRIOR = 16.0, 8.0  # in nats: 1/sd^2 of log T, and 1/(2 sd^2) of the exponent, sd = 1/4
_INVERSE, _INVERSE_TOLERANCE = (0.05, 20.0), 1e-4  # of 1/T: finer than the probabilities can show
_EXPONENT, _EXPONENT_TOLERANCE = (-2.0, 2.0), 1e-3
_SEEN = 0.01, 0.99  # quantiles of the lengths between which the exponent applies
_NORMAL_95 = 1.96


def fit(logits: Tensor, labels: Tensor, lengths: Tensor | None) -> Calibration:
    """The calibration of logits (N, classes); `lengths` (N) of texts are in tokens, None for images."""
    if len(labels) < MIN_EXAMPLES:
        return Calibration(1.0)
    if lengths is None:
        return Calibration(fit_temperature(logits, labels))
    low, high = (int(length) for length in torch.quantile(lengths.double(), torch.tensor(_SEEN).double()).tolist())
    seen = Calibration(1.0, length_range=(low, high)).clamp(lengths)

    if low == high:
        return Calibration(fit_temperature(logits, labels))

    def scaled(exponent: float) -> Tensor:
        return logits / stretch(seen, exponent)

    def cost(exponent: float) -> float:
        even = scaled(exponent)
        return _cost(even, labels, 1 / fit_temperature(even, labels)) + _EXPONENT_PRIOR * exponent**2

    exponent = _minimum(cost, _EXPONENT, _EXPONENT_TOLERANCE)
    return Calibration(fit_temperature(scaled(exponent), labels), exponent, (low, high))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the lowest cost for logits (N, classes): it is convex in 1/T, so a golden section finds it."""
    return 1 / _minimum(lambda inverse: _cost(logits, labels, inverse), _INVERSE, _INVERSE_TOLERANCE)


def interval(
    calibration: Calibration, logits: Tensor, labels: Tensor, lengths: Tensor | None
) -> tuple[float, float] | None:
    """The 95 % interval of the temperature, from the curvature of the cost in log T; None if it was not fitted."""
    if len(labels) < MIN_EXAMPLES:
        return None
    even = logits if lengths is None else logits / calibration.stretch(lengths)
    step, inverse = 0.05, 1 / calibration.temperature
    lower, middle, upper = (_cost(even, labels, inverse * math.exp(place * step)) for place in (-1, 0, 1))
    curvature = max((lower - 2 * middle + upper) / step**2, _TEMPERATURE_PRIOR / 2)
    ratio = math.exp(_NORMAL_95 / math.sqrt(curvature))
    return calibration.temperature / ratio, calibration.temperature * ratio


def _cost(logits: Tensor, labels: Tensor, inverse: float) -> float:
    """The negative log-likelihood of all examples at a temperature of 1/inverse, plus the penalty, in nats."""
    likelihood = F.cross_entropy(logits.double() * inverse, labels, reduction="sum").item()
    return likelihood + _TEMPERATURE_PRIOR * (inverse - 1 - math.log(inverse))


def _minimum(function: Callable[[float], float], interval: tuple[float, float], tolerance: float) -> float:
    """The minimum of a function with a single one, by golden-section search."""
    (low, high), golden = interval, (5**0.5 - 1) / 2
    while high - low > tolerance:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if function(left) < function(right) else (left, high)
    return (low + high) / 2
