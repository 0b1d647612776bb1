"""The reference of a version: histograms of what it does with its test splits, with which the service finds drift."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contract import processors, reference
from contract.errors import ConvokeError
from contract.inputs import Items, Preprocessor, load_preprocessor
from contract.manifest import GRAPH, MANIFEST, Manifest, sha256
from contract.reference import MIN_ITEMS, REFERENCE, Values
from contract.session import Session
from contract.text import Beginning
from training.data.dataset import Split
from training.errors import PublishError
from training.evaluation import metrics as evaluate
from training.evaluation.metrics import Probabilities
from training.release.gate import tests_of
from training.release.version import open_version


def write(
    partial: Path, manifest: Manifest, splits: Mapping[str, Split], probabilities: Mapping[str, Probabilities]
) -> None:
    """Write the reference into the folder of a version that is being published.

    Args:
        partial: the folder, with the tokenizer of texts.
        manifest: of the version.
        splits: the test splits, which count together.
        probabilities: of each split, float32 (N, classes).
    """
    unknown_id = load_preprocessor(partial, manifest.input).unknown_id
    measured = [reference.measure(probabilities[name], _items(split), unknown_id) for name, split in splits.items()]
    _make(measured, manifest, ", ".join(splits)).write(partial)


def write_for_examples(
    partial: Path, manifest: Manifest, session: Session, preprocessor: Preprocessor, items: Sequence[Any]
) -> None:
    """Write the reference into the folder of a version, from decoded examples, each as the graph takes it."""
    rows = preprocessor.run(session.run, items)
    measured = reference.measure(rows, items, preprocessor.unknown_id)
    _make([measured], manifest, "examples").write(partial)


def add(folder: Path) -> Path:
    """Measure a published version on its test splits, and write the reference into its folder and manifest.

    Raises:
        PublishError: the version cannot be used, or a file cannot be written.
        DataError: a test split is missing or damaged.
    """
    manifest = open_version(folder)
    try:
        session = Session(folder / GRAPH, manifest, threads=processors.count())
    except ConvokeError as error:
        raise PublishError(str(error)) from error
    splits = tests_of(manifest, folder)
    if (count := sum(map(len, splits.values()))) < MIN_ITEMS:
        raise PublishError(f"{folder}: its test splits have {count} examples; a reference needs {MIN_ITEMS} or more")
    probabilities = {name: evaluate.probabilities(session, split) for name, split in splits.items()}
    new = folder / f".{MANIFEST}.new"
    try:
        write(folder, manifest, splits, probabilities)
        files = {**manifest.files, REFERENCE: sha256(folder / REFERENCE)}
        content = manifest.model_copy(update={"files": files}).model_dump_json(indent=2, exclude_unset=True)
        new.write_text(content + "\n", encoding="utf-8")
        new.replace(folder / MANIFEST)
    except OSError as error:
        raise PublishError(f"{folder}: the reference cannot be written: {error}") from error
    return folder / REFERENCE


def _make(measured: Sequence[Mapping[Any, Values]], manifest: Manifest, data: str) -> reference.Reference:
    joined = {name: np.concatenate([each[name] for each in measured]) for name in measured[0]}
    return reference.make(joined, manifest.labels, data)


def _items(split: Split) -> Items:
    """The items of a split as the service decodes them: uint8 (H, W, C), or token ids without padding, int64 (L)."""
    inputs: Values = split.inputs.numpy()
    if split.lengths is None:
        return inputs
    items = []
    totals = split.lengths if split.token_counts is None else split.token_counts
    for row, length, total in zip(inputs, split.lengths.tolist(), totals.tolist(), strict=True):
        item = row[: max(length, 1)].astype("int64").view(Beginning)
        item.total = max(total, length)
        items.append(item)
    return items
