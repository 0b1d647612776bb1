"""Metrics and calibration: what a model's probabilities are worth on a split it has not seen."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from contract.manifest import Metrics
from contract.session import Session
from training.data.dataset import Split

Probabilities = npt.NDArray[np.float32]

_BINS = 15  # Guo et al. (2017), section 2
_TOKENS = 20_000  # of texts in one batch: enough for a processor, and some tens of megabytes


@dataclass(frozen=True)
class Mistake:
    """One misread example: its place in the split, its label, and what the model said with which probability."""

    index: int
    label: int
    prediction: int
    probability: float


def logits(
    network: nn.Module, normalise: nn.Module, split: Split, batch_size: int = 1000, device: torch.device | None = None
) -> Tensor:
    """A network's outputs over a split: float32 (N, classes), in evaluation mode."""
    network.eval()
    scale = normalise.to(device)
    with torch.inference_mode():
        return in_order(split, lambda batch: network(scale(batch.to(device))).float().cpu(), batch_size)


def probabilities(session: Session, split: Split, batch_size: int = 250) -> Probabilities:
    """An exported model's outputs over a split: float32 (N, classes)."""
    return in_order(split, lambda batch: torch.from_numpy(session.run(batch.numpy())), batch_size).numpy()


def in_order(split: Split, run: Callable[[Tensor], Tensor], batch_size: int) -> Tensor:
    """What `run` gives for the inputs of a split, batch by batch, in the split's order: (N, ...).

    `run` gets pictures uint8 (n, H, W, C) or token ids int64 (n, L). Texts come sorted by length, with little padding,
    in batches of a few thousand tokens.
    """
    if split.lengths is None:
        return torch.cat([run(batch) for batch in split.batches(batch_size)])
    order = split.lengths.argsort(stable=True)
    outputs, start = [], 0
    while start < len(order):
        size = min(batch_size, max(_TOKENS // max(int(split.lengths[order[start]]), 1), 1))
        outputs.append(run(split.texts(order[start : start + size]).long()))
        start += size
    return torch.cat(outputs)[order.argsort()]


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


def chance_calibration_error(confidence: npt.NDArray[np.float32], draws: int = 1000) -> tuple[float, float]:
    """The calibration error that a perfectly calibrated model would show: its mean, and a bound in 19 of 20 cases.

    A bin of few examples is rarely as right as its confidence says, and every gap counts as an error; so on a small
    split the figure cannot be 0. Answers are drawn to be right as often as they say.
    """
    draw = np.random.default_rng(0)
    found = [expected_calibration_error(confidence, draw.random(len(confidence)) < confidence) for _ in range(draws)]
    return float(np.mean(found)), float(np.quantile(found, 0.95))


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
