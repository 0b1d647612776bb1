"""Folders, patterns, files and tables -> items, one after the other, with little memory.

An item's id is the SHA-256 of its content and how many items before it have the same content, so it stays the same when
files are moved or renamed.
"""

import csv
import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.errors import ConvokeError, TooLarge, Unreadable
from contract.spec import Input

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
TEXTS = (".txt", ".text")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

_PARQUET_ROWS = 512  # read at a time


class InputError(ValueError):
    """The inputs name nothing that can be scored; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item: where it is from, and its content, or why it could not be read."""

    source: str
    """A path; for a row of a table the path, `:` and the number of the row, from 1."""
    content: bytes | str | ConvokeError
    path: Path | None = None
    """The file of the content; None if a table holds it."""

    def digest(self) -> str:
        """The SHA-256 of the content, in hexadecimal; of what cannot be read, that of its source."""
        data = self.source if isinstance(self.content, ConvokeError) else self.content
        return hashlib.sha256(data.encode(errors="surrogatepass") if isinstance(data, str) else data).hexdigest()


@dataclass(frozen=True)
class Source:
    """The inputs of a command."""

    inputs: tuple[str, ...]
    """Folders, patterns with `*`, `?` or `**`, tables, and files of one item each."""
    spec: Input
    column: str | None = None
    """The column of tables that has texts, paths of images or, in Parquet, their bytes; None if it is the only one."""
    max_bytes: int = 32 << 20
    """Larger files are errors, and are not read."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The files of a folder that are items of this model."""
        return TEXTS if self.spec.is_text else IMAGES

    def items(self) -> Iterator[Item]:
        """All items, always in the same order.

        Raises:
            InputError: an input does not exist or has no items, or the column is missing.
        """
        for path in self._paths():
            if path.suffix.lower() in TABLES:
                yield from self._rows(path)
            else:
                yield Item(str(path), read_file(path, self.max_bytes), path)

    def count(self) -> int:
        """The number of items; it reads the tables, but not the files.

        Raises:
            InputError: as `items`.
        """
        return sum(
            sum(1 for _ in _cells(path, self.column)) if path.suffix.lower() in TABLES else 1 for path in self._paths()
        )

    def _paths(self) -> Iterator[Path]:
        for name in self.inputs:
            is_empty = True
            for path in self._expand(Path(name), name):
                is_empty = False
                yield path
            if is_empty:
                raise InputError(
                    f"{name}: no items; expected a folder with files that end in {', '.join(self.suffixes)}, a pattern "
                    f"that matches files, a file, or a table that ends in {', '.join(TABLES)}"
                )

    def _expand(self, path: Path, name: str) -> Iterator[Path]:
        if path.is_dir():
            yield from _walk(path, self.suffixes)
        elif path.exists():
            yield path
        else:
            matches = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207 -- of absolute patterns, too
            yield from (Path(match) for match in matches if Path(match).is_file())

    def _rows(self, path: Path) -> Iterator[Item]:
        is_image = not self.spec.is_text
        for number, cell in enumerate(_cells(path, self.column), start=1):
            source = f"{path}:{number}"
            if isinstance(cell, dict) and isinstance(
                cell.get("bytes"), bytes
            ):  # as Hugging Face's datasets store images
                cell = cell["bytes"]  # noqa: PLW2901
            if isinstance(cell, bytes) or (isinstance(cell, str) and not is_image):
                yield Item(source, cell)
            elif isinstance(cell, str) and cell:
                yield Item(source, read_file(path.parent / cell, self.max_bytes), path.parent / cell)
            else:
                kind = "an empty cell" if cell in {None, ""} else f"a value of type {type(cell).__name__}"
                yield Item(source, Unreadable(f"{kind}; expected {'a path or bytes' if is_image else 'a text'}"))


def read_file(path: Path, max_bytes: int) -> bytes | ConvokeError:
    """The content of a file, or why it has none."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            return TooLarge(f"the file has {size} bytes (maximum {max_bytes})")
        return path.read_bytes()
    except OSError as error:
        return Unreadable(f"the file cannot be read: {error.strerror or error}")


def _walk(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """The files below a folder with one of the suffixes, in order, without hidden ones."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), suffixes)
        elif entry.name.lower().endswith(tuple(suffixes)):
            yield Path(entry.path)


def _cells(path: Path, column: str | None) -> Iterator[Any]:
    """The cells of one column of a table.

    Raises:
        InputError: the table cannot be read, or does not have the column.
    """
    try:
        match path.suffix.lower():
            case ".parquet":
                yield from _parquet(path, column)
            case ".jsonl" | ".ndjson":
                yield from _json_lines(path, column)
            case suffix:
                yield from _delimited(path, column, "\t" if suffix == ".tsv" else ",")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the table cannot be read: {error}") from error


def _delimited(path: Path, column: str | None, delimiter: str) -> Iterator[str]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        place: int | None = None
        for row in reader:
            if place is None:
                place = _choose(path, column, row)
            elif row:
                yield row[place] if place < len(row) else ""


def _json_lines(path: Path, column: str | None) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}: line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}: line {number} is {type(row).__name__}; expected an object")
            names = list(row)
            if column is not None and column not in row:
                yield None
                continue
            yield row[names[_choose(path, column, names)]]


def _parquet(path: Path, column: str | None) -> Iterator[Any]:
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415 -- an optional extra
    except ImportError as error:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow; install it with requirements/score.txt, or use CSV or JSONL"
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            name = names[_choose(path, column, names)]
            for batch in file.iter_batches(_PARQUET_ROWS, columns=[name]):
                yield from batch.column(0).to_pylist()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: the table cannot be read: {error}") from error


def _choose(path: Path, column: str | None, names: Sequence[str]) -> int:
    if column is None and len(names) == 1:
        return 0
    if column is None or column not in names:
        received = "no --column was given" if column is None else f"it has no column {column!r}"
        raise InputError(f"{path}: {received}; its columns are {', '.join(map(repr, names))}")
    return list(names).index(column)
