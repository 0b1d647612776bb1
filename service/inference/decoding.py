"""Decodes images and texts, in threads that all models share.

Models take turns, so that a flood of photos for one model does not delay another. Turns are given on the event loop, so
there are no locks.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from contract.errors import ConvokeError
from contract.inputs import Array, Preprocessor
from service.errors import DeadlineExceeded, InferenceFailed

Item = bytes | str | Array | ConvokeError
"""An encoded item, a decoded item, or the reason why a front end could not read it."""

_PART = 1 << 15  # bytes or characters, which take far longer to decode than to hand to another thread
_SMALL = 1 << 10  # bytes or characters of an item whose decoding is mostly Python

Encoded = TypeVar("Encoded")
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


def parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Split items into parts that are each worth a thread: one large image, or many small items."""
    start = size = 0
    for stop, item in enumerate(items, start=1):
        size += _size(item)
        if size >= _PART or stop == len(items):
            yield items[start:stop]
            start, size = stop, 0


def are_small(items: Sequence[Item]) -> bool:
    """Whether several items are so small that two threads that decode such items wait for each other all the time.

    Each decoding leaves Python for microseconds only. 256 digits at once take 40 to 60 us each of two threads, and 24
    of one.
    """
    return len(items) > 1 and sum(map(_size, items)) < _SMALL * len(items)


def decode_quickly(preprocessor: Preprocessor, item: Item) -> Array | ConvokeError | None:
    """An item that needs no decoding, or one that is decoded at once; None if that would take longer."""
    return attempt(preprocessor.decode_quickly, item) if isinstance(item, bytes | str) else item


def decode_each(preprocessor: Preprocessor, items: Sequence[Item], deadline: float) -> list[Array | ConvokeError]:
    """Decode items, or say why each cannot be decoded; those that come after the `deadline` are not."""
    return [_decode(preprocessor, item, deadline) for item in items]


def _size(item: Item) -> int:
    return len(item) if isinstance(item, bytes | str) else 0


def _decode(preprocessor: Preprocessor, item: Item, deadline: float) -> Array | ConvokeError:
    """Decode an item, unless the `deadline` in `time.perf_counter()` has passed."""
    if not isinstance(item, bytes | str):
        return item
    if time.perf_counter() > deadline:
        return DeadlineExceeded("decoding timed out")
    return attempt(preprocessor.decode, item)


def attempt(decode: Callable[[Encoded], Result], item: Encoded) -> Result | ConvokeError:
    """What decoding gives, or why it failed: the neighbours of an item get their answers whatever a decoder raises."""
    try:
        return decode(item)
    except ConvokeError as error:
        return error
    except Exception as error:  # noqa: BLE001
        failure = InferenceFailed(f"preprocessing failed on this item: {error}")
        failure.__cause__ = error
        return failure
