"""Data sets: where they lie, what they hold, and how they are split.

One file a kind of data. Each gives a `Dataset` whose training and validation splits are disjoint by content.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.errors import DataError


@dataclass(frozen=True)
class Split:
    """Examples decoded once, and their labels, int64 (N).

    `inputs` are pictures, uint8 (N, H, W, C), or the token ids of texts, int32 (N, L), 0 behind their ends.
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
        """How many tokens each text has, int64 (N); None for pictures."""
        return (self.inputs != 0).sum(dim=1) if self.inputs.dtype == torch.int32 else None

    def texts(self, chosen: Tensor) -> Tensor:
        """The token ids of some texts, padded to the longest of them: int32 (n, L)."""
        assert self.lengths is not None, "pictures have no length"
        return self.inputs[chosen, : max(int(self.lengths[chosen].max()), 1)]

    def batches(self, size: int) -> Iterator[Tensor]:
        """The inputs in order, up to `size` at a time: (n, H, W, C) or (n, L)."""
        for start in range(0, len(self), size):
            yield self.inputs[start : start + size]

    def first(self, count: int) -> "Split":
        """The first `count` examples."""
        return Split(self.inputs[:count], self.labels[:count])

    def renumbered(self, numbers: Tensor) -> "Split":
        """The same examples; label n becomes `numbers[n]`, which is int64 (classes)."""
        return Split(self.inputs, numbers[self.labels])

    def __add__(self, other: "Split") -> "Split":
        ours, theirs = self.inputs, other.inputs
        if self.lengths is not None:
            length = max(ours.shape[1], theirs.shape[1])
            ours, theirs = (F.pad(tokens, (0, length - tokens.shape[1])) for tokens in (ours, theirs))
        return Split(torch.cat([ours, theirs]), torch.cat([self.labels, other.labels]))


@dataclass(frozen=True)
class Dataset:
    """A data set's splits, and the SHA-256 over all their bytes that says which data this was."""

    train: Split
    validation: Split
    tests: dict[str, Split]
    """Test splits that nothing was chosen on, by the name of their data set; most have one."""
    fingerprint: str
    tokenizer: str | None = None
    """The content of the tokenizer.json that made the token ids, where the inputs are texts."""

    def renumbered(self, numbers: Tensor) -> "Dataset":
        """The same data set, each split as `Split.renumbered` gives it."""
        return replace(
            self,
            train=self.train.renumbered(numbers),
            validation=self.validation.renumbered(numbers),
            tests={name: split.renumbered(numbers) for name, split in self.tests.items()},
        )


def folder() -> Path:
    """Where data sets lie: the directory that CONVOKE_DATA names, or data/ below the working directory."""
    return Path(os.environ.get("CONVOKE_DATA") or "data")


def cache_folder() -> Path:
    """Where decoded photos and downloaded weights are kept: $CONVOKE_CACHE, or convoke/ in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CONVOKE_CACHE") or Path(home) / "convoke")


def hold_out(split: Split, count: int) -> tuple[Split, Split]:
    """Split off `count` examples by the hash of their pixels: (rest, held out).

    The choice depends on content alone, not on order or seed, and equal pictures fall on the same side, so the
    held-out part can be a few examples larger than `count`.

    Raises:
        DataError: there are not more than `count`.
    """
    digests = np.array([hashlib.sha256(picture.numpy().tobytes()).hexdigest() for picture in split.inputs])
    if not 0 < count < len(digests):
        raise DataError(f"{count} examples cannot be held out of {len(digests)}: set data.validation lower")
    held_out = torch.from_numpy(digests <= np.sort(digests)[count - 1])
    return (
        Split(split.inputs[~held_out], split.labels[~held_out]),
        Split(split.inputs[held_out], split.labels[held_out]),
    )


def fingerprint(*splits: Split) -> str:
    """SHA-256 over shapes, pictures and labels in order, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(tuple(split.inputs.shape)).encode())
        digest.update(split.inputs.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
