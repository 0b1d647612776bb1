"""Threads that decode, shared by all models."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from service.inference.decoding import Decoders


class Desk:
    """One decoding thread whose work waits to be let through, and the order in which callers had it."""

    def __init__(self) -> None:
        self.decoders = Decoders(1)
        self.served: list[str] = []
        self.open = threading.Event()

    async def ask(self, model: str, name: str) -> None:
        async with self.decoders.turn(model):
            self.served.append(name)
            assert await self.decoders.run(lambda: self.open.wait(10))

    async def queue(self, *callers: tuple[str, str]) -> list[asyncio.Task[None]]:
        """Callers that wait one after the other, (model, name) each."""
        tasks = []
        for caller in callers:
            tasks.append(asyncio.create_task(self.ask(*caller)))
            await asyncio.sleep(0)
        return tasks


def run(scenario: Callable[[Desk], object]) -> None:
    async def play() -> None:
        desk = Desk()
        await scenario(desk)  # type: ignore[misc]
        desk.decoders.close()

    asyncio.run(play())


def test_a_flood_for_one_model_does_not_keep_another_waiting() -> None:
    """Models that wait have their turns in rotation, the callers of each in order."""

    async def scenario(desk: Desk) -> None:
        flood = [("photos", f"photo {number}") for number in range(50)]
        tasks = await desk.queue(*flood, ("digits", "digit 0"), ("digits", "digit 1"))
        desk.open.set()
        await asyncio.gather(*tasks)
        assert desk.served[:5] == ["photo 0", "photo 1", "digit 0", "photo 2", "digit 1"]
        assert desk.served[5:] == [f"photo {number}" for number in range(3, 50)]

    run(scenario)


@pytest.mark.parametrize("late", [False, True], ids=["while waiting", "when its turn has come"])
def test_who_gives_up_leaves_its_turn_to_the_next(late: bool) -> None:
    """A cancelled caller, whether its turn has come or not, costs nobody a thread."""

    async def scenario(desk: Desk) -> None:
        first, second, third = await desk.queue(("a", "first"), ("a", "second"), ("a", "third"))
        if late:
            desk.open.set()
            await first  # the second has its turn now, and has not run since
        second.cancel()
        desk.open.set()
        await asyncio.gather(first, third)
        assert second.cancelled() or "second" in desk.served
        assert [name for name in desk.served if name != "second"] == ["first", "third"]
        async with asyncio.timeout(10), desk.decoders.turn("b"):  # the thread is free again
            pass

    run(scenario)


def test_work_that_fails_frees_its_thread() -> None:
    """What decoding raises reaches its caller, and the next has the thread."""

    async def scenario(desk: Desk) -> None:
        async def fail() -> None:
            async with desk.decoders.turn("a"):
                await desk.decoders.run(lambda: 1 // 0)

        with pytest.raises(ZeroDivisionError):
            await fail()
        desk.open.set()
        await desk.ask("a", "next")
        assert desk.served == ["next"]

    run(scenario)
