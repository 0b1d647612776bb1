"""Strategies for what callers might send in place of JSON or TOML that is right: anything, and good content spoilt."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

Key = str | int

numbers = st.one_of(
    st.integers(-3, 3), st.integers(), st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30]), st.floats(width=64)
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20))


def values(leaves: st.SearchStrategy[Any] = scalars) -> st.SearchStrategy[Any]:
    """Anything that JSON can say, a few levels deep."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )


@st.composite
def spoilt(draw: st.DrawFn, good: Any, leaves: st.SearchStrategy[Any] = scalars) -> Any:
    """Good content, one to three of its places replaced, dropped, doubled or joined by something that is not known."""
    content = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(content))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "replace", "replace", "drop", "double", "add", "swap"])):
            case "replace":
                holder[key] = draw(values(leaves))
            case "drop":
                del holder[key]
            case "double" if isinstance(holder, list):
                holder.insert(int(key), copy.deepcopy(holder[key]))
            case "swap":
                other, name = draw(st.sampled_from(places))
                holder[key] = copy.deepcopy(other[name])
            case _ if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(values(leaves))
    return content


def _places(content: Any) -> Iterator[tuple[Any, Key]]:
    """Every (dict or list, key) in a piece of content."""
    keys: Sequence[Key] = list(content) if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])
