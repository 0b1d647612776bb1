"""What pydantic found wrong with a recipe, in lines that a user of recipes understands."""

import difflib
from collections.abc import Iterable
from typing import Any

from training.section import Section


class Faults:
    """Explains the faults of a table that should have become a `root`.

    Args:
        root: the model of the whole table.
        unions: by key of the root, the sections that may stand under it, each by the word that tells it: the kinds of
            layer, the names of optimisers.
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
        """One line for one of pydantic's faults: the key as a user writes it, what stands there, what is allowed."""
        where, section = self._place(fault["loc"])
        given = fault["input"]
        match fault["type"]:
            case "extra_forbidden":
                keys = [key for key in section.model_fields if section is not self._root or key != "name"]
                return f"{where}: unknown key{_choices(str(fault['loc'][-1]), keys)}"
            case "missing":
                return f"{where}: this key is missing"
            case "union_tag_not_found" | "union_tag_invalid":
                return f"{where}{self._untold(fault)}"
            case "literal_error":
                allowed = fault["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
                return f"{where}: {given!r} is not known{_choices(str(given), allowed)}"
            case "value_error":
                return f"{where}: {fault['ctx']['error']}" if fault["loc"] else str(fault["ctx"]["error"])
            case _:
                return f"{where}: {given!r} is refused: {fault['msg'][0].lower()}{fault['msg'][1:]}"

    def _untold(self, fault: Any) -> str:
        """What is wrong with a section of a union, where nothing, or a wrong word, tells which one it is."""
        union, given = fault["loc"][0], fault["input"]
        known = self._unions[union]
        if union != "layers":
            key = "kind" if union == "input" else "name"
            if fault["type"] == "union_tag_not_found":
                return f": the key {key!r} is missing; allowed: {', '.join(known)}"
            return f".{key}: {fault['ctx']['tag']!r} is not known{_choices(fault['ctx']['tag'], known)}"
        if not isinstance(given, dict):
            return f": {given!r} is no layer; expected a table like {{ dense = 10 }}"
        near = [hit for key in given for hit in difflib.get_close_matches(str(key), known, n=1)]
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f": no kind of layer has the keys {', '.join(given)}; {hint}allowed: {', '.join(known)}"

    def _place(self, loc: tuple[int | str, ...]) -> tuple[str, type[Section]]:
        """Where a fault lies, as a user writes it (`layers[2].kernel`, counted from 1), and the section around it."""
        section = self._root
        words: list[str] = []
        for position, part in enumerate(loc):
            before = loc[position - 1] if position else None
            in_list = isinstance(before, int)
            is_word = part in self._unions.get(str(loc[0] if in_list else before), {})
            if isinstance(part, int):
                words[-1] += f"[{part + 1}]"
            elif is_word:
                words[-1] += f" ({part})" if in_list else ""
            else:
                words.append(part)
            if isinstance(part, str) and part in self._sections and (is_word or position == 0):
                section = self._sections[part]
        return ".".join(words) or "recipe", section


def _choices(given: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, list(allowed), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"; {hint}allowed: {', '.join(allowed)}"
