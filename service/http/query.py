"""The query of a request: no parameter is ignored, since a misspelt one would change the answer unnoticed."""

import difflib
from collections import Counter
from collections.abc import Collection
from urllib.parse import parse_qsl

from service.errors import InvalidRequest

_MAX_PARAMETERS = 100
_SHOWN = 5
_VERSION = "version"


def check_query(query: bytes, known: Collection[str]) -> None:
    """Check the names of the parameters in a query.

    Args:
        query: as ASGI has it, not empty.
        known: the parameters of the route.

    Raises:
        InvalidRequest: a parameter is unknown, or there twice.
    """
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError as error:
        raise InvalidRequest(f"too many query parameters (maximum {_MAX_PARAMETERS})") from error
    counts = Counter(name for name, _ in pairs)
    unknown = [name for name in counts if name not in known]
    if unknown:
        names = ", ".join([repr(name[:40]) for name in unknown[:_SHOWN]])
        expected = f"the parameters of this route are {', '.join(known)}" if known else "this route takes none"
        raise InvalidRequest(f"unknown query parameter {names}; {expected}{_hint(unknown[0], known)}")
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise InvalidRequest(f"query parameter {twice[0]!r} is there {counts[twice[0]]} times; send it once")


def _hint(name: str, known: Collection[str]) -> str:
    if name.lower() == _VERSION:
        return "; a version is chosen by the path, /v2/models/{model}/versions/{version}"
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1)
    return f"; did you mean {near[0]}?" if near else ""
