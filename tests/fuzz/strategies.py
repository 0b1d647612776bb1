"""Hypothesis strategies for faulty JSON and TOML: arbitrary content, and mutations of valid content."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

Key = str | int

numbers = st.one_of(
    st.integers(-3, 3), st.integers(), st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30]), st.floats(width=64)
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20))


def json_values(leaves: st.SearchStrategy[Any] = scalars) -> st.SearchStrategy[Any]:
    """Any JSON content, a few levels deep."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )


@st.composite
def mutations_of(draw: st.DrawFn, valid: Any, leaves: st.SearchStrategy[Any] = scalars) -> Any:
    """Valid content with one to three entries replaced, deleted, duplicated, overwritten by another, or added."""
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        entries = list(_entries(content))
        if not entries:
            break
        holder, key = draw(st.sampled_from(entries))
        match draw(st.sampled_from(["replace", "replace", "replace", "delete", "duplicate", "add", "overwrite"])):
            case "replace":
                holder[key] = draw(json_values(leaves))
            case "delete":
                del holder[key]
            case "duplicate" if isinstance(holder, list):
                holder.insert(int(key), copy.deepcopy(holder[key]))
            case "overwrite":
                other, other_key = draw(st.sampled_from(entries))
                holder[key] = copy.deepcopy(other[other_key])
            case _ if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(json_values(leaves))
    return content


def _entries(content: Any) -> Iterator[tuple[Any, Key]]:
    """Every (dict or list, key) of nested content."""
    keys: Sequence[Key] = list(content) if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _entries(content[key])
