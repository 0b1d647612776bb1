"""The memory for request bodies in one worker, from the first byte of a body to the response.

Only bytes that have arrived count. If announced bytes counted, a few clients that announce much and send nothing would
shut out all others.
"""

from service.errors import Overloaded
from service.telemetry.facts import RequestFacts

SMALL_BYTES = 1 << 16
"""Bodies up to this size do not count: the limit on connections bounds them."""

_held = 0


def hold(facts: RequestFacts, total: int, limit: int) -> None:
    """Note that the body of a request holds `total` bytes now.

    Raises:
        Overloaded: all bodies together would hold more than `limit`.
    """
    global _held  # noqa: PLW0603 -- the memory belongs to the process, not to an application
    more = total - facts.held_bytes
    if _held + more > limit:
        raise Overloaded(
            f"the memory for request bodies is full: other requests hold {_held} of {limit} bytes; try again later"
        )
    _held += more
    facts.held_bytes = total


def release(facts: RequestFacts) -> None:
    """Note that the body of a request is no longer held, if it was."""
    global _held  # noqa: PLW0603 -- as above
    _held -= facts.held_bytes
    facts.held_bytes = 0
