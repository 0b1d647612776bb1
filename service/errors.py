"""The errors that only a request can have, with their HTTP status and code; `contract/errors.py` has the others.

ConvokeError
├── InvalidRequest        400  invalid_request
├── Unauthorized          401  unauthorized
├── Forbidden             403  forbidden
├── ModelNotFound         404  model_not_found
├── RouteNotFound         404  not_found
├── RequestNotFound       404  request_not_found
├── FeedbackOff           404  feedback_off
├── MethodNotAllowed      405  method_not_allowed
├── NotAcceptable         406  not_acceptable
├── SlowHeader            408  slow_head
├── SlowBody              408  slow_body
├── ReadOnly              409  read_only
├── Overloaded            429  overloaded
├── TooManyConnections    429  too_many_connections
├── HeaderTooLarge        431  head_too_large
├── ClientGone            499  caller_gone
├── InferenceFailed       500  inference_failed
├── NotReady              503  not_ready
├── DeadlineExceeded      504  deadline_exceeded
└── FeedbackFull          507  feedback_full
"""

import math
from collections.abc import Mapping

from contract.errors import ConvokeError

_AUTHENTICATE = {"WWW-Authenticate": 'Bearer realm="convoke"'}
_CLOSE = {"Connection": "close"}
_RETRY_SOON = {"Retry-After": "1"}


def clear_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error and of its causes, once it has been answered.

    A traceback holds the frames that the error passed; they hold the request's body and, again, the error. Such a
    cycle waits for the garbage collector, which runs rarely (`service/server/worker.py`), and refused bodies would
    pile up until then.
    """
    current: BaseException | None = error
    while current is not None:
        current.__traceback__ = None
        current = current.__cause__ or current.__context__


class InvalidRequest(ConvokeError):
    """The request does not have the form that the route expects."""

    status, code = 400, "invalid_request"


class Unauthorized(ConvokeError):
    """The route needs an API key, and the request has no valid one."""

    status, code = 401, "unauthorized"
    headers = _AUTHENTICATE


class Forbidden(ConvokeError):
    """The key does not open this route, or no key of the role `manage` exists."""

    status, code = 403, "forbidden"


class ModelNotFound(ConvokeError):
    """No model has this name, or the model has no loaded version of this number."""

    status, code = 404, "model_not_found"


class RouteNotFound(ConvokeError):
    """No route has this path."""

    status, code = 404, "not_found"


class RequestNotFound(ConvokeError):
    """No worker remembers a request with this id, or nothing was kept of it."""

    status, code = 404, "request_not_found"


class FeedbackOff(ConvokeError):
    """The service keeps no feedback, because CONVOKE_FEEDBACK_DIR is not set."""

    status, code = 404, "feedback_off"


class MethodNotAllowed(ConvokeError):
    """The path exists, but not for this method."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.headers: Mapping[str, str] = {"Allow": allowed}


class NotAcceptable(ConvokeError):
    """The client accepts none of the media types in which the route can respond."""

    status, code = 406, "not_acceptable"


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
    """The request would wait too long, or the memory for bodies is full; Retry-After says when to try again."""

    status, code = 429, "overloaded"

    def __init__(self, message: str, wait_s: float = 1.0) -> None:
        super().__init__(message)
        self.headers: Mapping[str, str] = {"Retry-After": str(max(math.ceil(wait_s), 1))}


class TooManyConnections(ConvokeError):
    """The worker has no free connection; Retry-After says when to try again."""

    status, code = 429, "too_many_connections"
    headers = _RETRY_SOON


class HeaderTooLarge(ConvokeError):
    """The header of the request has too many bytes."""

    status, code = 431, "head_too_large"


class ClientGone(ConvokeError):
    """The client closed its connection before its items were run; nobody reads this response."""

    status, code = 499, "caller_gone"


class InferenceFailed(ConvokeError):
    """The model failed on this item."""

    status, code = 500, "inference_failed"


class NotReady(ConvokeError):
    """The models are being loaded, or no version of this one passed its checks; Retry-After says when to try again."""

    status, code = 503, "not_ready"
    headers = _RETRY_SOON


class DeadlineExceeded(ConvokeError):
    """The request took longer than it may take."""

    status, code = 504, "deadline_exceeded"


class FeedbackFull(ConvokeError):
    """The folder of feedback has reached its limit."""

    status, code = 507, "feedback_full"
