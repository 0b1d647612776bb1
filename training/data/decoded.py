"""Image files decoded once into a memory-mapped file, which later commands find again. Needs no torch.

`contract.inputs` decodes every image, in training as in serving. A file that cannot be decoded is reported and skipped.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from contract import processors
from contract.errors import ConvokeError
from contract.inputs import image_to_pixels
from contract.manifest import PREPROCESSING_VERSION
from contract.spec import ImageInput
from training import unfinished
from training.data.folders import cache_folder
from training.errors import DataError
from training.progress import say

_DECODING = "decoding"

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Photo:
    """A file, the number of its label, and the SHA-256 of its bytes."""

    path: Path
    label: int
    digest: str = ""


def decode(
    photos: Sequence[Photo], spec: ImageInput, name: str, report: Callable[[str], object] = say
) -> tuple[npt.NDArray[np.uint8], list[Photo]]:
    """The pixels of photos as the service decodes them, uint8 (N, height, width, channels), and these photos; cached.

    Args:
        photos: those of one split. Files that cannot be decoded are skipped.
        spec: size and mode.
        name: the split in progress and error messages.
        report: called with a line for each file that is skipped.

    Raises:
        DataError: no photo can be decoded, or the cache cannot be written or read.
    """
    if not photos:
        raise DataError(f"the {name} split has no photos")
    store = cache_folder() / f"photos-{_key(photos, spec)}.npy"
    index = store.with_suffix(".json")
    if not index.exists():
        _fill(photos, spec, store, index, name, report)
    try:
        skipped = set(json.loads(index.read_text(encoding="utf-8")))
        pixels = np.load(store, mmap_mode="c", allow_pickle=False)  # copy on write, since torch needs writable memory
    except (OSError, ValueError) as error:
        raise DataError(f"{store}: cannot read the decoded photos: {error}. Remove {index} to decode again.") from error
    return pixels, [photo for photo in photos if photo.digest not in skipped]


def _fill(
    photos: Sequence[Photo],
    spec: ImageInput,
    store: Path,
    index: Path,
    name: str,
    report: Callable[[str], object],
) -> None:
    """Decode into a temporary file, then move it to its place: an interrupted run leaves no incomplete cache."""
    partial = store.with_name(f"{unfinished.name(_DECODING)}{store.name}")
    compact = partial.with_suffix(".compact.npy")
    shape = (len(photos), spec.height, spec.width, spec.channels)
    reasons: list[str] = []
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        unfinished.remove(store.parent, _DECODING)
        _check_space(store.parent, math.prod(shape))
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)

        def decode_row(row: int) -> str:
            try:
                pixels[row] = image_to_pixels(photos[row].path.read_bytes(), spec)
            except (ConvokeError, OSError) as error:
                reasons.append(f"{photos[row].path}: {error}")
                report(f"skipped {reasons[-1]}")
                return photos[row].digest
            return ""

        skipped = {digest for digest in parallel(decode_row, range(len(photos)), f"decoding {name} photos") if digest}
        if len(skipped) == len({photo.digest for photo in photos}):
            raise DataError(f"none of the {len(photos)} {name} photos can be decoded; for example {min(reasons)}")
        if skipped:
            np.save(compact, pixels[np.array([photo.digest not in skipped for photo in photos])])
            compact.replace(partial)
        else:
            pixels.flush()
        partial.replace(store)
        partial.write_text(json.dumps(sorted(skipped)), encoding="utf-8")
        partial.replace(index)
    except OSError as error:
        raise DataError(
            f"{store.parent}: cannot write the decoded photos: {error.strerror or error}. Set CONVOKE_CACHE to a "
            f"folder that can be written and has {math.ceil(math.prod(shape) / 1e6):,} MB of free space."
        ) from error
    finally:
        with suppress(OSError):  # the folder may not exist
            partial.unlink(missing_ok=True)
            compact.unlink(missing_ok=True)


def _check_space(folder: Path, size_bytes: int) -> None:
    """Raise an OSError now: a disk that fills up under a memory-mapped file kills the process."""
    if size_bytes > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def parallel(work: Callable[[T], R], items: Sequence[T], title: str) -> list[R]:
    """`work` on each of `items`, in their order, on all processors."""
    with ThreadPoolExecutor(processors.count()) as pool:
        quiet = not sys.stderr.isatty()
        return list(tqdm(pool.map(work, items), title, len(items), unit="img", disable=quiet, leave=False))


def _key(photos: Sequence[Photo], spec: ImageInput) -> str:
    """Identifies a cache by all that its pixels depend on: content of the files, input and preprocessing."""
    digest = hashlib.sha256(f"{PREPROCESSING_VERSION} {spec.model_dump_json()}".encode())
    for photo in photos:
        digest.update(photo.digest.encode())
    return digest.hexdigest()[:32]
