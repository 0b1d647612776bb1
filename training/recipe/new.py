"""Writes a recipe for the user's own data: `python -m training new NAME PATH`.

`look` says what the data are, `findings` tells the user, and `choices` are in the recipe, with a comment each; no other
program depends on them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from contract.manifest import ModelName
from training import unfinished
from training.data.class_folders import shown
from training.errors import RecipeError
from training.recipe import choices, schema, toml
from training.recipe.findings import UNEVEN
from training.recipe.look import Look
from training.recipe.optimise import Loss, Schedule
from training.recipe.overrides import apply


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a model.

    Raises:
        RecipeError: the message proposes a name that is allowed.
    """
    try:
        TypeAdapter(ModelName).validate_python(name)
    except ValidationError as error:
        near = re.sub(r"[^\w.-]+", "-", name.lower()).strip("-_.") or "model"
        raise RecipeError(
            f"name {name[:100]!r}: expected letters, digits, hyphens, underscores and points; for example {near[:50]}"
        ) from error


def recipe(name: str, seen: Look, overrides: Sequence[str] = ()) -> tuple[schema.Recipe, str]:
    """A recipe for the data, and its TOML with comments.

    Raises:
        RecipeError: the name or an override is not allowed.
    """
    check_name(name)
    table = choices.for_images(seen) if seen.kind == "image" else choices.for_texts(seen)
    counts = Counter(each.label for each in seen.of("train"))
    if max(counts.values()) >= UNEVEN * min(counts.values()):
        table["loss"]["class_weights"] = "balanced"
        table["gate"] = {"metric": "balanced-accuracy"}
    data = seen.data.model_dump(exclude_defaults=True, exclude_none=True)
    title = seen.data.title
    table = {
        "description": f"{len(seen.labels):,} classes of {seen.kind}s from {title}",
        "task": name,
        "labels": seen.labels,
        **table,
        "data": data,
    }
    apply(
        table,
        list(overrides),
        {"loss": Loss, "schedule": Schedule, "initialise": schema.Initialise},
        lambda _line: None,
    )
    if table["data"].get("sampling") == "balanced" and not any("class_weights" in each for each in overrides):
        table["loss"].pop("class_weights", None)  # one of the two is enough
    checked = schema.parse({"name": name, **table})
    return checked, toml.write(table, choices.comments(seen))


def check_output(path: Path, *, force: bool) -> None:
    """Refuse a place for a recipe before the work begins.

    Raises:
        RecipeError: the name does not end in .toml, or the file exists and is not to be replaced.
    """
    if path.suffix != ".toml":
        raise RecipeError(f"{shown(path)}: the name of a recipe ends in .toml")
    if path.exists() and not force:
        raise RecipeError(f"{shown(path)}: this recipe exists; --force replaces it, --output PATH writes another one")


def write(path: Path, text: str, *, force: bool) -> None:
    """Write a recipe in one step; an existing file only with `force`.

    Raises:
        RecipeError: the file exists or cannot be written.
    """
    check_output(path, force=force)
    partial = path.with_name(f"{unfinished.name('recipe')}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.remove(path.parent, "recipe")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RecipeError(
            f"{shown(path)}: cannot be written: {error.strerror}; --output FILE writes it elsewhere"
        ) from error
    finally:
        with suppress(OSError):  # a folder that is not one
            partial.unlink(missing_ok=True)


def label_names(pairs: Sequence[str]) -> dict[str, str]:
    """`0=ham,1=spam`, in one option or several, as a table.

    Raises:
        RecipeError: a part is not LABEL=NAME.
    """
    names: dict[str, str] = {}
    for part in (part for pair in pairs for part in pair.split(",")):
        label, sign, name = part.partition("=")
        if not sign or not label.strip() or not name.strip():
            raise RecipeError(
                f"--labels: got {part!r}; expected LABEL=NAME, like --labels 0=ham,1=spam, or a file with the names"
            )
        names[label.strip()] = name.strip()
    return names
