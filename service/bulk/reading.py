"""Folders, patterns, files and tables -> items, one after the other, with little memory.

An item's id is the SHA-256 of its content and how many items before it have the same content, so it stays the same when
files are moved or renamed.
"""

import csv
import glob
import gzip
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from contract.errors import ConvokeError, TooLarge, Unreadable
from contract.spec import Input

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
TEXTS = (".txt", ".text")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""All but Parquet may end in .gz, too."""

_OTHER_TABLES = (".json", ".xlsx", ".xls", ".ods", ".feather", ".arrow", ".avro", ".orc")
_DELIMITERS = (",", ";", "\t", "|")
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
    encoding: str | None = None
    """Of tables of text; None for UTF-8, and for UTF-16 that starts with its mark."""

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
            if _table_suffix(path):
                yield from self._rows(path)
            else:
                yield Item(str(path), read_file(path, self.max_bytes), path)

    def check(self) -> None:
        """Look at the beginning of each input, so that a mistake in the last one is found before hours of work.

        Raises:
            InputError: as `items`.
        """
        for name in self.inputs:
            for path in itertools.islice(self._expand(Path(name), name), 1):
                if _table_suffix(path):
                    next(self._cells(path), None)
                break
            else:
                raise InputError(
                    f"{name}: no items; expected a folder with files that end in {', '.join(self.suffixes)}, a pattern "
                    f"that matches files, a file, or a table that ends in {', '.join(TABLES)}"
                )

    def count(self) -> int:
        """The number of items; it reads the tables, but not the files.

        Raises:
            InputError: as `items`.
        """
        return sum(sum(1 for _ in self._cells(path)) if _table_suffix(path) else 1 for path in self._paths())

    def _paths(self) -> Iterator[Path]:
        self.check()
        for name in self.inputs:
            yield from self._expand(Path(name), name)

    def _expand(self, path: Path, name: str) -> Iterator[Path]:
        if path.is_dir():
            yield from _walk(path, self.suffixes)
        elif path.exists():
            if path.suffix.lower() in _OTHER_TABLES:
                raise InputError(f"{path}: unsupported kind of table; convert it to one of {', '.join(TABLES)}")
            yield path
        else:
            matches = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207 -- of absolute patterns, too
            yield from (Path(match) for match in matches if Path(match).is_file())

    def _rows(self, path: Path) -> Iterator[Item]:
        is_image = not self.spec.is_text
        for number, cell in enumerate(self._cells(path), start=1):
            source = f"{path}:{number}"
            if isinstance(cell, dict) and {"bytes", "path"} >= set(cell):  # as Hugging Face's datasets store images
                cell = cell.get("bytes") or cell.get("path")  # noqa: PLW2901
            if isinstance(cell, bytes) or (isinstance(cell, str) and not is_image):
                yield Item(source, cell)
            elif isinstance(cell, str) and cell:
                yield Item(source, read_file(path.parent / cell, self.max_bytes), path.parent / cell)
            else:
                kind = "an empty cell" if cell is None or cell == "" else f"a value of type {type(cell).__name__}"
                yield Item(source, Unreadable(f"{kind}; expected {'a path or bytes' if is_image else 'a text'}"))

    def _cells(self, path: Path) -> Iterator[Any]:
        """The cells of one column of a table.

        Raises:
            InputError: the table cannot be read, or does not have the column.
        """
        try:
            match _table_suffix(path):
                case ".parquet":
                    yield from _parquet(path, self.column)
                case ".jsonl" | ".ndjson":
                    yield from _json_lines(path, self.column, self.encoding)
                case suffix:
                    yield from _delimited(path, self.column, self.encoding, "\t" if suffix == ".tsv" else ",")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: the byte 0x{error.object[error.start]:02x} is not {error.encoding}; say how the table is "
                "encoded, for example --encoding cp1252"
            ) from error
        except (OSError, EOFError, zlib.error, UnicodeError, LookupError, csv.Error) as error:
            raise InputError(f"{path}: the table cannot be read: {error}") from error


def _table_suffix(path: Path) -> str:
    """The ending that tells the kind of a table; empty if the file is not one."""
    suffix = path.with_suffix("").suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    return suffix if suffix in TABLES and (suffix != ".parquet" or path.suffix.lower() == suffix) else ""


def read_file(path: Path, max_bytes: int) -> bytes | ConvokeError:
    """The content of a file, or why it has none."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            return TooLarge(f"the file has {size} bytes (maximum {max_bytes})")
        return path.read_bytes()
    except OSError as error:
        return Unreadable(f"the file {path} cannot be read: {error.strerror or error}")


def _walk(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """The files below a folder with one of the suffixes, in order, without hidden ones."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), suffixes)
        elif entry.name.lower().endswith(tuple(suffixes)):
            yield Path(entry.path)


@contextmanager
def _open(path: Path, encoding: str | None) -> Iterator[TextIO]:
    """A table of text, which may be compressed."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    if encoding is None:
        with opened(path, "rb") as file:
            is_utf16 = file.read(2) in {b"\xff\xfe", b"\xfe\xff"}
        encoding = "utf-16" if is_utf16 else "utf-8-sig"
    with opened(path, "rt", encoding=encoding, newline="") as file:
        yield file


def _delimited(path: Path, column: str | None, encoding: str | None, delimiter: str) -> Iterator[str]:
    csv.field_size_limit(1 << 30)
    with _open(path, encoding) as file:
        header = file.readline()
        if not header.strip():
            raise InputError(f"{path}: the first line is empty; expected the names of the columns")
        delimiter = _find_delimiter(header, column, delimiter)
        lines = _Lines(itertools.chain([header], file))
        rows = csv.reader(lines, delimiter=delimiter)
        place = _choose(path, column, _names(next(rows)))
        for row in rows:
            if lines.have_ended:
                raise InputError(
                    f"{path}: a quotation mark is never closed, in the row that ends the table and has "
                    f"{sum(map(len, row)):,} characters: {','.join(row)[:60]!r}; close it, or write it twice"
                )
            if row:
                yield row[place] if place < len(row) else ""


class _Lines:
    """Lines, and whether one was asked for after the last: csv's reader does so before a row only in an open quote."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.have_ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for line in self._lines:
            return line
        self.have_ended = True
        raise StopIteration


def _find_delimiter(header: str, column: str | None, usual: str) -> str:
    """The delimiter by which the header has the column, or else has the most columns; in doubt the usual one."""
    names = {each: _names(next(csv.reader([header], delimiter=each))) for each in (usual, *_DELIMITERS)}
    return max(names, key=lambda each: (column in names[each], len(names[each]), each == usual))


def _names(cells: Sequence[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _json_lines(path: Path, column: str | None, encoding: str | None) -> Iterator[Any]:
    with _open(path, encoding) as file:
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
    count = 0 if column is None else list(names).count(column)
    if column is None or count != 1:
        received = "no --column was given"
        if column is not None:
            received = f"it has {count or 'no'} column{'s' if count else ''} {column!r}"
        raise InputError(f"{path}: {received}; its columns are {', '.join(map(repr, names))}")
    return list(names).index(column)
