"""A table of a recipe as TOML with comments, for people."""

import json
from collections.abc import Mapping
from textwrap import fill
from typing import Any

_WIDTH = 100


def write(table: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """TOML: plain values first, then a section for each table; `layers` has a line for each layer.

    Args:
        table: the content.
        comments: by `key` or `section.key`, a comment for the line; under "", the first paragraph.
    """
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    sections = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    parts = [fill(comments.get("", ""), _WIDTH, initial_indent="# ", subsequent_indent="# ")]
    parts.append("\n".join(_line(key, value, comments.get(key)) for key, value in plain.items()))
    for name, section in sections.items():
        title = f"[{name}]" + (f"  # {comments[name]}" if name in comments else "")
        lines = [_line(key, value, comments.get(f"{name}.{key}")) for key, value in section.items()]
        parts.append("\n".join([title, *lines]))
    return "\n\n".join(parts) + "\n"


def _line(key: str, value: Any, comment: str | None) -> str:
    note = f"  # {comment}" if comment else ""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        rows = "".join(f"  {_value(each)},\n" for each in value)
        return f"{_key(key)} = [{note}\n{rows}]"
    text = f"{_key(key)} = {_value(value)}"
    if len(text) > _WIDTH and isinstance(value, list):
        rows = "".join(f"  {_value(each)},\n" for each in value)
        return f"{_key(key)} = [{note}\n{rows}]"
    return text + note


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            return "{ " + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)


def _key(key: str) -> str:
    is_bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if is_bare else _value(key)
