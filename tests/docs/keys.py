"""What the tables of the documentation say about the keys of a recipe: values, default and meaning of each."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

from training.section import Section

Json = dict[str, Any]
_KINDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "`true`, `false`"}
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "to below"}


def sections(annotation: Any) -> list[type[Section]]:
    """The tables of a recipe that an annotation allows: the members of a union, or the one class."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Section) else []
    return [section for member in get_args(annotation) for section in sections(member)]


def rows(section: type[Section]) -> Iterator[tuple[str, str, str, str]]:
    """Key, allowed values, default and meaning of each key of a table."""
    schema, meanings = section.model_json_schema(), _meanings(section)
    for key, entry in schema["properties"].items():
        required = key in schema.get("required", ())
        yield key, values(entry), "required" if required else _default(entry), meanings.get(key, "")


def row(section: type[Section]) -> tuple[str, str, str]:
    """A table of a recipe in one row: the value or key that names it, its keys, and its meaning."""
    (name, allowed, *_), *others = rows(section)
    title = allowed if name == "name" else f"`{name}`"
    listed = [] if name == "name" else [f"`{name}`: {allowed}"]
    listed += [f"`{key}`: {allowed}" + ("" if default in {"required", "none"} else f" (default {default})")
               for key, allowed, default, _ in others]  # fmt: skip
    meanings = [
        prose(section.__dict__.get("__doc__")),
        *(f"`{key}`: {text}" for key, text in _meanings(section).items()),
    ]
    return title, "; ".join(listed), " ".join(filter(None, meanings))


def values(entry: Json) -> str:
    """The values that an entry of a JSON schema allows, in words."""
    if "const" in entry or "enum" in entry:
        return ", ".join(_literal(value) for value in entry.get("enum", [entry.get("const")]))
    if "anyOf" in entry:
        return " or ".join(values(member) for member in entry["anyOf"] if member.get("type") != "null")
    match entry:
        case {"oneOf": _} | {"$ref": _}:
            return "a table"
        case {"type": "array", "items": items}:
            return f"a list; each value is {values(items)}"
        case {"type": "object", "additionalProperties": items}:
            return f"a table; each value is {values(items)}"
    bounds = [f"{word} {entry[key]:,}" for key, word in _BOUNDS.items() if key in entry and entry[key] != 1 << 31]
    return " ".join([_KINDS[entry["type"]], *bounds])


def prose(docstring: str | None) -> str:
    """A docstring as one line of Markdown."""
    parts = " ".join((docstring or "").split()).split("`")
    parts[::2] = [part.replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)


def _default(entry: Json) -> str:
    default = entry.get("default")
    return "none" if default in (None, {}) else _literal(default)


def _literal(value: Any) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meanings(section: type[Section]) -> dict[str, str]:
    """The docstrings below the fields of a class, by field."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in pairwise(tree.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[key] = prose(meaning)
    return found
