"""Data sets in the forms in which people have them, each with the right labels, or a sentence about what to do."""

import csv
import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.data.test_own import fill, image, looked, said, table, write
from tests.training.data.test_strangers import text
from training.data import catalogue, label_files
from training.data.schema import Image as ImageSpec
from training.errors import DataError
from training.recipe import new
from training.recipe.look import Options, look

SPEC = ImageSpec(height=8, width=8, mode="RGB", framing="squash", mean=[0.5] * 3, std=[0.5] * 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))


def _contest(root: Path) -> None:
    """Kaggle: ids without suffix, images of the test part without labels, a form for answers."""
    rows = [(f"{n:04x}", ("collie", "pug")[n % 2]) for n in range(30)]
    for n in range(40):
        write(root / ("train" if n < 30 else "test") / f"{n:04x}.jpg", image(n, ".jpg"))
    write(root / "labels.csv", table([("id", "breed"), *rows]))
    write(
        root / "sample_submission.csv", table([("id", "collie", "pug"), *((f"{n:04x}", "1", "0") for n in range(30))])
    )


def _names(form: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for n in range(30):
            write(root / form.format(label=("collie", "great_pug")[n % 2], n=n), image(n))
        for n in range(30, 36):
            write(root / "test1" / f"{n}.png", image(n))

    return make


def _one_hot(root: Path) -> None:
    rows = [(f"Train_{n}", str(1 - n % 2), str(n % 2)) for n in range(30)]
    for n in range(30):
        write(root / "images" / f"Train_{n}.png", image(n))
    write(root / "train.csv", table([("image_id", " collie", " pug"), *rows]))


def _roboflow(root: Path) -> None:
    for split, start, count in (("train", 0, 20), ("valid", 50, 60), ("test", 150, 10)):
        rows = [(f"{n}.png", str(1 - n % 2), str(n % 2)) for n in range(start, start + count)]
        for name, *_ in rows:
            write(root / split / name, image(int(name[:-4])))
        write(root / split / "_classes.csv", table([("filename", " collie", " pug"), *rows]))


def _shards(root: Path) -> None:
    for name, start in (("train-00000-of-00002", 0), ("train-00001-of-00002", 20), ("test-00000-of-00001", 40)):
        rows = {"image": [{"bytes": image(n), "path": None} for n in range(start, start + 20)],
                "label": [("collie", "pug")[n % 2] for n in range(start, start + 20)]}  # fmt: skip
        (root / "data").mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table(rows), root / "data" / f"{name}.parquet")
    write(root / "README.md", "---")


def _splits_in_classes(root: Path) -> None:
    for n in range(30):
        write(root / ("collie", "pug")[n % 2] / ("train" if n < 20 else "test") / f"{n}.png", image(n))


def _masks(root: Path) -> None:
    for n in range(30):
        label = ("collie", "pug")[n % 2]
        write(root / label / "images" / f"{n}.png", image(n))
        write(root / label / ("masks" if n % 3 else "images") / f"{n}{'' if n % 3 else '_mask'}.png", image(n + 100))


def _composed(root: Path) -> None:
    for n in range(30):
        form: Literal["NFC", "NFD"] = "NFD" if n // 2 % 2 else "NFC"
        write(root / unicodedata.normalize(form, ("k\u00e4se", "z\u00fcge ")[n % 2]) / f"{n}.png", image(n))


def _odd_path(root: Path) -> None:
    fill(root / 'my "nice" photo\'s $HOME', ["rose's", 'tu "lip"'], 15)


IMAGES: dict[str, tuple[Callable[[Path], None], list[str], int, str]] = {
    "a contest": (_contest, ["collie", "pug"], 30, ""),
    "cat.12.png": (_names("train/{label}.{n}.png"), ["collie", "great_pug"], 30, "6 files in test1/"),
    "cat_12.png": (_names("{label}_{n}.png"), ["collie", "great_pug"], 30, "the names of the files have the labels"),
    "12-cat.png": (_names("images/{n}-{label}.png"), ["collie", "great_pug"], 30, ""),
    "one-hot": (_one_hot, ["collie", "pug"], 30, ""),
    "one-hot in each split": (_roboflow, ["collie", "pug"], 90, ""),
    "shards of Parquet below data/": (_shards, ["collie", "pug"], 60, ""),
    "splits within classes": (_splits_in_classes, ["collie", "pug"], 30, ""),
    "masks": (_masks, ["collie", "pug"], 30, "30 images are masks of others"),
    "composed and decomposed names": (_composed, ["k\u00e4se", "z\u00fcge"], 30, ""),
    "quotation marks and spaces in names": (_odd_path, ["rose's", 'tu "lip"'], 30, ""),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_in_every_form_give_the_right_labels(kind: str, tmp_path: Path) -> None:
    """What `new` finds is what training then loads."""
    make, labels, count, note = IMAGES[kind]
    root = tmp_path / "data"
    make(root)
    seen = looked(root)
    assert (seen.kind, seen.labels, len(seen.compared.examples)) == ("image", labels, count)
    assert note in said(seen)
    data = catalogue.load(seen.data, SPEC, seen.labels)
    splits = {"train": data.train, "validation": data.validation, "test": data.tests[seen.data.title]}
    assert {name: len(split) for name, split in splits.items()} == {name: len(seen.of(name)) for name in splits}  # type: ignore[arg-type]
    by_source = {each.source: each.label for each in seen.compared.examples}
    for split in splits.values():
        for name, number in zip(split.files or (), split.labels.tolist(), strict=True):
            assert by_source.get(name, labels[number]) == labels[number]


def test_splits_within_classes_and_one_hot_tables_are_kept(tmp_path: Path) -> None:
    """`rose/test/` is a part of the test split, and so is `test/_classes.csv`."""
    _splits_in_classes(tmp_path / "a")
    assert len(looked(tmp_path / "a").of("test")) == 10
    _roboflow(tmp_path / "b")
    seen = looked(tmp_path / "b")
    assert (seen.data.one_hot, len(seen.of("test")), len(seen.of("validation"))) == (["collie", "pug"], 10, 60)
    assert all(int(Path(str(each.content)).stem) % 2 == (each.label == "pug") for each in seen.compared.examples)


def _rows(n: int) -> list[tuple[str, str]]:
    return [(text(i), ("ham", "spam", "ham ")[i % 3]) for i in range(n)]


TEXTS: dict[str, tuple[str, str]] = {
    "nested objects": (
        "t.jsonl",
        "\n".join(json.dumps({"data": {"text": t}, "annotations": [{"label": each}]}) for t, each in _rows(45)),
    ),
    "columns of JSON": (
        "t.json", json.dumps({"text": {str(i): t for i, (t, _) in enumerate(_rows(45))},
                              "label": {str(i): each for i, (_, each) in enumerate(_rows(45))}})
    ),
    "pandas' split form": (
        "t.json", json.dumps({"columns": ["text", "label"], "index": list(range(45)), "data": _rows(45)})
    ),
    "an object around the rows": (
        "t.json", json.dumps({"version": 1, "data": [{"text": t, "label": each} for t, each in _rows(45)]})
    ),
    "pairs in splits": ("t.json", json.dumps({"train": _rows(30), "test": _rows(45)[30:]})),
    "fastText": ("t.txt", "".join(f"__label__{each.strip()} {t}\n" for t, each in _rows(45))),
    "a label before each text": ("t.txt", "".join(f"{each.strip()} {t}\n" for t, each in _rows(45))),
    "labels with a space behind": ("t.csv", table([("text", "label"), *_rows(45)])),
    "an object for each id": (
        "t.json", json.dumps({str(i): {"text": t, "label": each} for i, (t, each) in enumerate(_rows(45))})
    ),
    "a list for each label": (
        "t.json", json.dumps({each: [t for t, other in _rows(45) if other.strip() == each] for each in ("ham", "spam")})
    ),
    "a title and comments above the header": (
        "t.csv", "Export of 2026,,\n# two labels\n" + table([("id", "text", "label"),
                                                           *((str(i), *row) for i, row in enumerate(_rows(45)))])
    ),
    "two columns of one name": (
        "t.csv", table([("text", "label", "text"), *((t, each, str(i)) for i, (t, each) in enumerate(_rows(45)))])
    ),
    "an index and empty columns": (
        "t.csv",
        table([("", "v1", "v2", "", ""), *((str(i), each, t, "", "") for i, (t, each) in enumerate(_rows(45)))]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_in_every_form_give_the_right_labels(kind: str, tmp_path: Path) -> None:
    """Each text has the label that its row has."""
    name, content = TEXTS[kind]
    write(tmp_path / name, content)
    seen = looked(tmp_path / name)
    right = {t: each.strip() for t, each in _rows(45)}
    assert seen.labels == ["ham", "spam"]
    assert {str(each.content): each.label for each in seen.compared.examples} == right
    if kind == "pairs in splits":
        assert len(seen.of("test")) == 15


def _several(root: Path) -> None:
    random = np.random.default_rng(0)
    rows = [(str(n), text(n), *map(str, random.integers(0, 2, 3))) for n in range(60)]
    write(root / "t.csv", table([("id", "comment_text", "toxic", "obscene", "insult"), *rows]))


def _joined(root: Path) -> None:
    random = np.random.default_rng(0)
    kinds = ["Action", "Comedy", "Drama", "Horror"]
    rows = [(text(n), "|".join(random.choice(kinds, random.integers(1, 4), replace=False))) for n in range(90)]
    write(root / "t.csv", table([("title", "genres"), *rows]))


def _boxes(root: Path) -> None:
    for n in range(20):
        write(root / "images" / "train" / f"{n}.png", image(n))
        write(root / "labels" / "train" / f"{n}.txt", "0 0.5 0.5 0.2 0.2")


def _lines(root: Path) -> None:
    for name in "ab":
        write(root / f"{name}.txt", "a line\n" * 20)


def _same(root: Path) -> None:
    for split in ("train", "test"):
        for n in range(20):
            write(root / split / "ab"[n % 2] / f"{n}.png", image(n))


def _heic(root: Path) -> None:
    for n in range(20):
        write(root / "ab"[n % 2] / f"{n}.HEIC", b"\0\0\0\x18ftypheic" + bytes([n]) * 200)


def _write(name: str, content: bytes | str = b"PK\x03\x04") -> Callable[[Path], None]:
    return lambda root: write(root / name, content)


REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "several labels in columns": (_several, "", "several of the columns toxic, obscene, insult.*--label"),
    "several labels in a cell": (_joined, "", "several labels, like 'Action"),
    "several labels of fastText": (_write("t.txt", "__label__a __label__b text\n" * 20), "t.txt", "20 lines"),
    "boxes of YOLO": (_boxes, "", "boxes for an image"),
    "boxes of COCO": (_write("t.json", '{"images": [], "annotations": []}'), "t.json", "COCO.*one label"),
    "train and test are the same": (_same, "", "no training example is left"),
    "a file for each class": (
        _lines, "", "each line of a file"
    ),
    "HEIC": (_heic, "", "this is HEIC; convert it to JPEG or PNG"),
    "a ZIP of photos": (_write("photos.zip"), "photos.zip", "unpack the archive"),
    "a ZIP of a table": (_write("a.csv.zip"), "a.csv.zip", "unpack the archive"),
    "a spreadsheet in a folder": (_write("a.xlsx"), "", "save the sheet as CSV"),
    "arrays": (_write("x.npz"), "", "save each image as a PNG"),
    "a pickle": (_write("x.pkl"), "x.pkl", "to_parquet"),
    "MNIST": (_write("train-images-idx3-ubyte.gz"), "", "MNIST's format"),
    "addresses": (
        _write("t.csv", table([("url", "label"), *((f"https://a.org/{n}.jpg", "xy"[n % 2]) for n in range(20))])),
        "t.csv", "download the images"),
    "two of each": (
        lambda root: fill(root, [f"c{n}" for n in range(20)], 2), "", "2.0 each.*Add examples"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_set_for_a_classifier_is_refused_with_what_to_do(kind: str, tmp_path: Path) -> None:
    """Nothing is guessed where a guess would be wrong."""
    make, name, sentence = REFUSED[kind]
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    with pytest.raises(DataError, match=f"(?s){sentence}"):
        looked(root / name if name else root)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "rose\ntulip\n"),
        ("labels.json", '["rose", "tulip"]'),
        ("cat_to_name.json", '{"1": "rose", "2": "tulip"}'),
        ("class_indices.json", '{"rose": 1, "tulip": 2}'),
    ],
)
def test_names_of_numbers_come_from_a_file(name: str, content: str, tmp_path: Path) -> None:
    """A file beside the data is suggested, not applied; `--labels FILE` applies it."""
    fill(tmp_path / "images", ["1", "2"], 15)
    write(tmp_path / name, content)
    seen = looked(tmp_path)
    assert f"--labels {tmp_path / name}" in said(seen)
    named = look(tmp_path, Options(names_file=tmp_path / name))
    assert (named.labels, named.data.label_names) == (["rose", "tulip"], {"1": "rose", "2": "tulip"})
    with pytest.raises(DataError, match=r"no name for|names in a row"):
        label_files.read(tmp_path / name, ["1", "2", "3"])


def test_one_long_text_does_not_set_the_length(tmp_path: Path) -> None:
    """A text of a million characters among short ones is cut."""
    rows = [(text(n) * (20_000 if n == 3 else 1), "xy"[n % 2]) for n in range(60)]
    stream = io.StringIO()
    csv.writer(stream).writerows([("text", "label"), *rows])
    write(tmp_path / "t.csv", stream.getvalue())
    recipe, _ = new.recipe("long", looked(tmp_path / "t.csv"))
    assert recipe.input.kind == "text"
    assert recipe.input.length <= 24


def test_folders_within_classes_are_named(tmp_path: Path) -> None:
    """`mammals/cats` is labelled `mammals`, which is said."""
    for place, name in enumerate(("mammals/cats", "mammals/dogs", "birds/owls", "birds/hawks")):
        for n in range(10):
            write(tmp_path / name / f"{n}.png", image(place * 100 + n))
    seen = looked(tmp_path)
    assert seen.labels == ["birds", "mammals"]
    assert "are not labels: cats, dogs, hawks, owls" in said(seen)
