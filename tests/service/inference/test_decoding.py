"""Decoding threads, shared by all models."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from service.inference.decoding import Decoders, are_small


class OneThread:
    """One decoding thread whose work waits until it is opened, and the order of the requests that had it."""

    def __init__(self) -> None:
        self.decoders = Decoders(1)
        self.order: list[str] = []
        self.open = threading.Event()

    async def decode(self, model: str, name: str) -> None:
        async with self.decoders.turn(model):
            self.order.append(name)
            assert await self.decoders.run(lambda: self.open.wait(10))

    async def queue(self, *requests: tuple[str, str]) -> list[asyncio.Task[None]]:
        """Requests that wait in this order, (model, name) each."""
        tasks = []
        for request in requests:
            tasks.append(asyncio.create_task(self.decode(*request)))
            await asyncio.sleep(0)
        return tasks


def run(scenario: Callable[[OneThread], object]) -> None:
    async def play() -> None:
        thread = OneThread()
        await scenario(thread)  # type: ignore[misc]
        thread.decoders.close()

    asyncio.run(play())


def test_a_flood_for_a_model_does_not_delay_another() -> None:
    """Models take turns, and the requests of each keep their order."""

    async def scenario(thread: OneThread) -> None:
        flood = [("photos", f"photo {number}") for number in range(50)]
        tasks = await thread.queue(*flood, ("digits", "digit 0"), ("digits", "digit 1"))
        thread.open.set()
        await asyncio.gather(*tasks)
        assert thread.order[:5] == ["photo 0", "photo 1", "digit 0", "photo 2", "digit 1"]
        assert thread.order[5:] == [f"photo {number}" for number in range(3, 50)]

    run(scenario)


@pytest.mark.parametrize("late", [False, True], ids=["while it waits", "after its turn has come"])
def test_a_cancelled_request_passes_its_turn_on(late: bool) -> None:
    """No thread is lost, whether the turn has come or not."""

    async def scenario(thread: OneThread) -> None:
        first, second, third = await thread.queue(("a", "first"), ("a", "second"), ("a", "third"))
        if late:
            thread.open.set()
            await first  # now the second has its turn, but has not run
        second.cancel()
        thread.open.set()
        await asyncio.gather(first, third)
        assert second.cancelled() or "second" in thread.order
        assert [name for name in thread.order if name != "second"] == ["first", "third"]
        async with asyncio.timeout(10), thread.decoders.turn("b"):  # the thread is free again
            pass

    run(scenario)


def test_work_that_fails_frees_its_thread() -> None:
    """The exception reaches the request, and the next request has the thread."""

    async def scenario(thread: OneThread) -> None:
        async def fail() -> None:
            async with thread.decoders.turn("a"):
                await thread.decoders.run(lambda: 1 // 0)

        with pytest.raises(ZeroDivisionError):
            await fail()
        thread.open.set()
        await thread.decode("a", "next")
        assert thread.order == ["next"]

    run(scenario)


def test_several_small_items_are_decoded_one_after_another() -> None:
    """Digits and short texts in one request; a photo, a review and a single item have any thread."""
    assert are_small([b"x" * 254] * 256)
    assert are_small(["a short text"] * 3 + ["a review " * 200])
    assert not are_small([b"x" * 60_000] * 2)
    assert not are_small([b"x" * 254])
    assert not are_small(["a review of the usual length " * 50] * 20)
