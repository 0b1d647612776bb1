"""Small data sets, written to a data folder in the layout of their source."""

import io
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Example = tuple[bytes, int]
"""The content of a photo, and its label: 0 for a cat, 1 for a dog."""


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def idx(values: npt.NDArray[np.uint8]) -> bytes:
    """The format of MNIST's files: type and number of axes, their lengths, the bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def folders(root: Path, train: Iterable[Example], test: Iterable[Example] = ()) -> None:
    """{train,test}/{cat,dog}/N.jpg."""
    for split, examples in (("train", train), ("test", test)):
        for number, (content, label) in enumerate(examples):
            write(root / "cats-vs-dogs" / split / ("cat", "dog")[label] / f"{number}.jpg", content)


def kaggle(root: Path, train: Iterable[Example], test: Iterable[Example] = ()) -> None:
    """train/{cat,dog}.N.jpg; all examples in one split."""
    for number, (content, label) in enumerate([*train, *test]):
        write(root / "cats-vs-dogs" / "train" / f"{('cat', 'dog')[label]}.{number}.jpg", content)


def microsoft(root: Path, train: Iterable[Example], test: Iterable[Example] = ()) -> None:
    """PetImages/{Cat,Dog}/N.jpg; all examples in one split."""
    for number, (content, label) in enumerate([*train, *test]):
        write(root / "cats-vs-dogs" / "PetImages" / ("Cat", "Dog")[label] / f"{number}.jpg", content)


def oxford(root: Path, train: Iterable[Example], test: Iterable[Example] = ()) -> None:
    """Torchvision's layout of Oxford-IIIT Pet: breeds in the names, species 1 (cat) and 2 (dog) in the lists."""
    place = root / "oxford-pets" / "oxford-iiit-pet"
    for split, examples in (("trainval", train), ("test", test)):
        lines = []
        for number, (content, label) in enumerate(examples):
            name = f"{('Bengal', 'beagle')[label]}_{split}{number}"
            lines.append(f"{name} {label + 1} {label + 1} 1")
            write(place / "images" / f"{name}.jpg", content)
        write(place / "annotations" / f"{split}.txt", "\n".join(lines).encode())


def imdb(root: Path, files: dict[str, str]) -> None:
    """The archive of reviews by their names, like train/neg/0_5.txt."""
    (root / "imdb").mkdir(exist_ok=True)
    with tarfile.open(root / "imdb" / "aclImdb_v1.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(f"aclImdb/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def mr(root: Path, negative: list[str], positive: list[str]) -> None:
    for name, lines in (("neg", negative), ("pos", positive)):
        write(root / "mr" / f"rt-polarity.{name}", "".join(f"{line} \n" for line in lines).encode("cp1252"))


def sst2(root: Path, splits: dict[str, list[tuple[int, str]]], extra: str = "") -> None:
    """Each split's labels, 0 or 1, and sentences; then the lines of `extra`."""
    for name, examples in splits.items():
        lines = "".join(f"{label} {text}\n" for label, text in examples)
        write(root / "sst2" / f"stsa.binary.{name}", (lines + extra).encode())
