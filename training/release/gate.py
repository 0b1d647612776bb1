"""Decides whether a new model may be published: not if it is worse on the same test examples than one before it.

Both models classify the same examples, and only those count where one is right and the other wrong (McNemar, 1947). The
new model is worse if so many losses among them have a probability below 5 % for two models that are equally good.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contract import processors
from contract.errors import ConvokeError
from contract.manifest import GRAPH, Manifest
from contract.session import Session
from contract.spec import TextInput
from training.data import catalogue
from training.data.dataset import Split
from training.data.schema import OWN, Data
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


class Judgement(NamedTuple):
    """What the gate found."""

    comparisons: list[Comparison]
    obstacles: list[str]
    """Why the new model cannot be compared with the version in service, or needs no comparison to be refused."""
    sentence: str
    """The comparison, for the card."""


def pass_gate(
    correct: dict[str, Correct],
    manifest: Manifest,
    home: Path,
    *,
    force: bool,
    baselines: Mapping[str, float] | None = None,
) -> str:
    """Compare a new model with the versions before it, and describe the comparison for the model card.

    Args:
        correct: for each test split, which examples the new model classifies correctly.
        manifest: the new model's.
        home: the folder of the model's versions.
        force: accept a model that is worse or cannot be compared, too.
        baselines: for each test split, the accuracy of always naming its largest class, which must be surpassed.

    Raises:
        PublishError: the new model is worse than a version, not better than the baseline, or cannot be compared,
            without `force`.
        DataError: the test splits of a version cannot be read.
    """
    judgement = compare(correct, manifest, home)
    faults = [
        *_below(correct, baselines or {}),
        *judgement.obstacles,
        *(f"the model is significantly worse: {each}" for each in judgement.comparisons if each.is_worse),
    ]
    if faults and not force:
        raise PublishError(f"{'; '.join(faults)}. Nothing was published; --force publishes it nevertheless")
    if faults:
        return f"Published with --force, although {'; '.join(faults)}. {judgement.sentence}"
    return judgement.sentence


def _below(correct: dict[str, Correct], baselines: Mapping[str, float]) -> Iterator[str]:
    for name, baseline in baselines.items():
        accuracy = float(correct[name].mean())
        if accuracy <= baseline:
            yield (
                f"the accuracy on {name}, {accuracy:.2%}, is not above that of always naming the largest class, "
                f"{baseline:.2%}"
            )


def compare(correct: dict[str, Correct], manifest: Manifest, home: Path) -> Judgement:
    """Compare a new model with the highest version in `home` that the service can load, and with the best one.

    Labels are compared by name. The best version is that with the highest recorded accuracy among those with the same
    labels and test splits.

    Args:
        correct: for each test split, which examples the new model classifies correctly.
        manifest: the new model's.
        home: the folder of the model's versions.

    Raises:
        DataError: the test splits of a version cannot be read.
    """
    versions = _versions(home)
    serving = next(((folder, other, session) for folder, other in versions if (session := _open(folder, other))), None)
    if serving is None:
        return Judgement([], [], "Not compared: no version was in service.")
    folder, other, session = serving
    obstacle = _obstacle(manifest, other)
    if obstacle:
        return Judgement([], [obstacle], f"Not compared with version {other.version} in service: {obstacle}.")
    comparisons, obstacles, sentences = [], [], []
    for rank, version in (("in service", serving), ("the best one", _best(versions, manifest, _accuracy(other)))):
        if version is None:
            continue
        folder, other, session = version
        others = correct_answers(session, other, folder, _own_data(manifest))
        shorter = [name for name, ours in correct.items() if len(others[name]) != len(ours)]
        if shorter:
            name = shorter[0]
            obstacles.append(
                f"the test split {name} has {len(correct[name]):,} examples, but {len(others[name]):,} for version "
                f"{other.version}, {rank}"
            )
            sentences.append(f"Not compared with version {other.version}, {rank}: {obstacles[-1]}.")
            continue
        found = [_compare(name, other.version, ours, others[name]) for name, ours in correct.items()]
        comparisons += found
        sentences.append(f"Compared with version {other.version}, {rank}. {'; '.join(map(str, found))}.")
    return Judgement(comparisons, obstacles, " ".join(sentences))


def _versions(home: Path) -> list[tuple[Path, Manifest]]:
    """The versions whose files match their manifests, the highest first."""
    versions = []
    for number in reversed(numbers(home)):
        folder = home / str(number)
        with suppress(ConvokeError, PublishError):  # the service does not serve it either
            versions.append((folder, open_version(folder)))
    return versions


def _open(folder: Path, manifest: Manifest) -> Session | None:
    try:
        return Session(folder / GRAPH, manifest, provider="cpu", threads=processors.count())
    except ConvokeError:
        return None


def _best(
    versions: list[tuple[Path, Manifest]], manifest: Manifest, at_least: float
) -> tuple[Path, Manifest, Session] | None:
    """The version of the highest recorded accuracy above `at_least` that can be compared and loaded, if any."""
    better = [
        (folder, other)
        for folder, other in versions
        if _accuracy(other) > at_least and _obstacle(manifest, other) is None
    ]
    for folder, other in sorted(better, key=lambda version: -_accuracy(version[1])):
        session = _open(folder, other)
        if session is not None:
            return folder, other, session
    return None


def _accuracy(manifest: Manifest) -> float:
    """The recorded accuracy over the examples of all test splits; 0 if none was measured."""
    metrics = manifest.test_metrics.values()
    return sum(each.accuracy * each.n for each in metrics) / max(sum(each.n for each in metrics), 1)


def _obstacle(manifest: Manifest, other: Manifest) -> str | None:
    """Why two versions cannot be compared, if they cannot."""
    ours, theirs = set(manifest.labels), set(other.labels)
    if ours != theirs:
        only_ours, only_theirs = (", ".join(sorted(labels)) or "none" for labels in (ours - theirs, theirs - ours))
        return (
            f"the labels are not those of version {other.version} (only in the new model: {only_ours}; only in the "
            f"version: {only_theirs})"
        )
    tests, other_tests = sorted(manifest.test_metrics), sorted(other.test_metrics)
    if tests != other_tests:
        return (
            f"version {other.version} was measured on other test splits: {', '.join(other_tests)} instead of "
            f"{', '.join(tests)}"
        )
    data, other_data = _own_data(manifest), _own_data(other)
    if data and other_data:
        for key in ("test", "split_seed", "group", "validation"):
            mine, its = getattr(data, key), getattr(other_data, key)
            if mine != its and (key != "validation" or "given" in {mine, its}):
                return (
                    f"data.{key} = {mine!r} draws another test split than version {other.version}, which has {its!r} "
                    "and may have been trained on its examples"
                )
    return None


def correct_answers(session: Session, manifest: Manifest, folder: Path, data: Data | None = None) -> dict[str, Correct]:
    """Which examples of its test splits, or of those of other `data`, a published model classifies correctly.

    Raises:
        DataError, TrainingError: as `tests_of`.
    """
    tests = tests_of(manifest, folder) if data is None else _splits(manifest, folder, data)
    return {name: is_correct(evaluate.probabilities(session, split), split) for name, split in tests.items()}


def tests_of(manifest: Manifest, folder: Path) -> dict[str, Split]:
    """The test splits that a published model is measured on, as its graph takes them.

    Raises:
        DataError: a split is missing or damaged.
        TrainingError: the data set in the manifest is unknown.
    """
    return _splits(manifest, folder, _own_data(manifest))


def _splits(manifest: Manifest, folder: Path, data: Data | None) -> dict[str, Split]:
    """The test splits of a data set, or of the user's own `data`, as the graph of a version takes them."""
    tokenizer = None
    if isinstance(manifest.input, TextInput):
        tokenizer = (folder / manifest.input.tokenizer).read_text(encoding="utf-8")
    tests = catalogue.tests(manifest.dataset, manifest.input, manifest.labels, tokenizer, data)
    if not tests:
        raise TrainingError(f"{folder}: unknown data set {manifest.dataset!r} in the manifest")
    return tests


def _own_data(manifest: Manifest) -> Data | None:
    """The description of the user's own data in a manifest; None for other data sets, or one without a description."""
    table = manifest.recipe.get("data")
    return Data.model_validate(table) if isinstance(table, dict) and table.get("name") in OWN else None


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
