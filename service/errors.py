"""Every error of the service, and the one mapping from error to HTTP status.

ServiceError
├── InvalidRequest      400  invalid_request      the request is not of the form that the route reads
├── ModelNotFound       404  model_not_found      no model of that name is served
├── RouteNotFound       404  not_found            no such path
├── MethodNotAllowed    405  method_not_allowed   the path exists, not for this method
├── Unauthorized        401  unauthorized         the route needs a key, and none that is known was shown
├── Forbidden           403  forbidden            the key does not open this route; management is switched off
├── SlowHead            408  slow_head            the head of the request did not arrive in time
├── SlowBody            408  slow_body            the body did not arrive in time
├── ReadOnly            409  read_only            models/ cannot be written
├── TooLarge            413  too_large            too many bytes, pixels, characters, items or JSON values
├── UnsupportedKind     415  unsupported_kind     a kind of content that is not read
├── Unreadable          422  unreadable           the right kind of content, but damaged
├── Overloaded          429  overloaded           the queue or the room for bodies is full; carries Retry-After
├── HeadTooLarge        431  head_too_large       the head of the request has too many bytes
├── CallerGone          499  caller_gone          the client went away; nobody reads this answer
├── InferenceFailed     500  inference_failed     the model itself failed on this item
├── NotReady            503  not_ready            the models are not loaded yet
├── TooManyConnections  429  too_many_connections  no more connections are taken; carries Retry-After
├── DeadlineExceeded    504  deadline_exceeded    the answer took longer than a request may
├── ProviderError       the execution provider that was asked for cannot be had; ends the start
└── ModelRefused        422  model_refused        a version in models/ that must not be served: damaged, foreign or
    │                                             of another schema
    └── ManifestError                             its manifest cannot be read
"""

from collections.abc import Mapping
from typing import ClassVar

_NONE: Mapping[str, str] = {}
_SOON = {"Retry-After": "1"}
_CLOSE = {"Connection": "close"}
_WHO = {"WWW-Authenticate": 'Bearer realm="convoke"'}


class ServiceError(Exception):
    """Base of all errors that a caller sees: `status` and `code` are fixed by the class, the message by the case."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    headers: Mapping[str, str] = _NONE

    def body(self) -> dict[str, str]:
        """The error as it stands in an answer."""
        return {"code": self.code, "message": str(self)}


def let_go(error: BaseException) -> None:
    """Forget where an error came from, once it is answered.

    What was raised holds the frames it passed, they hold the request's body and, again, the error. Such a ring waits
    for the garbage collector, which comes rarely (`service/worker.py`); refused bodies would pile up until then.
    """
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__


class InvalidRequest(ServiceError):
    """The request is not of the form that the route reads."""

    status, code = 400, "invalid_request"


class ModelNotFound(ServiceError):
    """No model of that name is served."""

    status, code = 404, "model_not_found"


class RouteNotFound(ServiceError):
    """No such path."""

    status, code = 404, "not_found"


class MethodNotAllowed(ServiceError):
    """The path exists, but not for this method."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.headers = {"Allow": allowed}


class Unauthorized(ServiceError):
    """The route needs a key, and none that is known was shown."""

    status, code = 401, "unauthorized"
    headers = _WHO


class Forbidden(ServiceError):
    """The key does not open this route, or management is switched off."""

    status, code = 403, "forbidden"


class ReadOnly(ServiceError):
    """models/ cannot be written."""

    status, code = 409, "read_only"


class SlowHead(ServiceError):
    """The head of the request did not arrive in time."""

    status, code = 408, "slow_head"


class SlowBody(ServiceError):
    """The body did not arrive in time."""

    status, code = 408, "slow_body"
    headers = _CLOSE


class TooLarge(ServiceError):
    """Too many bytes, pixels, characters, items or JSON values."""

    status, code = 413, "too_large"


class UnsupportedKind(ServiceError):
    """A kind of content that is not read."""

    status, code = 415, "unsupported_kind"


class Unreadable(ServiceError):
    """The right kind of content, but damaged."""

    status, code = 422, "unreadable"


class Overloaded(ServiceError):
    """The queue of a model is full, or the room for bodies."""

    status, code = 429, "overloaded"
    headers = _SOON


class HeadTooLarge(ServiceError):
    """The head of the request has too many bytes."""

    status, code = 431, "head_too_large"


class CallerGone(ServiceError):
    """The client went away before its items were run."""

    status, code = 499, "caller_gone"


class InferenceFailed(ServiceError):
    """The model itself failed on this item."""

    status, code = 500, "inference_failed"


class NotReady(ServiceError):
    """The models are not loaded yet."""

    status, code = 503, "not_ready"
    headers = _SOON


class TooManyConnections(ServiceError):
    """No more connections are taken."""

    status, code = 429, "too_many_connections"
    headers = _SOON


class DeadlineExceeded(ServiceError):
    """The answer took longer than a request may."""

    status, code = 504, "deadline_exceeded"


class ProviderError(ServiceError):
    """The execution provider that was asked for cannot be had."""


class ModelRefused(ServiceError):
    """A version in models/ that must not be served."""

    status, code = 422, "model_refused"


class ManifestError(ModelRefused):
    """A manifest that is missing, damaged, or of a schema that this version does not read."""
