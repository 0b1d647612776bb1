"""The room for bodies of one worker: what all of them together may take of memory, from their first byte to the answer.

Only bytes that have come count, not those announced: else a few callers who announce much and send nothing would shut
everybody out.
"""

from starlette.types import Scope

from service.errors import Overloaded

SMALL_BYTES = 1 << 16
"""Bodies up to here are not counted: the bound on connections bounds them."""

_KEY = "convoke.pending"
_held = 0


def hold(scope: Scope, total: int, limit: int) -> None:
    """Note that a request holds `total` bytes now.

    Raises:
        Overloaded: with them all requests hold more than `limit`.
    """
    global _held  # noqa: PLW0603 -- memory is the process's, whatever application runs in it
    more = total - scope.get(_KEY, 0)
    if _held + more > limit:
        raise Overloaded(f"bodies of other requests hold {_held} of {limit} bytes; try again after a moment")
    _held += more
    scope[_KEY] = total


def release(scope: Scope) -> None:
    """Note that a request is answered and its body let go; does nothing for one that held nothing."""
    global _held  # noqa: PLW0603 -- as above
    _held -= scope.pop(_KEY, 0)
