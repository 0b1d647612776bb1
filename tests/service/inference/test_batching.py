"""The queue between HTTP and a session."""

import asyncio
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from contract.inputs import Items
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed, Overloaded
from service.inference.batching import Batcher, Observer
from service.inference.entries import Outcome
from service.inference.rate import Rate

Array = npt.NDArray[Any]


def double(batch: Items) -> npt.NDArray[np.float32]:
    """A model that gives twice the first number of each item."""
    return np.array([[item[0] * 2] for item in batch], np.float32)


class Gate:
    """A model that waits until it is opened, and records its batches."""

    def __init__(self, run: Callable[[Items], npt.NDArray[np.float32]] = double) -> None:
        self.sizes: list[int] = []
        self.lengths: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self._run = run

    def __call__(self, batch: Items) -> npt.NDArray[np.float32]:
        self.sizes.append(len(batch))
        self.lengths.append([len(item) for item in batch])
        self.entered.release()
        assert self.open.wait(10)
        return self._run(batch)

    async def wait_until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


def items(*values: int, length: int = 1) -> list[Array]:
    """Items (length), each filled with its value."""
    return [np.full(length, value) for value in values]


def values(outcome: Outcome) -> list[float | str]:
    """The result of each item; an error by its class."""
    return [type(row).__name__ if isinstance(row, Exception) else float(row[0]) for row in outcome.rows]


def test_results_are_never_swapped_between_requests() -> None:
    """Thousands of concurrent requests of one to nine items each get their own rows, in order."""

    async def scenario() -> None:
        batcher = Batcher(double, max_batch=32, max_items=100_000)
        rng = np.random.default_rng(0)
        sizes = rng.integers(1, 10, 3000)
        starts = np.cumsum(sizes) - sizes
        requests = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
        outcomes = await asyncio.gather(*(batcher.submit(items(*request), timeout_s=30) for request in requests))
        for request, outcome in zip(requests, outcomes, strict=True):
            assert values(outcome) == [2.0 * value for value in request]

    asyncio.run(scenario())


def test_waiting_requests_leave_together_up_to_the_largest_batch() -> None:
    """The first request runs alone immediately; those that arrive meanwhile fill the next batches."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=100)
        first = asyncio.create_task(batcher.submit(items(0), timeout_s=10))
        await gate.wait_until_entered()
        others = [asyncio.create_task(batcher.submit(items(*range(i, i + 3)), timeout_s=10)) for i in (1, 4, 7)]
        await asyncio.sleep(0)
        gate.open.set()
        outcomes = await asyncio.gather(first, *others)
        assert gate.sizes == [1, 4, 4, 1]
        assert [values(outcome) for outcome in outcomes] == [[0], [2, 4, 6], [8, 10, 12], [14, 16, 18]]

    asyncio.run(scenario())


def test_parallel_runs_divide_the_waiting_items() -> None:
    """Two batches run at the same time, each with half of the waiting items, and every request gets its own rows."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=8, max_items=100, parallel_runs=2)
        requests = [items(*range(start, start + 3)) for start in range(0, 12, 3)]
        tasks = [asyncio.create_task(batcher.submit(request, timeout_s=10)) for request in requests]
        for _ in range(2):
            await gate.wait_until_entered()
        assert gate.sizes[0] == 6
        assert len(gate.sizes) == 2
        assert not batcher.is_idle
        gate.open.set()
        outcomes = await asyncio.gather(*tasks)
        assert sum(gate.sizes) == 12
        assert [values(outcome) for outcome in outcomes] == [
            [2 * (start + place) for place in range(3)] for start in range(0, 12, 3)
        ]
        await asyncio.sleep(0)
        assert batcher.is_idle

    asyncio.run(scenario())


def test_results_of_parallel_runs_are_never_swapped() -> None:
    """Thousands of concurrent requests over four parallel runs each get their own rows, in order."""

    async def scenario() -> None:
        batcher = Batcher(double, max_batch=16, max_items=100_000, parallel_runs=4)
        requests = [np.arange(start, start + 1 + start % 7) for start in range(0, 20_000, 10)]
        # Every other request has its items in one array.
        submitted = [
            np.stack(items(*request)) if index % 2 else items(*request) for index, request in enumerate(requests)
        ]
        outcomes = await asyncio.gather(*(batcher.submit(request, timeout_s=30) for request in submitted))
        for request, outcome in zip(requests, outcomes, strict=True):
            assert values(outcome) == [2.0 * value for value in request]

    asyncio.run(scenario())


def test_a_batch_of_long_items_has_fewer() -> None:
    """No padded batch exceeds the limit, except for a single item; the results keep their order."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=100, max_tokens=12)
        first = asyncio.create_task(batcher.submit(items(0), timeout_s=10))
        await gate.wait_until_entered()
        requests = [
            items(1, 2),
            [*items(3, length=6), *items(4, 5)],
            items(6, length=50),
            items(7, 8, 9, 10, 11, length=3),
        ]
        others = [asyncio.create_task(batcher.submit(request, timeout_s=10)) for request in requests]
        await asyncio.sleep(0)
        gate.open.set()
        await first
        outcomes = await asyncio.gather(*others)
        assert gate.lengths == [[1], [1, 1], [6, 1], [1], [50], [3, 3, 3, 3], [3]]
        assert [values(outcome) for outcome in outcomes] == [[2, 4], [6, 8, 10], [12], [14, 16, 18, 20, 22]]

    asyncio.run(scenario())


def test_requests_without_a_task_get_their_results_in_a_later_turn() -> None:
    """`put` calls back with results or the error of a deadline, each once, and never before it returns."""

    async def scenario() -> None:
        gate, outcomes = Gate(), list[Any]()
        quick = Batcher(double, max_batch=4, max_items=100, is_quick=lambda _extent: True)
        quick.put(items(1, 2), outcomes.append, timeout_s=10)
        quick.put(items(3), outcomes.append, timeout_s=10)
        assert not outcomes
        await asyncio.sleep(0.01)
        assert [values(outcome) for outcome in outcomes] == [[2, 4], [6]]
        slow = Batcher(gate, max_batch=4, max_items=100)
        for value in (1, 2):  # one runs, the other waits
            slow.put(items(value), outcomes.append, timeout_s=0.01)
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.15)
        assert [type(outcome) for outcome in outcomes[2:]] == [DeadlineExceeded, DeadlineExceeded]
        gate.open.set()
        await asyncio.sleep(0.05)
        assert len(outcomes) == 4
        assert slow.is_idle

    asyncio.run(scenario())


def test_quick_batches_run_on_the_event_loop() -> None:
    """Requests of one iteration of the loop share a batch in its thread; slow batches run in another thread.

    Texts start there as soon as they are more than what is quick; what arrives then is a new batch.
    """
    batches: list[tuple[int, bool]] = []

    def run(batch: Items) -> npt.NDArray[np.float32]:
        batches.append((len(batch), threading.current_thread() is threading.main_thread()))
        return double(batch)

    async def scenario() -> None:
        for count, max_tokens in ((3, None), (5, None), (5, 1000)):
            batcher = Batcher(
                run, max_batch=8, max_items=100, max_tokens=max_tokens, is_quick=lambda extent: extent < 4
            )
            outcomes = await asyncio.gather(*(batcher.submit(items(n), timeout_s=10) for n in range(count)))
            assert [values(outcome) for outcome in outcomes] == [[2 * n] for n in range(count)]

    asyncio.run(scenario())
    assert batches[:2] == [(3, True), (5, False)]
    assert sorted(batches[2:]) == [(1, True), (4, False)]


def test_runs_that_are_not_free_leave_their_share() -> None:
    """While one of two runs is busy, the other takes half of the waiting texts, so that both end together."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=64, max_items=100, max_tokens=1000, parallel_runs=2)
        first = asyncio.create_task(batcher.submit(items(0), timeout_s=10))
        await gate.wait_until_entered()
        others = asyncio.create_task(batcher.submit(items(*range(8)), timeout_s=10))
        await asyncio.sleep(0.05)
        assert gate.sizes == [1, 4]
        gate.open.set()
        await asyncio.gather(first, others)

    asyncio.run(scenario())


def test_requests_that_would_wait_too_long_are_refused() -> None:
    """The estimate is the rate at which batches are done, although the machine does other work between them."""

    async def scenario() -> None:
        batcher, waits_s = Batcher(double, max_batch=1, max_items=1000, max_wait_s=0.5), list[float]()

        async def other_work() -> None:
            while True:
                time.sleep(0.004)  # noqa: ASYNC251 -- it occupies the event loop
                await asyncio.sleep(0)

        async def request(value: int) -> None:
            started = time.perf_counter()
            batcher.check_capacity(1)
            await batcher.submit(items(value), timeout_s=10)
            waits_s.append(time.perf_counter() - started)

        work = asyncio.create_task(other_work())
        await asyncio.gather(*(request(value) for value in range(20)))
        results = await asyncio.gather(*(request(value) for value in range(500)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, Overloaded)]
        assert 250 < len(refused) < 490
        assert re.fullmatch(r"the service is busy: .* about 0\.[56] s \(maximum 0\.5 s\)", str(refused[0]))
        assert refused[0].headers["Retry-After"] == "1"
        assert max(waits_s) < 1.5
        batcher.check_capacity(1)
        work.cancel()

    asyncio.run(scenario())


def test_items_that_were_decoded_are_not_refused() -> None:
    """Capacity is checked before a request is decoded: the items of others that are decoded then have their place."""

    async def scenario() -> None:
        batcher = Batcher(double, max_batch=4, max_items=2)
        batcher.check_capacity(2)
        with batcher.reserve(2):
            with pytest.raises(Overloaded, match=r"2 items .* 1 more .* 2"):
                batcher.check_capacity(1)
            outcomes = await asyncio.gather(*(batcher.submit(items(value), timeout_s=10) for value in range(3)))
        assert [values(outcome) for outcome in outcomes] == [[0], [2], [4]]

    asyncio.run(scenario())


def test_idle_time_does_not_count_as_slow() -> None:
    """If what was left to do is dropped, the time until the next request says nothing about the rate."""

    async def scenario() -> None:
        batcher = Batcher(double, max_batch=1, max_items=1000, max_wait_s=0.2)
        with batcher.reserve(1):  # what is being decoded then fails
            await batcher.submit(items(1), timeout_s=10)
        await asyncio.sleep(0.3)
        for value in range(50):
            await batcher.submit(items(value), timeout_s=10)
        await asyncio.gather(*(batcher.submit(items(value), timeout_s=10) for value in range(50)))

    asyncio.run(scenario())


def test_items_whose_decoding_fails_do_not_count_as_slow() -> None:
    """Ten broken items to a good one leave as much room as ten good ones: each took its time, and is done."""

    async def scenario() -> None:
        batcher = Batcher(double, max_batch=1, max_items=1000, max_wait_s=0.4)
        with batcher.reserve(1):  # so that there is always something left to do
            for _ in range(10):
                start = time.perf_counter()
                with batcher.reserve(10):
                    await asyncio.sleep(0.02)
                batcher.count_failed(9, start)
                await batcher.submit(items(1), timeout_s=10)
            with batcher.reserve(29):
                batcher.check_capacity(1)

    asyncio.run(scenario())


def test_a_pause_of_the_machine_does_not_count_as_slow() -> None:
    """After half a second without the processor an item of 10 ms is still expected to take about that."""
    rate = Rate()
    for _ in range(200):
        rate.record(0.01, 1)
    rate.record(0.5, 1)
    assert 0.01 < rate.mean_s < 0.03
    for _ in range(300):
        rate.record(0.03, 1)  # the model has become slower
    assert 0.028 < rate.mean_s < 0.031


def test_items_of_a_client_that_left_are_not_run() -> None:
    """The client of a request that had to wait is checked; if it has left, the items never reach the model."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=100)
        first = asyncio.create_task(batcher.submit(items(0), timeout_s=10, is_gone=lambda: True))
        await gate.wait_until_entered()
        gone = asyncio.create_task(batcher.submit(items(1, 2), timeout_s=10, is_gone=lambda: True))
        stays = asyncio.create_task(batcher.submit(items(3), timeout_s=10, is_gone=lambda: False))
        await asyncio.sleep(0.1)
        gate.open.set()
        assert values(await first) == [0]  # it did not wait
        assert values(await stays) == [6]
        with pytest.raises(ClientGone):
            await gone
        assert gate.sizes == [1, 1]

    asyncio.run(scenario())


def test_a_failing_item_stands_alone() -> None:
    """A batch that fails is halved until the bad item is found; the other items get their rows."""

    def fragile(batch: Items) -> npt.NDArray[np.float32]:
        if any(item[0] == 13 for item in batch):
            raise ValueError("thirteen")
        return double(batch)

    async def scenario() -> None:
        batcher = Batcher(fragile, max_batch=64, max_items=100)
        good, bad = await asyncio.gather(
            batcher.submit(items(*range(20, 30)), timeout_s=10), batcher.submit(items(12, 13, 14), timeout_s=10)
        )
        assert values(good) == [2.0 * value for value in range(20, 30)]
        assert values(bad) == [24.0, "InferenceFailed", 28.0]
        assert isinstance(bad.rows[1], InferenceFailed)
        assert "thirteen" in str(bad.rows[1])

    asyncio.run(scenario())


def test_a_model_that_gives_too_few_rows_fails() -> None:
    """Rows are counted: too few are an error, so no item gets the row of another."""

    async def scenario() -> None:
        batcher = Batcher(lambda _batch: np.empty((0, 1), np.float32), max_batch=4, max_items=10)
        assert values(await batcher.submit(items(1, 2), timeout_s=10)) == ["InferenceFailed"] * 2

    asyncio.run(scenario())


def test_a_full_queue_refuses_requests_and_recovers() -> None:
    """The limit is on waiting items: one more is refused immediately, and accepted once there is capacity."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=5)
        running = asyncio.create_task(batcher.submit(items(0), timeout_s=10))
        await gate.wait_until_entered()
        waiting = asyncio.create_task(batcher.submit(items(1, 2, 3, 4), timeout_s=10))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"4 items .* 2 more .* 5"):
            batcher.check_capacity(2)
        gate.open.set()
        await asyncio.gather(running, waiting)
        assert values(await batcher.submit(items(5, 6), timeout_s=10)) == [10, 12]

    asyncio.run(scenario())


@pytest.mark.parametrize("reason", ["cancelled", "timed out"])
def test_requests_that_ended_are_dropped_before_they_run(reason: str) -> None:
    """A request that was cancelled or timed out frees its place and never reaches the model."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=5)
        running = asyncio.create_task(batcher.submit(items(0), timeout_s=10))
        await gate.wait_until_entered()
        gone = asyncio.create_task(batcher.submit(items(1, 2, 3), timeout_s=0.01 if reason == "timed out" else 10))
        await asyncio.sleep(0)
        if reason == "cancelled":
            gone.cancel()
        with pytest.raises(DeadlineExceeded if reason == "timed out" else asyncio.CancelledError):
            await gone
        stays = asyncio.create_task(batcher.submit(items(4, 5, 6, 7, 8), timeout_s=10))
        await asyncio.sleep(0)
        gate.open.set()
        await running
        assert values(await stays) == [8, 10, 12, 14, 16]
        assert gate.sizes == [1, 4, 1]

    asyncio.run(scenario())


def test_observers_count_items() -> None:
    """Batches, starts and the depth of the queue are counted in items, and the queue ends empty."""

    async def scenario() -> None:
        batches: list[int] = []
        started: list[int] = []
        depth: list[int] = []
        observer = Observer(depth.append, lambda size, _: batches.append(size), lambda size, _: started.append(size))
        batcher = Batcher(double, max_batch=2, max_items=10, observer=observer)
        outcome = await batcher.submit(items(1, 2, 3), timeout_s=10)
        assert batches == [2, 1]
        assert sum(started) == 3
        assert depth[0] == 3
        assert depth[-1] == 0
        assert outcome.queue_s >= 0
        assert outcome.infer_s > 0

    asyncio.run(scenario())
