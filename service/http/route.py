"""A route, and the form that its errors have in JSON."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from contract.errors import ConvokeError

Endpoint = Callable[[Request], Awaitable[Response]]
ErrorForm = Callable[[ConvokeError], Any]


def code_and_message(error: ConvokeError) -> Any:
    """`{"code": ..., "message": ...}`: the form of all errors but those of the Open Inference Protocol."""
    return error.body()


class Route(StarletteRoute):
    """A path pattern, the methods it takes, its endpoint, and what stands under `"error"` when the endpoint fails."""

    endpoint: Endpoint
    path: str

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        methods: Sequence[str],
        error_form: ErrorForm = code_and_message,
    ) -> None:
        super().__init__(path, endpoint, methods=[*methods])
        self.error_form = error_form

    def with_endpoint(self, endpoint: Endpoint) -> "Route":
        """The same route before another endpoint."""
        return Route(self.path, endpoint, methods=[*(self.methods or ())], error_form=self.error_form)
