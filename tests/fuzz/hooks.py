"""What schemathesis cannot know: which models and versions a server has."""

from typing import Any

import schemathesis
from schemathesis import HookContext

NAMES = ("digits", "cats-vs-dogs")
SPARE = "spare"
"""The model that is loaded and unloaded, so that the others stay."""


@schemathesis.hook
def map_path_parameters(context: HookContext, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Two names of three become those of models that are there, and two numbers of three a version that is."""
    if path_parameters is None:
        return None
    found = dict(path_parameters)
    is_management = context.operation is not None and "/repository/" in context.operation.path
    for key, known in (("model", (SPARE, SPARE) if is_management else NAMES), ("version", ("1", "1"))):
        choice = sum(map(ord, str(found.get(key, "")))) % 3
        if key in found and choice < len(known):
            found[key] = known[choice]
    return found
