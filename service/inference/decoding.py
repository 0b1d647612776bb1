"""Threads that turn encoded pictures and texts into items, shared by all models.

Each model that has something to decode comes in turn, so that a flood of photos for one does not keep another waiting.
Turns are given on the event loop, so there are no locks.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

Result = TypeVar("Result")


class Decoders:
    """As many threads as decode at once, and a queue of callers a model."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._free = threads
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """Of each model that waits, its callers in order; the model whose turn is next stands first."""

    @asynccontextmanager
    async def turn(self, model: str) -> AsyncIterator[None]:
        """Wait until a thread is free for a model, and keep it for the length of the context."""
        await self._acquire(model)
        try:
            yield
        finally:
            self._release()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do some work in a thread; only inside of a turn."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Let the work that is being done finish, and start no more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _acquire(self, model: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(model, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn had come already: it goes to the next
                self._release()
            raise

    def _release(self) -> None:
        """Give the thread to the first caller of the model whose turn it is, which then stands behind the others."""
        while self._waiting:
            model = next(iter(self._waiting))
            callers = self._waiting.pop(model)
            turn = callers.popleft()
            if callers:
                self._waiting[model] = callers
            if not turn.done():  # else its caller has given up
                turn.set_result(None)
                return
        self._free += 1
