"""Which columns of a table hold the texts or images, the labels and the splits; and the examples that they give."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.data import class_folders, folders, table_file
from training.data.class_folders import FOREIGN, IMAGES, shown
from training.data.examples import SPLITS, Example, Found, LeftOut, listed
from training.data.schema import Data
from training.data.table_file import Cell, Table
from training.errors import DataError

_LABELS = ("label", "labels", "class", "category", "target", "sentiment", "intent", "tag", "topic", "y", "species",
           "genre", "emotion", "diagnosis", "breed", "rating", "ratings", "stars", "overall", "score", "polarity",
           "toxic", "is_spam", "spam",
           "kategorie", "klasse", "bewertung", "stimmung", "thema", "catégorie", "classe", "étiquette", "note",
           "categoría", "clase", "etiqueta", "categoria", "etichetta", "категория", "класс", "метка", "тональность",
           "оценка", "标签", "类别", "分类", "情感", "ラベル", "カテゴリ", "라벨", "레이블", "카테고리")  # fmt: skip
_TEXTS = ("text", "sentence", "review", "message", "content", "comment", "tweet", "body", "document", "utterance",
          "sms", "question", "title", "description", "email",
          "nachricht", "betreff", "inhalt", "texte", "avis", "texto", "testo", "текст", "отзыв", "сообщение",
          "文本", "内容", "评论", "句子", "テキスト", "本文", "텍스트", "리뷰", "문장")  # fmt: skip
_IMAGES = ("image", "file", "filename", "file_name", "image_path", "path", "filepath", "image_id", "img", "picture",
           "photo", "bild", "datei", "id", "name")  # fmt: skip
_SPLIT = ("split", "set", "subset", "partition", "fold", "usage")
_NO_VALUE = frozenset({"nan", "<na>", "nat", "#n/a"})
"""What programs write for a missing value, in lower case."""
_NO_NUMBER = frozenset({"na", "n/a", "null", "none", "-", "?"})
"""Words that stand for a missing value among numbers; elsewhere they can be labels."""
_DATE = re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{1,4}([ T].*)?")
_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")
_SAMPLE = 1000
_MAX_LABEL = 200
_PIXELS = 20  # columns of numbers that no table of texts has
_POINT_ZERO = re.compile(r"-?\d+\.0+")
_WHOLE = re.compile(r"-?\d+(\.0+)?")


def choose(table: Table, text: str | None = None, image: str | None = None, label: str | None = None) -> dict[str, str]:
    """The columns of a table: `label`, `text` or `image`, and `split` if the table has one.

    Raises:
        DataError: a column that was named is missing, or what is in the columns leaves a choice.
    """
    for name in filter(None, (text, image, label)):
        table.column(name)
    free = [name for name in table.names if name not in {text, image, label} and _has_values(table, name)]
    chosen: dict[str, str] = {}
    split = next((name for name in _named(free, _SPLIT) if _is_split(_cells(table, name))), None)
    if split:
        chosen["split"] = split
        free.remove(split)
    if text is None and image is None:
        image = next((name for name in _named(free, _IMAGES) + free if name != label and _is_path(table, name)), None)
    if image:
        chosen["image"] = image
        free = [name for name in free if name != image]
    label = label or _with_names(table, _label(table, free, needs_text=not image and not text), free)
    chosen["label"] = label
    if not image:
        chosen["text"] = text or _text(table, [name for name in free if name != label])
    return chosen


def _label(table: Table, free: Sequence[str], *, needs_text: bool) -> str:
    named = _named(free, _LABELS)
    few = [name for name in free if _is_label(_cells(table, name))]
    candidates = [name for name in named if name in few] or named or few
    if len(candidates) > 1 and needs_text:
        shortest = sorted(candidates, key=lambda name: _length(_cells(table, name)))
        lengths = [_length(_cells(table, name)) for name in shortest]
        others = [name for name in free if name not in candidates]
        if not others and len(candidates) == 2 and lengths[0] * 3 < lengths[1]:  # noqa: PLR2004 -- a label and a text
            candidates = shortest[:1]
    if len(candidates) != 1:
        raise _unclear(table, "the labels", "--label", candidates)
    return candidates[0]


def _with_names(table: Table, label: str, free: Sequence[str]) -> str:
    """The column with the names of numeric labels, if there is one with a name for each number; else `label`."""
    if not _are_numbers(_cells(table, label)):
        return label
    related = {*_words(label), "label", "class", "category", "name"}
    for name in free:
        if not _words(name) & related:
            continue
        pairs = set(zip(table.column(label), table.column(name), strict=True))
        values = _cells(table, name)
        if name != label and _is_label(values) and not _are_numbers(values):
            numbers, names = ({pair[place] for pair in pairs if pair[place] is not None} for place in (0, 1))
            if len(numbers) == len(names) == len({pair for pair in pairs if None not in pair}):
                return name
    return label


def _text(table: Table, free: Sequence[str]) -> str:
    candidates = [name for name in _named(free, _TEXTS) if not _are_numbers(_cells(table, name))]
    if len(candidates) != 1:
        texts = [name for name in candidates or free if not _are_numbers(_cells(table, name))]
        lengths = {name: _length(_cells(table, name)) for name in texts}
        longest = sorted(texts, key=lambda name: -lengths[name])
        is_clear = len(longest) == 1 or (longest and lengths[longest[0]] > 3 * lengths[longest[1]])
        candidates = longest[:1] if is_clear else longest
    if len(candidates) != 1:
        raise _unclear(table, "the texts", "--text", candidates)
    return candidates[0]


def _unclear(table: Table, what: str, option: str, candidates: Sequence[str]) -> DataError:
    columns = ", ".join(map(repr, table.names[:20]))
    why = f"several could be: {', '.join(map(repr, candidates))}" if candidates else "none looks like it"
    if (
        len(table.names) > _PIXELS
        and sum(_are_numbers(_cells(table, name)) for name in table.names[-_PIXELS:]) == _PIXELS
    ):
        return DataError(
            f"{shown(table.path)}: {len(table.names):,} columns of numbers, which are pixels or measurements; expected "
            "a column of texts, or one of image paths. Save each row of pixels as an image in a folder for its label"
        )
    return DataError(
        f"{shown(table.path)}: which column has {what} is not certain; {why}. Name it with {option} COLUMN; the "
        f"columns are {columns} (read as {table.form})"
    )


def _named(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    """The names that are usual, the most usual first; if none is, those with a usual word, like `Review Text`."""
    lower = {name.lower().strip().replace(" ", "_"): name for name in reversed(names)}
    exact = [lower[word] for word in usual if word in lower]
    if exact:
        return exact
    whole = [word for word in usual if len(word) > 2]  # noqa: PLR2004 -- `id` and `y` are parts of many names
    return list(dict.fromkeys(name for word in whole for name in names if word in _words(name)))


def _words(name: str) -> set[str]:
    """The words of a column's name: `review text` of `reviewText`."""
    return {word.lower() for word in _WORDS.split(name.strip())}


def _has_values(table: Table, name: str) -> bool:
    place = table.names.index(name)
    return any(row[place] is not None for row in table.rows[:_SAMPLE])


def _cells(table: Table, name: str) -> list[str]:
    place = table.names.index(name)
    return [cell for row in table.rows[:_SAMPLE] if isinstance(cell := row[place], str)]


def _length(cells: Sequence[str]) -> float:
    return sum(map(len, cells)) / max(len(cells), 1)


def _is_split(cells: Sequence[str]) -> bool:
    return bool(cells) and {cell.strip().lower() for cell in cells} <= set(SPLITS)


def _is_label(cells: Sequence[str]) -> bool:
    """Few values, each of them often; not dates."""
    values = Counter(cells)
    if all(_DATE.fullmatch(value.strip()) for value in values):
        return False
    return 1 < len(values) <= max(len(cells) // 3, 2) and max(map(len, values)) <= _MAX_LABEL


def _are_numbers(cells: Sequence[str]) -> bool:
    numbers = sum(bool(table_file.NUMBER.fullmatch(cell.strip())) for cell in cells)
    return numbers > len(cells) / 2


def _is_path(table: Table, name: str) -> bool:
    """Whether most values end like images, or are files beside the table."""
    place = table.names.index(name)
    sample = [row[place] for row in table.rows[:50] if row[place] is not None]
    if not sample:
        return False
    if all(isinstance(cell, bytes) for cell in sample):
        return True
    texts = [cell for cell in sample if isinstance(cell, str)]
    suffixes = sum(Path(cell.strip()).suffix.lower() in IMAGES | FOREIGN for cell in texts if len(cell) < 500)  # noqa: PLR2004
    if suffixes > len(sample) / 2:
        return True
    if name not in _named([name], _IMAGES):
        return False
    files = _Files(table.path.parent)  # names without a suffix, as in `train/` beside `train.csv`
    return sum(files.find(cell) is not None for cell in texts if len(cell) < 500) > len(sample) / 2  # noqa: PLR2004


def examples(data: Data, path: Path) -> Found:
    """The labelled rows of a table, or of the tables of several splits in a folder.

    Raises:
        DataError: the table cannot be read, or has no such columns or no labelled rows.
    """
    assert data.label is not None, "the schema requires it"
    found = Found("text" if data.text else "image")
    for file, split in tables(path):
        table = table_file.read(file, data.encoding, data.delimiter, header=data.header)
        if split in {"validation", "test"} and data.label not in table.names:
            found.notes.append(f"{shown(file)}: no column {data.label!r}, so its rows have no label and are left out")
            continue
        found.notes += [f"{shown(file)}: read as {table.form}", *table.notes]
        _rows(data, table, split, found)
    if not found.examples:
        raise DataError(f"{shown(path)}: no row has both a {found.kind} and a label; {found.left_out[0]}")
    return found


def tables(path: Path) -> list[tuple[Path, str]]:
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
    files = sorted(
        file
        for file in path.iterdir()
        if file.is_file()
        and not file.name.startswith(".")
        and set(map(str.lower, file.suffixes)) & class_folders.TABLES
    )
    splits = [(file, class_folders.split_of(file.name.partition(".")[0])) for file in files]
    if any(split == "train" for _, split in splits):
        return [(file, split) for file, split in splits if split]
    if len(files) != 1:
        what = f"{len(files)} tables: {listed([file.name for file in files])}" if files else "no table"
        raise DataError(
            f"{shown(path)}: {what}; expected one table, or tables whose names say train, validation and test"
        )
    return [(files[0], "")]


def _rows(data: Data, table: Table, split: str, found: Found) -> None:
    assert data.label is not None
    contents = table.column(data.text or data.image or "")
    labels = _whole(table.column(data.label))
    groups = table.column(data.group) if data.group else [None] * len(labels)
    splits = table.column(data.split) if data.split else [split] * len(labels)
    files = _Files(Path(data.images) if data.images else table.path.parent) if data.image else None
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
            fault = f"the image {content!r} does not exist below {shown(files.root if files else '')}"
        if fault or value is None or label is None or isinstance(value, bytes):
            found.left_out.append(LeftOut(source, fault))
            continue
        found.examples.append(
            Example(
                value,
                label.strip(),
                shown(value) if isinstance(value, Path) and type(content) is not bytes else source,
                SPLITS.get((str(part or "")).strip().lower(), ""),
                str(group) if group is not None else "",
            )
        )


def _split_known(part: Cell) -> bool:
    return not part or str(part).strip().lower() in SPLITS


def _fault(kind: str, content: Cell, label: str | None) -> str:
    if content is None:
        return f"the cell of the {kind} is empty"
    if isinstance(content, bytes) and kind == "text":
        return "the cell of the text holds bytes; expected a text"
    if label is None:
        return "the cell of the label is empty"
    if len(label.strip()) > _MAX_LABEL:
        return f"the label has {len(label):,} characters (maximum {_MAX_LABEL})"
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


class _Files:
    """Finds images by the paths in a table: as they are, or by their name alone, with or without its suffix."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: Mapping[str, Path] | None = None

    def find(self, value: str) -> Path | None:
        """The file that a cell means, or None."""
        name = value.strip().replace("\\", "/")
        path = self.root / name
        if path.is_file():
            return path
        if self._by_name is None:
            self._by_name = self._index()
        return self._by_name.get(name) or self._by_name.get(name.rpartition("/")[2])

    def _index(self) -> dict[str, Path]:
        """The images below the folder by their names and stems; names that are not unique are left out."""
        files = class_folders.flat_images(self.root) if self.root.is_dir() else []
        names = Counter(key for file in files for key in {file.name, file.stem})
        return {key: file for file in files for key in (file.name, file.stem) if names[key] == 1}


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
