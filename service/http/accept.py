"""The header Accept: which of the media types that a route can write a client prefers (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence

from starlette.requests import Request

from service.errors import NotAcceptable


def choose(request: Request, offered: Sequence[str]) -> str:
    """The offered media type that the client prefers; of equal ones the first.

    Raises:
        NotAcceptable: the client accepts none of them.
    """
    accept = ",".join(request.headers.getlist("accept"))
    best = max(offered, key=lambda media_type: quality(accept, media_type))  # max gives the first of equal ones
    if quality(accept, best) > 0:
        return best
    raise NotAcceptable(f"Accept is {accept[:100]!r}; this response can be {' or '.join(offered)}")


def quality(accept: str, media_type: str) -> float:
    """How much a client wants a media type, from 0 to 1, by the most specific range that matches it."""
    if not accept.strip():
        return 1.0
    main = media_type.partition("/")[0]
    ranges = {"*/*": 1, f"{main}/*": 2, media_type: 3}
    best = (0, 0.0)
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        rank = ranges.get(name, 0)
        if rank > best[0]:
            best = rank, _weight(parameters)
    return best[1]


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(max(float(parameter[2:]), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
