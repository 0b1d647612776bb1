"""Labels in the names of files: `cat.123.jpg`, `great_pyrenees_12.jpg`, `0042-rose.png`."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_PATTERNS = (
    re.compile(r"(?P<label>.*[^\W\d_].*?)[\W_]*\d+[\W_]*"),  # a label, then a number
    re.compile(r"\d+[\W_]+(?P<label>[^\W\d_].*)"),  # a number, then a label
)
_MIN_FILES = 3  # of a label
_MIN_SHARE = 0.5


def labels(files: Sequence[Path]) -> dict[Path, str]:
    """The label of each file whose name has one; nothing unless most have one, each of at least three files."""
    for pattern in _PATTERNS:
        found = {path: match["label"].strip(" ._-") for path in files if (match := pattern.fullmatch(path.stem))}
        counts = Counter(found.values())
        is_label = len(counts) > 1 and min(counts.values()) >= _MIN_FILES
        if is_label and len(found) >= _MIN_SHARE * len(files):
            return found
    return {}
