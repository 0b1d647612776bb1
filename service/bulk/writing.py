"""Rows -> files that are complete or absent, and which rows they hold.

Rows are written to parts, each named by the ids of its rows. A part is written under another name and renamed once it
is on the disk, so a run that is killed loses only the rows that no part holds yet. At the end the parts become one
file, if OUT is a file's name; if OUT is a folder, they stay.
"""

import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Format = Literal["parquet", "csv", "jsonl"]
FORMATS: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
STATE = "_score.json"

COLUMNS = ("id", "source", "model", "version", "label", "score", "scores", "error", "message", "tokens_read", "tokens")
_READ_ROWS = 10_000
_TO_JSON = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make one for each call
_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "version": int, "score": float, "scores": json.loads, "tokens_read": int, "tokens": int,
}  # fmt: skip
"""How the cells of CSV are read that are not texts."""


class OutputError(ValueError):
    """The output cannot be used; the message says why and what to do."""


class Row(NamedTuple):
    """The result of one item: a label, or an error's code and message.

    A text that is longer than the model reads also has how many tokens the model read, and how many the text has.
    """

    id: str
    source: str
    model: str
    version: int
    label: str | None
    score: float | None
    scores: dict[str, float] | None
    error: str | None
    message: str | None
    tokens_read: int | None = None
    tokens: int | None = None


class Done:
    """Which items have a row already: 20 bytes of memory for each different content."""

    def __init__(self, ids: Iterable[str]) -> None:
        keys = np.fromiter((bytes.fromhex(name[:32]) for name in ids), "S16")
        self._keys, counts = np.unique(keys, return_counts=True)
        self._left = counts.astype(np.uint32)
        self.rows = len(keys)

    def take(self, digest: str) -> bool:
        """Whether an item with this content has a row; each row counts for one item."""
        if not len(self._keys):
            return False
        key = bytes.fromhex(digest[:32]).rstrip(b"\0")  # as NumPy gives back what it has stored
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key or not self._left[place]:
            return False
        self._left[place] -= 1
        return True


class Output:
    """The files of one command."""

    def __init__(self, path: Path, form: Format | None = None) -> None:
        """Use OUT, a file with a known ending or a folder.

        Raises:
            OutputError: the format is unknown, or needs a package that is missing.
        """
        self.file = path if path.suffix.lower() in FORMATS and not path.is_dir() else None
        self.folder = path.with_name(f"{path.name}.parts") if self.file else path
        known = FORMATS.get(path.suffix.lower()) if self.file else None
        if known and form and known != form:
            raise OutputError(f"{path} ends in {path.suffix}, but the format is {form}; choose one of them")
        if path.suffix and not self.file and not path.is_dir():
            raise OutputError(
                f"{path}: unknown ending {path.suffix}; expected {', '.join(FORMATS)}, or a folder's name"
            )
        self.format: Format = known or form or "parquet"
        if self.format == "parquet":
            _pyarrow()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, and keep other runs from writing to it, if its file system supports locks.

        Raises:
            OutputError: the folder cannot be made, or another run writes to it.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                place = os.open(self.folder, os.O_RDONLY)
                stack.callback(os.close, place)
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(f"another run writes to {self.folder}; wait for it, or end it") from error
            except OSError as error:
                if not self.folder.is_dir():
                    raise OutputError(f"{self.folder}: {error.strerror}; choose another --output") from error
            stack.callback(self._tidy)
            yield

    def _tidy(self) -> None:
        """Remove the folder of parts if it has none: nothing was scored, so that nothing is pinned."""
        if self.file and self.folder.is_dir() and [entry.name for entry in os.scandir(self.folder)] == [STATE]:
            shutil.rmtree(self.folder)

    def open(self, pinned: dict[str, Any]) -> dict[str, Any]:
        """Make the folder, and return what an earlier run has pinned there: this, if there was none.

        Raises:
            OutputError: the output cannot be made, or is not of this program.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".*.new"):
                leftover.unlink()
            return self._resume(pinned)
        except KeyError as error:
            raise OutputError(f"{self.file} is not of this program: the column {error} is missing") from error
        except (OSError, ValueError) as error:
            reason = str(error) if isinstance(error, OutputError) else f"{self.file or self.folder}: {error}"
            raise OutputError(f"{reason}; choose another --output") from error

    def _resume(self, pinned: dict[str, Any]) -> dict[str, Any]:
        state = self.folder / STATE
        if state.exists():
            earlier: Any = json.loads(state.read_text(encoding="utf-8"))
            if not (isinstance(earlier, dict) and earlier.keys() >= pinned.keys()):
                raise OutputError(f"{state} is not of this program")
            if earlier.get("format") != pinned.get("format"):
                raise OutputError(f"{self.folder} has rows in {earlier['format']}: use --format {earlier['format']}")
            if earlier.get("joining") is not None and self._is_joined(earlier["joining"]):
                for part in self.folder.glob(f"part-*.{self.format}"):
                    part.unlink()
            return dict(earlier)
        others = [entry.name for entry in os.scandir(self.folder)]
        if others:
            raise OutputError(f"{self.folder} is not of this program: it holds {others[0]}")
        if self.file and self.file.exists():
            pinned |= next(self.rows(("model", "version")), {})
        replace(state, json.dumps(pinned).encode())
        return pinned

    def parts(self) -> list[Path]:
        """The files that hold rows."""
        parts = sorted(self.folder.glob(f"part-*.{self.format}"))
        return [*([self.file] if self.file and self.file.exists() else []), *parts]

    def rows(self, columns: Sequence[str] = COLUMNS) -> Iterator[dict[str, Any]]:
        """Some columns of the rows that are written; empty cells of CSV are None."""
        for part in self.parts():
            yield from _READERS[self.format](part, columns)

    def write(self, rows: Sequence[Row]) -> None:
        """Write a part; when this returns, it is on the disk."""
        name = hashlib.sha256("".join(row.id for row in rows).encode()).hexdigest()[:32]
        replace(self.folder / f"part-{name}.{self.format}", _WRITERS[self.format](rows))

    def finish(self, pinned: dict[str, Any], rows: int) -> Path:
        """Join the parts to one file, if OUT is a file; return what holds the rows.

        A run that is killed meanwhile leaves the parts, the file or both; the number of rows says which is complete.
        """
        if self.file is None:
            return self.folder
        parts = self.parts()
        if parts != [self.file]:
            replace(self.folder / STATE, json.dumps({**pinned, "joining": rows}).encode())
            new = self.folder / f".{self.file.name}.new"
            _JOINERS[self.format](parts, new)
            new.replace(self.file)
        for part in self.folder.glob(f"part-*.{self.format}"):
            part.unlink()
        shutil.rmtree(self.folder)
        return self.file

    def _is_joined(self, rows: int) -> bool:
        """Whether OUT holds all rows, so that the parts are copies."""
        if self.file is None or not self.file.exists():
            return False
        return sum(1 for _ in _READERS[self.format](self.file, ("id",))) == rows


def replace(path: Path, content: bytes) -> None:
    """Write a file that is complete or absent, and on the disk when this returns."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _pyarrow() -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415 -- an optional extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise OutputError(
            "writing Parquet needs pyarrow; install it with requirements/score.txt, or choose an --output that ends in "
            ".csv or .jsonl"
        ) from error
    return pa


def schema() -> Any:
    """The columns of Parquet, the same in each part: a column without values would else become another type."""
    pa = _pyarrow()
    types = {
        **dict.fromkeys(("version", "tokens_read", "tokens"), pa.int64()),
        "score": pa.float64(),
        "scores": pa.map_(pa.string(), pa.float64()),
    }
    return pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])


def _to_parquet(rows: Sequence[Row]) -> bytes:
    pa = _pyarrow()
    buffer = io.BytesIO()
    columns = [*zip(*rows, strict=True)]
    scores = COLUMNS.index("scores")
    columns[scores] = tuple(value and [*value.items()] for value in columns[scores])
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema(), strict=True)]
    pa.parquet.write_table(pa.Table.from_arrays(arrays, schema=schema()), buffer)
    return buffer.getvalue()


def _from_parquet(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with _pyarrow().parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_READ_ROWS, columns=list(columns)):
            for row in batch.to_pylist():
                if row.get("scores") is not None:
                    row["scores"] = dict(row["scores"])
                yield row


def _join_parquet(parts: Sequence[Path], target: Path) -> None:
    parquet = _pyarrow().parquet
    with parquet.ParquetWriter(target, schema()) as writer:
        for part in parts:
            with parquet.ParquetFile(part) as file:
                for batch in file.iter_batches(_READ_ROWS):
                    writer.write_batch(batch)


def _to_csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        scores = None if row.scores is None else _TO_JSON(row.scores)
        writer.writerow((*row[:6], scores, *row[7:]))
    return text.getvalue().encode(errors="surrogateescape")


def _from_csv(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file):
            values: dict[str, Any] = {name: row[name] or None for name in columns}
            for name, convert in _CONVERTERS.items():
                if values.get(name) is not None:
                    values[name] = convert(values[name])
            yield values


def _to_jsonl(rows: Sequence[Row]) -> bytes:
    lines = (_TO_JSON(row._asdict()) + "\n" for row in rows)
    return "".join(lines).encode(errors="surrogateescape")


def _from_jsonl(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            row = json.loads(line)
            yield {name: row[name] for name in columns}


def _join_text(parts: Sequence[Path], target: Path, *, header_lines: int) -> None:
    with target.open("wb") as joined:
        for number, part in enumerate(parts):
            with part.open("rb") as file:
                for _ in range(header_lines if number else 0):
                    file.readline()
                shutil.copyfileobj(file, joined)
        joined.flush()
        os.fsync(joined.fileno())


def _join_csv(parts: Sequence[Path], target: Path) -> None:
    _join_text(parts, target, header_lines=1)


def _join_jsonl(parts: Sequence[Path], target: Path) -> None:
    _join_text(parts, target, header_lines=0)


_WRITERS: dict[Format, Callable[[Sequence[Row]], bytes]] = {
    "parquet": _to_parquet, "csv": _to_csv, "jsonl": _to_jsonl,
}  # fmt: skip
_READERS: dict[Format, Callable[[Path, Sequence[str]], Iterator[dict[str, Any]]]] = {
    "parquet": _from_parquet, "csv": _from_csv, "jsonl": _from_jsonl,
}  # fmt: skip
_JOINERS: dict[Format, Callable[[Sequence[Path], Path], None]] = {
    "parquet": _join_parquet, "csv": _join_csv, "jsonl": _join_jsonl,
}  # fmt: skip


def read_done(output: Output) -> tuple[Done, Counter[str]]:
    """The rows of an earlier run: their ids, and how many have which error."""
    errors: Counter[str] = Counter()

    def ids() -> Iterator[str]:
        for row in output.rows(("id", "error")):
            if row["error"]:
                errors[row["error"]] += 1
            yield row["id"]

    return Done(ids()), errors


def scores_of(probabilities: npt.NDArray[np.float32], labels: Sequence[str]) -> dict[str, float]:
    """The scores of one item, the highest first, to six decimals, as POST /classify gives them."""
    values = probabilities.tolist()
    order = sorted(range(len(values)), key=values.__getitem__, reverse=True)
    return {labels[index]: round(values[index], 6) for index in order}
