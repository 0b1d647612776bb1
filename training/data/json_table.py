"""Records of JSON: lines, an array, columns, an object around them; nested values get names like `data.text`."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.data.class_folders import shown, split_of
from training.errors import DataError

Record = dict[str, Any]

_EXPECTED = '{"text": "...", "label": "..."}'
_DEPTH = 3  # of objects within objects


def records(path: Path, text: str) -> tuple[list[tuple[int, Record]], str]:
    """The records with their numbers, and how they are written.

    Raises:
        DataError: it is not JSON, or not of records.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise DataError(f"{shown(path)}: not valid JSON: {error}") from error
        return _flat(path, _lines(path, text)), "JSON Lines"
    if isinstance(content, dict):
        return _flat(path, list(enumerate(_of_object(path, content), 1))), "a JSON object"
    return _flat(path, list(enumerate(content, 1))), "a JSON array"


def _lines(path: Path, text: str) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append((number, json.loads(line)))
            except ValueError as error:
                raise DataError(
                    f"{shown(path)}: line {number:,} is not JSON: {error}; expected one object a line, like {_EXPECTED}"
                ) from error
    return found


def _of_object(path: Path, content: Record) -> Sequence[Any]:
    """The records within one object: those of its splits, its only list, its values, its labels or its columns."""
    if {"images", "annotations"} <= set(content):
        raise DataError(
            f"{shown(path)}: annotations of COCO, which have boxes for an image; a classifier needs one label for each "
            "image: make a CSV with a column of file names and one of labels"
        )
    if "columns" in content and isinstance(content.get("data"), list):  # DataFrame.to_json(orient="split")
        return [dict(zip(content["columns"], row, strict=False)) for row in content["data"]]
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    rows = {key: value for key, value in lists.items() if value and isinstance(value[0], dict | list)}
    if len(rows) > 1 and any(split_of(key) == "train" for key in rows):
        return [_named(row) | {"split": key} for key, value in rows.items() if split_of(key) for row in value]
    if len(rows) == 1:
        return next(iter(rows.values()))
    return _of_values(content) or [content]


def _of_values(content: Record) -> Sequence[Any]:
    """The records in the values of an object: by their ids, by their labels, or in columns; none of these: empty."""
    values = list(content.values())
    if all(isinstance(value, dict) for value in values) and len(values) > max(map(len, values), default=0):
        return values  # more of them than keys in any
    if len(values) > 1 and all(isinstance(value, list) for value in values) and len({*map(len, values)}) > 1:
        return [{"text": text, "label": label} for label, texts in content.items() for text in texts]
    if len(values) > 1 and all(isinstance(value, dict | list) for value in values):
        keys = list(range(len(values[0]))) if isinstance(values[0], list) else list(values[0])
        with suppress(LookupError, TypeError):  # not columns of equal length
            return [{name: column[key] for name, column in content.items()} for key in keys]
    return []


def _named(record: Any) -> Record:
    """A list of values as a record."""
    if isinstance(record, list):
        return {f"column {place}": value for place, value in enumerate(record, 1)}
    return record if isinstance(record, dict) else {}


def _flat(path: Path, found: Sequence[tuple[int, Any]]) -> list[tuple[int, Record]]:
    if found and all(isinstance(record, list) and len(record) > 1 for _, record in found):
        found = [(number, _named(record)) for number, record in found]
    for number, record in found:
        if not isinstance(record, dict):
            raise DataError(
                f"{shown(path)}: item {number:,} is a JSON {type(record).__name__}; expected an object like {_EXPECTED}"
            )
    return [(number, _flatten(record)) for number, record in found]


def _flatten(record: Record, prefix: str = "", depth: int = 0) -> Record:
    """Values of inner objects under names like `data.text`; a list of one value is that value."""
    found: Record = {}
    for key, value in record.items():
        content = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(content, dict) and depth < _DEPTH:
            found |= _flatten(content, f"{prefix}{key}.", depth + 1)
        else:
            found[f"{prefix}{key}"] = content
    return found
