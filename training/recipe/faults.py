"""Explains pydantic's errors about a recipe: the key as users write it, the received value, the allowed values."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from training.section import Section

_NOUNS = {"data": "data set", "initialise": "initialisation", "input": "kind of input"}


class Faults:
    """Explains the errors in a table that does not validate as `root`.

    Args:
        root: the model of the table.
        unions: by key of the root, the sections that it allows, each by the word that selects it: the key that names a
            layer, the name of an optimiser.
    """

    def __init__(self, root: type[Section], unions: dict[str, dict[str, type[Section]]]) -> None:
        self._root = root
        self._unions = unions
        self._sections = {
            key: field.annotation
            for key, field in root.model_fields.items()
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        } | {word: section for union in unions.values() for word, section in union.items()}

    def explain(self, fault: Any) -> str:
        """One line for one of pydantic's errors."""
        where, section = self._locate(fault["loc"])
        value = fault["input"]
        match fault["type"]:
            case "extra_forbidden":
                keys = [key for key in section.model_fields if section is not self._root or key != "name"]
                message = f"unknown key{_suggest(str(fault['loc'][-1]), keys)}"
            case "missing":
                message = "missing required key"
            case "union_tag_not_found" | "union_tag_invalid":
                return f"{where}{self._explain_union(fault)}"
            case "literal_error":
                allowed = fault["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
                message = _unknown(where, str(value), allowed)
            case "value_error":
                message = str(fault["ctx"]["error"])
                where = where if fault["loc"] else ""
            case "model_type" | "model_attributes_type" | "dict_type":
                message = f"expected a table, got {value!r}"
            case _:
                rule = re.sub(r"^\w+ should ", "must ", fault["msg"]).partition(" after validation")[0]
                message = f"invalid value {value!r}: {rule}"
        return f"{where}: {message}" if where else message

    def _explain_union(self, fault: Any) -> str:
        """The error in a section of a union whose selecting word is missing or unknown."""
        union, value = fault["loc"][0], fault["input"]
        allowed = self._unions[union]
        if union != "layers":
            key = "kind" if union == "input" else "name"
            if fault["type"] == "union_tag_not_found":
                return f": missing required key {key!r}; allowed: {', '.join(allowed)}"
            return f".{key}: {_unknown(union, fault['ctx']['tag'], allowed)}"
        if not isinstance(value, dict):
            return f": expected a table like {{ dense = 10 }}, got {value!r}"
        near = [match for key in value for match in difflib.get_close_matches(str(key), allowed, n=1)]
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f": unknown layer with the keys {', '.join(value)}; {hint}allowed: {', '.join(allowed)}"

    def _locate(self, loc: tuple[int | str, ...]) -> tuple[str, type[Section]]:
        """The place of an error as users write it (`layers[2].kernel`, counted from 1), and the section around it."""
        section = self._root
        parts: list[str] = []
        for position, part in enumerate(loc):
            before = loc[position - 1] if position else None
            in_list = isinstance(before, int)
            is_word = part in self._unions.get(str(loc[0] if in_list else before), {})
            if isinstance(part, int):
                parts[-1] += f"[{part + 1}]"
            elif is_word:
                parts[-1] += f" ({part})" if in_list else ""
            else:
                parts.append(part)
            if isinstance(part, str) and part in self._sections and (is_word or position == 0):
                section = self._sections[part]
        return ".".join(parts) or "recipe", section


def _unknown(where: str, value: str, allowed: Iterable[str]) -> str:
    """The error of a word that is not allowed, like `unknown optimiser 'adma'; did you mean 'adam'? ...`."""
    key = where.removesuffix(".name").rpartition(".")[2]
    return f"unknown {_NOUNS.get(key, key)} {value!r}{_suggest(value, allowed)}"


def _suggest(value: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, list(allowed), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"; {hint}allowed: {', '.join(allowed)}"
