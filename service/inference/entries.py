"""Requests that wait for a session: entries with their items, in a queue that gives out shares of them."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.errors import ConvokeError
from contract.inputs import Items
from service.errors import ClientGone, InferenceFailed

Row = npt.NDArray[np.float32] | InferenceFailed

_NO_ROW: Row = np.empty(0, np.float32)

CLIENT_CHECK_S = 0.05  # of waiting, after which a client may have given up and is checked


@dataclass(slots=True)
class Outcome:
    """The results of one request: a row (classes,) or an error for each item, and its seconds in the queue and run."""

    rows: list[Row]
    queue_s: float
    infer_s: float


OutcomeOrError = Outcome | ConvokeError
OnDone = Callable[[OutcomeOrError], object]


@dataclass(eq=False, slots=True)
class Entry:
    """The items of one request, and their results."""

    items: Items
    on_done: OnDone | None
    """Called once with the results or the error; None once it was called, or if nobody waits any more."""
    enqueued_at: float
    timeout_s: float
    rows: list[Row]
    """A place for each item, which has its row once the entry is done."""
    is_gone: Callable[[], bool]
    taken: int = 0  # items that have left the queue
    running: int = 0  # those of them that have no result yet
    started_at: float = 0.0

    @classmethod
    def of(cls, items: Items, on_done: OnDone, timeout_s: float, is_gone: Callable[[], bool]) -> "Entry":
        """An entry that enters a queue now."""
        return cls(items, on_done, time.perf_counter(), timeout_s, [_NO_ROW] * len(items), is_gone)

    def finish(self, outcome: OutcomeOrError) -> None:
        """Call `on_done`, unless it was called before."""
        if self.on_done is not None:
            on_done, self.on_done = self.on_done, None
            on_done(outcome)


Share = tuple[Entry, int, int]  # the items of an entry from one position up to another


class EntryQueue:
    """Entries in the order of their arrival. An item leaves it when it is taken for a batch, or dropped."""

    def __init__(
        self,
        extent: Callable[[Items], int],
        max_tokens: int | None,
        on_waiting: Callable[[int], object],
    ) -> None:
        """Create an empty queue; the arguments are those of `Batcher` and `Observer`."""
        self._entries: deque[Entry] = deque()
        self._extent_of = extent
        self._max_tokens = max_tokens
        self._on_waiting = on_waiting
        self.waiting = 0
        """Items that wait."""
        self.extent = 0
        """The sum of the extents of the items that wait."""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._change(len(entry.items), self._extent_of(entry.items))

    def drop(self, entry: Entry) -> None:
        """Drop the items of an entry that have not left the queue."""
        rest = len(entry.items) - entry.taken
        if rest:
            entry.taken += rest
            self._entries.remove(entry)
            self._change(-rest, -self._extent_of(entry.items[-rest:]))

    def take(self, now: float, limit: int) -> tuple[list[Share], Items, int]:
        """Take up to `limit` items from the front; entries whose clients have left are dropped.

        Returns:
            The shares, their items in one batch, and its extent.
        """
        shares: list[Share] = []
        count = longest = 0
        while self._entries:
            entry = self._entries[0]
            if now - entry.enqueued_at > CLIENT_CHECK_S and not entry.taken and entry.is_gone():
                self.drop(entry)
                entry.finish(ClientGone("the client closed its connection while its request waited"))
                continue
            start = entry.taken
            stop, longest = self._fit(entry, count, longest, limit)
            if stop == start:
                break
            shares.append((entry, start, stop))
            entry.taken, entry.running, count = stop, entry.running + stop - start, count + stop - start
            if stop < len(entry.items):
                break
            self._entries.popleft()
        batch = join(shares)
        extent = self._extent_of(batch) if shares else 0
        self._change(-count, -extent)
        return shares, batch, extent

    def _fit(self, entry: Entry, count: int, longest: int, limit: int) -> tuple[int, int]:
        """The item of an entry up to which a batch of `count` items can take it, and the length of its longest item."""
        start = entry.taken
        stop = min(start + limit - count, len(entry.items))
        if self._max_tokens is None:
            return stop, longest
        for position in range(start, stop):
            size = count + position - start + 1
            length = max(longest, len(entry.items[position]))
            if size > 1 and size * length > self._max_tokens:
                return position, longest
            longest = length
        return stop, longest

    def _change(self, items: int, extent: int) -> None:
        self.waiting += items
        self.extent += extent
        self._on_waiting(self.waiting)


def join(shares: Sequence[Share]) -> Items:
    """The items of a batch; an array stays an array if it is the only share."""
    if len(shares) == 1:
        entry, start, stop = shares[0]
        return entry.items[start:stop]
    return [item for entry, start, stop in shares for item in entry.items[start:stop]]


def divide(shares: list[Share], items: int, parts: int) -> Iterator[list[Share]]:
    """Divide shares of this many items into at most this many parts, as equal as possible."""
    size = -(-items // parts)
    part: list[Share] = []
    capacity = size
    for entry, start, stop in shares:
        first = start
        while first < stop:
            last = min(stop, first + capacity)
            part.append((entry, first, last))
            capacity -= last - first
            first = last
            if not capacity:
                yield part
                part, capacity = [], size
    if part:
        yield part
