"""Made-up batches: what a session is warmed up and timed with. Nothing depends on what stands in them."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from contract.manifest import Manifest
from contract.spec import ImageInput

Batch = npt.NDArray[np.uint8] | npt.NDArray[np.int64]

MAX_BATCH_TOKENS = 1 << 11
"""Token ids in one batch of several texts, padding included; a single text may be longer. Beyond, a text gets no
cheaper, and dearer where what passes between layers no longer fits the cache. CONTRIBUTING has the measurements."""

_SLICE, _SLICE_VALUES = 32, 1 << 18

SENTENCE = 32  # tokens


def slice_size(spec: ImageInput) -> int:
    """How many pictures a processor computes at once, fewer of large ones: 32 digits, 9 photos of 96 x 96.

    More would be no faster, and slower where what passes between layers no longer fits the cache; memory grows with
    them. CONTRIBUTING has the measurements.
    """
    return min(_SLICE, max(_SLICE_VALUES // (spec.height * spec.width * spec.channels), 1))


def example(manifest: Manifest, size: int, tokens: int = SENTENCE) -> Batch:
    """An input of the graph: pictures uint8 (size, H, W, C), or texts int64 (size, L), L as asked where it may be."""
    spec = manifest.input
    if isinstance(spec, ImageInput):
        return np.ones((size, spec.height, spec.width, spec.channels), np.uint8)
    return np.ones((size, min(spec.length, tokens)), np.int64)


def warm_up(manifest: Manifest, most: int) -> list[Batch]:
    """One item and `most`, which run at once; texts of one token, of the longest, and those between."""
    spec = manifest.input
    if isinstance(spec, ImageInput):
        return [example(manifest, size) for size in (1, most)]
    many = min(most, MAX_BATCH_TOKENS)
    few = min(most, max(MAX_BATCH_TOKENS // spec.length, 1))
    sizes = [(1, 1), (1, spec.length), (many, MAX_BATCH_TOKENS // many), (few, spec.length)]
    return [example(manifest, size, tokens) for size, tokens in sizes]


def growing(manifest: Manifest) -> Iterator[tuple[int, Batch]]:
    """1, 2, 4, ... pictures, or one text of as many tokens, up to the largest that may come."""
    spec, size = manifest.input, 1
    pictures = isinstance(spec, ImageInput)
    while size <= (manifest.max_batch if isinstance(spec, ImageInput) else spec.length):
        yield size, example(manifest, size) if pictures else example(manifest, 1, size)
        size *= 2
