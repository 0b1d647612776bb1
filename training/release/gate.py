"""Decides whether a new model may be published: not if it is worse on the same test examples than one before it.

`[gate]` of the recipe names the figure that counts; without it, that is the accuracy. Both models classify the same
examples. The new model is worse if a loss as large as its own has a probability below 5 % for two models that are
equally good. Versions are measured again with the new model's metric, whatever they were published with.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
from training.evaluation.classes import Truth
from training.evaluation.measures import Estimate, Measure
from training.evaluation.metrics import Probabilities
from training.recipe.gate import Gate
from training.release.version import numbers, open_version

SIGNIFICANCE = 0.05
UNKNOWN = "unknown"
"""The data set in the manifest of an adopted version."""


class Answers(NamedTuple):
    """What a model answers to the examples of a split, and what is right."""

    probabilities: Probabilities
    """float32 (N, classes)."""
    truth: Truth
    """int64 (N)."""


def answers_of(probabilities: Probabilities, split: Split) -> Answers:
    """The probabilities (N, classes) for a split, with its labels."""
    return Answers(probabilities, split.labels.numpy())


@dataclass(frozen=True)
class Comparison:
    """A new model and a version before it, compared on one test split."""

    test: str
    version: int
    gate: Gate
    ours: Estimate
    theirs: Estimate
    gained: int
    """Examples that only the new model classifies correctly."""
    lost: int
    """Examples that only the version classifies correctly."""
    p_value: float
    """The probability of such a loss, or a larger one, if both models are equally good."""

    @property
    def is_worse(self) -> bool:
        return self.p_value < SIGNIFICANCE

    def __str__(self) -> str:
        ours, theirs = (
            f"{self.gate.show(each.value)} ({self.gate.show_interval(each.low, each.high)})"
            for each in (self.ours, self.theirs)
        )
        return (
            f"{self.test}: {self.gate.title} {ours}, version {self.version} has {theirs}; {self.gained:,} examples "
            f"gained, {self.lost:,} lost, p = {self.p_value:.2g}"
        )


class Judgement(NamedTuple):
    """What the gate found."""

    comparisons: list[Comparison]
    obstacles: list[str]
    """Why the new model cannot be compared with the version in service, or needs no comparison to be refused."""
    sentence: str
    """The comparison, for the card."""


def pass_gate(
    answers: Mapping[str, Answers], manifest: Manifest, home: Path, *, force: bool, is_new: bool = False
) -> str:
    """Compare a new model with the versions before it, and describe the comparison for the model card.

    Args:
        answers: the new model's, on each test split.
        manifest: the new model's.
        home: the folder of the model's versions.
        force: accept a model that is worse or cannot be compared, too.
        is_new: whether the model must also be better than one that does not look at its input.

    Raises:
        PublishError: the new model is worse than a version, not better than the baseline, or cannot be compared,
            without `force`.
        DataError: the test splits of a version cannot be read.
    """
    measure = measure_of(manifest)
    absent = [
        f"the test split {name} has no example for {measure.gate.title}; change gate.metric or gate.label"
        for name, each in answers.items()
        if not measure.is_defined(each.truth)
    ]
    judgement = Judgement([], absent, "Not compared.") if absent else compare(answers, manifest, home)
    sentence = judgement.sentence
    if not judgement.comparisons and not absent:
        sentence = f"{sentence} {_own(answers, measure)}"
    faults = [
        *(_below(answers, measure, manifest.labels) if is_new and not absent else ()),
        *judgement.obstacles,
        *(f"the model is significantly worse: {each}" for each in judgement.comparisons if each.is_worse),
    ]
    if faults and not force:
        raise PublishError(f"{'; '.join(faults)}. Nothing was published; --force publishes it nevertheless")
    if faults:
        return f"Published with --force, although {'; '.join(faults)}. {sentence}"
    return sentence


def _own(answers: Mapping[str, Answers], measure: Measure) -> str:
    """What the gate holds on, and what the new model has."""
    gate = measure.gate
    estimates = {name: measure.estimate(measure.outcome(p), truth) for name, (p, truth) in answers.items()}
    values = [
        f"{gate.show(value)} on {name} ({gate.show_interval(*ends)})" for name, (value, *ends) in estimates.items()
    ]
    return f"The gate of its recipe holds on the {gate.title}: {', '.join(values)}."


def measure_of(manifest: Manifest) -> Measure:
    """The metric in the recipe of a version; the accuracy if it has none, as an adopted one."""
    return Measure(Gate.model_validate(manifest.recipe.get("gate") or {}), manifest.labels)


def _below(answers: Mapping[str, Answers], measure: Measure, labels: list[str]) -> Iterator[str]:
    """Where the model is not better than one that does not look at its input."""
    if measure.gate.metric == "recall":  # which is highest for a model that always names the label
        measure = Measure(Gate(metric="balanced-accuracy"), labels)
    for name, (probabilities, truth) in answers.items():
        value = measure.value(measure.outcome(probabilities), truth)
        how, baseline = measure.baseline(truth)
        if value <= baseline:
            yield (
                f"the {measure.gate.title} on {name}, {measure.gate.show(value)}, is not above that of {how}, "
                f"{measure.gate.show(baseline)}{_hint(measure, probabilities, truth, labels)}"
            )


def _hint(measure: Measure, probabilities: Probabilities, truth: Truth, labels: list[str]) -> str:
    """What to do where an accuracy is that of the largest class, but small ones are classified, too."""
    balanced = Measure(Gate(metric="balanced-accuracy"), labels)
    value = balanced.value(balanced.outcome(probabilities), truth)
    if measure.gate.metric != "accuracy" or value <= balanced.baseline(truth)[1]:
        return ""
    return (
        f" (its balanced accuracy is {value:.2%}; if small classes are as important as others, train with "
        "--set gate.metric=balanced-accuracy)"
    )


def compare(answers: Mapping[str, Answers], manifest: Manifest, home: Path) -> Judgement:
    """Compare a new model with the highest version in `home` that the service can load, and with the best one.

    Labels are compared by name. The best version is that with the highest value of the metric among those with the
    same labels and test splits: of accuracies the recorded ones count, and other metrics are measured.

    Args:
        answers: the new model's, on each test split.
        manifest: the new model's.
        home: the folder of the model's versions.

    Raises:
        DataError: the test splits of a version cannot be read.
    """
    versions = versions_of(home)
    serving = serving_of(versions)
    if serving is None:
        return Judgement([], [], "Not compared: no version was in service.")
    folder, other, session = serving
    obstacle = _obstacle(manifest, other)
    if obstacle:
        return Judgement([], [obstacle], f"Not compared with version {other.version} in service: {obstacle}.")
    measure = measure_of(manifest)
    rivals = [("in service", other, version_answers(session, other, folder, manifest))]
    best = _best(versions, manifest, measure, *rivals[0][1:])
    if best is not None:
        rivals.append(("the best one", *best))
    comparisons, obstacles, sentences = [], [], []
    for rank, version, others in rivals:
        shorter = [name for name, ours in answers.items() if len(others[name].truth) != len(ours.truth)]
        if shorter:
            name = shorter[0]
            obstacles.append(
                f"the test split {name} has {len(answers[name].truth):,} examples, but {len(others[name].truth):,} for "
                f"version {version.version}, {rank}"
            )
            sentences.append(f"Not compared with version {version.version}, {rank}: {obstacles[-1]}.")
            continue
        found = [comparison(name, version.version, measure, ours, others[name]) for name, ours in answers.items()]
        comparisons += found
        sentences.append(f"Compared with version {version.version}, {rank}. {'; '.join(map(str, found))}.")
    return Judgement(comparisons, obstacles, " ".join(sentences))


def versions_of(home: Path) -> list[tuple[Path, Manifest]]:
    """The versions whose files match their manifests, the highest first."""
    versions = []
    for number in reversed(numbers(home)):
        folder = home / str(number)
        with suppress(ConvokeError, PublishError):  # the service does not serve it either
            versions.append((folder, open_version(folder)))
    return versions


def serving_of(versions: list[tuple[Path, Manifest]]) -> tuple[Path, Manifest, Session] | None:
    """The first of the versions that the service can load, with a session of it."""
    return next(
        ((folder, version, session) for folder, version in versions if (session := _open(folder, version))), None
    )


def _open(folder: Path, manifest: Manifest) -> Session | None:
    try:
        return Session(folder / GRAPH, manifest, provider="cpu", threads=processors.count())
    except ConvokeError:
        return None


def _best(
    versions: list[tuple[Path, Manifest]],
    manifest: Manifest,
    measure: Measure,
    serving: Manifest,
    answers: Mapping[str, Answers],
) -> tuple[Manifest, dict[str, Answers]] | None:
    """The version that is best by the measure, with its answers, if it is better than the one in service."""
    others = [
        (folder, other)
        for folder, other in versions
        if other.version != serving.version and _obstacle(manifest, other) is None
    ]
    if measure.gate.metric == "accuracy":
        better = [version for version in others if _accuracy(version[1]) > _accuracy(serving)]
        for folder, other in sorted(better, key=lambda version: -_accuracy(version[1])):
            session = _open(folder, other)
            if session is not None:
                return other, version_answers(session, other, folder, manifest)
        return None
    best, highest = None, _mean_value(measure, answers)
    for folder, other in others:
        session = _open(folder, other)
        if session is None:
            continue
        theirs = version_answers(session, other, folder, manifest)
        value = _mean_value(measure, theirs)
        if value > highest:
            best, highest = (other, theirs), value
    return best


def _mean_value(measure: Measure, answers: Mapping[str, Answers]) -> float:
    """The mean of the metric over the test splits, by their numbers of examples."""
    total = sum(len(each.truth) for each in answers.values())
    values = (
        measure.value(measure.outcome(each.probabilities), each.truth) * len(each.truth) for each in answers.values()
    )
    return sum(values) / total


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


def version_answers(session: Session, version: Manifest, folder: Path, manifest: Manifest) -> dict[str, Answers]:
    """The answers of a version to the test splits of a new model's `manifest`, with labels in its order.

    Raises:
        DataError, TrainingError: as `tests_of`.
    """
    data = _own_data(manifest)
    tests = tests_of(version, folder) if data is None else _splits(version, folder, data)
    places = [version.labels.index(label) for label in manifest.labels]
    renumbered = np.argsort(places)
    return {
        name: Answers(evaluate.probabilities(session, split)[:, places], renumbered[split.labels.numpy()])
        for name, split in tests.items()
    }


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
    if not tests and manifest.dataset == UNKNOWN:
        raise TrainingError(
            f"{folder}: was adopted, and no data set is known to measure it with; to measure it on labelled examples: "
            f"python -m training evaluate {folder} --examples FOLDER"
        )
    if not tests:
        raise TrainingError(f"{folder}: unknown data set {manifest.dataset!r} in the manifest")
    return tests


def _own_data(manifest: Manifest) -> Data | None:
    """The description of the user's own data in a manifest; None for other data sets, or one without a description."""
    table = manifest.recipe.get("data")
    return Data.model_validate(table) if isinstance(table, dict) and table.get("name") in OWN else None


def comparison(test: str, version: int, measure: Measure, ours: Answers, others: Answers) -> Comparison:
    """Compare the answers of a new model and of a version to the examples of one test split."""
    truth = ours.truth
    outcome, other = (measure.outcome(each.probabilities) for each in (ours, others))
    is_ours, is_theirs = (each.probabilities.argmax(axis=1) == truth for each in (ours, others))
    return Comparison(
        test,
        version,
        measure.gate,
        measure.estimate(outcome, truth),
        measure.estimate(other, truth),
        gained=int((is_ours & ~is_theirs).sum()),
        lost=int((is_theirs & ~is_ours).sum()),
        p_value=measure.p_value(outcome, other, truth),
    )
