"""Overrides of a recipe from the command line, like `optimiser.name=adam`, `layers[1].kernel=3` and `augment.crop=`."""

import re
import tomllib
from collections.abc import Callable, Sequence
from typing import Any

from training.errors import RecipeError
from training.recipe.optimise import OPTIMISERS
from training.section import Section

_PART = re.compile(r"([A-Za-z0-9_-]+)((?:\[[0-9]+\])*)")


def apply(
    table: dict[str, Any],
    overrides: Sequence[str],
    sections: dict[str, type[Section]],
    show: Callable[[str], object] = lambda _line: None,
) -> None:
    """Change the table of a recipe in place.

    `key=value` sets a key; a value that is not TOML is a string. `key=` removes a key, so that it has its default.
    Elements of lists are counted from 1. If `name` of a table changes, keys of the old kind that the new one does not
    have are removed.

    Args:
        table: the recipe, as read from TOML.
        overrides: one text for each option `--set`.
        sections: the tables with a `name` that selects which keys they use.
        show: called with a line about keys that were removed.

    Raises:
        RecipeError: an override is not of this form, or its place does not exist.
    """
    given: set[str] = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        path = _path(key)
        if not equals or path is None:
            raise RecipeError(
                f"--set {override!r}: expected KEY=VALUE, like optimiser.name=adagrad or layers[1].kernel=3, or KEY= "
                "to unset a key"
            )
        parent = _parent(table, path, override)
        *_, last = path
        if not text:
            _remove(parent, last, override)
            continue
        given.add(key)
        value = _value(text)
        if last == "name" and len(path) > 1 and isinstance(parent, dict) and parent.get("name", value) != value:
            section = str(path[0])
            dropped = _drop(parent, section, str(value), given, sections)
            if dropped:
                keys = ", ".join(f"{section}.{name} = {_toml(parent.pop(name))}" for name in dropped)
                show(f"--set {override}: removed {keys}, which {value!r} does not use")
        _set(parent, last, value, override)


def _path(key: str) -> list[str | int] | None:
    """`layers[1].kernel` -> ["layers", 0, "kernel"]; None if it is not of this form."""
    path: list[str | int] = []
    for part in key.strip().split("."):
        match = _PART.fullmatch(part)
        if match is None:
            return None
        path.append(match[1])
        path += [int(number) - 1 for number in re.findall(r"[0-9]+", match[2])]
    return path


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _parent(table: dict[str, Any], path: list[str | int], override: str) -> Any:
    """The table or list that holds the last part of a path; tables that are missing are made."""
    here: Any = table
    for place, part in enumerate(path[:-1]):
        if isinstance(part, int):
            _check_element(here, part, override)
            here = here[part]
        elif isinstance(here, dict):
            here = here.setdefault(part, {})
        else:
            raise RecipeError(f"--set {override!r}: {_text(path[:place])!r} is not a table")
    return here


def _check_element(values: Any, place: int, override: str) -> None:
    if not isinstance(values, list):
        raise RecipeError(f"--set {override!r}: [{place + 1}] needs a list, but the recipe has {values!r} there")
    if not 0 <= place < len(values):
        raise RecipeError(f"--set {override!r}: there are {len(values)} elements, counted from 1; got [{place + 1}]")


def _set(parent: Any, last: str | int, value: Any, override: str) -> None:
    if isinstance(last, int):
        _check_element(parent, last, override)
    elif not isinstance(parent, dict):
        raise RecipeError(f"--set {override!r}: {last!r} needs a table, but the recipe has {parent!r} there")
    parent[last] = value


def _remove(parent: Any, last: str | int, override: str) -> None:
    if isinstance(last, int):
        _check_element(parent, last, override)
        del parent[last]
    elif isinstance(parent, dict):
        parent.pop(last, None)


def _drop(
    parent: dict[str, Any], section: str, name: str, given: set[str], sections: dict[str, type[Section]]
) -> list[str]:
    """The keys of a table that the kind `name` does not use, without those that were given on the command line."""
    if section == "optimiser":
        kept = set(OPTIMISERS[name].model_fields) if name in OPTIMISERS else set(parent)
    elif section in sections:
        kept = {key for key in parent if name in sections[section].USES.get(key, {name})}
    else:
        kept = set(parent)
    return [key for key in parent if key not in kept and f"{section}.{key}" not in given]


def _text(path: Sequence[str | int]) -> str:
    return "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
