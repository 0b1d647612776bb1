"""The folders of data sets and caches. Needs no torch, so that a missing data set is reported at once."""

import os
from pathlib import Path

from training.errors import DataError

_PARTS = {"reviews": ("imdb", "mr", "sst2")}


def data_folder() -> Path:
    """The folder of the data sets: $CONVOKE_DATA, or data/ in the working directory."""
    return Path(os.environ.get("CONVOKE_DATA") or "data")


def cache_folder() -> Path:
    """The folder of decoded photos and downloaded weights: $CONVOKE_CACHE, or convoke/ in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CONVOKE_CACHE") or Path(home) / "convoke")


def locate(path: str) -> Path:
    """The folder or file of the user's own data, seen from the working directory or from the folder of the data sets.

    Raises:
        DataError: it does not exist.
    """
    for place in (Path(path), data_folder() / path):
        if place.exists():
            return place
    raise DataError(
        f"data.path: {path} does not exist, seen from {Path.cwd()}; set it to the folder or table of the data: "
        "--set data.path=PATH"
    )


def check_present(name: str, path: str | None = None) -> None:
    """Refuse a data set without a folder, or the user's own data without their `path`; nothing is downloaded or made.

    Raises:
        DataError: it names the folder, the setting that it comes from and the command that downloads the data set.
    """
    if path is not None:
        locate(path)
        return
    for part in _PARTS.get(name, (name,)):
        folder = data_folder() / part
        if not folder.is_dir():
            raise missing(part, f"{folder} does not exist")


def missing(name: str, fault: str) -> DataError:
    """The error of a data set that is missing or incomplete: what is wrong, and what to do."""
    value = os.environ.get("CONVOKE_DATA")
    setting = f"CONVOKE_DATA is {value!r}" if value else "CONVOKE_DATA is not set, so data/ is used"
    return DataError(
        f"{fault} ({setting}). Download the data set with: python -m training data {name}; or set CONVOKE_DATA to the "
        f"folder that contains {name}/"
    )
