"""Labelled examples -> which of the plausible ways to feed a graph is right, its calibration and its metrics."""

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from contract.errors import ConvokeError
from contract.inputs import Preprocessor
from contract.manifest import Metrics
from training.data import class_folders, table_file
from training.data.compare import text_of
from training.errors import PublishError
from training.evaluation import calibration
from training.evaluation import metrics as evaluate
from training.evaluation.measures import mcnemar
from training.release.plausible import Way
from training.release.wrap import Ids, Pixels, Scores, open_session, wrap
from training.table import columns

MAX_EXAMPLES = 2000
MIN_HALVES = 2 * calibration.MIN_EXAMPLES
"""With fewer examples, all are used for the choice and for the metrics, and nothing is calibrated."""
SIGNIFICANCE = 0.05
_NEAR = 1.05  # of negative log-likelihoods that examples do not tell apart
_UNSURE = 0.5  # of the negative log-likelihood of equal scores
_BATCH = 32


@dataclass(frozen=True)
class Examples:
    """Decoded examples, in an order that depends on their contents alone, and their places among the labels."""

    items: list[npt.NDArray[Any]]
    places: npt.NDArray[np.int64]
    fingerprint: str
    left_out: list[str]
    names: list[str]
    """Where each example is."""

    def __len__(self) -> int:
        return len(self.items)

    def part(self, start: int, step: int) -> "Examples":
        """Each `step`-th example from `start`."""
        return Examples(
            self.items[start::step], self.places[start::step], self.fingerprint, [], self.names[start::step]
        )


@dataclass(frozen=True)
class Tried:
    """A way to feed the graph, with its results."""

    title: str
    inputs: Pixels | Ids
    is_stated: bool
    correct: npt.NDArray[np.bool_]
    nll: float

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    def __str__(self) -> str:
        return f"{self.accuracy:.2%} of {len(self.correct):,}"


def labelled(path: Path, *, is_text: bool) -> list[tuple[bytes | str, str, str]]:
    """The content, the label and the place of each example: of a folder with a subfolder for each label, or of a table.

    A table of texts has the columns `text` and `label`.

    Raises:
        DataError: it is missing, or no labelled example is in it.
        PublishError: it has images for a model of texts, or the reverse.
    """
    if is_text and path.is_file():
        table = table_file.read(path)
        pairs = zip(table.column("text"), table.column("label"), table.numbers, strict=True)
        return [
            (str(text or ""), str(label).strip(), f"row {place}") for text, label, place in pairs if label is not None
        ]
    found = class_folders.scan(path)
    if (found.kind == "text") != is_text:
        raise PublishError(
            f"--examples {path}: has {found.kind}s, but the model takes {'texts' if is_text else 'images'}"
        )
    return [
        (text_of(each) if is_text else Path(each.content).read_bytes(), each.label, each.source)
        for each in found.examples
    ]


def decode(
    found: Sequence[tuple[bytes | str, str, str]], labels: Sequence[str], preprocessor: Preprocessor, path: Path
) -> Examples:
    """Decode up to `MAX_EXAMPLES` examples as the service decodes items.

    Raises:
        PublishError: an example has a label that the model does not have, or none can be decoded.
    """
    number = {unicodedata.normalize("NFC", label): place for place, label in enumerate(labels)}
    unknown = sorted({label for _, label, _ in found} - number.keys())
    if unknown:
        raise PublishError(
            f"--examples {path}: {listed(unknown)} not among the model's labels: {listed(labels)}; name the folders "
            "like the labels, or give --labels in the order of the model's scores"
        )
    keyed = sorted(
        (hashlib.sha256(content.encode("utf-8", "replace") if isinstance(content, str) else content).hexdigest(), place)
        for place, (content, _, _) in enumerate(found)
    )
    items, places, left_out, names, digest = list[Any](), list[int](), list[str](), list[str](), hashlib.sha256()
    for key, place in keyed[:MAX_EXAMPLES]:
        content, label, name = found[place]
        try:
            item = preprocessor.decode(content)
        except ConvokeError as error:
            left_out.append(f"{name}: {error}")
            continue
        digest.update(f"{key} {label}\n".encode())
        items.append(item)
        places.append(number[label])
        names.append(name)
    if not items:
        raise PublishError(f"--examples {path}: no example can be read: {listed(left_out, 3)}")
    return Examples(items, np.array(places, np.int64), f"sha256:{digest.hexdigest()}", left_out, names)


def listed(words: Sequence[str], shown: int = 8) -> str:
    """The first words, and how many there are if there are more."""
    return ", ".join(words[:shown]) + (f", ... ({len(words):,})" if len(words) > shown else "")


def probabilities(
    model: onnx.ModelProto,
    inputs: Pixels | Ids,
    scores: Scores,
    items: Sequence[npt.NDArray[Any]],
    preprocessor: Preprocessor,
) -> npt.NDArray[np.float32]:
    """What a wrapped graph gives for items: float32 (N, classes)."""
    session = open_session(wrap(model, inputs, scores))
    tensor, size = session.get_inputs()[0].name, inputs.batch or _BATCH

    def run(batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        rows = [session.run(None, {tensor: batch[start : start + size]})[0] for start in range(0, len(batch), size)]
        return np.concatenate(rows)

    step = _BATCH * 8
    chunks = [preprocessor.run(run, list(items[start : start + step])) for start in range(0, len(items), step)]
    result: npt.NDArray[np.float32] = np.concatenate(chunks)
    return result


def compare(
    model: onnx.ModelProto, ways: Sequence[Way], scores: Scores, examples: Examples, preprocessor: Preprocessor
) -> list[Tried]:
    """Try each way on the examples: the best of those that the user allows first, then the others by their accuracy.

    The best is the likeliest of those that are not significantly less accurate than any other. Where some make no
    mistake, it is the most usual of these, since a larger scale makes every answer more certain; but not one whose
    answers are hardly more certain than equal scores, as with a scale that is far too small.
    """
    tried = []
    for way in ways:
        rows = probabilities(model, way.pixels, scores, examples.items, preprocessor)
        picked = np.clip(rows[np.arange(len(rows)), examples.places].astype(np.float64), 1e-12, 1)
        nll = float(abs(np.log(picked).mean()))
        correct = rows.argmax(axis=1) == examples.places
        tried.append(Tried(way.title, way.pixels, way.is_stated, correct, nll if math.isfinite(nll) else math.inf))
    best = _best([each for each in tried if each.is_stated], scores.classes)
    return [best, *sorted((each for each in tried if each is not best), key=lambda each: (-each.accuracy, each.nll))]


def _best(tried: Sequence[Tried], classes: int) -> Tried:
    perfect = [each for each in tried if each.accuracy == 1]
    if perfect:
        return next((each for each in perfect if each.nll < _UNSURE * math.log(classes)), perfect[0])
    top = max(tried, key=lambda each: each.accuracy)
    rivals = [each for each in tried if not _is_worse(each, top)]
    lowest = min(each.nll for each in rivals)
    return max((each for each in rivals if each.nll <= lowest * _NEAR), key=lambda each: each.accuracy)


def _is_worse(one: Tried, other: Tried) -> bool:
    """Whether one way is significantly less accurate than another."""
    return mcnemar(int((one.correct & ~other.correct).sum()), int((other.correct & ~one.correct).sum())) < SIGNIFICANCE


def table(tried: Sequence[Tried]) -> list[str]:
    """The results as lines: the chosen way first, then the others by their accuracy."""
    rows = [["pixels as the graph takes them", "right", "nll", ""]]
    for each in tried:
        mark = "chosen" if each is tried[0] else "" if each.is_stated else "not as stated"
        rows.append([each.title, str(each), f"{each.nll:.3f}", mark])
    return columns(rows, left={0, 3})


def doubts(tried: Sequence[Tried], labels: Sequence[str], examples: Examples) -> tuple[str | None, list[str]]:
    """Why the chosen way must not be used, if so; and sentences about what the examples do not decide."""
    best, notes = tried[0], []
    majority = int(np.bincount(examples.places).max()) / len(examples)
    for other in tried[1:]:
        if not other.is_stated and _is_worse(best, other):
            notes.append(
                f"the stated setting is right on {best}, but {other.title!r} on {other}: check --scale and --mode"
            )
        elif other.is_stated and not _is_worse(other, best):
            notes.append(
                f"{other.title!r} is not significantly worse: {other}; state --scale and --mode, or give more examples"
            )
    if best.accuracy <= majority and len({*examples.places.tolist()}) > 1:
        fault = (
            f"no setting is right more often than always naming the largest class, {majority:.2%}: the best is {best}. "
            f"Check the order of --labels ({listed(labels)}), and state --scale, --mean, --std, --mode and --layout"
        )
        return fault, notes
    return None, notes


def calibrate(probs: npt.NDArray[np.float32], places: npt.NDArray[np.int64]) -> float:
    """The temperature that makes probabilities (N, classes) true; 1 for few examples."""
    logits = torch.from_numpy(np.log(np.clip(probs.astype(np.float64), 1e-12, None)))
    return calibration.fit(logits, torch.from_numpy(places), None).temperature


def measure(probs: npt.NDArray[np.float32], places: npt.NDArray[np.int64]) -> Metrics:
    """The metrics of probabilities (N, classes)."""
    return evaluate.metrics(probs, torch.from_numpy(places))
