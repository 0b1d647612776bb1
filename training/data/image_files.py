"""Finds the images that the cells of a table name."""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from training.data import class_folders


class Files:
    """Finds images by the paths in a table: as they are, or by their name alone, with or without its suffix.

    Where no name is the same, one that differs only in case is, as on Windows and macOS.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: Mapping[str, Path] | None = None

    def find(self, value: str) -> Path | None:
        """The file that a cell means, or None."""
        name = value.strip().replace("\\", "/")
        path = self.root / name
        if path.is_file():
            return path
        if self._by_name is None:
            self._by_name = self._index()
        last = name.rpartition("/")[2]
        keys = name, last, _folded(last)
        return next((self._by_name[key] for key in keys if key in self._by_name), None)

    def _index(self) -> dict[str, Path]:
        """The images below the folder by their names and stems; names that are not unique are left out."""
        files = class_folders.flat_images(self.root) if self.root.is_dir() else []
        keys = [{file.name, file.stem} for file in files]
        folded = [{_folded(key) for key in each} for each in keys]
        return _only(folded, files) | _only(keys, files)


def _only(keys: list[set[str]], files: list[Path]) -> dict[str, Path]:
    """The files by those of their keys that no other one has."""
    counts = Counter(key for each in keys for key in each)
    return {key: file for each, file in zip(keys, files, strict=True) for key in each if counts[key] == 1}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
