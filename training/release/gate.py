"""Whether a new model may take the place of the one in service: not if it is worse on the same test examples.

Both models answer the same examples, so only those count where one is right and the other wrong (McNemar, 1947). If
the new one lost more of them than a fair coin would in 19 of 20 cases, it is worse beyond noise.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.errors import ConvokeError
from contract.manifest import GRAPH, Manifest, verify
from contract.manifest import read as read_manifest
from contract.session import Session
from contract.spec import TextInput
from training.data import catalogue
from training.data.dataset import Split
from training.errors import TrainingError
from training.evaluation import metrics as evaluate

Answers = npt.NDArray[np.bool_]

_NOISE = 0.05


@dataclass(frozen=True)
class Comparison:
    """A new model beside the one in service, on one test split."""

    test: str
    version: int
    accuracy: float
    accuracy_in_service: float
    gained: int
    """Examples that only the new model reads right."""
    lost: int
    """Examples that only the model in service reads right."""

    @property
    def chance(self) -> float:
        """The probability to lose so many or more of the examples in dispute if both models were equally good."""
        disputed = self.gained + self.lost
        ways, of_k = 0, math.comb(disputed, self.lost)
        for k in range(self.lost, disputed + 1):
            ways += of_k
            of_k = of_k * (disputed - k) // (k + 1)
        return ways / (1 << disputed)

    @property
    def is_worse(self) -> bool:
        return self.chance < _NOISE

    def __str__(self) -> str:
        return (
            f"{self.test}: {self.accuracy:.2%} beside {self.accuracy_in_service:.2%} of version {self.version} "
            f"({self.gained} examples gained, {self.lost} lost, chance {self.chance:.2g})"
        )


def compare(answers: dict[str, Answers], manifest: Manifest, home: Path) -> tuple[list[Comparison], str]:
    """Set a new model beside the highest version in `home` that can be read.

    Args:
        answers: for each test split, which of its examples the new model reads right, bool (N).
        manifest: the new model's.
        home: the folder of the model's versions.

    Returns:
        A comparison a test split that both were measured on, and a sentence that says what was compared.

    Raises:
        DataError: the test splits cannot be read for the version in service.
    """
    numbers = sorted(int(path.name) for path in home.iterdir() if path.name.isascii() and path.name.isdigit())
    for number in reversed(numbers):
        folder = home / str(number)
        try:
            other = read_manifest(folder)
            verify(folder, other)
            session = Session(folder / GRAPH, other, provider="cpu", threads=os.cpu_count() or 1)
        except (ConvokeError, OSError):
            continue  # the service does not serve it either
        if set(other.labels) != set(manifest.labels):
            return [], f"Version {number} in service has other labels, so the two were not compared."
        theirs = answers_of(session, other, folder)
        both = [name for name in answers if name in theirs and len(theirs[name]) == len(answers[name])]
        found = [_compare(name, number, answers[name], theirs[name]) for name in both]
        if not found:
            return [], f"Version {number} in service was measured on other test splits, so the two were not compared."
        return found, f"Beside version {number} in service: " + "; ".join(map(str, found)) + "."
    return [], "There was no version in service to compare with."


def answers_of(session: Session, manifest: Manifest, folder: Path) -> dict[str, Answers]:
    """Which test examples a published model reads right, by test split: bool (N) each.

    Raises:
        DataError: a test split cannot be read.
    """
    tests = tests_of(manifest, folder)
    return {name: right(evaluate.probabilities(session, split), split) for name, split in tests.items()}


def tests_of(manifest: Manifest, folder: Path) -> dict[str, Split]:
    """The test splits that a published model is measured on, as its input wants them.

    Raises:
        DataError: they are not there.
        TrainingError: the manifest names data that is not known here.
    """
    tokenizer = None
    if isinstance(manifest.input, TextInput):
        tokenizer = (folder / manifest.input.tokenizer).read_text(encoding="utf-8")
    tests = catalogue.tests(manifest.dataset, manifest.input, manifest.labels, tokenizer)
    if not tests:
        raise TrainingError(f"{folder}: the data set {manifest.dataset!r} is not known here")
    return tests


def right(probabilities: evaluate.Probabilities, split: Split) -> Answers:
    """Which examples of a split (N, classes) probabilities read right: bool (N)."""
    answers: Answers = probabilities.argmax(axis=1) == split.labels.numpy()
    return answers


def _compare(test: str, version: int, ours: Answers, theirs: Answers) -> Comparison:
    return Comparison(
        test,
        version,
        float(ours.mean()),
        float(theirs.mean()),
        gained=int((ours & ~theirs).sum()),
        lost=int((theirs & ~ours).sum()),
    )
