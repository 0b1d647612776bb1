"""The queue between HTTP and a session.

All requests that wait when the session becomes free leave in its next batch; no delay is added to fill a batch. If the
session runs several batches in parallel, the waiting items are divided among them. Quick batches run on the event loop,
after all requests that have arrived by then were read; others run in a thread. Texts gain nothing from batches of more
than that, and are slow to decode, so a thread starts as soon as more of them wait than is quick, and has its next batch
before it has done the one before. Requests are entries with a callback, not tasks. Everything but runs in threads
happens on the event loop, so there are no locks.

Background entries (of explanations) wait in a queue of their own. Each runs alone, and one at a time, when no other
entry waits.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from contract.errors import ConvokeError
from contract.inputs import Items
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed, NotReady, Overloaded
from service.inference.entries import Entry, EntryQueue, OnDone, Outcome, OutcomeOrError, Row, Share, divide, join
from service.inference.rate import Rate

SWEEP_S = 0.05
"""Seconds between two looks for entries whose time is over: one timer for all of them."""

_AHEAD = 1  # batches of texts that wait for a thread, which then starts without waiting for the event loop


@dataclass(frozen=True)
class Observer:
    """Callbacks for metrics: items that wait; items and seconds of a batch; items of it, and their wait.

    `on_background` has the seconds of a batch of a background entry; the others leave these out.
    """

    on_waiting: Callable[[int], object] = lambda _items: None
    on_batch: Callable[[int, float], object] = lambda _items, _seconds: None
    on_wait: Callable[[int, float], object] = lambda _items, _seconds: None
    on_background: Callable[[float], object] = lambda _seconds: None


class Batcher:
    """Collects the items of many requests into batches for one function, and hands out the results."""

    def __init__(
        self,
        run: Callable[[Items], npt.NDArray[np.float32]],
        *,
        max_batch: int,
        max_items: int,
        max_wait_s: float = math.inf,
        max_tokens: int | None = None,
        parallel_runs: int = 1,
        extent: Callable[[Items], int] = len,
        is_quick: Callable[[int], bool] = lambda _extent: False,
        observer: Observer | None = None,
    ) -> None:
        """Create an empty queue.

        Args:
            run: N items -> (N, classes).
            max_batch: the largest number of items in a batch.
            max_items: the largest number of waiting items; requests above it are refused.
            max_wait_s: the longest that the items before a request may take, by the measured rate.
            max_tokens: the largest batch of items that are padded to the length (first axis) of the longest; a single
                item may be longer. None for items that are not padded.
            parallel_runs: how many batches run at the same time, each in a thread; `run` must allow it.
            extent: how large a batch is; sums of extents are extents.
            is_quick: whether a batch of this extent runs on the event loop rather than in a thread.
            observer: callbacks for metrics.
        """
        self._run_batch = run
        self._max_batch = max_batch
        self._max_items = max_items
        self._max_wait_s = max_wait_s
        self._item_rate = Rate()
        self._max_tokens = max_tokens
        self._parallel_runs = parallel_runs
        self._max_running = parallel_runs + (_AHEAD if max_tokens is not None else 0)
        self._extent = extent
        self._is_quick = is_quick
        self._observer = observer or Observer()
        self._queue = EntryQueue(extent, max_tokens, self._observer.on_waiting)
        self._background: deque[Entry] = deque()
        self._is_background_running = False
        self._reserved = 0
        self._running = 0
        self._running_items = 0
        self._delivered_at: float | None = None  # None if nothing was left to do then
        self._is_dispatching = False
        self._in_threads: set[Entry] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._executor = ThreadPoolExecutor(parallel_runs, thread_name_prefix="batch")

    async def submit(
        self,
        items: Items,
        *,
        timeout_s: float,
        is_gone: Callable[[], bool] = lambda: False,
        in_background: bool = False,
    ) -> Outcome:
        """Run items in whatever batches they fall into, and return a row for each; `check_capacity` comes first.

        Args:
            items: what to run, at least one item.
            timeout_s: seconds after which the request fails.
            is_gone: whether the client has closed its connection; called if the request had to wait.
            in_background: whether the items, a batch of their own, run only when no other items wait.

        Raises:
            DeadlineExceeded: the items were not done in time; those that still wait are dropped.
            ClientGone: the client has closed its connection.
        """
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        put = self._put_background if in_background else self.put
        entry = put(items, partial(_resolve, done), timeout_s=timeout_s, is_gone=is_gone)
        try:
            return await done
        finally:
            entry.on_done = None
            self._drop(entry)

    def put(
        self, items: Items, on_done: OnDone, *, timeout_s: float, is_gone: Callable[[], bool] = lambda: False
    ) -> Entry:
        """As `submit`, without waiting: `on_done` is called later, with the results or the error."""
        assert len(items), "a request has at least one item"
        self._forget_idle_time()
        entry = Entry.of(items, on_done, timeout_s, is_gone)
        self._queue.append(entry)
        if self._max_tokens is not None and self._is_dispatching and not self._is_quick(self._queue.extent):
            self._dispatch(in_thread=True)  # the event loop reads more requests meanwhile
        else:
            self._schedule()  # after the requests that were read together with this one
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._expire)
        return entry

    def _put_background(self, items: Items, on_done: OnDone, *, timeout_s: float, is_gone: Callable[[], bool]) -> Entry:
        """As `put`, for items that run when no others wait; they need no capacity in the queue."""
        entry = Entry.of(items, on_done, timeout_s, is_gone)
        self._background.append(entry)
        self._schedule()
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._expire)
        return entry

    @contextmanager
    def reserve(self, items: int) -> Iterator[None]:
        """Count items that are being decoded as waiting. None of them is refused later, which would waste the work."""
        self._forget_idle_time()
        self._reserved += items
        try:
            yield
        finally:
            self._reserved -= items

    def count_failed(self, items: int, start: float) -> None:
        """Count reserved items whose decoding has failed since `start`: they took their time, and no batch has them."""
        self._measure(items, start, time.perf_counter())

    @property
    def is_idle(self) -> bool:
        """Whether no item runs, waits or is being decoded."""
        return not (self._running or self._is_dispatching or self._queue or self._background or self._reserved)

    def close(self) -> None:
        """Let running batches finish, and start no more."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def check_capacity(self, items: int) -> None:
        """Check that this many items could wait in the queue.

        Raises:
            Overloaded: they would exceed the capacity, or wait longer than `max_wait_s` for the items before them.
        """
        waiting = self._queue.waiting + self._reserved
        wait_s = self._unfinished * self._item_rate.mean_s
        if waiting + items > self._max_items:
            excess = f"{items} more would exceed the maximum of {self._max_items}"
            raise Overloaded(f"the queue is full: {waiting} items wait, and {excess}; try again in a moment", wait_s)
        if wait_s > self._max_wait_s:
            raise Overloaded(
                f"the service is busy: the request would wait about {wait_s:.1f} s (maximum {self._max_wait_s:g} s)",
                wait_s,
            )

    @property
    def _unfinished(self) -> int:
        """Items that run, wait or are being decoded."""
        return self._running_items + self._queue.waiting + self._reserved

    def _drop(self, entry: Entry) -> None:
        """Drop the items of an entry that have not left their queue."""
        if entry in self._background:
            entry.taken = len(entry.items)
            self._background.remove(entry)
        else:
            self._queue.drop(entry)

    def _expire(self) -> None:
        """Answer the entries whose time is over, and look again while entries wait or run in threads."""
        self._sweep = None
        now = time.perf_counter()
        for entry in (*self._queue, *self._background, *self._in_threads):
            if now - entry.enqueued_at > entry.timeout_s:
                self._drop(entry)
                entry.finish(DeadlineExceeded("the request could not be answered in time; the service is overloaded"))
        if self._queue or self._background or self._in_threads:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._expire)

    def _schedule(self) -> None:
        """Schedule the next batch if items wait and a run is free."""
        if self._is_dispatching or self._running >= self._max_running:
            return
        if self._queue:
            self._is_dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)
        elif self._background and not self._is_background_running:
            self._is_dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch_background)

    def _dispatch(self, *, in_thread: bool = False) -> None:
        """Start the next batch if items still wait: in this thread if it is quick, else divided among the free runs.

        Texts leave a share for the runs that are not free; if none is free, the batch waits for the next thread. With
        `in_thread` one run takes all items, in a thread.
        """
        self._is_dispatching = False
        now = time.perf_counter()
        free = max(self._parallel_runs - self._running, 1)
        share = self._queue.waiting
        if self._max_tokens is not None and not in_thread:
            share = -(-share * free // self._parallel_runs)
        parts = 1 if in_thread else free
        shares, batch, extent = self._queue.take(now, min(self._max_batch * parts, share))
        if not shares:
            self._schedule()
            return
        self._running_items += len(batch)
        if not in_thread and len(batch) <= self._max_batch and self._is_quick(extent):
            self._running += 1
            self._deliver(shares, self._run(batch), now)
            return
        loop = asyncio.get_running_loop()
        for part in divide(shares, len(batch), parts):
            self._running += 1
            self._in_threads.update(entry for entry, _, _ in part)
            future = loop.run_in_executor(self._executor, self._run_in_thread, join(part))
            future.add_done_callback(partial(self._on_thread_done, part))
        self._schedule()

    def _dispatch_background(self) -> None:
        """Start the next background entry, unless other entries have arrived."""
        self._is_dispatching = False
        if self._queue or not self._background:
            self._schedule()
            return
        entry, now = self._background.popleft(), time.perf_counter()
        count = entry.taken = entry.running = len(entry.items)
        if entry.is_gone():
            entry.finish(ClientGone("the client closed its connection while its request waited"))
            self._schedule()
            return
        self._running += 1
        self._is_background_running = True
        shares = [(entry, 0, count)]
        if self._is_quick(self._extent(entry.items)):
            self._deliver(shares, self._run(entry.items), now, in_background=True)
            return
        self._in_threads.add(entry)
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._run_in_thread, entry.items)
        future.add_done_callback(partial(self._on_thread_done, shares, in_background=True))
        self._schedule()

    def _run(self, batch: Items) -> list[Row]:
        """Rows for a batch; a batch that fails is halved until the bad item is alone."""
        try:
            rows = self._run_batch(batch)
            if len(rows) != len(batch):
                raise ValueError(f"expected {len(batch)} rows, received {len(rows)}")  # noqa: TRY301
            return list(rows)
        except Exception as error:  # noqa: BLE001 -- whatever a model raises, the other items get their results
            if len(batch) == 1:
                failure = InferenceFailed(f"the model failed on this item: {error}")
                failure.__cause__ = error
                return [failure]
            half = len(batch) // 2
            return self._run(batch[:half]) + self._run(batch[half:])

    def _run_in_thread(self, batch: Items) -> tuple[list[Row], float]:
        """As `_run`, with the time at which it has started."""
        start = time.perf_counter()
        return self._run(batch), start

    def _on_thread_done(
        self, shares: list[Share], done: asyncio.Future[tuple[list[Row], float]], *, in_background: bool = False
    ) -> None:
        if not done.cancelled():
            self._deliver(shares, *done.result(), in_background=in_background)
        else:  # the service shuts down
            for entry, _, _ in shares:
                entry.finish(NotReady("the service stops"))

    def _deliver(self, shares: list[Share], rows: list[Row], start: float, *, in_background: bool = False) -> None:
        """Give the rows of a batch to their entries, and schedule the next batch."""
        now = time.perf_counter()
        if in_background:
            self._is_background_running = False
            self._observer.on_background(now - start)
        else:
            self._observer.on_batch(len(rows), now - start)
            self._running_items -= len(rows)
            self._measure(len(rows), start, now)
        position = 0
        for entry, first, stop in shares:
            entry.started_at = entry.started_at or start
            if not in_background:
                self._observer.on_wait(stop - first, start - entry.enqueued_at)
            entry.rows[first:stop] = rows[position : position + stop - first]
            position += stop - first
            entry.running -= stop - first
            if entry.taken == len(entry.items) and not entry.running:
                self._in_threads.discard(entry)
                entry.finish(Outcome(entry.rows, entry.started_at - entry.enqueued_at, now - entry.started_at))
        self._running -= 1
        self._schedule()  # after the responses to this batch

    def _measure(self, items: int, start: float, now: float) -> None:
        """Measure how fast items are done, with all that they share the machine with.

        That is the time since the last batch was done, if more was left to do then; else the run's own duration.
        """
        if self._delivered_at is None:
            self._item_rate.record((now - start) / self._parallel_runs, items)
        else:
            self._item_rate.record(now - self._delivered_at, items)
        self._delivered_at = now if self._unfinished else None

    def _forget_idle_time(self) -> None:
        if not self._unfinished:  # what was left to do then has failed or was dropped since
            self._delivered_at = None


def _resolve(done: asyncio.Future[Outcome], outcome: OutcomeOrError) -> None:
    if done.done():  # cancelled
        return
    if isinstance(outcome, ConvokeError):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)
