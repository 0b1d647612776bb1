"""Generated batches, to warm sessions up, to time them and to compare them: no examples of a data set."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.spec import InputSpec

Batch = npt.NDArray[Any]
"""uint8 (N, H, W, C) or int64 (N, L): what the graph of a manifest takes."""

_SENTENCE, _PARAGRAPH = 32, 64  # tokens


def example(spec: InputSpec, items: int, length: int = _SENTENCE) -> Batch:
    """A batch of ones; `length` is the length of each item, up to the longest, if the items have a length."""
    return np.ones(spec.shape(items, length), spec.dtype)


def random(spec: InputSpec, items: int) -> Batch:
    """A batch of random values, the same each time; the items have several lengths, if they have a length."""
    batch = np.random.default_rng(0).integers(
        spec.values.start, spec.values.stop, spec.shape(items, _PARAGRAPH), dtype=spec.dtype
    )
    if not spec.has_fixed_shape:
        for row, length in zip(batch, np.linspace(batch.shape[1], 1, items).astype(int), strict=True):
            row[length:] = 0
    return batch


def warm_up(spec: InputSpec, max_items: int) -> list[Batch]:
    """One item, and `max_items` at once; if items have a length, also the longest item and the largest batches."""
    sizes = [(1, 1), (1, spec.max_length)]
    if spec.max_batch_tokens is None:
        sizes.append((max_items, spec.max_length))
    else:
        many = min(max_items, spec.max_batch_tokens)
        few = min(max_items, max(spec.max_batch_tokens // spec.max_length, 1))
        sizes += [(many, spec.max_batch_tokens // many), (few, spec.max_length)]
    return [example(spec, *size) for size in dict.fromkeys(sizes)]


def growing(spec: InputSpec, max_items: int) -> Iterator[tuple[int, Batch]]:
    """Batches of extent 1, 2, 4, ...: this many items, or one item of this length, if items have a length."""
    largest = max_items if spec.has_fixed_shape else spec.max_length
    for power in range(largest.bit_length()):
        extent = 1 << power
        yield extent, example(spec, extent) if spec.has_fixed_shape else example(spec, 1, extent)
