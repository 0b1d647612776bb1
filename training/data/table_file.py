"""A table in CSV, TSV, JSON Lines, JSON or Parquet -> rows of cells, with what was detected about the file.

Encoding, delimiter, quoting and header are detected from the content, since the name of a file says little about them,
and each can be given instead.
"""

import csv
import gzip
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data import encoding as encodings
from training.data import json_table, not_read
from training.data.class_folders import TABLES, shown
from training.data.examples import listed
from training.errors import DataError

Cell = str | bytes | None

_DELIMITERS = ",", "\t", ";", "|"
_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar"}
_SAMPLE = 1000  # rows from which delimiter and header are detected
_MARK = "__label__"
_MAX_FIRST = 20  # labels before the texts
_LONG = 100  # characters that no name of a column has
_MAX_TITLES = 20  # lines above a header
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


@dataclass
class Table:
    """The rows of a table below its header, each with as many cells as there are columns; empty cells are None."""

    path: Path
    names: list[str]
    rows: list[list[Cell]]
    form: str
    """How the file was read, for people."""
    notes: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """The number of each row in the file, from 1 without the header."""

    def column(self, name: str) -> list[Cell]:
        """The cells of a column.

        Raises:
            DataError: the table has no such column; the message lists those that it has.
        """
        if name not in self.names:
            columns = ", ".join(map(repr, self.names))
            raise DataError(f"{shown(self.path)}: no column {name!r}; its columns are {columns}")
        place = self.names.index(name)
        return [row[place] for row in self.rows]


def read(path: Path, encoding: str | None = None, delimiter: str | None = None, *, header: bool | None = None) -> Table:
    """Read a table; what is not given is detected.

    Raises:
        DataError: the file is missing, empty, in another format or damaged, or needs a package that is not installed.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = next((each for each in reversed(suffixes) if each != ".gz"), "")
    if advice := not_read.advice(path):
        raise DataError(f"{shown(path)}: {advice}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{shown(path)}: the table cannot be read: {error.strerror}") from error
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise DataError(f"{shown(path)}: the compressed table is damaged: {error}") from error
    if not data.strip(b"\0 \t\r\n"):
        raise DataError(f"{shown(path)}: the table is empty ({len(data):,} bytes)")
    if data.startswith(b"PAR1") or suffix == ".parquet":
        _check_unused(path, "Parquet", encoding=encoding, delimiter=delimiter, header=header)
        table = _parquet(path, data)
    elif data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{shown(path)}: an archive or a spreadsheet; expected a table: {', '.join(sorted(TABLES))}")
    else:
        text, name, notes = _decode(path, data, encoding)
        if suffix in {".jsonl", ".ndjson", ".json"} or (delimiter is None and text.lstrip()[:2] in {'{"', "[{"}):
            _check_unused(path, "JSON", delimiter=delimiter, header=header)
            table = _json(path, text, name)
        else:
            table = _delimited(path, text, name, delimiter or ("\t" if suffix == ".tsv" else None), header=header)
        table.notes[:0] = notes
    if not table.rows:
        raise DataError(f"{shown(path)}: the table has a header ({listed(table.names)}), but no rows")
    return table


def _check_unused(path: Path, form: str, **given: str | bool | None) -> None:
    """Refuse what was stated about a file and has no meaning in its format.

    Raises:
        DataError: the message names the first of `given` that is not None.
    """
    unused = next((key for key, value in given.items() if value is not None), None)
    if unused is not None:
        raise DataError(f"{shown(path)}: {unused}: has no effect on {form}; leave it out")


def _decode(path: Path, data: bytes, encoding: str | None) -> tuple[str, str, list[str]]:
    """The text of a file, the name of its encoding, and what is to be said about it."""
    if encoding is not None:
        try:
            return data.decode("utf-8-sig" if encoding.lower() in {"utf-8", "utf8"} else encoding), encoding, []
        except LookupError as error:
            raise DataError(f"unknown encoding {encoding!r}; expected a name like utf-8, utf-16 or cp1252") from error
        except UnicodeDecodeError as error:
            raise _undecodable(path, data, encoding, error) from error
    name = encodings.certain(data)
    for candidate in [name] if name else ["utf-8", "cp1252"]:
        try:
            mark = " with a byte order mark" if name.endswith("-sig") else ""
            return data.decode(candidate), candidate.removesuffix("-sig") + mark, []
        except UnicodeDecodeError as error:
            if candidate == "utf-8" and encodings.is_mostly_utf8(data):
                text, line = data.decode(errors="replace"), data.count(b"\n", 0, error.start) + 1
                count = text.count("\N{REPLACEMENT CHARACTER}")
                return (
                    text,
                    "utf-8",
                    [f"{count:,} damaged characters of UTF-8 were replaced, the first in line {line:,}"],
                )
            guess = encodings.guess(data) if candidate == "utf-8" else candidate
            if guess not in {"cp1252", candidate}:
                with suppress(UnicodeDecodeError):
                    return data.decode(guess), guess, [f"the encoding {guess} is a guess; --encoding states another"]
            if candidate != "utf-8":
                raise _undecodable(path, data, candidate, error) from error
    raise AssertionError("the last encoding raises")


def _undecodable(path: Path, data: bytes, encoding: str, error: UnicodeDecodeError) -> DataError:
    line = data.count(b"\n", 0, error.start) + 1
    return DataError(
        f"{shown(path)}: the byte 0x{data[error.start]:02x} in line {line:,} is not {encoding}; save the table as "
        "UTF-8, or say how it is encoded with --encoding (data.encoding in the recipe), like --encoding gb18030"
    )


def _delimited(path: Path, text: str, encoding: str, delimiter: str | None, *, header: bool | None) -> Table:
    csv.field_size_limit(1 << 30)
    text = text.replace("\0", "").lstrip("\N{ZERO WIDTH NO-BREAK SPACE}")
    first, _, rest = text.partition("\n")
    if re.fullmatch(r"sep=.\r?", first):  # written by Excel
        delimiter, text = delimiter or first[4], rest
    if marked := _marked(path, text, encoding):
        return marked
    best = max(
        (_quoted_or_not(text, each) for each in ([delimiter] if delimiter else _DELIMITERS)),
        key=lambda each: each.score,
    )
    rows, notes = _below_titles(best.rows)
    has_header = _has_header(rows) if header is None else header
    names = _unique([cell.strip() for cell in rows[0]]) if has_header else []
    notes += [
        f"two columns are named {cell.strip()!r}; the other one is {name!r}"
        for cell, name in zip(rows[0], names, strict=False)
        if cell.strip() not in {"", name}
    ]
    is_single = path.suffix.lower() == ".txt" or all(len(row) == 1 for row in rows)
    if is_single and (labelled := _label_first(text)) is not None:
        form = f"{encoding}, a label and a space before each text"
        return Table(path, ["label", "text"], labelled, form, [], list(range(1, len(labelled) + 1)))
    width = len(names) if has_header else Counter(map(len, rows[:_SAMPLE])).most_common(1)[0][0]
    names = names or [f"column {place}" for place in range(1, width + 1)]
    body = rows[1:] if has_header else rows
    kept = [(number, row) for number, row in enumerate(body, 1) if not any(cell.strip() for cell in row[width:])]
    if len(kept) < len(body):
        wrong = next(number for number, row in enumerate(body, 1) if any(cell.strip() for cell in row[width:]))
        notes.append(
            f"{len(body) - len(kept):,} rows with more than {width} cells are left out, the first is row {wrong:,}; "
            "put cells that contain the delimiter in quotation marks"
        )
    quoting = "quoted" if best.quoted else "without quoting"
    columns = f"{_NAMES.get(best.delimiter, repr(best.delimiter))}, {quoting}" if width > 1 else "one column"
    form = f"{encoding}, {columns}, {'with' if has_header else 'without'} a header"
    cells: list[list[Cell]] = [
        [cell if cell.strip() else None for cell in (row + [""] * width)[:width]] for _, row in kept
    ]
    return Table(path, names, cells, form, notes, [number for number, _ in kept])


def _below_titles(rows: list[list[str]]) -> tuple[list[list[str]], list[str]]:
    """The rows below lines that are no part of a table, such as a title or comments above its header, and a note."""
    width = Counter(map(len, rows[:_SAMPLE])).most_common(1)[0][0]
    first = 0
    while width > 1 and first < min(_MAX_TITLES, len(rows) - 2) and rows[first][0].strip() and not any(rows[first][1:]):
        first += 1
    titles = listed([repr(row[0].strip()[:_LONG]) for row in rows[:first]])
    return rows[first:], [f"lines above the table are passed over: {titles}"] if first else []


def _marked(path: Path, text: str, encoding: str) -> Table | None:
    """A table in the form of fastText, `__label__spam You win`; None if it is in another."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not all(line.startswith(_MARK) for line in lines):
        return None
    pairs = [line.removeprefix(_MARK).partition(" ") for line in lines]
    several = [number for number, (_, _, rest) in enumerate(pairs, 1) if rest.lstrip().startswith(_MARK)]
    if several:
        raise DataError(
            f"{shown(path)}: {len(several):,} lines have several labels, the first is line {several[0]:,}; a "
            "classifier names one: keep one label on each line"
        )
    rows: list[list[Cell]] = [[label or None, rest.strip() or None] for label, _, rest in pairs]
    return Table(path, ["label", "text"], rows, f"{encoding}, in fastText's form", [], list(range(1, len(rows) + 1)))


def _label_first(text: str) -> list[list[Cell]] | None:
    """Rows of `LABEL text` in one column, as in `1 a warm, funny film`; None for all others."""
    pairs = [line.strip().partition(" ") for line in text.split("\n") if line.strip()]
    counts = Counter(label for label, _, _ in pairs)
    is_label = 1 < len(counts) <= _MAX_FIRST and min(counts.values()) >= 3  # noqa: PLR2004 -- of each label
    if not is_label or not all(rest.strip() for _, _, rest in pairs):
        return None
    return [[label, rest.strip()] for label, _, rest in pairs]


@dataclass
class _Parse:
    delimiter: str
    quoted: bool
    rows: list[list[str]]

    @property
    def consistency(self) -> float:
        """The share of rows with the usual number of cells."""
        counts = Counter(map(len, self.rows[:_SAMPLE]))
        return max(counts.values()) / sum(counts.values()) if counts else 0.0

    @property
    def score(self) -> tuple[bool, float, int]:
        """Several columns, then rows of equal length, then many columns."""
        counts = Counter(map(len, self.rows[:_SAMPLE]))
        width = counts.most_common(1)[0][0] if counts else 0
        return width > 1, round(self.consistency, 2), width


def _quoted_or_not(text: str, delimiter: str) -> _Parse:
    """The table with quoting, unless quotation marks that never close would swallow rows."""
    quoted, plain = _parse(text, delimiter, quoted=True), _parse(text, delimiter, quoted=False)
    if '"' in text and not _is_well_quoted(text, delimiter) and plain.consistency >= quoted.consistency:
        return plain
    return quoted


def _parse(text: str, delimiter: str, *, quoted: bool) -> _Parse:
    escaped = quoted and '\\"' in text and '""' not in text
    options: dict[str, Any] = {"quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE}
    if escaped:
        options |= {"escapechar": "\\", "doublequote": False}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **options)
    try:
        return _Parse(delimiter, quoted, [row for row in reader if any(cell.strip() for cell in row)])
    except csv.Error:
        return _Parse(delimiter, quoted, [])


def _is_well_quoted(text: str, delimiter: str) -> bool:
    """Whether each quotation mark at the start of a cell closes at the end of a cell."""
    try:
        for _row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            pass
    except csv.Error:
        return False
    return True


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: short words, not all the same, that are no values below."""
    first, below = rows[0], rows[1:_SAMPLE]
    cells = [cell.strip() for cell in first if cell.strip()]
    if len(set(cells)) < min(len(cells), 2) or any(len(cell) > _LONG or NUMBER.fullmatch(cell) for cell in cells):
        return False
    seen = [{row[place].strip() for row in below if place < len(row)} for place in range(len(first))]
    return not any(cell.strip() and cell.strip() in values for cell, values in zip(first, seen, strict=True))


def _unique(names: Iterable[str]) -> list[str]:
    """Names of columns without empty and repeated ones."""
    result: list[str] = []
    for place, name in enumerate(names, 1):
        result.append(name if name and name not in result else f"column {place}")
    return result


def _json(path: Path, text: str, encoding: str) -> Table:
    """Lines of JSON, an array or an object."""
    records, form = json_table.records(path, text)
    names = list(dict.fromkeys(name for _, record in records for name in record))
    rows = [[_cell(record.get(name)) for name in names] for _, record in records]
    return Table(path, names, rows, f"{encoding}, {form}", numbers=[number for number, _ in records])


def _parquet(path: Path, data: bytes) -> Table:
    try:
        import pyarrow as pa  # noqa: PLC0415 -- an optional extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"{shown(path)}: reading Parquet needs pyarrow: pip install 'pyarrow>=20', or save the table as CSV"
        ) from error
    try:
        content = pq.read_table(io.BytesIO(data))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{shown(path)}: the Parquet file cannot be read: {error}") from error
    names = list(content.column_names)
    classes = _class_names(content.schema.metadata or {})
    columns = [
        [_cell(_named(value, classes.get(name, ()))) for value in content.column(name).to_pylist()] for name in names
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Table(path, names, rows, "Parquet", numbers=list(range(1, len(rows) + 1)))


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names of numeric labels that Hugging Face's `datasets` stores with a table, by column."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: list(each["names"]) for name, each in features.items() if each.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _named(value: Any, names: Sequence[str]) -> Any:
    return names[value] if type(value) is int and 0 <= value < len(names) else value


def _cell(value: Any) -> Cell:  # noqa: PLR0911 -- one for each type
    """A value as text: whole numbers without a point, truth values in lower case, nested values as JSON."""
    match value:
        case None:
            return None
        case str():
            return value if value.strip() else None
        case bool():
            return str(value).lower()
        case float():
            return None if math.isnan(value) else f"{value:.15g}"
        case int() | bytes():
            return value if isinstance(value, bytes) else str(value)
        case {"bytes": bytes(content)}:  # as Hugging Face's datasets store images
            return content
        case {"path": str(name)}:
            return name
    return json.dumps(value, ensure_ascii=False, default=str)
