"""A route: its path, its endpoint, the key that it needs, and the form of its errors."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from contract.errors import ConvokeError
from service.http.keys import Role

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
class Route:
    """What happens on a path, a pattern in Starlette's syntax such as `/models/{model}`."""

    path: str
    method: Literal["GET", "POST"]
    endpoint: Endpoint
    needs: Need
    error_form: ErrorForm = code_and_message
    """Makes the value of `"error"` in the JSON of an error response."""
    query: Collection[str] | None = ()
    """The parameters in the query; others are errors, unless this is None."""

    @property
    def methods(self) -> set[str]:
        """The allowed methods; a route that allows GET also allows HEAD."""
        return {"GET", "HEAD"} if self.method == "GET" else {self.method}
