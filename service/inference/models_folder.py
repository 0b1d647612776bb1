"""What lies in models/: the folders of models and versions, and what is wrong with them.

A folder that cannot be read now is not an empty one: None stands for it, and what was served stays served.
"""

import logging
import os
from collections.abc import Set as AbstractSet
from pathlib import Path

from contract.errors import ModelRefused
from contract.manifest import MANIFEST
from service.inference import withdrawn

logger = logging.getLogger("bentoml.convoke")


class ModelsFolder:
    """The folder that holds NAME/VERSION/; each warning about a path in it is logged once, until it changes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._withdrawn: dict[str, set[int]] = {}
        self._with_versions: set[str] = set()
        self.warnings: dict[Path, str] = {}
        """The last warning about a file or folder."""

    def models(self) -> list[Path] | None:
        """The folders of the models; None if models/ cannot be read now."""
        folders = self._folders(self._root)
        return None if folders is None else [path for path in folders if not path.name.startswith(".")]

    def available(self, folder: Path) -> list[Path] | None:
        """The folders of a model's versions that are not withdrawn, the lowest first; None if it cannot be read now."""
        paths = self.versions(folder)
        numbers = None if paths is None else self.read_withdrawn(folder)
        if paths is None or numbers is None:
            return None
        return [path for path in paths if int(path.name) not in numbers]

    def versions(self, folder: Path) -> list[Path] | None:
        """The folders of a model's versions, the lowest first; folders without a manifest are passed over."""
        paths = self._folders(folder)
        if paths is None:
            return None
        paths = [path for path in paths if path.name.isascii() and path.name.isdigit() and path.name[0] != "0"]
        versions = []
        for path in paths:
            if _has_manifest(path):
                versions.append(path)
                self.warnings.pop(path, None)
            else:
                self._warn(path, f"{path} has no {MANIFEST} and is passed over")
        if versions:
            self._with_versions.add(folder.name)
        elif not paths and folder.name not in self._with_versions and not _holds_notes_alone(folder):
            self._warn(folder, f"{folder} has no folder of a version, such as {folder}/1, and is passed over")
        return sorted(versions, key=lambda path: int(path.name))

    def withdrawn(self, name: str) -> AbstractSet[int]:
        """The withdrawn versions of a model, as its list was last read."""
        return self._withdrawn.get(name, set())

    def read_withdrawn(self, folder: Path) -> set[int] | None:
        """The withdrawn versions of a model, read again if that is possible; None if they were never read."""
        path = folder / withdrawn.FILE
        try:
            self._withdrawn[folder.name] = withdrawn.read(folder)
            self.warnings.pop(path, None)
        except ModelRefused as error:
            kept = "the list read before stays valid" if folder.name in self._withdrawn else "no version is served"
            self._warn(path, f"{error}; {kept}")
        return self._withdrawn.get(folder.name)

    def explain_empty(self) -> str:
        """Why there is no model that can be served, and what CONVOKE_MODELS should be."""
        root = self._root
        try:
            return _explain(root)
        except OSError as error:
            return (
                f"CONVOKE_MODELS={root}: cannot be read by user {os.getuid()}: {error.strerror}; let this user read "
                "its files and open its folders"
            )

    def _folders(self, folder: Path) -> list[Path] | None:
        """The folders in a folder; None if it cannot be read now."""
        try:
            paths = sorted(folder.iterdir())
        except FileNotFoundError:
            paths = []
        except OSError as error:
            self._warn(folder, f"{folder} cannot be read: {error.strerror}; it is tried again at each scan")
            return None
        return [path for path in paths if _is_folder(path)]

    def _warn(self, path: Path, message: str) -> None:
        if self.warnings.get(path) != message:
            self.warnings[path] = message
            logger.warning("%s", message)


def state_of(path: Path) -> int | None:
    """A number that changes whenever a file of a version changes; None if the folder cannot be read now."""
    try:
        return hash(tuple(sorted((file.name, *_changes(file)) for file in path.iterdir())))
    except OSError:
        return None


def _changes(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except OSError:  # a link to nothing
        status = file.lstat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _explain(root: Path) -> str:
    if not root.is_dir():
        return f"CONVOKE_MODELS={root}: is not a folder"
    if (root / MANIFEST).is_file():
        return f"CONVOKE_MODELS={root}: is the folder of a version; set it to {root.absolute().parent.parent}"
    if any(root.glob(f"[1-9]*/{MANIFEST}")):
        return f"CONVOKE_MODELS={root}: is the folder of one model; set it to {root.absolute().parent}"
    if any(root.glob(f"models/*/*/{MANIFEST}")):
        return f"CONVOKE_MODELS={root}: has the models in a folder below; set it to {root.absolute() / 'models'}"
    return f"CONVOKE_MODELS={root}: has no model that can be served; expected folders such as {root}/NAME/1"


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder, or cannot be looked at now."""
    try:
        return path.is_dir()
    except OSError:
        return True


def _holds_notes_alone(folder: Path) -> bool:
    """Whether a folder has hidden files and nothing else, as a refused first publication leaves it."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return False
    return bool(names) and all(name.startswith(".") for name in names)


def _has_manifest(path: Path) -> bool:
    """Whether a folder has a manifest, or cannot be looked at now."""
    try:
        (path / MANIFEST).lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True
