"""Photos of cats and dogs, decoded once into a memory-mapped file.

Three layouts of `cats-vs-dogs/` below the data folder are supported: `{train,test}/{cat,dog}/*.jpg`, Kaggle's
`train/cat.N.jpg`, and Microsoft's `PetImages/{Cat,Dog}/N.jpg`. The last two have no test split; a tenth is held out by
content. torchvision reads Oxford-IIIT Pet (Parkhi et al., 2012), in its binary categories.

`contract.inputs` decodes every photo, in training as in serving. A file that cannot be decoded is reported and skipped.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torchvision.datasets import OxfordIIITPet

from contract.errors import ConvokeError
from contract.inputs import image_to_pixels
from contract.manifest import sha256
from contract.spec import ImageInput
from training.data import decoded
from training.data.class_folders import IMAGES
from training.data.dataset import Dataset, Split, check_complete, check_held_out, lowest, parts
from training.data.decoded import Photo, parallel
from training.data.folders import data_folder, missing
from training.data.schema import SPECIES, Data, Image
from training.errors import DataError
from training.progress import say

LABELS = SPECIES
_TEST_SHARE = 10
"""One in ten photos is held out as the test split of a layout that has none."""
_USUAL_OTHERS = {".db", ".ini"}  # Thumbs.db is in Microsoft's archive


class Files(NamedTuple):
    """The photos of a data set before they are decoded; `test` is None if the layout has no test split."""

    train: list[Photo]
    test: list[Photo] | None


def load(data: Data, spec: Image) -> Dataset:
    """The splits, disjoint by the content of the files and without duplicates.

    Training: uint8 (N, h, w, 3) with a longer side of `data.stored_side`. Others: uint8 (N, height, width, 3).

    Raises:
        DataError: the photos are missing, too few, or without one of the labels.
    """
    train, validation, test = split(data)
    return _dataset(train, validation, test, data, spec)


def fold(data: Data, spec: Image, number: int) -> Dataset:
    """Fold `number`, from 0, of a cross-validation over all photos but the published test split.

    Raises:
        DataError: as `load`.
    """
    assert data.folds is not None, "no cross-validation"
    files = _files(data.name)
    photos = _unique(_hashed(files.train))
    if files.test is not None:
        tested = {photo.digest for photo in _hashed(files.test)}
        photos = [photo for photo in photos if photo.digest not in tested]
    part_of = parts([photo.digest for photo in photos], [photo.label for photo in photos], data.folds)
    test = [photo for photo in photos if part_of[photo.digest] == number]
    rest = [photo for photo in photos if part_of[photo.digest] != number]
    count = data.held_out(len(rest))
    check_held_out(count, len(rest))
    return _dataset(*_hold_out(rest, count), test, data, spec)


def _dataset(train: list[Photo], validation: list[Photo], test: list[Photo], data: Data, spec: Image) -> Dataset:
    check_complete([photo.label for photo in train], LABELS)
    stored, served = spec.served(data.stored_side), spec.served()
    return Dataset(
        train=decode(train, stored, "training"),
        validation=decode(validation, served, "validation"),
        tests={data.name: decode(test, served, "test")},
        fingerprint=_fingerprint(train + validation, test),
        stored_validation=decode(validation, stored, "validation") if data.refit and stored != served else None,
    )


def tests(name: str, spec: ImageInput, _tokenizer: str | None) -> dict[str, Split]:
    """The test photos alone, uint8 (N, height, width, 3).

    Raises:
        DataError: as `load`.
    """
    return {name: decode(_split_test(name)[1], spec, "test")}


def sample(data: Data, spec: ImageInput, count: int) -> tuple[Split, str]:
    """`count` training photos as they are served, chosen by content, and the fingerprint of the data set.

    Raises:
        DataError: as `load`.
    """
    train, validation, test = split(data)
    chosen = sorted(train, key=lambda photo: photo.digest)[:count]
    return decode(chosen, spec, "sampled"), _fingerprint(train + validation, test)


def split(data: Data) -> tuple[list[Photo], list[Photo], list[Photo]]:
    """Training, validation and test photos, disjoint by content; the first two have each content once.

    Raises:
        DataError: as `load`.
    """
    train, test = _split_test(data.name)
    count = data.held_out(len(train))
    check_held_out(count, len(train))
    return *_hold_out(train, count), test


def _split_test(name: str) -> tuple[list[Photo], list[Photo]]:
    """(all other photos, each content once; the test photos as published)."""
    files = _files(name)
    train = _unique(_hashed(files.train))
    if files.test is None:
        return _hold_out(train, max(len(train) // _TEST_SHARE, 1))
    test = _hashed(files.test)
    tested = {photo.digest for photo in test}
    return [photo for photo in train if photo.digest not in tested], test


def _files(name: str) -> Files:
    return {"cats-vs-dogs": cats_vs_dogs, "oxford-pets": oxford_pets}[name]()


def cats_vs_dogs() -> Files:
    """The photos below cats-vs-dogs/, in any of the three layouts.

    Raises:
        DataError: the photos are missing.
    """
    root = data_folder() / "cats-vs-dogs"
    if (root / "train" / "cat").is_dir():
        test = _by_folder(root / "test", LABELS) if (root / "test").is_dir() else None
        return Files(_by_folder(root / "train", LABELS), test)
    pets = next((folder for folder in (root / "PetImages", root) if (folder / "Cat").is_dir()), None)
    if pets is not None:
        return Files(_by_folder(pets, ("Cat", "Dog")), None)
    kaggle = [
        Photo(path, LABELS.index(path.name.split(".")[0]))
        for path in _images_in(root / "train")
        if path.name.split(".")[0] in LABELS
    ]
    if kaggle:
        return Files(kaggle, None)
    raise DataError(
        f"{root} has no photos: expected {{train,test}}/{{cat,dog}}/*.jpg, Kaggle's train/cat.N.jpg or Microsoft's "
        "PetImages/{Cat,Dog}/N.jpg. Download them with: python -m training data cats-vs-dogs"
    )


def oxford_pets() -> Files:
    """The official splits of Oxford-IIIT Pet.

    Raises:
        DataError: they are missing or damaged.
    """
    root = data_folder() / "oxford-pets"
    try:
        parts = [OxfordIIITPet(str(root), part, "binary-category") for part in ("trainval", "test")]
    except (RuntimeError, OSError, ValueError) as error:
        raise missing("oxford-pets", f"Oxford-IIIT Pet cannot be read from {root}: {error}") from error
    train, test = (
        [Photo(Path(path), label) for path, label in zip(part._images, part._bin_labels, strict=True)]  # noqa: SLF001 -- torchvision has no public list of files
        for part in parts
    )
    return Files(train, test)


def decode(photos: Sequence[Photo], spec: ImageInput, name: str, report: Callable[[str], object] = say) -> Split:
    """A split of photos, uint8 (N, height, width, 3), as `decoded.decode` gives them.

    Raises:
        DataError: no photo can be decoded, or the cache cannot be written or read.
    """
    pixels, kept = decoded.decode(photos, spec, name, report)
    labels = torch.tensor([photo.label for photo in kept])
    return Split(torch.from_numpy(pixels), labels, tuple(str(photo.path) for photo in kept))


def faults(photos: Sequence[Photo], spec: ImageInput) -> list[str]:
    """One line for each photo that cannot be decoded."""

    def fault(photo: Photo) -> str:
        try:
            image_to_pixels(photo.path.read_bytes(), spec)
        except (ConvokeError, OSError) as error:
            return f"{photo.path}: {error}"
        return ""

    return [line for line in parallel(fault, photos, "checking") if line]


def _by_folder(root: Path, names: Sequence[str]) -> list[Photo]:
    return [Photo(path, label) for label, name in enumerate(names) for path in _images_in(root / name)]


def _images_in(folder: Path) -> list[Path]:
    """The files with the suffix of an image format that the service reads; others are reported."""
    files = [path for path in sorted(folder.glob("*")) if path.is_file() and not path.name.startswith(".")]
    images = [path for path in files if path.suffix.lower() in IMAGES]
    others = sorted({path.suffix or path.name for path in set(files) - set(images)} - _USUAL_OTHERS)
    if others:
        say(f"{folder}: {len(files) - len(images)} files are not read, since they are not images: {', '.join(others)}")
    return images


def _hashed(photos: list[Photo]) -> list[Photo]:
    try:
        return parallel(lambda photo: replace(photo, digest=sha256(photo.path)), photos, "reading photos")
    except OSError as error:
        raise DataError(f"cannot read the photos: {error}") from error


def _unique(photos: list[Photo]) -> list[Photo]:
    """Each content once; those with two labels are left out."""
    labels: dict[str, set[int]] = {}
    for photo in photos:
        labels.setdefault(photo.digest, set()).add(photo.label)
    first = {photo.digest: photo for photo in reversed(photos)}
    return [photo for photo in photos if photo is first[photo.digest] and len(labels[photo.digest]) == 1]


def _hold_out(photos: list[Photo], count: int) -> tuple[list[Photo], list[Photo]]:
    """(rest, `count` photos, in proportion to the labels): the choice depends on the content alone."""
    chosen = lowest([photo.digest for photo in photos], [photo.label for photo in photos], count)
    rest = [photo for photo in photos if photo.digest not in chosen]
    return rest, [photo for photo in photos if photo.digest in chosen]


def _fingerprint(train: list[Photo], test: list[Photo]) -> str:
    digest = hashlib.sha256()
    for photos in (train, test):
        for line in sorted(f"{photo.digest} {photo.label}\n" for photo in photos):
            digest.update(line.encode())
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"
