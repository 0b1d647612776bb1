"""Data sets and their splits, and the folders that hold them."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
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

    def __post_init__(self) -> None:
        assert self.inputs.dtype in {torch.uint8, torch.int32}, self.inputs.dtype
        assert len(self.inputs) == len(self.labels), (len(self.inputs), len(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> Tensor | None:
        """The number of tokens of each text, int64 (N); None for images."""
        return (self.inputs != 0).sum(dim=1) if self.inputs.dtype == torch.int32 else None

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
        return Split(self.inputs[:count], self.labels[:count])

    def renumbered(self, numbers: Tensor) -> "Split":
        """The same examples; label n becomes `numbers[n]`, which is int64 (classes)."""
        return Split(self.inputs, numbers[self.labels])

    def __add__(self, other: "Split") -> "Split":
        inputs = [self.inputs, other.inputs]
        if self.lengths is not None:
            length = max(tokens.shape[1] for tokens in inputs)
            inputs = [F.pad(tokens, (0, length - tokens.shape[1])) for tokens in inputs]
        return Split(torch.cat(inputs), torch.cat([self.labels, other.labels]))


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

    def renumbered(self, numbers: Tensor) -> "Dataset":
        """The same data set, each split as `Split.renumbered` gives it."""
        return replace(
            self,
            train=self.train.renumbered(numbers),
            validation=self.validation.renumbered(numbers),
            tests={name: split.renumbered(numbers) for name, split in self.tests.items()},
        )


def data_folder() -> Path:
    """The folder of the data sets: $CONVOKE_DATA, or data/ in the working directory."""
    return Path(os.environ.get("CONVOKE_DATA") or "data")


def cache_folder() -> Path:
    """The folder of decoded photos and downloaded weights: $CONVOKE_CACHE, or convoke/ in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CONVOKE_CACHE") or Path(home) / "convoke")


def hold_out(split: Split, count: int) -> tuple[Split, Split]:
    """Hold out `count` images by the hash of their pixels: (rest, held out).

    The choice depends on the content alone, not on order or seed. Equal images are on the same side, so the held-out
    part can be slightly larger than `count`.

    Raises:
        DataError: the split has no more than `count` images.
    """
    digests = np.array([hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in split.inputs])
    check_held_out(count, len(digests))
    held_out = torch.from_numpy(digests <= np.sort(digests)[count - 1])
    return (
        Split(split.inputs[~held_out], split.labels[~held_out]),
        Split(split.inputs[held_out], split.labels[held_out]),
    )


def check_held_out(count: int, total: int) -> None:
    """Raise a DataError unless `count` of `total` examples can be held out with some left to train on."""
    if not 0 < count < total:
        raise DataError(f"data.validation: cannot hold out {count} of {total} examples; set it below {total}")


def fingerprint(*splits: Split) -> str:
    """SHA-256 over shapes, images and labels in order, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(tuple(split.inputs.shape)).encode())
        digest.update(split.inputs.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
