"""Measures a published model on its test splits, for people at a terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from contract import processors
from contract.errors import ConvokeError
from contract.inputs import load_preprocessor
from contract.manifest import Manifest
from contract.session import Session
from training.data.dataset import Split
from training.errors import PublishError
from training.evaluation import classes
from training.evaluation import metrics as evaluate
from training.evaluation.measures import describe, overall
from training.intervals import percent, wilson
from training.progress import say
from training.release import trial
from training.release.gate import tests_of
from training.release.version import open_version
from training.table import columns

_MAX_MISTAKES = 10
_MAX_WIDTH = 110  # of a confusion matrix


def measure(folder: Path, examples: Path | None = None) -> Iterator[str]:
    """The metrics of a version on each of its test splits and in each precision, and its most confident mistakes.

    `examples` takes the place of the test splits: a folder with a subfolder for each label, or a table of texts.

    Raises:
        PublishError: the version or the examples cannot be used.
        DataError: a test split is missing or damaged.
    """
    manifest = open_version(folder)
    try:
        sessions = [
            Session(folder / manifest.graph(precision), manifest, threads=processors.count(), precision=precision)
            for precision in manifest.precisions
        ]
    except ConvokeError as error:
        raise PublishError(str(error)) from error
    recipe = manifest.recipe.get("name")
    yield f"{manifest.model}, version {manifest.version}: recipe {recipe}, {manifest.parameters:,} parameters"
    tests = tests_of(manifest, folder) if examples is None else {str(examples): _split(manifest, folder, examples)}
    what = "test split" if examples is None else "examples"
    for name, split in tests.items():
        cut = split.cut_texts()
        for session in sessions:
            yield f"\n{what} {name}, {session.precision}, n = {len(split):,}"
            if cut:
                yield f"  {cut}"
            yield from (f"  {line}".rstrip() for line in _figures(session, manifest, split))


def _split(manifest: Manifest, folder: Path, path: Path) -> Split:
    """Labelled examples, as the version decodes them; those that it cannot decode are left out and named."""
    found = trial.labelled(path, is_text=manifest.input.is_text)
    decoded = trial.decode(found, manifest.labels, load_preprocessor(folder, manifest.input), path)
    for line in decoded.left_out:
        say(f"left out: {line}")
    if manifest.input.is_text:
        items = [torch.from_numpy(np.asarray(each, np.int32)) for each in decoded.items]
        inputs = torch.nn.utils.rnn.pad_sequence(items, batch_first=True)
    else:
        inputs = torch.from_numpy(np.stack(decoded.items))
    return Split(inputs, torch.from_numpy(decoded.places), tuple(decoded.names))


def _figures(session: Session, manifest: Manifest, split: Split) -> Iterator[str]:
    probabilities = evaluate.probabilities(session, split)
    metrics = evaluate.metrics(probabilities, split.labels)
    mistakes = evaluate.mistakes(probabilities, split.labels)
    usual, highest = evaluate.chance_calibration_error(probabilities.max(axis=1))
    bounds = percent(wilson(metrics.accuracy, metrics.n))
    largest = manifest.labels[int(split.labels.bincount().argmax())]
    yield (
        f"accuracy                    {metrics.accuracy:.2%} ({len(mistakes):,} of {metrics.n:,} wrong), 95 % interval "
        f"{bounds} %"
    )
    yield f"always {largest!r}".ljust(28) + f"{evaluate.baseline(split.labels):.2%}"
    yield f"negative log-likelihood     {metrics.nll:.4f} nats"
    chance = f"with perfect calibration {usual:.4f}, in 95 % of cases up to {highest:.4f}"
    yield f"expected calibration error  {metrics.ece:.4f} ({chance})"
    yield from _classes(probabilities, split, manifest.labels)
    if mistakes:
        yield "most confident mistakes:"
        rows = [["example", "label", "prediction", "probability"]]
        for mistake in mistakes[:_MAX_MISTAKES]:
            label, prediction = manifest.labels[mistake.label], manifest.labels[mistake.prediction]
            rows.append([split.name(mistake.index), label, prediction, f"{mistake.probability:.3f}"])
        yield from (f"  {line}" for line in columns(rows, left={0, 1, 2}))


def _classes(probabilities: evaluate.Probabilities, split: Split, labels: Sequence[str]) -> Iterator[str]:
    truth = split.labels.numpy()
    for measure in overall(labels, truth):
        title, value, interval = describe(measure, probabilities, truth)
        yield f"{title:<27} {value}, {interval}"
    yield ""
    yield from columns(classes.rows(probabilities, truth, labels), left={0})
    if note := classes.note(truth, labels):
        yield note
    yield ""
    yield from _confusions(classes.confusion(probabilities, truth).tolist(), labels)


def _confusions(counts: list[list[int]], labels: Sequence[str]) -> Iterator[str]:
    """The confusion matrix, where it fits into a line."""
    rows = [["label \\ prediction", *labels]]
    rows += [[label, *(f"{n:,}" for n in row)] for label, row in zip(labels, counts, strict=True)]
    lines = columns(rows, left={0})
    if max(map(len, lines)) <= _MAX_WIDTH:
        yield from lines
        yield ""
