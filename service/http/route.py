"""A route: its path, its endpoint, the key that it needs, and the form of its errors."""

from collections.abc import Awaitable, Callable
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
    """A path pattern of Starlette's, as `/models/{model}`, and what happens there."""

    path: str
    method: Literal["GET", "POST"]
    endpoint: Endpoint
    needs: Need
    error_form: ErrorForm = code_and_message
    """Makes the value of `"error"` in the JSON of an error response."""

    @property
    def methods(self) -> set[str]:
        """The methods that the route allows: every GET allows HEAD, too."""
        return {"GET", "HEAD"} if self.method == "GET" else {self.method}
