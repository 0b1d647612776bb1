"""What the same work makes without HTTP: decode and run in a plain loop, by so many threads, so many items a run.

It is the service's own decoding and session, so nothing that serves these models on this machine can be much faster.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from benchmarks.items import Array, Model
from benchmarks.load import Load

Work = Callable[[int], None]
"""Does the n-th piece of work."""


def decode_and_run(models: Sequence[Model], items: Sequence[Sequence[bytes]], batch: int) -> Work:
    """Work on `batch` items of each kind: models and, for each, its encoded items."""

    def work(turn: int) -> None:
        for model, encoded in zip(models, items, strict=True):
            first = turn * batch
            model.run([model.decode(encoded[(first + place) % len(encoded)]) for place in range(batch)])

    return work


def run_tensor(model: Model, batches: Sequence[Array]) -> Work:
    """Work on tensors that need no decoding, one a run."""

    def work(turn: int) -> None:
        model.session.run(batches[turn % len(batches)])

    return work


def measure(work: Work, threads: int, seconds: float) -> Load:
    """Repeat a piece of work for some seconds in each of some threads; requests are pieces, times those of one."""
    stop = time.perf_counter() + seconds

    def loop(place: int) -> list[float]:
        times: list[float] = []
        turn, before = place, time.perf_counter()
        while before < stop or not times:
            work(turn)
            now = time.perf_counter()
            times.append(now - before)
            turn, before = turn + threads, now
        return times

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        every = sorted(chain.from_iterable(pool.map(loop, range(threads))))
    took_s = time.perf_counter() - began
    p50_ms, p99_ms = (round(every[min(int(len(every) * share), len(every) - 1)] * 1000, 3) for share in (0.5, 0.99))
    return Load(round(len(every) / took_s, 2), p50_ms, p99_ms, errors=0, good=len(every))
