"""Data sets by their name in a recipe or a manifest.

Each loader numbers its labels in the order of `schema.LABELS`. The functions here take the labels of a recipe or a
manifest and return splits that are numbered in that order: labels are matched by name.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from contract.spec import ImageInput, TextInput
from training.data import mnist, own, photos, reviews
from training.data.dataset import Dataset, Split, check_complete
from training.data.schema import LABELS, OWN, Data, Input, check_kind, check_labels
from training.table import columns


class Loader(Protocol):
    """The interface of a module that loads data sets."""

    def load(self, data: Data, spec: Any, /) -> Dataset:
        """The splits that `data` describes, for the `Image` or `Text` of a recipe."""

    def fold(self, data: Data, spec: Any, number: int, /) -> Dataset:
        """Fold `number`, from 0, of the cross-validation that `data.folds` asks for."""

    def tests(self, name: str, spec: Any, tokenizer: str | None, /) -> dict[str, Split]:
        """The test splits of a data set, for the `ImageInput` or `TextInput` of a manifest."""


_MAX_COLUMNS = 12  # labels that fit side by side

LOADERS: dict[str, Loader] = {
    "mnist": mnist,
    "cats-vs-dogs": photos,
    "oxford-pets": photos,
    "imdb": reviews,
    "mr": reviews,
    "sst2": reviews,
    "reviews": reviews,
}


def load(data: Data, spec: Input, labels: Sequence[str]) -> Dataset:
    """The splits that a recipe is trained and measured on, numbered in the order of its `labels`.

    Raises:
        DataError: the data set is missing or damaged, or has no training example of a label.
        RecipeError: the kind of input or the labels are not those of the data set.
    """
    if data.name in OWN:
        return own.load(data, spec, labels)
    loader = _loader(data.name, spec.kind)
    numbers = _numbers(data.name, labels)
    return _complete(loader.load(data, spec).renumbered(numbers), labels)


def fold(data: Data, spec: Input, labels: Sequence[str], number: int) -> Dataset:
    """Fold `number`, from 0, of the cross-validation that `data.folds` asks for, numbered in the order of `labels`.

    Raises:
        DataError, RecipeError: as `load`.
    """
    if data.name in OWN:
        return own.fold(data, spec, labels, number)
    loader = _loader(data.name, spec.kind)
    numbers = _numbers(data.name, labels)
    return _complete(loader.fold(data, spec, number).renumbered(numbers), labels)


def tests(
    name: str, spec: ImageInput | TextInput, labels: Sequence[str], tokenizer: str | None, own_data: Data | None
) -> dict[str, Split]:
    """The test splits for a published model, numbered in the order of its `labels`; empty if `name` is unknown.

    `own_data` describe the user's own data; those of other data sets are known by their name.

    Raises:
        DataError: the data set is missing or damaged.
        RecipeError: the kind of input or the labels are not those of the data set.
    """
    if own_data is not None:
        return own.tests(own_data, spec, labels, tokenizer)
    if name not in LOADERS:
        return {}
    loader = _loader(name, spec.kind)
    numbers = _numbers(name, labels)
    return {test: split.renumbered(numbers) for test, split in loader.tests(name, spec, tokenizer).items()}


def sample(
    data: Data, trained: Input, spec: ImageInput | TextInput, labels: Sequence[str], count: int
) -> tuple[Split, str]:
    """Up to `count` training examples, as a published model takes them, and the data set's fingerprint.

    Raises:
        DataError, RecipeError: as `load`.
    """
    if isinstance(spec, ImageInput) and data.name in OWN:
        data = data.model_copy(update={"stored_side": max(spec.height, spec.width)})
    elif isinstance(spec, ImageInput) and LOADERS[data.name] is photos:
        numbers = _numbers(data.name, labels)
        split, fingerprint = photos.sample(data, spec, count)
        return split.renumbered(numbers), fingerprint
    dataset = load(data, trained, labels)
    step = max(len(dataset.train) // count, 1)
    return dataset.train.at(torch.arange(0, len(dataset.train), step)).first(count), dataset.fingerprint


def summary(dataset: Dataset, labels: Sequence[str]) -> list[str]:
    """A table of the splits for the terminal: examples in all and of each label, with warnings about few of them."""
    splits = {"training": dataset.train, "validation": dataset.validation}
    splits |= {f"test: {name}": split for name, split in dataset.tests.items()}
    counts = {name: split.labels.bincount(minlength=len(labels)).tolist() for name, split in splits.items()}
    if len(labels) <= _MAX_COLUMNS:
        rows = [["split", "n", *labels]]
        rows += [[name, f"{sum(each):,}", *(f"{count:,}" for count in each)] for name, each in counts.items()]
    else:
        rows = [["split", "n", "labels", "smallest class", "largest class"]]
        rows += [
            [name, f"{sum(each):,}", f"{sum(map(bool, each)):,}", f"{min(each):,}", f"{max(each):,}"]
            for name, each in counts.items()
        ]
    absent = [
        f"{name} has no example with the label {', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}"  # noqa: PLR2004
        for name, each in counts.items()
        if (missing := [label for label, count in zip(labels, each, strict=True) if not count])
    ]
    return [*columns(rows, left={0}), *(f"note: {line}, so nothing is measured for it there" for line in absent)]


def _loader(name: str, kind: str) -> Loader:
    check_kind(name, kind)
    return LOADERS[name]


def _numbers(name: str, labels: Sequence[str]) -> Tensor:
    """For each of a data set's labels, in its own order, the place of that name in `labels`: int64 (classes)."""
    check_labels(name, labels)
    return torch.tensor([labels.index(label) for label in LABELS[name]])


def _complete(dataset: Dataset, labels: Sequence[str]) -> Dataset:
    check_complete(dataset.train.labels.tolist(), labels)
    return dataset
