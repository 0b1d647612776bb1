"""The room for bodies of one worker: what all of them together may take of memory, from their first byte to the answer.

Only bytes that have come count, not those announced: else a few callers who announce much and send nothing would shut
everybody out.
"""

from service.errors import Overloaded
from service.telemetry.facts import RequestFacts

SMALL_BYTES = 1 << 16
"""Bodies up to here are not counted: the bound on connections bounds them."""

_held = 0


def hold(facts: RequestFacts, total: int, limit: int) -> None:
    """Note that a request holds `total` bytes now.

    Raises:
        Overloaded: with them all requests hold more than `limit`.
    """
    global _held  # noqa: PLW0603 -- memory is the process's, whatever application runs in it
    more = total - facts.held_bytes
    if _held + more > limit:
        raise Overloaded(f"bodies of other requests hold {_held} of {limit} bytes; try again after a moment")
    _held += more
    facts.held_bytes = total


def release(facts: RequestFacts) -> None:
    """Note that a request is answered and its body let go; does nothing for one that held nothing."""
    global _held  # noqa: PLW0603 -- as above
    _held -= facts.held_bytes
    facts.held_bytes = 0
