"""Names of labels in a file beside the data: `classes.txt` with a name on each line, `cat_to_name.json`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from training.data.class_folders import shown
from training.data.examples import listed
from training.errors import DataError

_NAME = re.compile(
    r"(class|classes|label|labels|name|names|categories)([ _-]?(name|names|map|list|indices|index))?"
    r"|\w+_to_name|id2label",
    re.IGNORECASE,
)
_SUFFIXES = frozenset({".txt", ".json", ".names"})


def find(folder: Path, labels: Sequence[str]) -> Path | None:
    """A file in a folder that has a name for each of these labels, which are numbers."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in _SUFFIXES and _NAME.fullmatch(path.stem):
            try:
                read(path, labels)
            except DataError:
                continue
            return path
    return None


def read(path: Path, labels: Sequence[str]) -> dict[str, str]:
    """The name of each label: from JSON by label, or from lines in the order of the numbers.

    Raises:
        DataError: the file cannot be read, or does not have a name for each label.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        content = json.loads(text) if text.startswith(("{", "[")) else text.splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(path)}: names of labels cannot be read from it: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]
    if isinstance(content, dict):
        names = {str(key): str(value).strip() for key, value in content.items()}
        if not set(labels) <= set(names):  # name -> number
            names = {number: name for name, number in names.items()}
        if set(labels) <= set(names):
            return {label: names[label] for label in labels}
        raise DataError(f"{shown(path)}: has no name for {listed(sorted(set(labels) - set(names)))}")
    names_in_order = [str(each).strip() for each in content if str(each).strip()]
    numbers = sorted(map(int, labels)) if all(label.isdecimal() for label in labels) else []
    if numbers != list(range(len(names_in_order))) and numbers != list(range(1, len(names_in_order) + 1)):
        raise DataError(
            f"{shown(path)}: {len(names_in_order):,} names in a row are for labels that are numbers from 0 or 1; the "
            f"labels are {listed(labels)}"
        )
    return dict(zip(map(str, numbers), names_in_order, strict=True))
