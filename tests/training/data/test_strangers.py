"""Data sets as other people publish them: their columns, their missing values, their folders."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.data.test_own import SPEC, fill, image, looked, said, table, write
from training.data import catalogue, columns, similar, table_file
from training.errors import DataError

WORDS = ["lorem", "ipsum", "dolor", "sit", "amet", "elit", "sed", "do", "eiusmod", "tempor", "magna", "aliqua"]


def text(number: int) -> str:
    return f"{WORDS[number % 12]} {WORDS[number % 7]}, {WORDS[number % 5]} number {number} of some longer text"


HEADERS: dict[str, tuple[str, str, str]] = {
    "AG News": ("Class Index,Title,Description", "{n},{word},{text}", "Class Index Description"),
    "Amazon": ("reviewerID,asin,overall,summary,reviewText", "A{m},B{n},{n}.0,{word},{text}", "overall reviewText"),
    "a help desk in German": ("Nr.;Eingang;Betreff/Text;Kategorie", "{i};{day}.03.2026;{text};{label}",
                              "Kategorie Betreff/Text"),
    "Chinese": ("评论内容,标签", "{text},{n}", "标签 评论内容"),
    "airlines": ("tweet_id,airline_sentiment,airline_sentiment_confidence,airline,text",
                 "{i},{label},0.{i},{word},{text}", "airline_sentiment text"),
    "names beside numbers": ("idx,sentence,label,label_text", "{i},{text},{n},{label}", "label_text sentence"),
    "Kaggle": ("id,keyword,location,text,target", "{i},{word},,{text},{n}", "target text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_the_columns_of_known_tables_are_found(kind: str, tmp_path: Path) -> None:
    """Names of columns in several languages, in camel case and of several words say what is in them."""
    header, row, expected = HEADERS[kind]
    mark = ";" if ";" in header else ","
    lines = [header]
    for i in range(40):
        values = {
            "i": i,
            "n": i % 3,
            "m": i % 9,
            "day": f"{i % 28 + 1:02}",
            "word": WORDS[i % 5],
            "label": "abc"[i % 3],
        }
        lines.append(row.format(text=f'"{text(i)}"', **values))
    write(tmp_path / "t.csv", "\n".join(lines).replace(",", mark) if mark == ";" else "\n".join(lines))
    chosen = columns.choose(table_file.read(tmp_path / "t.csv"))
    assert f"{chosen['label']} {chosen['text']}" == expected


def test_commas_in_quotation_marks_of_every_row_are_no_columns(tmp_path: Path) -> None:
    """Quoting is preferred to more columns without it."""
    rows = [("label", "title", "text"), *((str(n % 2), "a title", f"one, two and {n}") for n in range(30))]
    write(tmp_path / "t.csv", table(rows))
    read = table_file.read(tmp_path / "t.csv")
    assert (read.names, len(read.rows), read.rows[0][2]) == (["label", "title", "text"], 30, "one, two and 0")


def test_missing_labels_of_programs_are_no_labels(tmp_path: Path) -> None:
    """NaN is left out everywhere, and NA or null beside numbers; where labels are words, None is one of them."""
    cells = ["1.0", "0.0", "nan", "NaN", "null", "NA", "1.0", "0.0"]
    write(tmp_path / "t.csv", table([("text", "toxic"), *((text(n), cells[n % 8]) for n in range(80))]))
    seen = looked(tmp_path / "t.csv")
    assert (seen.labels, len(seen.compared.examples)) == (["0", "1"], 40)
    words = ["None", "scratch", "nan"]
    write(tmp_path / "u.csv", table([("text", "defect"), *((text(n), words[n % 3]) for n in range(60))]))
    assert looked(tmp_path / "u.csv", text="text", label="defect").labels == ["None", "scratch"]


def test_images_within_a_table_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's data sets store the bytes of images; they are written to the cache once."""
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))
    content = pa.table({
        "image": [{"bytes": image(number), "path": f"{number}.png"} for number in range(30)],
        "label": pa.array([number % 2 for number in range(30)]),
    })  # fmt: skip
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    pq.write_table(
        content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
        tmp_path / "train.parquet",
    )
    seen = looked(tmp_path / "train.parquet")
    assert (seen.kind, seen.labels, seen.compared.examples[0].source[-5:]) == ("image", ["cat", "dog"], "row 1")
    assert len(catalogue.load(seen.data, SPEC, seen.labels).train) == 22
    assert len(list((tmp_path / "cache" / "tables").iterdir())) == 30


def test_a_table_of_pixels_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """A column for each pixel is neither a text nor a path."""
    rows = [[str(n % 2), *map(str, range(n, n + 64))] for n in range(20)]
    write(tmp_path / "t.csv", table([("label", *(f"pixel{n}" for n in range(64))), *rows]))
    with pytest.raises(DataError, match=r"65 columns of numbers.*as an image"):
        looked(tmp_path / "t.csv")


def test_a_folder_of_unlabelled_examples_is_not_a_class(tmp_path: Path) -> None:
    """IMDB has `unsup` beside `pos` and `neg`."""
    for name in ("pos", "neg", "unsup"):
        for number in range(20):
            write(tmp_path / name / f"{number}.txt", f"{name} {text(number)}")
    seen = looked(tmp_path)
    assert seen.labels == ["neg", "pos"]
    assert "20 files in unsup/" in said(seen)


def test_a_tiny_validation_split_joins_the_training_examples(tmp_path: Path) -> None:
    """16 X-rays in `val` beside 5,216 in `train` are too few to choose by."""
    for split, count in (("train", 60), ("val", 2), ("test", 10)):
        fill(tmp_path / split, count=count)
    seen = looked(tmp_path)
    assert (seen.data.validation, seen.data.test) == (0.15, "given")
    assert "only 4 examples" in said(seen)
    assert len(seen.of("train")) + len(seen.of("validation")) == 124


def test_images_that_share_a_scene_are_not_near_duplicates() -> None:
    """Parts before one camera differ in little, yet they are different; a copy of one in another quality is found."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    scenes = [120 + 80 * np.sin(x / 3) * np.cos(y / 4), 120 + 80 * np.cos(x / 5 + y / 3)]
    images = np.stack([scenes[n % 2] + random.normal(0, 5, (16, 16)) for n in range(80)] + [np.zeros((16, 16))])
    images[80] = images[3] + random.normal(0, 0.3, (16, 16))
    thumbnails = np.repeat(images.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=3)
    assert similar.pairs(thumbnails, [*("ab"[n % 2] for n in range(80)), "b"]) == [(3, 80)]
