"""Data sets and their splits."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812 -- the usual name
from torch import Tensor

from training.errors import DataError


@dataclass(frozen=True)
class Split:
    """Decoded examples and their labels, int64 (N).

    `inputs` are images, uint8 (N, H, W, C), or token ids of texts, int32 (N, L), padded with 0.
    """

    inputs: Tensor
    labels: Tensor
    files: tuple[str, ...] | None = None
    """The file of each example, if each has its own."""
    token_counts: Tensor | None = None
    """The tokens of each text, int64 (N): above L if the text is longer than the network reads."""

    def __post_init__(self) -> None:
        assert self.inputs.dtype in {torch.uint8, torch.int32}, self.inputs.dtype
        assert len(self.inputs) == len(self.labels), (len(self.inputs), len(self.labels))
        assert self.files is None or len(self.files) == len(self.labels), (len(self.files), len(self.labels))

    def name(self, index: int) -> str:
        """How people find an example: its file, or its number in the split, from 0."""
        return str(index) if self.files is None else self.files[index]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> Tensor | None:
        """The number of tokens of each text, int64 (N); None for images."""
        return (self.inputs != 0).sum(dim=1) if self.inputs.dtype == torch.int32 else None

    def cut_texts(self) -> str:
        """A sentence about the texts of which the network only reads the beginning; empty if there are none."""
        if self.token_counts is None:
            return ""
        length = self.inputs.shape[1]
        cut = int((self.token_counts > length).sum())
        if not cut:
            return ""
        longest = int(self.token_counts.max())
        return (
            f"{cut:,} of {len(self):,} texts have more than {length:,} tokens (the longest {longest:,}); "
            f"only the first {length:,} of each are read"
        )

    def texts(self, rows: Tensor) -> Tensor:
        """The token ids of the texts at `rows`, padded to the longest of them: int32 (n, L)."""
        assert self.lengths is not None, "images have no length"
        return self.inputs[rows, : max(int(self.lengths[rows].max()), 1)]

    def batches(self, size: int) -> Iterator[Tensor]:
        """The inputs in order, in batches of up to `size`: (n, H, W, C) or (n, L)."""
        for start in range(0, len(self), size):
            yield self.inputs[start : start + size]

    def first(self, count: int) -> "Split":
        """The first `count` examples."""
        counts = None if self.token_counts is None else self.token_counts[:count]
        return Split(self.inputs[:count], self.labels[:count], self.files and self.files[:count], counts)

    def renumbered(self, numbers: Tensor) -> "Split":
        """The same examples; label n becomes `numbers[n]`, which is int64 (classes)."""
        return replace(self, labels=numbers[self.labels])

    def at(self, rows: Tensor) -> "Split":
        """The examples at `rows`, indices int64 (n) or a mask bool (N)."""
        counts = None if self.token_counts is None else self.token_counts[rows]
        return Split(self.inputs[rows], self.labels[rows], token_counts=counts)

    def __add__(self, other: "Split") -> "Split":
        inputs = [self.inputs, other.inputs]
        if self.lengths is not None:
            length = max(tokens.shape[1] for tokens in inputs)
            inputs = [F.pad(tokens, (0, length - tokens.shape[1])) for tokens in inputs]
        counts = [split.token_counts for split in (self, other) if split.token_counts is not None]
        labels = torch.cat([self.labels, other.labels])
        return Split(torch.cat(inputs), labels, token_counts=torch.cat(counts) if counts else None)


@dataclass(frozen=True)
class Dataset:
    """The splits of a data set, which share no example, and the SHA-256 of their content."""

    train: Split
    validation: Split
    tests: dict[str, Split]
    """Test splits by the name of their data set. No choice in training depends on them."""
    fingerprint: str
    tokenizer: str | None = None
    """For texts, the content of the tokenizer.json that gave the token ids."""
    stored_validation: Split | None = None
    """The validation images as the training images are stored, for a refit; None if they are stored alike."""

    @property
    def tokenizer_sha256(self) -> str | None:
        """The SHA-256 of the tokenizer.json, as 64 hexadecimal digits; None for images."""
        return None if self.tokenizer is None else hashlib.sha256(self.tokenizer.encode()).hexdigest()

    @property
    def refit(self) -> Split:
        """The training and the validation examples together."""
        return self.train + (self.stored_validation or self.validation)

    def cut_texts(self) -> Iterator[str]:
        """A line for each split with texts of which the network only reads the beginning."""
        tests = {f"test split {name}": split for name, split in self.tests.items()}
        for name, split in {"training split": self.train, "validation split": self.validation, **tests}.items():
            if sentence := split.cut_texts():
                yield f"{name}: {sentence}"

    def renumbered(self, numbers: Tensor) -> "Dataset":
        """The same data set, each split as `Split.renumbered` gives it."""
        return replace(
            self,
            train=self.train.renumbered(numbers),
            validation=self.validation.renumbered(numbers),
            stored_validation=self.stored_validation and self.stored_validation.renumbered(numbers),
            tests={name: split.renumbered(numbers) for name, split in self.tests.items()},
        )


def hold_out(split: Split, count: int) -> tuple[Split, Split]:
    """Hold out `count` images of each label in proportion: (rest, held out).

    The choice depends on the pixels and labels alone, not on order or seed. Equal images are on the same side, so the
    held-out part can be slightly larger than `count`.

    Raises:
        DataError: the split has no more than `count` images.
    """
    keys = digests(split)
    check_held_out(count, len(keys))
    chosen = lowest(keys, split.labels.tolist(), count)
    held_out = torch.tensor([key in chosen for key in keys])
    return split.at(~held_out), split.at(held_out)


def digests(split: Split) -> list[str]:
    """The SHA-256 of the pixels of each image."""
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in split.inputs]


def lowest(keys: Sequence[str], strata: Sequence[Hashable], count: int) -> set[str]:
    """`count` of N keys, or a few more where keys are equal: the lowest of each stratum, in proportion to its size.

    A key of rank r among the n keys of its stratum has the quantile (r + 1/2) / n; those of the lowest quantiles are
    chosen. So one in n examples of a stratum of n is only chosen if `count` is more than half of all examples.
    """
    quantiles = _quantiles(keys, strata)
    last = sorted(quantiles[key] for key in keys)[count - 1] if count else (-1.0, "")
    return {key for key, quantile in quantiles.items() if quantile <= last}


def parts(keys: Sequence[str], strata: Sequence[Hashable], count: int) -> dict[str, int]:
    """The number, from 0, of the part that each of N keys is in: `count` parts with equal shares of each stratum.

    Equal keys are in one part.
    """
    first = dict(zip(reversed(keys), reversed(strata), strict=True))
    ordered = sorted(first, key=lambda key: (str(first[key]), key))
    return {key: place % count for place, key in enumerate(ordered)}


def _quantiles(keys: Sequence[str], strata: Sequence[Hashable]) -> dict[str, tuple[float, str]]:
    """The quantile of each distinct key in the stratum of its first occurrence, with the key itself for ties."""
    members: dict[Hashable, set[str]] = {}
    first = dict(zip(reversed(keys), reversed(strata), strict=True))
    for key, stratum in first.items():
        members.setdefault(stratum, set()).add(key)
    return {
        key: ((rank + 0.5) / len(group), key) for group in members.values() for rank, key in enumerate(sorted(group))
    }


def check_held_out(count: int, total: int) -> None:
    """Raise a DataError unless `count` of `total` examples can be held out with some left to train on."""
    if not 0 < count < total:
        raise DataError(f"data.validation: cannot hold out {count} of {total} examples; set it below {total}")


def check_complete(labels: Iterable[int], names: Sequence[str]) -> None:
    """Refuse training examples whose labels, numbers of `names`, leave out a name.

    Raises:
        DataError: it names the absent labels.
    """
    present = set(labels)
    absent = [name for number, name in enumerate(names) if number not in present]
    if absent:
        raise DataError(f"the training split has no example with the label {', '.join(absent)}")


def fingerprint(*splits: Split) -> str:
    """SHA-256 over shapes, images and labels in order, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(tuple(split.inputs.shape)).encode())
        digest.update(split.inputs.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
