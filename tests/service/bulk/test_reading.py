"""Tables and folders as strangers have them: each is read as meant, or refused with what to do."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.errors import ConvokeError
from service.bulk import scoring
from service.bulk.reading import InputError, Source
from tests.drawing import encode, mnist_like
from tests.serving import ROOT

TEXTS = scoring.manifest_of(ROOT / "models/reviews/2").input
IMAGES = scoring.manifest_of(ROOT / "models/digits/1").input
SEVEN = encode(mnist_like(7))


def contents(path: Path, column: str | None = "text", encoding: str | None = None) -> list[Any]:
    """What a table's items hold; the message of those that cannot be read."""
    source = Source((str(path),), TEXTS, column, encoding=encoding)
    assert source.count() == len(list(source.items()))
    return [str(item.content) if isinstance(item.content, ConvokeError) else item.content for item in source.items()]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("semicolons.csv", b"id;text\n1;A great, warm film\n", ["A great, warm film"]),
        ("tabs.csv", b"id\ttext\n1\tA great, warm film\n", ["A great, warm film"]),
        ("bars.tsv", b"id|text\n1|A great, warm film\n", ["A great, warm film"]),
        ("spaces.csv", b"id, text \n1,Dull.\n", ["Dull."]),
        ("marked.csv", b"\xef\xbb\xbftext\nDull.\n", ["Dull."]),
        ("excel.csv", "text\nA café film\n".encode("utf-16"), ["A café film"]),
        ("mac.csv", b"text\rGreat.\rDull.\r", ["Great.", "Dull."]),
        ("windows.csv", b'text\r\n"Two\r\nlines"\r\n\r\nDull.', ["Two\r\nlines", "Dull."]),
        ("quoted.csv", b'text\n"He said ""no"""\nthe "best" film\n', ['He said "no"', 'the "best" film']),
        ("ends.csv", b'text\nGreat.\n"Dull."', ["Great.", "Dull."]),
        ("short.csv", b"id,text\n1\n2,Dull.\n", ["", "Dull."]),
        ("packed.csv.gz", gzip.compress(b"text\nDull.\n", mtime=0), ["Dull."]),
        ("PACKED.JSONL.GZ", gzip.compress(b'{"text": "Dull."}\n', mtime=0), ["Dull."]),
        ("header.csv", b"text\n", []),
        ("empty.jsonl", b"", []),
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, name: str, data: bytes, expected: list[str]) -> None:
    """Delimiters of a header that has the column, byte order marks, line ends, quotes and gzip are understood."""
    (tmp_path / name).write_bytes(data)
    assert contents(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "data", "column", "expected"),
    [
        ("cp1252.csv", "text\nA café film\n".encode("cp1252"), "text", "--encoding"),
        ("open.csv", b'text\n"Great.\nDull.\nBad.\n', "text", "quotation mark"),
        ("twice.csv", b"text,text\na,b\n", "text", "2 columns 'text'"),
        ("nothing.csv", b"", "text", "names of the columns"),
        ("columns.csv", b"id;text\n1;a\n", None, "'id', 'text'"),
        ("damaged.csv.gz", gzip.compress(b"text\nDull.\n" * 99, mtime=0)[:40], "text", "cannot be read"),
        ("no.csv.gz", b"text\nDull.\n", "text", "cannot be read"),
        ("array.json", b'[{"text": "Dull."}]', "text", ".jsonl"),
        ("book.xlsx", b"PK\x03\x04", "text", ".csv"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, column: str | None, expected: str) -> None:
    """The message names the file and what to do; no row is dropped or read in another way in silence."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        list(Source((str(tmp_path / name),), TEXTS, column).items())
    assert name in str(error.value)
    assert expected in str(error.value)


def test_the_encoding_of_a_table_can_be_given(tmp_path: Path) -> None:
    """Its texts are those that were written."""
    (tmp_path / "x.csv").write_bytes("text\nA café film\n".encode("cp1252"))
    (tmp_path / "x.jsonl").write_bytes('{"text": "A café film"}\n'.encode("cp1252"))
    assert contents(tmp_path / "x.csv", encoding="cp1252") == contents(tmp_path / "x.jsonl", encoding="cp1252")
    assert contents(tmp_path / "x.csv", encoding="cp1252") == ["A café film"]


def test_cells_that_are_not_texts_are_errors(tmp_path: Path) -> None:
    """An object, a list, a number or an absent cell has a row with an error, and its neighbours have theirs."""
    cells = [{"a": 1}, ["x"], 5, True, None, "Dull."]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": cell}) + "\n" for cell in cells))
    result = contents(tmp_path / "x.jsonl")
    assert result[-1] == "Dull."
    kinds = ("dict", "list", "int", "bool", "empty")
    assert all(kind in text for kind, text in zip(kinds, result[:-1], strict=True))


def test_images_of_hugging_face(tmp_path: Path) -> None:
    """An image is an object of bytes, a path or both; without either, it is an error."""
    (tmp_path / "seven.png").write_bytes(SEVEN)
    images = [{"bytes": SEVEN, "path": "x"}, {"bytes": None, "path": "seven.png"}, {"bytes": None, "path": None}, None]
    pq.write_table(pa.table({"image": images}), tmp_path / "x.parquet")
    items = list(Source((str(tmp_path / "x.parquet"),), IMAGES, "image").items())
    assert [item.content for item in items[:2]] == [SEVEN, SEVEN]
    assert all(isinstance(item.content, ConvokeError) for item in items[2:])


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """The error of a row names the file that is missing, since its source is the table."""
    (tmp_path / "x.csv").write_text("path\nmissing.png\n")
    (item,) = Source((str(tmp_path / "x.csv"),), IMAGES, "path").items()
    assert str(tmp_path / "missing.png") in str(item.content)


@pytest.mark.parametrize("wrong", ["nothing/*.png", "empty", "table.csv", "table.json"])
def test_each_input_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """A mistake in the last input is found before an item of the first is read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seven.png").write_bytes(SEVEN)
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(InputError, match=wrong.replace("*", r"\*")):
        next(Source(("seven.png", wrong), IMAGES).items())
