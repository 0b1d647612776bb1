"""The queue between HTTP and a session."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from contract.inputs import Items
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed, Overloaded
from service.inference.batching import Batcher, Observer, Outcome

Array = npt.NDArray[Any]


def double(batch: Items) -> npt.NDArray[np.float32]:
    """A model that can be told apart: a row of twice the item's first number."""
    return np.array([[item[0] * 2] for item in batch], np.float32)


class Gate:
    """A model that waits to be let through and remembers its batches."""

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
    """Items (length) that are told apart by their value."""
    return [np.full(length, value) for value in values]


def values(outcome: Outcome) -> list[float | str]:
    """What came back for each item, a failure by its class."""
    return [type(row).__name__ if isinstance(row, Exception) else float(row[0]) for row in outcome.rows]


def test_results_are_never_swapped_between_callers() -> None:
    """Thousands of concurrent callers of one to nine items each get exactly their own rows, in order."""

    async def scenario() -> None:
        batcher = Batcher(double, max_batch=32, max_items=100_000)
        rng = np.random.default_rng(0)
        sizes = rng.integers(1, 10, 3000)
        starts = np.cumsum(sizes) - sizes
        asked = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
        answers = await asyncio.gather(*(batcher.submit(items(*mine), timeout_s=30) for mine in asked))
        for mine, answer in zip(asked, answers, strict=True):
            assert values(answer) == [2.0 * value for value in mine]

    asyncio.run(scenario())


def test_who_waits_leaves_together_and_never_above_the_largest_batch() -> None:
    """The first caller runs alone at once; those that came meanwhile fill the next batches up to the bound."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=100)
        first = asyncio.create_task(batcher.submit(items(0), timeout_s=10))
        await gate.wait_until_entered()
        others = [asyncio.create_task(batcher.submit(items(*range(i, i + 3)), timeout_s=10)) for i in (1, 4, 7)]
        await asyncio.sleep(0)
        gate.open.set()
        answers = await asyncio.gather(first, *others)
        assert gate.sizes == [1, 4, 4, 1]
        assert [values(answer) for answer in answers] == [[0], [2, 4, 6], [8, 10, 12], [14, 16, 18]]

    asyncio.run(scenario())


def test_lanes_share_out_who_waits_and_keep_answers_apart() -> None:
    """With two lanes two batches run at once, each of half of those who wait, and nobody gets another's rows."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=8, max_items=100, lanes=2)
        asked = [items(*range(start, start + 3)) for start in range(0, 12, 3)]
        tasks = [asyncio.create_task(batcher.submit(mine, timeout_s=10)) for mine in asked]
        for _ in range(2):
            await gate.wait_until_entered()
        assert gate.sizes[0] == 6
        assert len(gate.sizes) == 2
        assert not batcher.is_idle
        gate.open.set()
        answers = await asyncio.gather(*tasks)
        assert sum(gate.sizes) == 12
        assert [values(answer) for answer in answers] == [
            [2 * (start + place) for place in range(3)] for start in range(0, 12, 3)
        ]
        await asyncio.sleep(0)
        assert batcher.is_idle

    asyncio.run(scenario())


def test_results_over_several_lanes_are_never_swapped() -> None:
    """Thousands of concurrent callers over four lanes each get exactly their own rows, in order."""

    async def scenario() -> None:
        batcher = Batcher(double, max_batch=16, max_items=100_000, lanes=4)
        asked = [np.arange(start, start + 1 + start % 7) for start in range(0, 20_000, 10)]
        # Every other caller gives all items in one array.
        given = [np.stack(items(*mine)) if turn % 2 else items(*mine) for turn, mine in enumerate(asked)]
        answers = await asyncio.gather(*(batcher.submit(one, timeout_s=30) for one in given))
        for mine, answer in zip(asked, answers, strict=True):
            assert values(answer) == [2.0 * value for value in mine]

    asyncio.run(scenario())


def test_a_batch_of_long_items_is_shorter() -> None:
    """No batch holds more than its bound once padded, but for one item alone; order and answers stay."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=100, max_tokens=12)
        first = asyncio.create_task(batcher.submit(items(0), timeout_s=10))
        await gate.wait_until_entered()
        asked = [
            items(1, 2),
            [*items(3, length=6), *items(4, 5)],
            items(6, length=50),
            items(7, 8, 9, 10, 11, length=3),
        ]
        others = [asyncio.create_task(batcher.submit(mine, timeout_s=10)) for mine in asked]
        await asyncio.sleep(0)
        gate.open.set()
        await first
        answers = await asyncio.gather(*others)
        assert gate.lengths == [[1], [1, 1], [6, 1], [1], [50], [3, 3, 3, 3], [3]]
        assert [values(answer) for answer in answers] == [[2, 4], [6, 8, 10], [12], [14, 16, 18, 20, 22]]

    asyncio.run(scenario())


def test_items_that_company_would_not_help_run_at_once_where_nobody_waits() -> None:
    """Such a caller's items run before any other turn of the loop; where a batch runs already, they queue."""

    async def scenario() -> None:
        gate, sizes = Gate(), []
        observer = Observer(batch=lambda items, _seconds: sizes.append(items))
        alone = Batcher(double, max_batch=4, max_items=100, runs_alone=lambda batch: len(batch) < 3, observer=observer)
        waiting = alone.submit(items(1, 2), timeout_s=10)
        with pytest.raises(StopIteration) as done:  # its first step is its last: nothing was awaited
            waiting.send(None)
        assert values(done.value.value) == [2, 4]
        assert done.value.value.queue_s == 0
        assert sizes == [2]
        busy = Batcher(gate, max_batch=4, max_items=100, runs_alone=lambda batch: len(batch) < 3)
        first = asyncio.create_task(busy.submit(items(0, 1, 2), timeout_s=10))
        await gate.wait_until_entered()
        second = asyncio.create_task(busy.submit(items(3), timeout_s=10))
        await asyncio.sleep(0)
        assert not second.done()
        gate.open.set()
        assert [values(answer) for answer in await asyncio.gather(first, second)] == [[0, 2, 4], [6]]

    asyncio.run(scenario())


def test_an_item_that_fails_alone_is_told_so() -> None:
    """What runs at once is halved like any batch: the bad item has its error, its neighbour its row."""

    def run(batch: Items) -> npt.NDArray[np.float32]:
        if any(item[0] < 0 for item in batch):
            raise ValueError("negative")
        return double(batch)

    batcher = Batcher(run, max_batch=4, max_items=100, runs_alone=lambda _batch: True)
    assert values(asyncio.run(batcher.submit(items(1, -1), timeout_s=10))) == [2, "InferenceFailed"]


def test_quick_batches_run_on_the_event_loop_together_with_all_that_was_read() -> None:
    """Callers of one turn of the loop share a batch, in the loop's thread; slow ones go to another."""
    seen: list[tuple[int, bool]] = []

    def run(batch: Items) -> npt.NDArray[np.float32]:
        seen.append((len(batch), threading.current_thread() is threading.main_thread()))
        return double(batch)

    async def scenario() -> None:
        batcher = Batcher(run, max_batch=8, max_items=100, is_quick=lambda batch: len(batch) < 4)
        for count in (3, 5):
            answers = await asyncio.gather(*(batcher.submit(items(n), timeout_s=10) for n in range(count)))
            assert [values(answer) for answer in answers] == [[2 * n] for n in range(count)]

    asyncio.run(scenario())
    assert seen == [(3, True), (5, False)]


def test_a_caller_who_stopped_listening_is_not_run() -> None:
    """Who had to wait is asked whether it is still there: if not, its items never reach the model."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=100)
        first = asyncio.create_task(batcher.submit(items(0), timeout_s=10, is_gone=lambda: True))
        await gate.wait_until_entered()
        gone = asyncio.create_task(batcher.submit(items(1, 2), timeout_s=10, is_gone=lambda: True))
        stays = asyncio.create_task(batcher.submit(items(3), timeout_s=10, is_gone=lambda: False))
        await asyncio.sleep(0.1)
        gate.open.set()
        assert values(await first) == [0]  # it had not waited
        assert values(await stays) == [6]
        with pytest.raises(ClientGone):
            await gone
        assert gate.sizes == [1, 1]

    asyncio.run(scenario())


def test_a_failing_item_stands_alone() -> None:
    """A batch that raises is halved until the bad item is found; its neighbours get their rows."""

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
    """Rows are counted: a short answer is a failure, not somebody else's row."""

    async def scenario() -> None:
        batcher = Batcher(lambda _batch: np.empty((0, 1), np.float32), max_batch=4, max_items=10)
        assert values(await batcher.submit(items(1, 2), timeout_s=10)) == ["InferenceFailed"] * 2

    asyncio.run(scenario())


def test_a_full_queue_turns_callers_away_and_recovers() -> None:
    """The bound is on items that wait: one more is refused at once, and accepted when there is room again."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=5)
        running = asyncio.create_task(batcher.submit(items(0), timeout_s=10))
        await gate.wait_until_entered()
        waiting = asyncio.create_task(batcher.submit(items(1, 2, 3, 4), timeout_s=10))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="4 items wait already and 2 more would exceed the bound of 5"):
            await batcher.submit(items(5, 6), timeout_s=10)
        gate.open.set()
        await asyncio.gather(running, waiting)
        assert values(await batcher.submit(items(5, 6), timeout_s=10)) == [10, 12]

    asyncio.run(scenario())


@pytest.mark.parametrize("leave", ["cancelled", "late"])
def test_who_went_away_is_dropped_before_it_is_run(leave: str) -> None:
    """A caller that was cancelled, or whose deadline passed, frees its place and never reaches the model."""

    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, max_items=5)
        running = asyncio.create_task(batcher.submit(items(0), timeout_s=10))
        await gate.wait_until_entered()
        gone = asyncio.create_task(batcher.submit(items(1, 2, 3), timeout_s=0.01 if leave == "late" else 10))
        await asyncio.sleep(0)
        if leave == "cancelled":
            gone.cancel()
        with pytest.raises(DeadlineExceeded if leave == "late" else asyncio.CancelledError):
            await gone
        stays = asyncio.create_task(batcher.submit(items(4, 5, 6, 7, 8), timeout_s=10))
        await asyncio.sleep(0)
        gate.open.set()
        await running
        assert values(await stays) == [8, 10, 12, 14, 16]
        assert gate.sizes == [1, 4, 1]

    asyncio.run(scenario())


def test_what_is_observed_is_counted_in_items() -> None:
    """Batches, waits and the queue's depth are told in items, and the queue ends empty."""

    async def scenario() -> None:
        batches: list[int] = []
        waited: list[int] = []
        depth: list[int] = []
        observer = Observer(depth.append, lambda size, _: batches.append(size), lambda size, _: waited.append(size))
        batcher = Batcher(double, max_batch=2, max_items=10, observer=observer)
        outcome = await batcher.submit(items(1, 2, 3), timeout_s=10)
        assert batches == [2, 1]
        assert sum(waited) == 3
        assert depth[0] == 3
        assert depth[-1] == 0
        assert outcome.queue_s >= 0
        assert outcome.infer_s > 0

    asyncio.run(scenario())
