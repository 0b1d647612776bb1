"""The labelled rows of the user's tables -> examples; one table, or one for each split."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.data import class_folders, folders, one_hot, table_file
from training.data.class_folders import shown
from training.data.columns import MAX_LABEL
from training.data.examples import SPLITS, Example, Found, LeftOut, SplitName, listed
from training.data.image_files import Files
from training.data.schema import Data
from training.data.table_file import Cell, Table
from training.errors import DataError

_SUBMISSION = re.compile(r"submission", re.IGNORECASE)
_NO_VALUE = frozenset({"nan", "<na>", "nat", "#n/a"})
"""What programs write for a missing value, in lower case."""
_NO_NUMBER = frozenset({"na", "n/a", "null", "none", "-", "?"})
"""Words that stand for a missing value among numbers; elsewhere they can be labels."""
_POINT_ZERO = re.compile(r"-?\d+\.0+")
_WHOLE = re.compile(r"-?\d+(\.0+)?")


def examples(data: Data, path: Path) -> Found:
    """The labelled rows of a table, or of the tables of several splits in a folder.

    Raises:
        DataError: the table cannot be read, or has no such columns or no labelled rows.
    """
    wanted = data.one_hot or [data.label or ""]
    found = Found("text" if data.text else "image")
    for file, split in tables(path):
        table = table_file.read(file, data.encoding, data.delimiter, header=data.header)
        missing = [name for name in wanted if name not in table.names]
        if split in {"validation", "test"} and missing:
            found.notes.append(f"{shown(file)}: no column {missing[0]!r}, so its rows have no label and are left out")
            continue
        found.notes += [f"{shown(file)}: read as {table.form}", *table.notes]
        _rows(data, table, split, found)
    if not found.examples:
        what = "an image" if found.kind == "image" else "a text"
        raise DataError(f"{shown(path)}: no row has both {what} and a label; {found.left_out[0]}")
    return found


def tables(path: Path) -> list[tuple[Path, SplitName]]:
    """The files of a table and the split of each, "" for one that has rows of all splits.

    Raises:
        DataError: the path does not exist, or is a folder without tables.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(
                f"{shown(path)}: the file does not exist; expected a table: CSV, TSV, JSON Lines or Parquet"
            )
        return [(path, "")]
    files = _tables_in(path)
    if not files:
        inner = {
            folder: found for folder in sorted(path.iterdir()) if folder.is_dir() and (found := _tables_in(folder))
        }
        splits = [(found[0], class_folders.split_of(folder.name)) for folder, found in inner.items() if len(found) == 1]
        if len(inner) == 1:  # as `data/` in the repositories of Hugging Face
            return tables(next(iter(inner)))
        if any(split == "train" for _, split in splits) and all(split for _, split in splits):
            return splits  # a table within each folder of images
    parts = [(file, class_folders.split_of(file.name.partition(".")[0])) for file in files]
    if any(split == "train" for _, split in parts):
        return [(file, split) for file, split in parts if split]
    if len(files) != 1:
        what = f"{len(files)} tables: {listed([file.name for file in files])}" if files else "no table"
        raise DataError(
            f"{shown(path)}: {what}; expected one table, or tables whose names say train, validation and test"
        )
    return [(files[0], "")]


def has_tables(path: Path) -> bool:
    """Whether there are tables at a path."""
    try:
        return bool(tables(path))
    except DataError:
        return bool(_tables_in(path))


def _tables_in(folder: Path) -> list[Path]:
    """The tables in a folder, but for the forms in which contests expect answers."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file()
        and not file.name.startswith(".")
        and set(map(str.lower, file.suffixes)) & class_folders.TABLES
        and not _SUBMISSION.search(file.name)
    )


def _rows(data: Data, table: Table, split: str, found: Found) -> None:
    contents = table.column(data.text or data.image or "")
    if data.one_hot:
        flags = zip(*(table.column(name) for name in data.one_hot), strict=True)
        labels = [one_hot.label(cells, data.one_hot) for cells in flags]
    else:
        labels = _whole(table.column(data.label or ""))
    groups = table.column(data.group) if data.group else [None] * len(labels)
    splits = table.column(data.split) if data.split else [split] * len(labels)
    files = Files(Path(data.images) if data.images else table.path.parent) if data.image else None
    kind = found.kind
    for number, content, label, group, part in zip(table.numbers, contents, labels, groups, splits, strict=True):
        source = f"{shown(table.path)}, row {number:,}"
        fault = _fault(kind, content, label) or ("" if _split_known(part) else f"unknown split {part!r}")
        value = (
            content
            if fault or files is None
            else stored(content)
            if type(content) is bytes
            else files.find(str(content))
        )
        if not fault and value is None:
            fault = _not_found(str(content), files)
        if fault or value is None or label is None or isinstance(value, bytes):
            found.left_out.append(LeftOut(source, fault))
            continue
        found.examples.append(
            Example(
                value,
                unicodedata.normalize("NFC", label.strip()),
                shown(value) if isinstance(value, Path) and type(content) is not bytes else source,
                SPLITS.get((str(part or "")).strip().lower(), ""),
                str(group) if group is not None else "",
            )
        )


def _not_found(name: str, files: "Files | None") -> str:
    if name.startswith(("http://", "https://")):
        return f"the image is an address, {name!r}, and nothing is downloaded; download the images and name the files"
    return f"the image {name!r} does not exist below {shown(files.root if files else '')}"


def _split_known(part: Cell) -> bool:
    return not part or str(part).strip().lower() in SPLITS


def _fault(kind: str, content: Cell, label: str | None) -> str:
    if content is None:
        return f"the cell of the {kind} is empty"
    if isinstance(content, bytes) and kind == "text":
        return "the cell of the text holds bytes; expected a text"
    if label is None:
        return "the cell of the label is empty"
    if len(label.strip()) > MAX_LABEL:
        return f"the label has {len(label):,} characters (maximum {MAX_LABEL})"
    return ""


def _whole(labels: Sequence[Cell]) -> list[str | None]:
    """Labels as texts; whole numbers that a program wrote as 1.0 lose the point, if all labels are whole numbers."""
    texts = [label if isinstance(label, str) and label.strip().lower() not in _NO_VALUE else None for label in labels]
    if all(
        _WHOLE.fullmatch(label) or label.lower() in _NO_NUMBER for label in {each.strip() for each in texts if each}
    ):
        texts = [label if label and label.strip().lower() not in _NO_NUMBER else None for label in texts]
    present = [label.strip() for label in texts if label is not None]
    if any(map(_POINT_ZERO.fullmatch, present)) and all(map(_WHOLE.fullmatch, present)):
        return [label and label.strip().partition(".")[0] for label in texts]
    return texts


def stored(content: bytes) -> Path:
    """The file in the cache of an image that a table holds, as tables of Hugging Face's `datasets` do.

    Raises:
        DataError: it cannot be written.
    """
    path = folders.cache_folder() / "tables" / hashlib.sha256(content).hexdigest()
    if not path.exists():
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            raise DataError(f"{path}: cannot write an image of the table to the cache: {error.strerror}") from error
    return path


def renamed(found: Found, names: Mapping[str, str]) -> None:
    """Give the labels of examples other names, in place.

    Raises:
        DataError: a name is for a label that the data do not have.
    """
    unknown = sorted(set(names) - set(found.labels))
    if unknown:
        raise DataError(f"label_names: {listed(unknown)}: not among the labels of the data: {listed(found.labels, 20)}")
    if names:
        found.examples = [
            Example(each.content, names.get(each.label, each.label), each.source, each.split, each.group)
            for each in found.examples
        ]
