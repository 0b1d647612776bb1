"""What is known about a request on its way.

The shell (`service/http/asgi.py`) makes one `RequestFacts` for each request, routes fill it, and access log, metrics,
traces and `Server-Timing` read it when the response starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.types import Scope

_KEY = "convoke"


@dataclass(slots=True)
class RequestFacts:
    """One request: who it is, what it wanted, and what became of it."""

    id: str
    method: str
    """A method of HTTP, or `other`."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    route: str = "none"
    """The pattern of the route, not the path: clients must not be able to make up labels of metrics."""
    model: str = ""
    version: str = ""
    items: int = 0
    body_bytes: int = 0
    """Length of the body as it was sent."""
    held_bytes: int = 0
    """What the body counts for in `service/http/pending.py`."""
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each part of the way (`read`, `queue`, `infer`), in order."""
    status: int = 0
    error: str = ""
    """The code of the error that was answered, if one was."""
    total_s: float = 0.0
    """Seconds until the response started."""


OnResponse = Callable[[RequestFacts], None]
"""Called when a response starts."""


def attach(scope: Scope, facts: RequestFacts) -> None:
    """Let `of` find the facts of a request in its scope."""
    scope[_KEY] = facts


def of(scope: Scope) -> RequestFacts:
    """The facts of the request that has this scope."""
    facts: RequestFacts = scope[_KEY]
    return facts
