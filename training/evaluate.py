"""Metrics and calibration: what a model's probabilities are worth on a split it has not seen."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from service.manifest import Metrics
from service.session import Session
from training.data import Split
from training.network import Normalise

Probabilities = npt.NDArray[np.float32]

_BINS = 15  # Guo et al. (2017), section 2


@dataclass(frozen=True)
class Mistake:
    """One misread example: its place in the split, its label, and what the model said with which probability."""

    index: int
    label: int
    prediction: int
    probability: float


def logits(network: nn.Module, normalise: Normalise, split: Split, batch_size: int = 1000) -> Tensor:
    """A network's outputs over a split: float32 (N, classes), in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(normalise(batch)) for batch in split.batches(batch_size)])


def probabilities(session: Session, split: Split, batch_size: int = 250) -> Probabilities:
    """An exported model's outputs over a split: float32 (N, classes)."""
    return np.concatenate([session.run(batch.numpy()) for batch in split.batches(batch_size)])


def metrics(probs: Probabilities, labels: Tensor) -> Metrics:
    """Accuracy, negative log-likelihood in nats and expected calibration error of (N, classes) probabilities."""
    truth = labels.numpy()
    confidence, prediction = probs.max(axis=1), probs.argmax(axis=1)
    likelihood = np.clip(probs[np.arange(len(truth)), truth].astype(np.float64), 1e-12, 1)
    return Metrics(
        n=len(truth),
        accuracy=float((prediction == truth).mean()),
        nll=float(-np.log(likelihood).mean()),
        ece=expected_calibration_error(confidence, prediction == truth),
    )


def expected_calibration_error(confidence: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_]) -> float:
    """The mean gap between confidence and accuracy over 15 equal bins, weighted by their counts.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), eq. 3.
    """
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    gap = np.bincount(bins, weights=confidence - correct, minlength=_BINS)
    return float(np.abs(gap[counts > 0]).sum() / len(confidence))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T > 0 that minimises the negative log-likelihood of softmax(logits / T).

    Guo et al. (2017), section 4.2. The likelihood is convex in 1/T, so a golden-section search finds it.
    """

    def nll(inverse: float) -> float:
        return F.cross_entropy(logits.double() * inverse, labels).item()

    low, high, golden = 0.05, 20.0, (5**0.5 - 1) / 2
    while high - low > 1e-4:  # noqa: PLR2004 -- far below what the probabilities can show
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if nll(left) < nll(right) else (left, high)
    return 2 / (low + high)


def mistakes(probs: Probabilities, labels: Tensor) -> list[Mistake]:
    """The misread examples, the most confident first."""
    truth, prediction, confidence = labels.numpy(), probs.argmax(axis=1), probs.max(axis=1)
    wrong = np.flatnonzero(prediction != truth)
    return [
        Mistake(int(i), int(truth[i]), int(prediction[i]), float(confidence[i]))
        for i in wrong[np.argsort(-confidence[wrong])]
    ]
