"""Threads that decode images and texts, shared by all models.

Models take turns, so that a flood of photos for one model does not delay another. Turns are given on the event loop, so
there are no locks.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

Result = TypeVar("Result")


class Decoders:
    """A pool of threads, and a queue of requests for each model."""

    def __init__(self, threads: int, on_start: Callable[[str, float], object] = lambda _model, _seconds: None) -> None:
        """Start no thread yet.

        Args:
            threads: how many.
            on_start: called with a model and the seconds that its request has waited for a thread.
        """
        self._on_start = on_start
        self.busy_s: dict[str, float] = defaultdict(float)
        """Seconds for which each model has taken threads."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._free = threads
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """The waiting requests of each model, in order; the model whose turn is next comes first."""

    @asynccontextmanager
    async def turn(self, model: str) -> AsyncIterator[None]:
        """Wait for a free thread for a model, and keep it inside of the context."""
        arrived = time.perf_counter()
        await self._acquire(model)
        start = time.perf_counter()
        self._on_start(model, start - arrived)
        try:
            yield
        finally:
            duration_s = time.perf_counter() - start
            self.busy_s[model] += duration_s
            self._release()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run a function in a thread; only inside of a turn."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Let running functions finish, and start no more."""
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
            if not turn.cancelled():  # the turn had already come: pass it on
                self._release()
            raise

    def _release(self) -> None:
        """Give the thread to the first request of the next model, and move that model behind the others."""
        while self._waiting:
            model = next(iter(self._waiting))
            turns = self._waiting.pop(model)
            turn = turns.popleft()
            if turns:
                self._waiting[model] = turns
            if not turn.done():  # else its request was cancelled
                turn.set_result(None)
                return
        self._free += 1
