"""Photos of cats and dogs, decoded once into a file that is mapped into memory.

Three layouts below `cats-vs-dogs/` of the data folder are read: `{train,test}/{cat,dog}/*.jpg`, Kaggle's
`train/cat.N.jpg`, and Microsoft's `PetImages/{Cat,Dog}/N.jpg`; the last two have no test split of their own, so a tenth
is held out by content. Oxford-IIIT Pet (Parkhi et al., 2012) comes through torchvision, in its binary categories.

Every photo goes through `contract.inputs`, so that what is trained on is what will be served. A file that cannot be
decoded is named and skipped.
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
from typing import Literal, TypeVar

import numpy as np
import torch
from torchvision.datasets import OxfordIIITPet
from tqdm import tqdm

from contract.errors import ConvokeError
from contract.inputs import image_to_pixels
from contract.manifest import PREPROCESSING_VERSION
from contract.spec import ImageInput
from training.data.dataset import Dataset, Split, cache_folder, folder
from training.data.schema import Data, Image
from training.errors import DataError
from training.progress import say

T = TypeVar("T")
R = TypeVar("R")

KIND: Literal["image", "text"] = "image"
LABELS: tuple[str, ...] = ("cat", "dog")
_TEST_SHARE = 10  # one in so many photos is the test split of a layout that has none
_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Photo:
    """A file, the number of its label in `LABELS`, and the SHA-256 of its bytes."""

    path: Path
    label: int
    digest: str = ""


@dataclass(frozen=True)
class Files:
    """The photos of a data set before they are decoded; `test` is None where the layout has no such split."""

    train: list[Photo]
    test: list[Photo] | None


def load(data: Data, spec: Image) -> Dataset:
    """Cats and dogs: test and validation split uint8 (N, height, width, 3), training split (N, side, side, 3).

    The side is `data.stored_side`, or the input's. Splits are disjoint by the content of the files, duplicates removed.

    Raises:
        DataError: there are no photos in any of the layouts, or too few of them.
    """
    train, validation, test = split(data)
    side = data.stored_side
    decoded = {
        "training": decode(train, contract_of(spec, side), "training"),
        "validation": decode(validation, contract_of(spec), "validation"),
        "test": decode(test, contract_of(spec), "test"),
    }
    return Dataset(
        decoded["training"], decoded["validation"], {data.name: decoded["test"]}, _fingerprint(train + validation, test)
    )


def tests(name: str, spec: ImageInput, _tokenizer: str | None) -> dict[str, Split]:
    """The test photos alone, uint8 (N, height, width, 3).

    Raises:
        DataError: as `load`.
    """
    return {name: decode(_parted(name)[1], spec, "test")}


def sample(data: Data, spec: ImageInput, count: int) -> tuple[Split, str]:
    """`count` training photos at the size that is served, chosen by content, and the data set's fingerprint.

    Raises:
        DataError: as `load`.
    """
    train, validation, test = split(data)
    chosen = sorted(train, key=lambda photo: photo.digest)[:count]
    return decode(chosen, spec, "sampled"), _fingerprint(train + validation, test)


def split(data: Data) -> tuple[list[Photo], list[Photo], list[Photo]]:
    """Training, validation and test photos, each content in one of them only; in the first two once.

    Raises:
        DataError: as `load`.
    """
    train, test = _parted(data.name)
    if not data.validation < len(train):
        raise DataError(f"{data.validation} of {len(train)} photos cannot be held out: set data.validation lower")
    train, validation = _hold_out(train, data.validation)
    return train, validation, test


def _parted(name: str) -> tuple[list[Photo], list[Photo]]:
    """(all photos but the test split's, each content once; test photos as they were published)."""
    files = {"cats-vs-dogs": cats_vs_dogs, "oxford-pets": oxford_pets}[name]()
    train = _unique(_hashed(files.train))
    if files.test is None:
        return _hold_out(train, len(train) // _TEST_SHARE)
    test = _hashed(files.test)
    held_back = {photo.digest for photo in test}
    return [photo for photo in train if photo.digest not in held_back], test


def cats_vs_dogs() -> Files:
    """The photos below cats-vs-dogs/, in whichever layout they lie.

    Raises:
        DataError: in none.
    """
    root = folder() / "cats-vs-dogs"
    if (root / "train" / "cat").is_dir():
        return Files(_by_folder(root / "train", LABELS), _by_folder(root / "test", LABELS))
    pets = next((place for place in (root / "PetImages", root) if (place / "Cat").is_dir()), None)
    if pets is not None:
        return Files(_by_folder(pets, ("Cat", "Dog")), None)
    kaggle = [
        Photo(path, LABELS.index(path.name.split(".")[0]))
        for path in sorted((root / "train").glob("*.jpg"))
        if path.name.split(".")[0] in LABELS
    ]
    if kaggle:
        return Files(kaggle, None)
    raise DataError(
        f"there are no photos in {root}: expected {{train,test}}/{{cat,dog}}/*.jpg, Kaggle's train/cat.N.jpg or "
        "Microsoft's PetImages/{Cat,Dog}/N.jpg. Download them with: python -m training data cats-vs-dogs"
    )


def oxford_pets() -> Files:
    """Oxford-IIIT Pet's official splits, downloaded by torchvision where they are not there.

    Raises:
        DataError: they are not there and cannot be downloaded.
    """
    root = folder() / "oxford-pets"
    try:
        parts = [OxfordIIITPet(str(root), part, "binary-category", download=True) for part in ("trainval", "test")]
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"Oxford-IIIT Pet cannot be read from {root}, nor downloaded there: {error}") from error
    train, test = (
        [Photo(Path(path), label) for path, label in zip(part._images, part._bin_labels, strict=True)]  # noqa: SLF001 -- torchvision has no public list of files
        for part in parts
    )
    return Files(train, test)


def decode(photos: Sequence[Photo], spec: ImageInput, what: str) -> Split:
    """Decode photos as the service does: uint8 (N, height, width, 3), from the cache where they were decoded before.

    Raises:
        DataError: none can be decoded, or the cache cannot be written.
    """
    key = _key(photos, spec)
    store = cache_folder() / f"photos-{key}.npy"
    index = store.with_suffix(".json")
    if not index.exists():
        _fill(photos, spec, store, index, what)
    try:
        skipped = set(json.loads(index.read_text(encoding="utf-8")))
        pixels = np.load(
            store, mmap_mode="c", allow_pickle=False
        )  # copy on write: torch wants memory that it may write to
    except (OSError, ValueError) as error:
        raise DataError(f"{store}: decoded photos cannot be read: {error}. Remove {index} to decode again.") from error
    kept = [photo for photo in photos if photo.digest not in skipped]
    if not kept:
        raise DataError(f"none of the {len(photos)} {what} photos can be decoded")
    return Split(torch.from_numpy(pixels), torch.tensor([photo.label for photo in kept]))


def contract_of(spec: Image, side: int | None = None) -> ImageInput:
    """The input of the served model, or the same at another side."""
    return ImageInput(height=side or spec.height, width=side or spec.width, mode=spec.mode, framing=spec.framing)


def broken(photos: Sequence[Photo], spec: ImageInput) -> list[str]:
    """One line for each photo that cannot be decoded."""
    return [line for line in _parallel(lambda photo: _fault(photo, spec), photos, "checking") if line]


def _fault(photo: Photo, spec: ImageInput) -> str:
    try:
        image_to_pixels(photo.path.read_bytes(), spec)
    except (ConvokeError, OSError) as error:
        return f"{photo.path}: {error}"
    return ""


def _fill(photos: Sequence[Photo], spec: ImageInput, store: Path, index: Path, what: str) -> None:
    """Decode into a new file beside the cache's place, then move it there: a killed run leaves no half cache."""
    partial = store.with_name(f".{os.getpid()}-{store.name}")
    kept_only = partial.with_suffix(".kept.npy")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(photos), spec.height, spec.width, spec.channels)
        _insist_on_room(store.parent, math.prod(shape))
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)

        def one(place: int) -> str:
            try:
                pixels[place] = image_to_pixels(photos[place].path.read_bytes(), spec)
            except (ConvokeError, OSError) as error:
                say(f"skipped {photos[place].path}: {error}")
                return photos[place].digest
            return ""

        skipped = {digest for digest in _parallel(one, range(len(photos)), f"decoding {what} photos") if digest}
        if skipped:
            kept = np.array([photo.digest not in skipped for photo in photos])
            np.save(kept_only, pixels[kept])
            kept_only.replace(partial)
        else:
            pixels.flush()
        partial.replace(store)
        partial.write_text(json.dumps(sorted(skipped)), encoding="utf-8")
        partial.replace(index)
    except OSError as error:
        raise DataError(
            f"{store}: decoded photos cannot be kept there: {error}. Name a folder with room for "
            f"{len(photos) * spec.height * spec.width * spec.channels / 1e9:.1f} GB in CONVOKE_CACHE."
        ) from error
    finally:
        with suppress(OSError):  # the folder may be none
            partial.unlink(missing_ok=True)
            kept_only.unlink(missing_ok=True)


def _insist_on_room(place: Path, size_bytes: int) -> None:
    """A disk that runs full under a mapped file kills the process, so that is looked at before."""
    if size_bytes > shutil.disk_usage(place).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _parallel(work: Callable[[T], R], items: Sequence[T], title: str) -> list[R]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        quiet = not sys.stderr.isatty()
        return list(tqdm(pool.map(work, items), title, len(items), unit="img", disable=quiet, leave=False))


def _key(photos: Sequence[Photo], spec: ImageInput) -> str:
    """Names a cache by all that its pixels depend on: the files' content, the frame, and the preprocessing."""
    digest = hashlib.sha256(f"{PREPROCESSING_VERSION} {spec.model_dump_json()}".encode())
    for photo in photos:
        digest.update(photo.digest.encode())
    return digest.hexdigest()[:32]


def _by_folder(root: Path, names: Sequence[str]) -> list[Photo]:
    return [
        Photo(path, label)
        for label, name in enumerate(names)
        for path in sorted((root / name).iterdir() if (root / name).is_dir() else ())
        if path.suffix.lower() in _SUFFIXES
    ]


def _hashed(photos: list[Photo]) -> list[Photo]:
    def one(photo: Photo) -> Photo:
        with photo.path.open("rb") as file:
            return Photo(photo.path, photo.label, hashlib.file_digest(file, "sha256").hexdigest())

    try:
        return _parallel(one, photos, "reading photos")
    except OSError as error:
        raise DataError(f"the photos cannot be read: {error}") from error


def _unique(photos: list[Photo]) -> list[Photo]:
    """Each content once; none of those that stand under two labels."""
    labels: dict[str, set[int]] = {}
    for photo in photos:
        labels.setdefault(photo.digest, set()).add(photo.label)
    first = {photo.digest: photo for photo in reversed(photos)}
    return [photo for photo in photos if photo is first[photo.digest] and len(labels[photo.digest]) == 1]


def _hold_out(photos: list[Photo], count: int) -> tuple[list[Photo], list[Photo]]:
    """(rest, the `count` photos whose digests come first): by content alone, whatever their order and names."""
    last = sorted(photo.digest for photo in photos)[count - 1] if count else ""
    rest = [photo for photo in photos if photo.digest > last]
    return rest, [photo for photo in photos if photo.digest <= last]


def _fingerprint(train: list[Photo], test: list[Photo]) -> str:
    digest = hashlib.sha256()
    for photos in (train, test):
        for line in sorted(f"{photo.digest} {photo.label}\n" for photo in photos):
            digest.update(line.encode())
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"
