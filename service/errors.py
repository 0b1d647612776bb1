"""The errors that only a request can have, each with its HTTP status; `contract/errors.py` has the others.

ConvokeError
├── InvalidRequest        400  invalid_request       the request does not have the form that the route reads
├── Unauthorized          401  unauthorized          the route needs an API key, and the request has no valid one
├── Forbidden             403  forbidden             the key does not open this route, or management is switched off
├── ModelNotFound         404  model_not_found       no model of that name is served
├── RouteNotFound         404  not_found             no route has this path
├── MethodNotAllowed      405  method_not_allowed    the path exists, but not for this method
├── SlowHeader            408  slow_head             the header of the request did not arrive in time
├── SlowBody              408  slow_body             the body did not arrive in time
├── ReadOnly              409  read_only             the models folder cannot be written
├── Overloaded            429  overloaded            the queue or the memory for bodies is full; carries Retry-After
├── TooManyConnections    429  too_many_connections  the worker has no free connection; carries Retry-After
├── HeaderTooLarge        431  head_too_large        the header of the request has too many bytes
├── ClientGone            499  caller_gone           the client closed its connection; nobody reads this response
├── InferenceFailed       500  inference_failed      the model itself failed on this item
├── NotReady              503  not_ready             the models are still being loaded; carries Retry-After
└── DeadlineExceeded      504  deadline_exceeded     the answer took longer than a request may take
"""

from collections.abc import Mapping

from contract.errors import ConvokeError

_RETRY_SOON = {"Retry-After": "1"}
_CLOSE = {"Connection": "close"}
_AUTHENTICATE = {"WWW-Authenticate": 'Bearer realm="convoke"'}


def clear_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error and its causes, once it has been answered.

    A traceback holds the frames that the error passed; they hold the request's body and, again, the error. Such a
    cycle waits for the garbage collector, which runs rarely (`service/server/worker.py`), and refused bodies would
    pile up until then.
    """
    current: BaseException | None = error
    while current is not None:
        current.__traceback__ = None
        current = current.__cause__ or current.__context__


class InvalidRequest(ConvokeError):
    """The request does not have the form that the route reads."""

    status, code = 400, "invalid_request"


class Unauthorized(ConvokeError):
    """The route needs an API key, and the request has no valid one."""

    status, code = 401, "unauthorized"
    headers = _AUTHENTICATE


class Forbidden(ConvokeError):
    """The key does not open this route, or management is switched off."""

    status, code = 403, "forbidden"


class ModelNotFound(ConvokeError):
    """No model of that name is served."""

    status, code = 404, "model_not_found"


class RouteNotFound(ConvokeError):
    """No route has this path."""

    status, code = 404, "not_found"


class MethodNotAllowed(ConvokeError):
    """The path exists, but not for this method."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.headers: Mapping[str, str] = {"Allow": allowed}


class SlowHeader(ConvokeError):
    """The header of the request did not arrive in time."""

    status, code = 408, "slow_head"


class SlowBody(ConvokeError):
    """The body did not arrive in time."""

    status, code = 408, "slow_body"
    headers = _CLOSE


class ReadOnly(ConvokeError):
    """The models folder cannot be written."""

    status, code = 409, "read_only"


class Overloaded(ConvokeError):
    """The queue of a model is full, or the memory for bodies."""

    status, code = 429, "overloaded"
    headers = _RETRY_SOON


class TooManyConnections(ConvokeError):
    """The worker has no free connection."""

    status, code = 429, "too_many_connections"
    headers = _RETRY_SOON


class HeaderTooLarge(ConvokeError):
    """The header of the request has too many bytes."""

    status, code = 431, "head_too_large"


class ClientGone(ConvokeError):
    """The client closed its connection before its items were run."""

    status, code = 499, "caller_gone"


class InferenceFailed(ConvokeError):
    """The model itself failed on this item."""

    status, code = 500, "inference_failed"


class NotReady(ConvokeError):
    """The models are still being loaded."""

    status, code = 503, "not_ready"
    headers = _RETRY_SOON


class DeadlineExceeded(ConvokeError):
    """The answer took longer than a request may take."""

    status, code = 504, "deadline_exceeded"
