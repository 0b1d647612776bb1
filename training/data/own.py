"""The user's own data: a folder or a table -> a `Dataset`, split by content, in proportion to the labels.

What `class_folders` and `columns` find is compared by `compare`, and split by `held_out`.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from contract.spec import ImageInput, TextInput
from training.data import compare, photos, vocabulary
from training.data.compare import Compared, text_of
from training.data.dataset import Dataset, Split, check_complete, parts
from training.data.decoded import Photo
from training.data.examples import Example, SplitName, listed, natural
from training.data.held_out import assign, hold_out
from training.data.schema import Data, Image, Input, Text
from training.errors import DataError, RecipeError
from training.progress import say


def load(data: Data, spec: Input, labels: Sequence[str]) -> Dataset:
    """The splits of the user's data, numbered in the order of `labels`.

    Raises:
        DataError: the data are missing, unreadable or too few.
        RecipeError: the labels or the kind of input are not those of the data.
    """
    compared, splits = _prepare(data, spec.kind, labels)
    return _dataset(compared, splits, data, spec, labels)


def fold(data: Data, spec: Input, labels: Sequence[str], number: int) -> Dataset:
    """Fold `number`, from 0, of a cross-validation over all examples but those of the test split.

    Raises:
        DataError, RecipeError: as `load`.
    """
    assert data.folds is not None, "no cross-validation"
    compared, whole = _prepare(data, spec.kind, labels)
    rows = [row for row, split in enumerate(whole) if split in {"train", "validation"}]
    part_of = parts([compared.groups[row] for row in rows], [compared.examples[row].label for row in rows], data.folds)
    folds: list[list[SplitName]] = []
    for fold_number in range(data.folds):
        splits: list[SplitName] = [""] * len(whole)
        for row in rows:
            splits[row] = "test" if part_of[compared.groups[row]] == fold_number else "train"
        hold_out(compared, splits, data.split_seed, "validation", data.validation)
        _check(compared, splits, data, labels)  # each of them, before the first is trained
        folds.append(splits)
    return _dataset(compared, folds[number], data, spec, labels)


def tests(data: Data, spec: ImageInput | TextInput, labels: Sequence[str], tokenizer: str | None) -> dict[str, Split]:
    """The test split, as a published model takes it.

    Raises:
        DataError, RecipeError: as `load`.
    """
    compared, splits = _prepare(data, spec.kind, labels)
    chosen = [example for example, split in zip(compared.examples, splits, strict=True) if split == "test"]
    if isinstance(spec, TextInput):
        assert tokenizer is not None, "texts need a tokenizer"
        return {data.title: _encode(chosen, tokenizer, spec, labels)}
    return {data.title: photos.decode(_photos(compared, splits, "test", labels), spec, "test")}


def _prepare(data: Data, kind: str, labels: Sequence[str]) -> tuple[Compared, list[SplitName]]:
    """The compared examples of `labels`, and the split of each."""
    found = compare.find(data)
    if found.kind != kind:
        raise RecipeError(f"input.kind: got {kind!r}, but {data.path} has {found.kind}s")
    compared = compare.compare(found, data)
    _check_labels({each.label for each in compared.examples}, labels)
    if found.left_out:
        say(f"{len(found.left_out):,} left out: {'; '.join(map(str, found.left_out[:3]))}")
    return compared, assign(compared, data)


def _check_labels(present: set[str], labels: Sequence[str]) -> None:
    if present != set(labels):
        unknown = listed([label for label in labels if label not in present]) or "none"
        missing = listed(natural(present - set(labels))) or "none"
        raise RecipeError(
            f"labels: not those of the data (only in the recipe: {unknown}; only in the data: {missing}). Change the "
            "labels and the size of the last layer, or make the recipe again with: python -m training new"
        )


def _chosen(compared: Compared, splits: Sequence[SplitName]) -> dict[SplitName, list[Example]]:
    """The examples of each split."""
    chosen: dict[SplitName, list[Example]] = {"train": [], "validation": [], "test": []}
    for example, split in zip(compared.examples, splits, strict=True):
        if split:
            chosen[split].append(example)
    return chosen


def _check(compared: Compared, splits: Sequence[SplitName], data: Data, labels: Sequence[str]) -> None:
    """Refuse splits that cannot be trained or measured on.

    Raises:
        DataError: a split is empty, or the training split has no example of a label.
    """
    chosen, groups = _chosen(compared, splits), len(set(compared.groups))
    for name, each in chosen.items():
        if not each:
            parts = "" if data.folds is None else f", data.folds = {data.folds}"
            grouped = f" in {groups:,} groups, each of which stays in one split," if data.group else ""
            raise DataError(
                f"the {name} split has no example: {len(compared.examples):,} examples{grouped} are too few for "
                f"data.test = {data.test}, data.validation = {data.validation}{parts}; add "
                f"{'groups' if data.group else 'examples'}, or set larger shares{' or fewer folds' if parts else ''}"
            )
    check_complete([labels.index(each.label) for each in chosen["train"]], labels)


def _dataset(compared: Compared, splits: list[SplitName], data: Data, spec: Input, labels: Sequence[str]) -> Dataset:
    _check(compared, splits, data, labels)
    chosen = _chosen(compared, splits)
    fingerprint = _fingerprint(compared, splits)
    if isinstance(spec, Text):
        return _texts(chosen, data, spec, labels, fingerprint)
    assert isinstance(spec, Image), spec
    stored, served = spec.served(data.stored_side), spec.served()
    of = {name: _photos(compared, splits, name, labels) for name in ("train", "validation", "test")}
    return Dataset(
        train=photos.decode(of["train"], stored, "training"),
        validation=photos.decode(of["validation"], served, "validation"),
        tests={data.title: photos.decode(of["test"], served, "test")},
        fingerprint=fingerprint,
        stored_validation=photos.decode(of["validation"], stored, "validation")
        if data.refit and stored != served
        else None,
    )


def _texts(
    chosen: dict[SplitName, list[Example]], data: Data, spec: Text, labels: Sequence[str], fingerprint: str
) -> Dataset:
    tokenizer = vocabulary.build(map(text_of, chosen["train"]), spec)
    encode = partial(_encode, tokenizer=tokenizer, spec=spec.served(), labels=labels)
    return Dataset(
        train=encode(chosen["train"]),
        validation=encode(chosen["validation"]),
        tests={data.title: encode(chosen["test"])},
        fingerprint=fingerprint,
        tokenizer=tokenizer,
    )


def _encode(examples: list[Example], tokenizer: str, spec: TextInput, labels: Sequence[str]) -> Split:
    tokens, counts = map(torch.from_numpy, vocabulary.encode(list(map(text_of, examples)), tokenizer, spec))
    kept = counts > 0
    if not kept.any():
        raise DataError("no text of a split has a word; check the column of the texts")
    if not kept.all():
        empty = next(each for each, has_word in zip(examples, kept.tolist(), strict=True) if not has_word)
        say(f"{int((~kept).sum()):,} of {len(kept):,} texts have no word and are left out, like {empty.source}")
    numbers = {label: number for number, label in enumerate(labels)}
    truth = torch.tensor([numbers[example.label] for example in examples])
    sources = tuple(each.source for each, has_word in zip(examples, kept.tolist(), strict=True) if has_word)
    return Split(tokens[kept], truth[kept], sources, token_counts=counts[kept])


def _photos(compared: Compared, splits: list[SplitName], name: str, labels: Sequence[str]) -> list[Photo]:
    numbers = {label: number for number, label in enumerate(labels)}
    return [
        Photo(Path(example.content), numbers[example.label], key)
        for example, key, split in zip(compared.examples, compared.keys, splits, strict=True)
        if split == name
    ]


def _fingerprint(compared: Compared, splits: Sequence[str]) -> str:
    """SHA-256 over split, content and label of each example, in the order of the contents."""
    digest = hashlib.sha256()
    for line in sorted(
        f"{split} {key} {example.label}\n"
        for example, key, split in zip(compared.examples, compared.keys, splits, strict=True)
    ):
        digest.update(line.encode())
    return f"sha256:{digest.hexdigest()}"
