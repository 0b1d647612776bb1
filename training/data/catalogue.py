"""Data sets by their name in a recipe or a manifest.

Each loader numbers its labels in its own order, `LABELS`. The functions here take the labels of a recipe or a manifest
and return splits that are numbered in that order: labels are matched by name.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from contract.spec import ImageInput, TextInput
from training.data import mnist, photos, reviews
from training.data.dataset import Dataset, Split
from training.data.schema import Data, Input, Text
from training.errors import DataError, RecipeError


class Loader(Protocol):
    """The interface of a module that loads data sets."""

    KIND: Literal["image", "text"]
    LABELS: tuple[str, ...]
    """The number n in the splits of `load` and `tests` stands for the label `LABELS[n]`."""

    def load(self, data: Data, spec: Any, /) -> Dataset:
        """The splits that `data` describes, for the `Image` or `Text` of a recipe."""

    def tests(self, name: str, spec: Any, tokenizer: str | None, /) -> dict[str, Split]:
        """The test splits of a data set, for the `ImageInput` or `TextInput` of a manifest."""


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
    loader = _loader(data.name, spec.kind)
    numbers = _numbers(data.name, labels)
    return _complete(loader.load(data, spec).renumbered(numbers), labels)


def fold(data: Data, spec: Input, labels: Sequence[str], number: int) -> Dataset:
    """Fold `number`, from 0, of the cross-validation that `data.folds` asks for, numbered in the order of `labels`.

    Raises:
        DataError, RecipeError: as `load`.
    """
    loader = _loader(data.name, spec.kind)
    assert loader is reviews, loader
    assert isinstance(spec, Text), spec
    numbers = _numbers(data.name, labels)
    return _complete(reviews.fold(data, spec, number).renumbered(numbers), labels)


def tests(name: str, spec: ImageInput | TextInput, labels: Sequence[str], tokenizer: str | None) -> dict[str, Split]:
    """The test splits for a published model, numbered in the order of its `labels`; empty if `name` is unknown.

    Raises:
        DataError: the data set is missing or damaged.
        RecipeError: the kind of input or the labels are not those of the data set.
    """
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
    if isinstance(spec, ImageInput) and LOADERS[data.name] is photos:
        numbers = _numbers(data.name, labels)
        split, fingerprint = photos.sample(data, spec, count)
        return split.renumbered(numbers), fingerprint
    dataset = load(data, trained, labels)
    step = max(len(dataset.train) // count, 1)
    return Split(dataset.train.inputs[::step], dataset.train.labels[::step]).first(count), dataset.fingerprint


def _loader(name: str, kind: str) -> Loader:
    loader = LOADERS[name]
    if kind != loader.KIND:
        raise RecipeError(f"input.kind: got {kind!r}, but data set {name!r} has inputs of kind {loader.KIND!r}")
    return loader


def _numbers(name: str, labels: Sequence[str]) -> Tensor:
    """For each of a data set's labels, in its own order, the place of that name in `labels`: int64 (classes)."""
    expected = LOADERS[name].LABELS
    if sorted(labels) != sorted(expected):
        unknown = ", ".join(label for label in labels if label not in expected) or "none"
        missing = ", ".join(label for label in expected if label not in labels) or "none"
        raise RecipeError(
            f"labels: got {', '.join(labels)}; expected the labels of {name!r} in any order: {', '.join(expected)} "
            f"(unknown: {unknown}; missing: {missing})"
        )
    return torch.tensor([labels.index(label) for label in expected])


def _complete(dataset: Dataset, labels: Sequence[str]) -> Dataset:
    counts = dataset.train.labels.bincount(minlength=len(labels)).tolist()
    absent = [label for label, count in zip(labels, counts, strict=True) if not count]
    if absent:
        raise DataError(f"the training split has no example with the label {', '.join(absent)}")
    return dataset
