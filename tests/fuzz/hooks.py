"""Schemathesis hook: put the names of existing models and versions into requests."""

import re
from typing import Any

import schemathesis
from schemathesis import HookContext

NAMES = ("digits", "cats-vs-dogs", "reviews")
SPARE = "spare"
"""The only model that requests load and unload, so that the others stay loaded."""


@schemathesis.hook
def map_path_parameters(context: HookContext, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Replace most valid names by the names of existing models, and most valid versions by version 1."""
    if path_parameters is None:
        return None
    parameters = dict(path_parameters)
    is_management = context.operation is not None and "/repository/" in context.operation.path
    for key, valid, existing in (
        ("model", r"[a-z][a-z0-9-]*", (SPARE, SPARE) if is_management else NAMES),
        ("version", r"[1-9][0-9]{0,8}", ("1", "1")),
    ):
        value = str(parameters.get(key, ""))
        choice = sum(map(ord, value)) % (len(existing) + 1)
        if re.fullmatch(valid, value) and choice < len(existing):
            parameters[key] = existing[choice]
    return parameters
