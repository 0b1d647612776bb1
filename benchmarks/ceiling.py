"""The ceiling: how fast a plain loop without HTTP decodes and runs the same items.

It uses the service's own decoding and session, so a server of these models on this machine can hardly be faster.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from benchmarks.items import Array, Model
from benchmarks.load import Load
from benchmarks.results import percentile_ms

Work = Callable[[int], None]
"""Runs step n of a loop."""


def decode_and_run(models: Sequence[Model], items: Sequence[Sequence[bytes]], batch: int) -> Work:
    """A step decodes and runs `batch` encoded items for each model."""

    def work(step: int) -> None:
        for model, encoded in zip(models, items, strict=True):
            start = step * batch
            model.run([model.decode(encoded[(start + offset) % len(encoded)]) for offset in range(batch)])

    return work


def run_tensor(model: Model, batches: Sequence[Array]) -> Work:
    """A step runs one batch that needs no decoding."""

    def work(step: int) -> None:
        model.session.run(batches[step % len(batches)])

    return work


def measure(work: Work, threads: int, seconds: float) -> Load:
    """Repeat steps for a number of seconds in each thread; each step counts as a request."""
    end = time.perf_counter() + seconds

    def loop(thread: int) -> list[float]:
        durations: list[float] = []
        step, before = thread, time.perf_counter()
        while before < end or not durations:
            work(step)
            now = time.perf_counter()
            durations.append(now - before)
            step, before = step + threads, now
        return durations

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        durations = list(chain.from_iterable(pool.map(loop, range(threads))))
    elapsed_s = time.perf_counter() - start
    p50_ms, p99_ms, slowest_ms = (round(percentile_ms(durations, percent), 3) for percent in (50, 99, 100))
    return Load(round(len(durations) / elapsed_s, 2), p50_ms, p99_ms, 0, len(durations), slowest_ms)
