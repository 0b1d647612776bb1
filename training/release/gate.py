"""Decides whether a new model may replace the version in service: not if it is worse on the same test examples.

Both models classify the same examples, and only those count where one is right and the other wrong (McNemar, 1947). The
new model is worse if so many losses among them have a probability below 5 % for two models that are equally good.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract import processors
from contract.errors import ConvokeError
from contract.manifest import GRAPH, Manifest
from contract.session import Session
from contract.spec import TextInput
from training.data import catalogue
from training.data.dataset import Split
from training.errors import PublishError, TrainingError
from training.evaluation import metrics as evaluate
from training.release.version import numbers, open_version

Correct = npt.NDArray[np.bool_]
"""For each example of a test split, whether a model classifies it correctly: bool (N)."""

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """A new model and the version in service, compared on one test split."""

    test: str
    version: int
    accuracy: float
    accuracy_in_service: float
    gained: int
    """Examples that only the new model classifies correctly."""
    lost: int
    """Examples that only the version in service classifies correctly."""

    @property
    def p_value(self) -> float:
        """McNemar's exact test, one-sided: the probability of `lost` or more losses if both models are equally good."""
        disputed = self.gained + self.lost
        ways, of_k = 0, math.comb(disputed, self.lost)
        for k in range(self.lost, disputed + 1):
            ways += of_k
            of_k = of_k * (disputed - k) // (k + 1)
        return ways / (1 << disputed)

    @property
    def is_worse(self) -> bool:
        return self.p_value < SIGNIFICANCE

    def __str__(self) -> str:
        return (
            f"{self.test}: accuracy {self.accuracy:.2%}, version {self.version} has {self.accuracy_in_service:.2%} "
            f"({self.gained:,} examples gained, {self.lost:,} lost, p = {self.p_value:.2g})"
        )


def pass_gate(correct: dict[str, Correct], manifest: Manifest, home: Path, *, force: bool) -> str:
    """Compare a new model with the version in service, and describe the comparison for the model card.

    Args:
        correct: for each test split, which examples the new model classifies correctly.
        manifest: the new model's.
        home: the folder of the model's versions.
        force: accept a model that is worse, too.

    Raises:
        PublishError: the new model is worse, without `force`.
        DataError: the test splits of the version in service cannot be read.
    """
    comparisons, verdict = compare(correct, manifest, home)
    worse = [str(comparison) for comparison in comparisons if comparison.is_worse]
    if worse and not force:
        raise PublishError(
            f"the model is significantly worse than the version in service: {'; '.join(worse)}. "
            "Nothing was published; --force publishes it nevertheless"
        )
    return f"Published with --force, although significantly worse. {verdict}" if worse else verdict


def compare(correct: dict[str, Correct], manifest: Manifest, home: Path) -> tuple[list[Comparison], str]:
    """Compare a new model with the highest version in `home` that the service can load.

    Args:
        correct: for each test split, which examples the new model classifies correctly.
        manifest: the new model's.
        home: the folder of the model's versions.

    Returns:
        A comparison for each test split that both were measured on, and a sentence about it.

    Raises:
        DataError: the test splits of the version in service cannot be read.
    """
    for number in reversed(numbers(home)):
        folder = home / str(number)
        try:
            other = open_version(folder)
            session = Session(folder / GRAPH, other, provider="cpu", threads=processors.count())
        except (ConvokeError, PublishError):
            continue  # the service does not serve it either
        if set(other.labels) != set(manifest.labels):
            return [], f"Not compared with version {number} in service, which has other labels."
        others = correct_answers(session, other, folder)
        comparisons = [
            _compare(name, number, ours, others[name])
            for name, ours in correct.items()
            if name in others and len(others[name]) == len(ours)
        ]
        if not comparisons:
            return [], f"Not compared with version {number} in service, which was measured on other test splits."
        return comparisons, f"Compared with version {number} in service. {'; '.join(map(str, comparisons))}."
    return [], "Not compared: no version was in service."


def correct_answers(session: Session, manifest: Manifest, folder: Path) -> dict[str, Correct]:
    """Which examples of its test splits a published model classifies correctly.

    Raises:
        DataError, TrainingError: as `tests_of`.
    """
    tests = tests_of(manifest, folder)
    return {name: is_correct(evaluate.probabilities(session, split), split) for name, split in tests.items()}


def tests_of(manifest: Manifest, folder: Path) -> dict[str, Split]:
    """The test splits that a published model is measured on, as its graph takes them.

    Raises:
        DataError: a split is missing or damaged.
        TrainingError: the data set in the manifest is unknown.
    """
    tokenizer = None
    if isinstance(manifest.input, TextInput):
        tokenizer = (folder / manifest.input.tokenizer).read_text(encoding="utf-8")
    tests = catalogue.tests(manifest.dataset, manifest.input, manifest.labels, tokenizer)
    if not tests:
        raise TrainingError(f"{folder}: unknown data set {manifest.dataset!r} in the manifest")
    return tests


def is_correct(probabilities: evaluate.Probabilities, split: Split) -> Correct:
    """Which examples of a split the probabilities (N, classes) classify correctly: bool (N)."""
    correct: Correct = probabilities.argmax(axis=1) == split.labels.numpy()
    return correct


def _compare(test: str, version: int, ours: Correct, others: Correct) -> Comparison:
    return Comparison(
        test,
        version,
        float(ours.mean()),
        float(others.mean()),
        gained=int((ours & ~others).sum()),
        lost=int((others & ~ours).sum()),
    )
