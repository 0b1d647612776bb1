"""Images that are not examples but belong to one: masks, outlines and drawings of where something is."""

import re
from collections.abc import Sequence
from pathlib import Path

_FOLDERS = frozenset({"mask", "masks", "annotation", "annotations", "segmentation", "segmentations", "trimaps",
                      "labels", "groundtruth", "ground_truth"})  # fmt: skip
IMAGES = frozenset({"image", "images", "img", "imgs", "photos", "pictures"})
"""What people call a folder of images, which is not a label."""
_STEM = re.compile(r"(?P<image>.+)[ _-](mask|seg|segmentation|label)([ _-]?\d+)?", re.IGNORECASE)


def find(files: Sequence[Path], root: Path) -> set[Path]:
    """The files in a folder like `masks/` beside one like `images/`, and those like `7_mask.png` beside `7.png`."""
    folders = {folder for path in files for folder in path.relative_to(root).parents}
    names = {folder.parent: set[str]() for folder in folders}
    for folder in folders:
        names[folder.parent].add(folder.name.lower())
    aside = {folder for folder in folders if folder.name.lower() in _FOLDERS and names[folder.parent] & IMAGES}
    stems = {(path.parent, path.stem) for path in files}
    found = {path for path in files if not aside.isdisjoint(path.relative_to(root).parents)}
    for path in files:
        match = _STEM.fullmatch(path.stem)
        if match and (path.parent, match["image"]) in stems:
            found.add(path)
    return found
