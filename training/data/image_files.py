"""Finds the images that the cells of a table name."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from training.data import class_folders


class Files:
    """Finds images by the paths in a table: as they are, or by their name alone, with or without its suffix."""

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
        return self._by_name.get(name) or self._by_name.get(name.rpartition("/")[2])

    def _index(self) -> dict[str, Path]:
        """The images below the folder by their names and stems; names that are not unique are left out."""
        files = class_folders.flat_images(self.root) if self.root.is_dir() else []
        names = Counter(key for file in files for key in {file.name, file.stem})
        return {key: file for file in files for key in (file.name, file.stem) if names[key] == 1}
