"""What schemathesis cannot know: which models and versions a server has."""

import re
from typing import Any

import schemathesis
from schemathesis import HookContext

NAMES = ("digits", "cats-vs-dogs", "reviews")
SPARE = "spare"
"""The model that is loaded and unloaded, so that the others stay."""


@schemathesis.hook
def map_path_parameters(context: HookContext, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Most good names become those of models that are there, and good numbers those of a version that is."""
    if path_parameters is None:
        return None
    found = dict(path_parameters)
    is_management = context.operation is not None and "/repository/" in context.operation.path
    for key, good, known in (
        ("model", r"[a-z][a-z0-9-]*", (SPARE, SPARE) if is_management else NAMES),
        ("version", r"[1-9][0-9]{0,8}", ("1", "1")),
    ):
        value = str(found.get(key, ""))
        choice = sum(map(ord, value)) % (len(known) + 1)
        if re.fullmatch(good, value) and choice < len(known):
            found[key] = known[choice]
    return found
