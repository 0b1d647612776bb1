"""The queue between HTTP and a session.

Whoever waits when the session becomes free leaves in its next batch: alone when it is quiet, in company under load,
with no delay added. A session that computes on one thread has a lane for each processor, and those who wait are shared
out among them. A batch that takes less time than another thread takes to be asked runs on the event loop, after
all requests that have arrived by then were read; any other in a thread of its own. Items that company would not make
cheaper run at once where nobody waits. All else happens on the event loop, so there are no locks.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from contract.inputs import Items
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed, Overloaded

Row = npt.NDArray[np.float32] | InferenceFailed

PATIENCE_S = 0.05
"""Who waited longer is asked whether anyone still listens before it is run: under load, callers give up."""


@dataclass(eq=False)
class _Entry:
    """One caller's items and what has come of them."""

    items: Items
    answer: asyncio.Future[None]
    enqueued: float
    rows: list[Row | None]
    is_gone: Callable[[], bool]
    taken: int = 0
    pending: int = 0
    left: float = 0.0
    done: float = 0.0


_Share = tuple[_Entry, int, int]  # an entry's items from the one position to the other


@dataclass(frozen=True)
class Outcome:
    """One caller's results: a row (classes,) or an error an item, and the seconds they waited and ran."""

    rows: list[Row]
    queue_s: float
    infer_s: float


@dataclass(frozen=True)
class Observer:
    """Called with what happens, for metrics: items waiting; a batch's size and seconds; an entry's wait."""

    waiting: Callable[[int], object] = field(default=lambda _items: None)
    batch: Callable[[int, float], object] = field(default=lambda _items, _seconds: None)
    waited: Callable[[int, float], object] = field(default=lambda _items, _seconds: None)


class Batcher:
    """Gathers the items of many callers into batches for one function, and scatters the results."""

    def __init__(
        self,
        run: Callable[[Items], npt.NDArray[np.float32]],
        *,
        max_batch: int,
        max_items: int,
        max_tokens: int | None = None,
        lanes: int = 1,
        is_quick: Callable[[Items], bool] = lambda _batch: False,
        runs_alone: Callable[[Items], bool] = lambda _batch: False,
        observer: Observer | None = None,
    ) -> None:
        """Prepare an empty queue.

        Args:
            run: N items -> (N, classes).
            max_batch: the most items in a batch.
            max_items: the most items that wait; a caller who would exceed it is turned away.
            max_tokens: the most that a batch may hold once its items are padded to the length of the longest (their
                first axis), unless it is one item; None for items that are not padded.
            lanes: how many batches run at once, each in a thread; `run` must allow it where there are several.
            is_quick: whether a batch runs on the event loop, and not in a thread of the batcher's own.
            runs_alone: whether a batch that is quick gains less from company than waiting for it costs.
            observer: told of batches and waits.
        """
        self._run_batch = run
        self._max_batch = max_batch
        self._max_items = max_items
        self._max_tokens = max_tokens
        self._is_quick = is_quick
        self._runs_alone = runs_alone
        self._observer = observer or Observer()
        self._queue: deque[_Entry] = deque()
        self._waiting = 0
        self._expected = 0
        self._lanes = lanes
        self._running = 0
        self._is_due = False  # a batch is about to leave
        self._executor = ThreadPoolExecutor(lanes, thread_name_prefix="batch")

    async def submit(self, items: Items, *, timeout_s: float, is_gone: Callable[[], bool] = lambda: False) -> Outcome:
        """Run items, one row an item, in whatever batches they fall into.

        Args:
            items: what to run, one at least.
            timeout_s: seconds until the caller is told that it took too long.
            is_gone: whether the caller has gone away; asked where it had to wait.

        Raises:
            Overloaded: the queue has no room for them.
            DeadlineExceeded: they were not done in time; those that still wait are dropped.
            ClientGone: nobody waits for them any more.
        """
        count = len(items)
        assert count, "a caller has one item at least"
        self._check_room(count)
        is_first = self._running < self._lanes and not self._queue
        if is_first and count <= self._max_batch and self._runs_alone(items):
            return self._run_alone(items)
        loop = asyncio.get_running_loop()
        entry = _Entry(items, loop.create_future(), time.perf_counter(), [None] * count, is_gone)
        self._queue.append(entry)
        self._wait_for(count)
        self._send_off()  # behind the requests that were read together with this one
        timer = loop.call_later(timeout_s, _expire, entry, timeout_s)
        try:
            await entry.answer
        finally:
            timer.cancel()
            self._abandon(entry)
        rows = [row for row in entry.rows if row is not None]
        assert len(rows) == count, "every item has a row once its entry is answered"
        return Outcome(rows, entry.left - entry.enqueued, entry.done - entry.left)

    @contextmanager
    def room(self, items: int) -> Iterator[None]:
        """Keep room in the queue for items that are still being decoded.

        Raises:
            Overloaded: the queue has no room for them.
        """
        self._check_room(items)
        self._expected += items
        try:
            yield
        finally:
            self._expected -= items

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nobody waits."""
        return not (self._running or self._is_due or self._queue or self._expected)

    def close(self) -> None:
        """Let the batch that runs finish, and start no more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _check_room(self, items: int) -> None:
        waiting = self._waiting + self._expected
        if waiting + items > self._max_items:
            raise Overloaded(
                f"{waiting} items wait already and {items} more would exceed the bound of {self._max_items}; "
                "try again after a moment"
            )

    def _run_alone(self, items: Items) -> Outcome:
        """Run a caller's items at once, on the event loop, as one batch."""
        began = time.perf_counter()
        rows = self._run(items)
        infer_s = time.perf_counter() - began
        self._observer.waited(len(items), 0.0)
        self._observer.batch(len(items), infer_s)
        return Outcome(rows, 0.0, infer_s)

    def _wait_for(self, items: int) -> None:
        self._waiting += items
        self._observer.waiting(self._waiting)

    def _abandon(self, entry: _Entry) -> None:
        """Forget the items of a caller who is gone and that no batch has taken; does nothing once all are taken."""
        rest = len(entry.items) - entry.taken
        if rest:
            entry.taken += rest
            self._queue.remove(entry)
            self._wait_for(-rest)

    def _send_off(self) -> None:
        """Have the next batch leave soon, where someone waits and a lane is free."""
        if self._queue and not self._is_due and self._running < self._lanes:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Send the next batch off, if someone still waits; a lane is free."""
        self._is_due = False
        now = time.perf_counter()
        shares = self._take(now)
        if not shares:
            return
        self._running += 1
        batch = _together(shares)
        self._wait_for(-len(batch))
        self._send_off()
        if self._is_quick(batch):
            self._scatter(shares, self._run(batch), now)
            return
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._run, batch)
        future.add_done_callback(lambda done: self._gather(shares, done, now))

    def _take(self, now: float) -> list[_Share]:
        """Take the next batch from the head of the queue, at least one item: what waits is shared by the free lanes."""
        most = min(self._max_batch, -(-self._waiting // (self._lanes - self._running)))
        shares: list[_Share] = []
        count = longest = 0
        while self._queue:
            entry = self._queue[0]
            if now - entry.enqueued > PATIENCE_S and not entry.taken and entry.is_gone():
                self._abandon(entry)
                if not entry.answer.done():
                    entry.answer.set_exception(ClientGone("the client went away before its turn came"))
                continue
            start = entry.taken
            stop, longest = self._reach(entry, count, longest, most)
            if stop == start:
                break
            if start == 0:
                entry.left = now
            shares.append((entry, start, stop))
            self._observer.waited(stop - start, now - entry.enqueued)
            entry.taken, entry.pending, count = stop, entry.pending + stop - start, count + stop - start
            if stop < len(entry.items):
                break
            self._queue.popleft()
        return shares

    def _reach(self, entry: _Entry, count: int, longest: int, most: int) -> tuple[int, int]:
        """Up to which of an entry's items a batch of `count` items has room, and the length of its longest then."""
        start = entry.taken
        stop = min(start + most - count, len(entry.items))
        if self._max_tokens is None:
            return stop, longest
        for position in range(start, stop):
            size = count + position - start + 1
            grown = max(longest, len(entry.items[position]))
            if size > 1 and size * grown > self._max_tokens:
                return position, longest
            longest = grown
        return stop, longest

    def _run(self, batch: Items) -> list[Row]:
        """Rows for a batch, in the batcher's thread; a batch that fails is halved until the bad item stands alone."""
        try:
            rows = self._run_batch(batch)
            if len(rows) != len(batch):
                raise ValueError(f"the model gave {len(rows)} rows for {len(batch)} items")  # noqa: TRY301
            return list(rows)
        except Exception as error:  # noqa: BLE001 -- whatever a model raises, its neighbours get their answers
            if len(batch) == 1:
                failure = InferenceFailed(f"the model failed on this item: {error}")
                failure.__cause__ = error
                return [failure]
            half = len(batch) // 2
            return self._run(batch[:half]) + self._run(batch[half:])

    def _gather(self, shares: list[_Share], done: asyncio.Future[list[Row]], started: float) -> None:
        """Take what the thread has computed."""
        if done.cancelled():  # the service ends
            for entry, _, _ in shares:
                entry.answer.cancel()
            return
        self._scatter(shares, done.result(), started)

    def _scatter(self, shares: list[_Share], rows: list[Row], started: float) -> None:
        """Hand a batch's rows to their callers and let the next batch leave."""
        now = time.perf_counter()
        self._observer.batch(len(rows), now - started)
        position = 0
        for entry, start, stop in shares:
            entry.rows[start:stop] = rows[position : position + stop - start]
            position += stop - start
            entry.pending -= stop - start
            if entry.taken == len(entry.items) and not entry.pending and not entry.answer.done():
                entry.done = now
                entry.answer.set_result(None)
        self._running -= 1
        self._send_off()  # behind the answers to this one


def _together(shares: Sequence[_Share]) -> Items:
    """The items of a batch: an array as it came where it is the only one."""
    if len(shares) == 1:
        entry, start, stop = shares[0]
        return entry.items[start:stop]
    return [item for entry, start, stop in shares for item in entry.items[start:stop]]


def _expire(entry: _Entry, timeout_s: float) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(DeadlineExceeded(f"no answer within {timeout_s:g} s; the service is overloaded"))
