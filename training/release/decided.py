"""What was decided about a graph that was made elsewhere, its labels, and what labelled examples say about it."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from contract.inputs import Preprocessor
from contract.manifest import Metrics
from contract.spec import ImageInput, TextInput
from training.errors import PublishError
from training.release import trial
from training.release.foreign import Foreign
from training.release.plausible import Options
from training.release.wrap import Ids, Pixels, Scores

Say = Callable[[str], object]


@dataclass(frozen=True)
class Decided:
    """Everything that was decided about a graph."""

    foreign: Foreign
    model: onnx.ModelProto
    spec: ImageInput | TextInput
    inputs: Pixels | Ids
    scores: Scores
    labels: list[str]
    preprocessor: Preprocessor
    tokenizer: str | None
    notes: list[str]
    """What was guessed or measured, in sentences."""
    examples: trial.Examples | None = None
    metrics: Metrics | None = None
    is_held_out: bool = False
    """Whether the metrics are of other examples than the choices."""


def measured(decided: Decided, examples: trial.Examples) -> Decided:
    """The calibration from half of the examples, and the metrics from the other half; from all, if they are few."""
    scores, has_halves = decided.scores, len(examples) >= trial.MIN_HALVES
    for each in examples.left_out[:3]:
        decided.notes.append(f"left out: {each}")

    def run(part: trial.Examples) -> npt.NDArray[np.float32]:
        return trial.probabilities(decided.model, decided.inputs, scores, part.items, decided.preprocessor)

    if has_halves:
        fitted = examples.part(0, 2)
        scores = replace(scores, temperature=trial.calibrate(run(fitted), fitted.places))
        examples = replace(examples.part(1, 2), left_out=examples.left_out)
    metrics = trial.measure(run(examples), examples.places)
    return replace(decided, scores=scores, examples=examples, metrics=metrics, is_held_out=has_halves)


def labels_of(
    source: Foreign, options: Options, scores: Scores, found: Sequence[tuple[Any, str, str]] | None, note: Say
) -> list[str]:
    """The labels in the order of the scores.

    Raises:
        PublishError: they are unknown, repeated, or not as many as the scores.
    """
    folders = sorted({label for _, label, _ in found or []})
    if options.labels is not None:
        labels = options.labels
    elif source.labels is not None and len(source.labels) == scores.classes:
        labels = source.labels
        note(f"labels: {trial.listed(labels)}; {source.labels_from}")
    elif len(folders) == scores.classes:
        labels = folders
        note(
            f"labels: {trial.listed(labels)}; the names of the folders in the order of the alphabet, as torchvision "
            "and Keras number them; --labels decides"
        )
    else:
        raise PublishError(
            f"{source.path}: gives {scores.classes} scores and does not name its labels; give them in the order of the "
            "scores: --labels cat,dog or --labels FILE, one on each line"
        )
    labels = [unicodedata.normalize("NFC", label.strip()) for label in labels]
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated or not all(labels):
        raise PublishError(
            f"--labels: {', '.join(repeated[:5]) or 'an empty label'} must not be repeated or empty; number the labels"
        )
    if len(labels) != scores.classes:
        hint = ""
        if len(labels) + 1 == scores.classes:
            hint = "; networks of TensorFlow often have a class `background` before the others"
        raise PublishError(f"--labels: {len(labels)} labels, but the graph gives {scores.classes} scores{hint}")
    return labels
