"""The facts of a request: its id, route, model, version, items, sizes, timings and error.

`service/http/asgi.py` makes one `RequestFacts` for each request, and the routes fill it. Request log, metrics, traces
and `Server-Timing` read it when the response starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.types import Scope

_KEY = "convoke"


@dataclass(slots=True)
class RequestFacts:
    """The facts of one request."""

    id: str
    method: str
    """An HTTP method, or `other`."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    route: str = "none"
    """The pattern of the route, not the path, so that clients cannot make up values of metrics' labels."""
    model: str = ""
    version: str = ""
    items: int = 0
    body_bytes: int = 0
    """Length of the body as sent."""
    held_bytes: int = 0
    """The memory that `service/http/pending.py` counts for the body."""
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each part (`read`, `queue`, `infer`), in order."""
    status: int = 0
    error: str = ""
    """The code of the error in the response, if any."""
    total_s: float = 0.0
    """Seconds until the response started."""


OnResponse = Callable[[RequestFacts], None]
"""Called with the facts of a request when its response starts."""


def attach(scope: Scope, facts: RequestFacts) -> None:
    """Store the facts of a request in its scope."""
    scope[_KEY] = facts


def of(scope: Scope) -> RequestFacts:
    """The facts of the request with this scope."""
    facts: RequestFacts = scope[_KEY]
    return facts
