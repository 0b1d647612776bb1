"""Which columns of a table hold the texts or images, the labels and the splits; and the examples that they give."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.data import one_hot, table_file
from training.data.class_folders import FOREIGN, IMAGES, shown
from training.data.examples import SPLITS
from training.data.image_files import Files
from training.data.table_file import Table
from training.errors import DataError

_LABELS = ("label", "labels", "class", "category", "target", "sentiment", "intent", "tag", "topic", "y", "species",
           "genre", "genres", "categories", "tags", "topics", "emotion",
           "diagnosis", "breed", "rating", "ratings", "stars", "overall", "score", "polarity",
           "toxic", "is_spam", "spam",
           "kategorie", "klasse", "bewertung", "stimmung", "thema", "catégorie", "classe", "étiquette", "note",
           "categoría", "clase", "etiqueta", "categoria", "etichetta", "категория", "класс", "метка", "тональность",
           "оценка", "标签", "类别", "分类", "情感", "ラベル", "カテゴリ", "라벨", "레이블", "카테고리")  # fmt: skip
_GENERIC = ("label", "class", "category", "target", "sentiment", "y")
_TEXTS = ("text", "sentence", "review", "message", "content", "comment", "tweet", "body", "document", "utterance",
          "sms", "question", "title", "description", "email",
          "nachricht", "betreff", "inhalt", "texte", "avis", "texto", "testo", "текст", "отзыв", "сообщение",
          "文本", "内容", "评论", "句子", "テキスト", "本文", "텍스트", "리뷰", "문장")  # fmt: skip
_IMAGES = ("image", "file", "filename", "file_name", "image_path", "path", "filepath", "image_id", "img", "picture",
           "photo", "bild", "datei", "id", "name")  # fmt: skip
_SPLIT = ("split", "set", "subset", "partition", "fold", "usage")
_DATE = re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{1,4}([ T].*)?")
_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")
_SAMPLE = 1000
MAX_LABEL = 200
_PIXELS = 20  # columns of numbers that no table of texts has


def choose(table: Table, text: str | None = None, image: str | None = None, label: str | None = None) -> dict[str, Any]:
    """The columns of a table: `label` or `one_hot`, `text` or `image`, and `split` if the table has one.

    Raises:
        DataError: a column that was named is missing, or what is in the columns leaves a choice.
    """
    for name in filter(None, (text, image, label)):
        table.column(name)
    free = [name for name in table.names if name not in {text, image, label} and _has_values(table, name)]
    chosen: dict[str, Any] = {}
    split = next((name for name in _named(free, _SPLIT) if _is_split(_cells(table, name))), None)
    if split:
        chosen["split"] = split
        free.remove(split)
    if text is None and image is None:
        image = next((name for name in _named(free, _IMAGES) + free if name != label and _is_path(table, name)), None)
    if image:
        chosen["image"] = image
        free = [name for name in free if name != image]
    flags = [] if label else one_hot.columns(table, free, _GENERIC)
    if flags:
        chosen["one_hot"] = flags
        free = [name for name in free if name not in flags]
        return chosen if image else chosen | {"text": text or _text(table, free)}
    label = label or _with_names(table, _label(table, free, needs_text=not image and not text), free)
    chosen["label"] = label
    _check_single(table, label)
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


def _check_single(table: Table, label: str) -> None:
    """Refuse cells with several labels each, such as `Action|Comedy` or `["a", "b"]`."""
    values = {value.strip() for value in _cells(table, label)}
    several = [value for value in values if value.startswith("[") and "," in value]
    for mark in "|;,":
        parts = {part.strip() for value in values for part in value.split(mark)}
        joined = [value for value in values if mark in value]
        if len(values) >= 5 and len(parts) < 0.7 * len(values) and len(joined) > 0.1 * len(values):  # noqa: PLR2004
            several = joined
    if several:
        raise DataError(
            f"{shown(table.path)}: cells of the column {label!r} have several labels, like {min(several)!r}, and a "
            "classifier names one. Keep one label in each row, or make a column of 0 and 1 for each label and train a "
            "model for each"
        )


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
    return 1 < len(values) <= max(len(cells) // 3, 2) and max(map(len, values)) <= MAX_LABEL


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
    files = Files(table.path.parent)  # names without a suffix, as in `train/` beside `train.csv`
    return sum(files.find(cell) is not None for cell in texts if len(cell) < 500) > len(sample) / 2  # noqa: PLR2004
