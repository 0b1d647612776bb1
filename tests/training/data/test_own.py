"""The user's own data: folders and tables of every kind that people have, and what is said about broken ones."""

import csv
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from training.data import catalogue, columns, compare, similar, table_file
from training.data.held_out import assign
from training.data.schema import Data, Text
from training.data.schema import Image as ImageSpec
from training.errors import DataError, RecipeError
from training.recipe import findings, new
from training.recipe.look import Look, Options, look

CLASSES = ("rose", "tulip")
SPEC = ImageSpec(height=8, width=8, mode="RGB", framing="squash", mean=[0.5] * 3, std=[0.5] * 3)
TEXT = Text(kind="text", length=8, vocabulary=50)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))


def image(seed: int, suffix: str = ".png", side: int = 12) -> bytes:
    """Noise of few large pixels, another for each seed, as an encoded image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    stream = io.BytesIO()
    kinds = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP", ".tiff": "TIFF"}
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.NEAREST)
    picture.save(stream, kinds[suffix.lower()])
    return stream.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def fill(root: Path, classes: Iterable[str] = CLASSES, count: int = 10, suffixes: tuple[str, ...] = (".png",)) -> None:
    """`count` different images in a folder for each class."""
    for place, name in enumerate(classes):
        for number in range(count):
            suffix = suffixes[number % len(suffixes)]
            seed = zlib.crc32(f"{root} {place} {number}".encode())
            write(root / name / f"{number}{suffix}", image(seed, suffix))


def looked(path: Path, **options: str) -> Look:
    return look(path, Options(**options))  # type: ignore[arg-type]


def said(seen: Look) -> str:
    return "\n".join(findings.report(seen))


def test_a_folder_with_a_subfolder_for_each_class(tmp_path: Path) -> None:
    """Names with spaces, dots, umlauts and upper-case suffixes are labels as they are; every format is read."""
    names = ["Rosa canina", "T. sylvestris", "Gänseblümchen".encode().decode()]
    decomposed = "Ga\u0308nseblu\u0308mchen"  # as macOS writes it
    fill(tmp_path, [*names[:2], decomposed], 12, (".png", ".JPG", ".bmp", ".gif", ".webp", ".TIFF"))
    seen = looked(tmp_path)
    assert seen.labels == sorted(names)
    assert Counter(seen.splits) == {"train": 27, "validation": 3, "test": 6}
    data = catalogue.load(seen.data, SPEC, seen.labels[::-1])
    assert data.train.labels.bincount().tolist() == [9, 9, 9]
    assert {Path(name).parent.name for name in data.tests[tmp_path.name].files or ()} == {*names[:2], decomposed}


@pytest.mark.parametrize("spelling", ["train val test", "Training Valid Testing", "seg_train dev seg_test"])
def test_splits_above_the_classes_are_kept(tmp_path: Path, spelling: str) -> None:
    """train, val and test in their usual spellings, also one level deeper, are the splits."""
    for folder, count in zip(spelling.split(), (8, 4, 3), strict=True):
        inner = tmp_path / folder / folder if folder.startswith("seg") else tmp_path / folder
        fill(inner, count=count)
    seen = looked(tmp_path)
    assert (seen.data.validation, seen.data.test) == ("given", "given")
    assert Counter(seen.splits) == {"train": 16, "validation": 8, "test": 6}


def test_one_folder_around_the_classes_is_passed_through(tmp_path: Path) -> None:
    """An unpacked archive has one folder around all; the classes are below it."""
    fill(tmp_path / "flower_photos")
    assert looked(tmp_path).labels == list(CLASSES)


def test_files_between_the_data_are_passed_over_and_named_once(tmp_path: Path) -> None:
    """What systems leave in folders is no data, and no error."""
    fill(tmp_path)
    for name in (".DS_Store", "rose/Thumbs.db", "rose/._1.png", "tulip/._2.png", "__MACOSX/rose/._1.png", "README.md",
                 "lost+found/x", "rose/.ipynb_checkpoints/1.png", "tulip/notes.pdf"):  # fmt: skip
        write(tmp_path / name, b"x")
    seen = looked(tmp_path)
    text = said(seen)
    assert len(seen.compared.examples) == 20
    assert text.count("._*") == 1
    for name in (".DS_Store", "Thumbs.db", "__MACOSX", "README.md", "lost+found", ".ipynb_checkpoints", ".pdf (1)"):
        assert name in text


def test_unreadable_files_are_named_and_left_out(tmp_path: Path) -> None:
    """Damaged, empty and foreign files are listed with their reason; the others are used."""
    fill(tmp_path, count=20)
    write(tmp_path / "rose" / "broken.jpg", image(1, ".jpg")[:60])
    write(tmp_path / "rose" / "empty.png", b"")
    write(tmp_path / "tulip" / "phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0")
    seen = looked(tmp_path)
    assert len(seen.compared.examples) == 40
    for name in ("broken.jpg", "empty.png", "phone.heic: ", "HEIC"):
        assert name in said(seen)


def test_links_inside_are_followed_and_others_refused(tmp_path: Path) -> None:
    """A loop, a link to nothing and a link that leaves the folder each have a sentence."""
    root = tmp_path / "data"
    fill(root)
    write(tmp_path / "outside.png", image(7))
    (root / "rose" / "inside.png").symlink_to(root / "tulip" / "0.png")
    (root / "rose" / "loop").symlink_to(root)
    (root / "rose" / "leaves.png").symlink_to(tmp_path / "outside.png")
    (root / "rose" / "nothing.png").symlink_to(root / "none")
    seen = looked(root)
    reasons = {Path(each.source).name: each.reason for each in seen.compared.found.left_out}
    assert "loop" in reasons["loop"]
    assert "out of the folder" in reasons["leaves.png"]
    assert "nothing" in reasons["nothing.png"]
    assert len(seen.compared.conflicts) == 1  # the linked image is in both classes


def test_copies_conflicts_and_near_duplicates(tmp_path: Path) -> None:
    """A copy is used once, a content with two labels not at all, and the same image in another size stays together."""
    fill(tmp_path, count=20)
    for number in range(6):
        write(tmp_path / "rose" / f"large{number}.jpg", image(number, ".jpg", 96))
        write(tmp_path / "rose" / f"small{number}.png", image(number, ".png", 48))
    write(tmp_path / "rose" / "copy.png", (tmp_path / "rose" / "0.png").read_bytes())
    write(tmp_path / "tulip" / "both.png", (tmp_path / "rose" / "1.png").read_bytes())
    seen = looked(tmp_path)
    assert (seen.compared.copies, len(seen.compared.conflicts), seen.compared.near) == (1, 1, 12)
    split = {Path(each.source).name: name for each, name in zip(seen.compared.examples, seen.splits, strict=True)}
    assert all(split[f"large{number}.jpg"] == split[f"small{number}.png"] for number in range(6))
    assert "both.png (tulip)" in said(seen)


def test_near_duplicates_do_not_straddle_given_splits(tmp_path: Path) -> None:
    """A training image that is nearly a test image is not trained on."""
    fill(tmp_path / "train")
    fill(tmp_path / "test")
    write(tmp_path / "train" / "rose" / "same.jpg", image(3, ".jpg", 96))
    write(tmp_path / "test" / "rose" / "same.png", image(3, ".png", 48))
    seen = looked(tmp_path)
    split = {each.source: name for each, name in zip(seen.compared.examples, seen.splits, strict=True)}
    assert split[str(tmp_path / "train" / "rose" / "same.jpg")] == ""
    assert "1 training examples are nearly the same" in said(seen)


def test_pairs_are_those_of_a_direct_comparison() -> None:
    """Comparing thumbnails in order of brightness finds what comparing all pairs does."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (300, 16, 16, 3), generator=generator, dtype=torch.uint8)
    images[100:120] = (images[:20].int() + 1).clamp(max=255).to(torch.uint8)
    flat = images.reshape(300, -1).float()
    alike = torch.corrcoef(flat) >= 0.99
    alike &= (flat.mean(dim=1).unsqueeze(1) - flat.mean(dim=1)).abs() <= 3
    assert sorted(similar.pairs(images.numpy())) == [tuple(pair) for pair in alike.triu(1).nonzero().tolist()]


def test_splits_depend_on_content_and_seed_alone(tmp_path: Path) -> None:
    """Renamed and moved files are split alike; another seed makes other splits."""
    fill(tmp_path / "a", count=30)
    for path in (tmp_path / "a").rglob("*.png"):
        write(tmp_path / "b" / path.parent.name / f"x{path.name}", path.read_bytes())
    tests = []
    for folder, seed in (("a", 0), ("b", 0), ("b", 1)):
        seen = looked(tmp_path / folder)
        splits = assign(seen.compared, seen.data.model_copy(update={"split_seed": seed}))
        tests.append({key for key, name in zip(seen.compared.keys, splits, strict=True) if name == "test"})
    assert tests[0] == tests[1] != tests[2]


def table(rows: Iterable[Iterable[str]], delimiter: str = ",") -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    return stream.getvalue()


ROWS = [(f"wörd{n % 7} and, more; {n}\nsecond “line”", ("good", "bad")[n % 2]) for n in range(24)]
HEADED = [("text", "label"), *ROWS]
PLAIN = [(text.replace("\n", " "), label) for text, label in ROWS]


def parquet(rows: list[tuple[str, str]]) -> bytes:
    stream = io.BytesIO()
    texts, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"text": list(texts), "label": list(labels)}), stream)
    return stream.getvalue()


TABLES: dict[str, tuple[str, bytes]] = {
    "utf-8": ("t.csv", table(HEADED).encode()),
    "BOM": ("t.csv", b"\xef\xbb\xbf" + table(HEADED).encode()),
    "UTF-16": ("t.csv", table(HEADED).encode("utf-16")),
    "UTF-16 without BOM": ("t.csv", table(HEADED).encode("utf-16-le")),
    "cp1252": ("t.csv", table(HEADED).encode("cp1252")),
    "semicolons": ("t.csv", table(HEADED, ";").encode()),
    "tabs in a csv": ("t.csv", table(HEADED, "\t").encode()),
    "tsv": ("t.tsv", table(HEADED, "\t").encode()),
    "bars": ("t.txt", table(HEADED, "|").encode()),
    "CR LF": ("t.csv", table(HEADED).replace("\r\n", "\n").replace("\n", "\r\n").encode()),
    "Excel's sep=": ("t.csv", b"sep=;\r\n" + table(HEADED, ";").encode()),
    "empty columns": ("t.csv", table([(*row, "", "") for row in HEADED]).encode()),
    "no header": ("t.csv", table(ROWS).encode()),
    "lone quotes": ("t.tsv", "".join(f'{label}\t"{text}\n' for text, label in PLAIN).encode()),
    "JSON Lines": ("t.jsonl", "\n".join(json.dumps({"text": t, "label": y}) for t, y in ROWS).encode()),
    "JSON array": ("t.json", json.dumps([{"text": t, "label": y} for t, y in ROWS]).encode()),
    "Parquet": ("t.parquet", parquet(ROWS)),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_each_kind_gives_its_texts_and_labels(kind: str, tmp_path: Path) -> None:
    """Encoding, delimiter, quoting, line breaks and header are detected: every table gives the same examples."""
    name, content = TABLES[kind]
    write(tmp_path / name, content)
    seen = looked(tmp_path / name)
    expected = PLAIN if kind == "lone quotes" else ROWS
    texts = sorted(str(example.content).lstrip('"').replace("\r\n", "\n") for example in seen.compared.examples)
    assert texts == sorted(text for text, _ in expected)
    assert seen.labels == ["bad", "good"]


def test_columns_are_guessed_or_named(tmp_path: Path) -> None:
    """Usual names and contents say which column is which; where they leave a choice, the message asks for it."""
    rows = [
        (str(n), f"title {n % 5}", f"a much longer body of text number {n}, with words", "ab"[n % 2]) for n in range(20)
    ]
    write(tmp_path / "t.csv", table([("id", "title", "body", "y"), *rows]))
    read = table_file.read(tmp_path / "t.csv")
    assert columns.choose(read) == {"label": "y", "text": "body"}
    assert columns.choose(read, text="title", label="y")["text"] == "title"
    write(tmp_path / "u.csv", table([("p", "q", "r"), *((f"some {n}", f"more {n}", "ab"[n % 2]) for n in range(20))]))
    with pytest.raises(DataError, match=r"--text COLUMN.*'p', 'q', 'r'"):
        columns.choose(table_file.read(tmp_path / "u.csv"))
    with pytest.raises(DataError, match=r"no column 'z'; its columns are 'p', 'q', 'r'"):
        columns.choose(table_file.read(tmp_path / "u.csv"), label="z")


def test_empty_cells_numbers_and_alike_labels_are_reported(tmp_path: Path) -> None:
    """Rows without text or label are left out; numeric labels get names; labels that differ in case are not merged."""
    rows = [("text", "label"), *((f"text number {n}", "012"[n % 3]) for n in range(30)), ("", "1"), ("no label", "")]
    write(tmp_path / "t.csv", table(rows))
    assert "give them names with --labels 0=NAME" in said(looked(tmp_path / "t.csv"))
    seen = look(tmp_path / "t.csv", Options(label_names=new.label_names(["0=ham,1=spam", "2=Spam"])))
    assert seen.labels == ["Spam", "ham", "spam"]
    assert "2 not used" in said(seen)
    assert "differ only in case or space: 'Spam' and 'spam'" in said(seen)
    data = catalogue.load(seen.data, TEXT, ["spam", "ham", "Spam"])
    assert len(set(data.train.labels.tolist())) == 3
    floats = [("text", "label"), *((f"text number {n}", f"{n % 2}.0") for n in range(20))]
    write(tmp_path / "f.csv", table(floats))
    assert looked(tmp_path / "f.csv").labels == ["0", "1"]


def test_groups_and_given_splits_of_a_table(tmp_path: Path) -> None:
    """Rows of one group are in one split; a column of splits is used."""
    rows = [(f"text number {n}", "ab"[n % 2], f"author {n // 6}") for n in range(60)]
    write(tmp_path / "t.csv", table([("text", "label", "author"), *rows]))
    seen = looked(tmp_path / "t.csv", group="author")
    by_group: dict[str, set[str]] = {}
    for example, split in zip(seen.compared.examples, seen.splits, strict=True):
        by_group.setdefault(example.group, set()).add(split)
    assert all(len(splits) == 1 for splits in by_group.values())
    assert {"train", "validation", "test"} == {split for splits in by_group.values() for split in splits}
    parts = [(*row[:2], ("train", "train", "dev", "TEST")[n // 2 % 4]) for n, row in enumerate(rows)]
    write(tmp_path / "s.csv", table([("text", "label", "split"), *parts]))
    seen = looked(tmp_path / "s.csv")
    assert Counter(seen.splits) == {"train": 32, "validation": 14, "test": 14}
    for name, chosen in (("train", rows[:40]), ("test", rows[40:])):
        write(tmp_path / "several" / f"{name}.csv", table([("text", "label", "author"), *chosen]))
    assert Counter(looked(tmp_path / "several").splits)["test"] == 20


@pytest.mark.parametrize("form", ["names", "names in another case", "stems in a folder", "a table elsewhere"])
def test_a_flat_folder_with_a_table_of_files_and_labels(form: str, tmp_path: Path) -> None:
    """A column of file names, with or without suffix, works like a folder."""
    rows = []
    for number in range(24):
        folder = tmp_path / ("train" if form == "stems in a folder" else "images")
        write(folder / f"{number:03}.png", image(number))
        cell = f"{number:03}" if form == "stems in a folder" else f"{number:03}.png"
        cells = {"names": f"images\\{cell}", "names in another case": f"Images/{cell.upper()}"}
        rows.append((cells.get(form, cell), CLASSES[number % 2]))
    place = tmp_path / ("tables" if form == "a table elsewhere" else ".") / "train.csv"
    write(place, table([("id", "breed"), *rows]))
    write(tmp_path / "sample_submission.csv", table([("id", "breed"), ("1", "rose")]))
    options = {"image": "id", "label": "breed", "images": str(tmp_path / "images")}
    seen = looked(place, **options) if form == "a table elsewhere" else looked(tmp_path)
    assert (seen.kind, seen.labels, len(seen.compared.examples)) == ("image", list(CLASSES), 24)
    data = catalogue.load(seen.data, SPEC, seen.labels)
    assert len(data.train) + len(data.validation) + len(data.tests[seen.data.title]) == 24


def test_texts_without_spaces_are_read_by_characters(tmp_path: Path) -> None:
    """Chinese has no spaces between words; each character is a token."""
    rows = [
        ("这部电影非常好看" + "很"[: n % 2] + str(n), "好") if n % 2 else ("这部电影太差了" + str(n), "差")
        for n in range(40)
    ]
    write(tmp_path / "t.csv", table([("text", "label"), *rows]))
    recipe, _ = new.recipe("films", looked(tmp_path / "t.csv"))
    assert isinstance(recipe.input, Text)
    assert recipe.input.unit == "character"
    data = catalogue.load(recipe.data, recipe.input, recipe.labels)
    assert data.train.lengths is not None
    assert int(data.train.lengths.min()) >= 7


def test_folds_of_own_data_partition_it(tmp_path: Path) -> None:
    """Each example but those of the test split is tested in one fold; those of the test split are in none."""
    write(tmp_path / "t.csv", table([("text", "label"), *PLAIN]))
    seen = looked(tmp_path / "t.csv")
    data = seen.data.model_copy(update={"folds": 3, "test": 0.2})
    folds = [catalogue.fold(data, TEXT, seen.labels, number) for number in range(3)]
    tested = [name for each in folds for split in each.tests.values() for name in split.files or ()]
    (held,) = catalogue.load(data, TEXT, seen.labels).tests.values()
    assert held.files
    assert sorted([*tested, *held.files]) == sorted(example.source for example in seen.compared.examples)
    used = {name for each in folds for split in (each.train, each.validation) for name in split.files or ()}
    assert not used & set(held.files)


def _grouped(path: Path, groups: int) -> tuple[Data, list[str]]:
    """A table of 60 texts of two labels, which both occur in each group; how it is read, and its labels."""
    rows = [
        (f"word{number % 7} and text {number}", "ab"[number % 2], f"g{number // 2 % groups}") for number in range(60)
    ]
    write(path, table([("text", "label", "group"), *rows]))
    split = {"test": 0.15, "validation": 0.15, "group": "group"}
    return Data.model_validate({"name": "table", "path": str(path), "text": "text", "label": "label", **split}), [
        "a",
        "b",
    ]


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_groups_with_several_labels_are_held_out_as_a_whole(share: float, tmp_path: Path) -> None:
    """Six groups are enough for three splits, though none of them is of one label alone."""
    data, labels = _grouped(tmp_path / "t.csv", 6)
    found = catalogue.load(data.model_copy(update={"test": share}), TEXT, labels)
    group_of = {example.source: example.group for example in compare.find(data).examples}
    splits = [found.train, found.validation, *found.tests.values()]
    held = [{group_of[name] for name in split.files or ()} for split in splits]
    assert all(held)
    assert sum(map(len, held)) == len(set.union(*held)) == 6


def test_too_few_groups_are_refused_with_their_number(tmp_path: Path) -> None:
    """Before a fold is trained, also if only a later one is impossible; the advice is to add groups."""
    data, labels = _grouped(tmp_path / "t.csv", 3)
    with pytest.raises(DataError, match=r"examples in 3 groups, .* add groups, or set larger shares$"):
        catalogue.load(data, TEXT, labels)
    data, labels = _grouped(tmp_path / "t.csv", 6)
    with pytest.raises(DataError, match=r"in 6 groups, .* data\.folds = 8; .* or fewer folds$"):
        catalogue.fold(data.model_copy(update={"folds": 8}), TEXT, labels, 0)


def _flat(root: Path) -> None:
    for number in range(12):
        write(root / f"{number}.png", image(number))


def _one(root: Path) -> None:
    fill(root, ["rose"])


def _empty_folders(root: Path) -> None:
    (root / "rose").mkdir()
    (root / "tulip").mkdir()


def _damaged(root: Path) -> None:
    fill(root)
    for number in range(9):
        write(root / "rose" / f"bad{number}.jpg", b"\xff\xd8\xff nothing")


def _unsorted(root: Path) -> None:
    _flat(root / "train")
    _flat(root / "test")


def _lonely_split(root: Path) -> None:
    fill(root / "train")
    fill(root / "test", ["rose", "Tulip"])


def _two_tables(root: Path) -> None:
    for name in "xy":
        write(root / f"{name}.csv", "a,b\n1,2\n")


Make = Callable[[Path], None]


def _write(name: str, content: bytes | str) -> Make:
    return lambda root: write(root / name, content)


BROKEN: dict[str, tuple[Make, str, str]] = {
    "empty folder": (lambda _: None, "", "is empty"),
    "empty class folders": (_empty_folders, "", "only empty folders: rose, tulip"),
    "flat folder": (_flat, "", "Put the images of each class into a subfolder"),
    "splits without classes": (_unsorted, "", "none of them in a class folder"),
    "one class": (_one, "", "one class only, 'rose'"),
    "archive": (_write("data.zip", b"PK\x03\x04"), "", "unpack the archive"),
    "many damaged files": (_damaged, "", "cannot be read, more than the 10%"),
    "too few": (lambda root: fill(root, count=3), "", "6 examples are too few"),
    "a class for each image": (
        lambda root: fill(root, [str(n) for n in range(40)], count=1), "", "40 classes with 40 examples"
    ),
    "missing": (lambda _: None, "nowhere", "does not exist"),
    "empty table": (_write("t.csv", ""), "t.csv", "the table is empty"),
    "header alone": (_write("t.csv", "text,label\n"), "t.csv", "no rows"),
    "one label": (_write("t.csv", table([("text", "label"), *((f"text {n}", "a") for n in range(20))])), "t.csv",
                  "one class only, 'a'"),
    "a label for each row": (
        _write("t.csv", table([("text", "label"), *((f"the text {n}", f"l{n}") for n in range(20))])), "t.csv",
        "20 classes with 20 examples"),
    "one text with two labels": (
        _write("t.csv", table([("text", "label"), *(("same", "ab"[n % 2]) for n in range(20))])), "t.csv",
        "several labels"),
    "one column": (_write("t.csv", "\n".join(["text", *(f"word {n}" for n in range(20))])), "t.csv", "is not certain"),
    "broken JSON": (_write("t.jsonl", '{"text": "a", "label": "b"}\n{"text": '), "t.jsonl", "line 2 is not JSON"),
    "JSON of lists": (_write("t.jsonl", '["a", "b"]\n["c", "d"]'), "t.jsonl", "expected an object|not valid JSON"),
    "damaged Parquet": (_write("t.parquet", b"PAR1 nothing PAR1"), "t.parquet", "Parquet file cannot be read"),
    "spreadsheet": (_write("t.xlsx", b"PK\x03\x04"), "t.xlsx", "save the sheet as CSV"),
    "other encoding": (_write("t.csv", b"text,label\n\x81a,b\n"), "t.csv", "0x81 in line 2.*--encoding"),
    "all cells empty": (_write("t.csv", "text,label\n" + ",good\n,bad\n" * 10), "t.csv", "--text COLUMN|no row"),
    "damaged gzip": (_write("t.csv.gz", b"\x1f\x8b\x08broken"), "t.csv.gz", "damaged"),
    "two tables": (_two_tables, "", "2 tables"),
    "missing images": (
        _write("t.csv", table([("image", "label"), *((f"{n}.png", "ab"[n % 2]) for n in range(12))])), "t.csv",
        "does not exist below"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_data_are_refused_with_a_sentence(kind: str, tmp_path: Path) -> None:
    """Each says what was received and what to do."""
    make, name, sentence = BROKEN[kind]
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    with pytest.raises(DataError, match=f"(?s){sentence}"):
        looked(root / name if name else root)


def test_labels_are_compared_by_name(tmp_path: Path) -> None:
    """Those of the recipe and of the data, and those of the splits: what is not in training is left out and named."""
    fill(tmp_path / "a")
    seen = looked(tmp_path / "a")
    with pytest.raises(RecipeError, match="only in the recipe: daisy; only in the data: rose"):
        catalogue.load(seen.data, SPEC, ["daisy", "tulip"])
    _lonely_split(tmp_path / "b")
    seen = looked(tmp_path / "b")
    assert seen.labels == ["rose", "tulip"]
    assert "labels without a training example are left out: Tulip (10)" in said(seen)
    assert len(catalogue.load(seen.data, SPEC, seen.labels).tests["b"]) == 10
    with pytest.raises(DataError, match="does not exist, seen from"):
        catalogue.load(Data(name="folder", path="nowhere", test=0.1, validation=0.1), SPEC, ["a", "b"])


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read every file")
def test_a_file_without_permission_is_left_out(tmp_path: Path) -> None:
    """A file that cannot be opened is one of the unreadable files."""
    fill(tmp_path)
    (tmp_path / "rose" / "0.png").chmod(0)
    assert "0.png" in said(looked(tmp_path))
