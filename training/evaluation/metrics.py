"""Metrics of a model's probabilities on a split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from contract.manifest import Metrics
from contract.session import Session
from training.data.dataset import Split

Probabilities = npt.NDArray[np.float32]

_BINS = 15  # Guo et al. (2017), section 2
_TOKENS = 20_000  # in a batch of texts: enough to keep a processor busy, and some tens of megabytes


@dataclass(frozen=True)
class Mistake:
    """A misclassified example: its index in the split, its label, the predicted label and its probability."""

    index: int
    label: int
    prediction: int
    probability: float


def logits(
    network: nn.Module, normalise: nn.Module, split: Split, batch_size: int = 1000, device: torch.device | None = None
) -> Tensor:
    """The outputs of a network in evaluation mode over a split: float32 (N, classes)."""
    network.eval()
    scale = normalise.to(device)
    with torch.inference_mode():
        return in_order(split, lambda batch: network(scale(batch.to(device))).float().cpu(), batch_size)


def probabilities(session: Session, split: Split, batch_size: int = 250) -> Probabilities:
    """The outputs of an exported model over a split: float32 (N, classes)."""
    return in_order(split, lambda batch: torch.from_numpy(session.run(batch.numpy())), batch_size).numpy()


def in_order(split: Split, run: Callable[[Tensor], Tensor], batch_size: int) -> Tensor:
    """The outputs of `run` for the inputs of a split, in batches, in the order of the split: (N, ...).

    `run` receives images uint8 (n, H, W, C) or token ids int64 (n, L). Texts are sorted by length, so that they need
    little padding, in batches of up to 20,000 tokens, padding included; a longer text is a batch of its own.
    """
    if split.lengths is None:
        return torch.cat([run(batch) for batch in split.batches(batch_size)])
    order = split.lengths.argsort(stable=True)
    ascending, counts = split.lengths[order], torch.arange(1, batch_size + 1)
    outputs, start = [], 0
    while start < len(order):
        longest = ascending[start : start + batch_size]  # of a batch that ends there
        size = max(int((longest * counts[: len(longest)] <= _TOKENS).sum()), 1)
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


class ClassMetrics(NamedTuple):
    """How good a model is on one label of a split."""

    n: int
    """Examples with this label."""
    predicted: int
    """Examples that are classified as it."""
    correct: int

    @property
    def recall(self) -> float | None:
        """The share of the label's examples that are classified as it; None without an example."""
        return self.correct / self.n if self.n else None

    @property
    def precision(self) -> float | None:
        """The share of the examples classified as it that have the label; None if there are none."""
        return self.correct / self.predicted if self.predicted else None


def by_class(predictions: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int) -> list[ClassMetrics]:
    """The figures of each label, for predictions and labels (N)."""
    counts = (np.bincount(values, minlength=classes) for values in (labels, predictions, labels[predictions == labels]))
    return [ClassMetrics(*map(int, each)) for each in zip(*counts, strict=True)]


def baseline(labels: Tensor) -> float:
    """The accuracy of always naming the most frequent of labels (N)."""
    return int(labels.bincount().max()) / len(labels)


def expected_calibration_error(confidence: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_]) -> float:
    """The mean gap between confidence and accuracy in 15 equal bins, weighted by their counts.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), eq. 3.
    """
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    gap = np.bincount(bins, weights=confidence - correct, minlength=_BINS)
    return float(np.abs(gap[counts > 0]).sum() / len(confidence))


def chance_calibration_error(confidence: npt.NDArray[np.float32], draws: int = 1000) -> tuple[float, float]:
    """The calibration error of a perfectly calibrated model with these confidences: its mean and 95th percentile.

    The accuracy in a bin of few examples differs from their confidence by chance, and every gap counts as an error, so
    on a small split the error is never 0. It is simulated by predictions that are correct
    with a probability of their confidence.
    """
    generator = np.random.default_rng(0)
    errors = [
        expected_calibration_error(confidence, generator.random(len(confidence)) < confidence) for _ in range(draws)
    ]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def mistakes(probs: Probabilities, labels: Tensor) -> list[Mistake]:
    """The misclassified examples, the most confident first."""
    truth, prediction, confidence = labels.numpy(), probs.argmax(axis=1), probs.max(axis=1)
    wrong = np.flatnonzero(prediction != truth)
    return [
        Mistake(int(i), int(truth[i]), int(prediction[i]), float(confidence[i]))
        for i in wrong[np.argsort(-confidence[wrong])]
    ]
