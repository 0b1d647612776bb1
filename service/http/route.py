"""A route: its path, its endpoint, the key that it needs, and the form of its errors."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from contract.errors import ConvokeError
from service.http.keys import Role
from service.telemetry.facts import RequestFacts

Endpoint = Callable[[Request], Awaitable[Response]]
ErrorForm = Callable[[ConvokeError], Any]
Need = Role | Literal["look"] | None
"""The role of the key that a route needs. `look` is opened by every role but that of metrics, None needs no key."""


def code_and_message(error: ConvokeError) -> Any:
    """`{"code": ..., "message": ...}`, the form of all errors but those of the Open Inference Protocol."""
    return error.body()


def message_alone(error: ConvokeError) -> Any:
    """The message as a string, the form of errors of the Open Inference Protocol."""
    return str(error)


@dataclass(frozen=True)
class Header:
    """The header of a request on the fast path (`service/server/fast_path.py`), parsed and checked."""

    parameters: Mapping[str, str]
    """Those in the path."""
    query: bytes
    fields: Sequence[tuple[bytes, bytes]]
    """Names in lower case, and values."""

    def get(self, name: bytes) -> bytes | None:
        """The value of a field, the last if several lines have it."""
        return next((value for field, value in reversed(self.fields) if field == name), None)


@dataclass(slots=True)
class Content:
    """The content of a successful response."""

    body: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The content as a response of Starlette."""
        return Response(self.body, headers={**self.headers}, media_type=self.media_type)


MakeContent = Callable[[], Content]
"""Gives the content of a response, or raises the error of the request."""

OnContent = Callable[[MakeContent], None]
IsGone = Callable[[], bool]
"""Whether the client has closed its connection."""

Start = Callable[[RequestFacts, bytes, OnContent, IsGone], None]
"""Starts to answer a request with these facts and this body; `OnContent` is called later.

If it raises `Overloaded`, that is the response; after any other error the request takes the ordinary path.
"""


Prepare = Callable[[Header], Start | None]


@dataclass(frozen=True)
class Route:
    """What happens on a path, a pattern in Starlette's syntax such as `/models/{model}`."""

    path: str
    method: Literal["GET", "POST", "DELETE"]
    endpoint: Endpoint
    needs: Need
    error_form: ErrorForm = code_and_message
    """Makes the value of `"error"` in the JSON of an error response."""
    query: Collection[str] | None = ()
    """The parameters in the query; others are errors, unless this is None."""
    prepare: Prepare | None = None
    """What answers requests with this header on the fast path; None if they take the ordinary path."""

    @property
    def methods(self) -> set[str]:
        """The allowed methods; a route that allows GET also allows HEAD."""
        return {"GET", "HEAD"} if self.method == "GET" else {self.method}
