"""Looks at the user's own data: what they are, how they are described in a recipe, and how they are split.

Everything is read once. Needs no torch, which takes seconds to import.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data import class_folders, columns, compare, label_files, table_file, tables
from training.data.class_folders import shown
from training.data.compare import Compared
from training.data.examples import Example, SplitName
from training.data.held_out import assign
from training.data.schema import Data
from training.errors import DataError

HELD_OUT = 0.15
"""The share of the examples that become the test split, and of the rest that become the validation split."""
_MIN_EXAMPLES = 10
_FEW_VALIDATION, _SHARE_VALIDATION = 50, 0.05

Table = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What the user said about the data that they do not say themselves."""

    text: str | None = None
    image: str | None = None
    images: str | None = None
    label: str | None = None
    group: str | None = None
    label_names: dict[str, str] | None = None
    names_file: Path | None = None
    """A file with a name for each label."""
    encoding: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True)
class Look:
    """What was found, and the table `[data]` that describes it."""

    data: Data
    compared: Compared
    splits: list[SplitName]

    @property
    def kind(self) -> str:
        return self.compared.found.kind

    @property
    def labels(self) -> list[str]:
        """The labels of the examples that can be read."""
        return self.compared.found.labels

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of the images, in pixels as stored."""
        return [size for size in self.compared.sizes if size[0]]

    def of(self, split: SplitName) -> list[Example]:
        """The examples of a split."""
        return [each for each, name in zip(self.compared.examples, self.splits, strict=True) if name == split]


def look(path: Path, options: Options) -> Look:
    """Read the data at `path`: a folder with a subfolder for each class, or a table.

    Raises:
        DataError: there is nothing to train on; the message says what was found and what to do.
    """
    description = _describe(path, options)
    found = compare.find(description)
    if options.names_file:
        names = label_files.read(options.names_file, found.labels)
        description = description.model_copy(update={"label_names": names})
        tables.renamed(found, names)
    given = {name: "given" for name in ("validation", "test") if found.splits[name]}
    is_small = 0 < found.splits["validation"] < min(_FEW_VALIDATION, _SHARE_VALIDATION * found.splits["train"])
    if is_small:
        given.pop("validation")
        found.notes.append(
            f"the validation split has only {found.splits['validation']:,} examples, too few for choices and the "
            "calibration; they join the training examples, of which a share is held out (data.validation)"
        )
    data = description.model_copy(update=given)
    _check_classes(found.labels, Counter(each.label for each in found.examples), path)
    compared = compare.compare(found, data)
    counts = Counter(each.label for each in compared.examples)
    if not counts and compared.conflicts:
        raise DataError(
            f"{shown(path)}: each of the {len(compared.conflicts):,} contents has several labels, so nothing can be "
            "learned; check the columns of the contents and of the labels"
        )
    found.examples = compared.examples
    _check_classes(found.labels, counts, path)
    return Look(data, compared, assign(compared, data))


def _describe(path: Path, options: Options) -> Data:
    """The table `[data]` of a recipe for the data at `path`."""
    names = {"label_names": options.label_names} if options.label_names else {}
    place = _relative(path)
    common: Table = {"path": place, "test": HELD_OUT, "validation": HELD_OUT, **names}
    if path.is_dir() and not (options.text or options.image or options.label):
        try:
            labels = class_folders.scan(path).labels
        except DataError:
            if not tables.has_tables(path):
                raise
        else:
            if len(labels) > 1 or not tables.has_tables(path):
                return Data(name="folder", **common)
    files = tables.tables(path)
    file = next((file for file, split in files if split == "train"), files[0][0])
    table = table_file.read(file, options.encoding, options.delimiter)
    chosen: Table = columns.choose(table, options.text, options.image, options.label)
    for key in ("group", "images", "encoding", "delimiter"):
        if getattr(options, key) is not None:
            chosen[key] = getattr(options, key)
    if options.group:
        table.column(options.group)
    if path.is_dir() and len(files) == 1:
        common["path"] = _relative(file)
    return Data(name="table", **common, **chosen)


def _relative(path: Path) -> str:
    """A path as it was given; below the working directory without what is above it."""
    absolute = path.absolute()
    return shown(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else path)


def _check_classes(labels: Sequence[str], counts: Counter[str], path: Path) -> None:
    total = sum(counts.values())
    if len(labels) == 1:
        raise DataError(
            f"{shown(path)}: one class only, {labels[0]!r}; a classifier chooses between two or more. Add examples of "
            "what is not in it, such as a subfolder `other`"
        )
    if len(labels) > max(total / 3, 2):
        raise DataError(
            f"{shown(path)}: {len(labels):,} classes with {total:,} examples, {total / len(labels):.1f} each. A label "
            "is for many examples; this looks like a name for each. Add examples, choose another column with "
            "--label, or group the folders"
        )
    if total < _MIN_EXAMPLES:
        raise DataError(f"{shown(path)}: {total} examples are too few to train on (minimum {_MIN_EXAMPLES}); add some")
