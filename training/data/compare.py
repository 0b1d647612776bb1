"""Reads all examples of the user's own data and compares their contents: copies, conflicts, near-duplicates.

Of equal contents, the first is kept; those with several labels are left out. Near-duplicates of an image, and rows of
one group, get one group, which stays in one split. Needs no torch.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contract import picture
from contract.errors import ConvokeError
from contract.inputs import image_to_pixels
from contract.spec import ImageInput
from training.data import class_folders, decoded, folders, similar, tables
from training.data.decoded import Photo
from training.data.examples import Example, Found, LeftOut, SplitName, listed
from training.data.schema import Data
from training.errors import DataError

THUMBNAIL = ImageInput(height=similar.SIDE, width=similar.SIDE, mode="RGB", framing="squash")

Thumbnails = npt.NDArray[np.uint8]


@dataclass
class Compared:
    """Examples that can be read, each content once, with the groups that must stay together."""

    found: Found
    examples: list[Example]
    keys: list[str]
    """The SHA-256 of each content; of texts, that of the letters and digits."""
    groups: list[str]
    """Equal for examples that must stay in one split; it depends on their contents alone."""
    copies: int = 0
    """How many examples had the content of another with the same label."""
    conflicts: list[list[Example]] = field(default_factory=list)
    """Examples with one content and several labels."""
    near: int = 0
    """How many examples are near-duplicates of another: the same image in another size, the same words."""
    thumbnails: Thumbnails | None = None
    """Of images, uint8 (N, 16, 16, 3)."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Of images, width and height in pixels as stored; (0, 0) where the header does not say."""
    modes: list[str] = field(default_factory=list)
    """Of images, as Pillow names them."""


class _Read(NamedTuple):
    """An image file before it is decoded."""

    example: Example
    digest: str
    size: tuple[int, int] = (0, 0)
    mode: str = ""


def find(data: Data) -> Found:
    """The labelled examples of the user's data.

    Raises:
        DataError: the data are missing or cannot be understood.
    """
    assert data.path is not None, "the schema requires it"
    path = folders.locate(data.path)
    found = class_folders.scan(path) if data.name == "folder" else tables.examples(data, path)
    tables.renamed(found, data.label_names)
    _leave_out_unlearnable(found)
    return found


def _leave_out_unlearnable(found: Found) -> None:
    """Leave out the labels that only other splits have than the training split, in place."""
    learnt = {each.label for each in found.examples if each.split in {"", "train"}}
    rest = Counter(each.label for each in found.examples if each.label not in learnt)
    if learnt and rest:
        names = listed([f"{label} ({count:,})" for label, count in sorted(rest.items())])
        found.notes.append(
            f"labels without a training example are left out: {names}; a network cannot learn them, so add training "
            "examples, or rename them if they are one of the others"
        )
        found.examples = [each for each in found.examples if each.label in learnt]


def compare(found: Found, data: Data) -> Compared:
    """Read all examples and compare their contents.

    Raises:
        DataError: too many files cannot be read.
    """
    if found.kind == "text":
        texts = list(map(text_of, found.examples))
        keys = [_sha256(" ".join(text.casefold().split())) for text in texts]
        return _compared(found, found.examples, keys, list(map(_letters, texts)), None)
    images, thumbnails = _images(found, data.max_unreadable)
    return _compared(
        found,
        [each.example for each in images],
        [each.digest for each in images],
        [""] * len(images),
        thumbnails,
        images,
    )


def _images(found: Found, max_unreadable: float) -> tuple[list[_Read], Thumbnails]:
    """The images that can be decoded, and their thumbnails."""
    read = decoded.parallel(_read, found.examples, "reading images")
    found.left_out += [each for each in read if isinstance(each, LeftOut)]
    opened = [each for each in read if isinstance(each, _Read)]
    spots = [Photo(Path(each.example.content), row, each.digest) for row, each in enumerate(opened)]
    pixels, kept = decoded.decode(spots, THUMBNAIL, "given", lambda _line: None) if spots else (None, [])
    rows = [photo.label for photo in kept]
    lost = sorted(set(range(len(opened))) - set(rows))
    found.left_out += decoded.parallel(_undecodable, [opened[row].example for row in lost], "checking")
    total = len(found.examples)
    if pixels is None or total - len(rows) > max_unreadable * total:
        raise DataError(
            f"{total - len(rows):,} of {total:,} images cannot be read, more than the {max_unreadable:.0%} that "
            f"data.max_unreadable allows: {'; '.join(map(str, found.left_out[:3]))}"
        )
    return [opened[row] for row in rows], pixels


def _read(example: Example) -> _Read | LeftOut:
    try:
        content = Path(example.content).read_bytes()
    except OSError as error:
        return LeftOut(example.source, f"the file cannot be read: {error.strerror}")
    digest = hashlib.sha256(content).hexdigest()
    try:
        width, height, mode = picture.size_and_mode(content)
    except (ConvokeError, OSError, ValueError):  # damaged, or a kind that is decoded in another way than by its header
        return _Read(example, digest)
    return _Read(example, digest, (width, height), mode)


def _undecodable(example: Example) -> LeftOut:
    try:
        image_to_pixels(Path(example.content).read_bytes(), THUMBNAIL)
    except (ConvokeError, OSError) as error:
        return LeftOut(example.source, str(error))
    return LeftOut(example.source, "the file changed while it was read")


def text_of(example: Example) -> str:
    """The text of an example, from the table or from its file in UTF-8.

    Raises:
        DataError: the file cannot be read.
    """
    if isinstance(example.content, str):
        return example.content
    try:
        return example.content.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise DataError(f"{example.source}: the file cannot be read: {error.strerror}") from error


def _letters(text: str) -> str:
    """Equal for texts that differ in nothing but case, spaces and punctuation; "" for one without letters or digits."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _compared(
    found: Found,
    examples: list[Example],
    keys: list[str],
    near: Sequence[str],
    thumbnails: Thumbnails | None,
    images: Sequence[_Read] = (),
) -> Compared:
    """The examples without copies; those with equal `keys` are copies, those with equal `near` stay together."""
    labels: dict[str, set[str]] = {}
    for example, key in zip(examples, keys, strict=True):
        labels.setdefault(key, set()).add(example.label)
    conflicts: dict[str, list[Example]] = {}
    kept: dict[tuple[str, SplitName], int] = {}  # copies in two given splits are both kept, and parted later
    for row, (example, key) in enumerate(zip(examples, keys, strict=True)):
        if len(labels[key]) > 1:
            conflicts.setdefault(key, []).append(example)
        else:
            kept.setdefault((key, example.split), row)
    rows = sorted(kept.values())
    chosen, chosen_keys = [examples[row] for row in rows], [keys[row] for row in rows]
    thumbs = None if thumbnails is None else thumbnails[rows]
    alike = [] if thumbs is None else similar.pairs(thumbs, [example.label for example in chosen])
    alike += similar.equal([near[row] for row in rows])
    same = [*similar.equal(chosen_keys), *alike, *similar.equal([example.group for example in chosen])]
    roots = similar.groups(len(chosen), same)
    lowest: dict[int, str] = {}
    for root, key in zip(roots, chosen_keys, strict=True):
        lowest[root] = min(lowest.get(root, key), key)
    return Compared(
        found,
        chosen,
        chosen_keys,
        [lowest[root] for root in roots],
        copies=len(examples) - len(rows) - sum(map(len, conflicts.values())),
        conflicts=list(conflicts.values()),
        near=len({row for pair in alike for row in pair}),
        thumbnails=thumbs,
        sizes=[images[row].size for row in rows] if images else [],
        modes=[images[row].mode for row in rows] if images else [],
    )
