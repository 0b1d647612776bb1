"""How busy a worker is: 0 without work, 1 where it can take no more, and in between in proportion to the load.

What a worker runs out of depends on the load: its event loop for small items, its decoding threads for large images,
the runs of a model for large models, or its processors. So the utilisation is the highest of their shares, over the
last seconds. Nothing is measured while a request is handled: the shares come from counters, once a second.
"""

import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contract import processors
from service.telemetry.metrics import Metrics

INTERVAL_S = 1.0
"""Seconds between two samples."""

WINDOW = 10
"""Samples over which the shares are averaged."""

_STAT, _FILES = Path("/proc/self/statm"), Path("/proc/self/fd")
_SCHEDULER = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True)
class Sample:
    """Clocks and counters at one moment, in seconds; of `decode_s` and `run_s` by the model."""

    now_s: float
    loop_s: float
    """Time in which the event loop's thread ran, or waited for a processor."""
    process_s: float
    """Processor time of all threads."""
    decode_s: Mapping[str, float]
    """Time in which a decoding thread was taken."""
    run_s: Mapping[str, float]
    """Time in which runs took place."""


@dataclass(frozen=True)
class Capacity:
    """What a worker can use at the same time."""

    workers: int
    decode_threads: int
    processors: int


def shares(first: Sample, last: Sample, capacity: Capacity, runs: Mapping[str, int]) -> tuple[float, dict[str, float]]:
    """The utilisation of a worker between two samples, and that by each model, from 0 to 1.

    Args:
        first: the earlier sample.
        last: the later sample.
        capacity: of this worker.
        runs: how many runs of each model may take place at the same time.
    """
    seconds = last.now_s - first.now_s
    if seconds <= 0:
        return 0.0, {}

    def grown(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
        return {model: max(value - before.get(model, 0.0), 0.0) / seconds for model, value in after.items()}

    decoding, running = grown(first.decode_s, last.decode_s), grown(first.run_s, last.run_s)
    decode = {model: value / capacity.decode_threads for model, value in decoding.items()}
    run = {model: value / runs.get(model, 1) for model, value in running.items()}
    models = {model: min(max(decode.get(model, 0.0), run.get(model, 0.0)), 1.0) for model in {*decode, *run}}
    own_processors = capacity.processors / capacity.workers
    total = max(
        (last.loop_s - first.loop_s) / seconds,
        (last.process_s - first.process_s) / seconds / own_processors,
        sum(decode.values()),
        sum(run.values()),
    )
    return min(total, 1.0), models


class Utilisation:
    """Takes samples of a worker and sets its gauges."""

    def __init__(self, metrics: Metrics, workers: int, decode_threads: int) -> None:
        self._metrics = metrics
        self._capacity = Capacity(workers, decode_threads, processors.count())
        self._samples: deque[Sample] = deque(maxlen=WINDOW + 1)
        self._counted_s = 0.0
        metrics.start_time.labels().set(time.time() / workers)

    def sample(self, decode_s: Mapping[str, float], runs: Mapping[str, int], in_flight: int) -> None:
        """Take a sample; call it on the event loop, about once in `INTERVAL_S`.

        Args:
            decode_s: seconds for which each model took decoding threads, since the start.
            runs: how many runs of each loaded model may take place at the same time.
            in_flight: requests that are received or answered now.
        """
        run_s: dict[str, float] = {}
        for (model, _), (seconds,) in self._metrics.busy_seconds.state():
            run_s[model] = run_s.get(model, 0.0) + seconds
        sample = Sample(time.monotonic(), thread_busy_s(), time.process_time(), dict(decode_s), run_s)
        self._samples.append(sample)
        total, models = shares(self._samples[0], sample, self._capacity, runs)
        workers = self._capacity.workers  # the gauges of all workers are added up
        self._metrics.utilisation.labels().set(total / workers)
        for model, share in models.items():
            self._metrics.model_utilisation.labels(model).set(share / workers)
        self._metrics.in_flight.labels().set(in_flight)
        self._metrics.cpu_seconds.labels().inc(sample.process_s - self._counted_s)
        self._counted_s = sample.process_s
        self._metrics.memory_bytes.labels().set(_resident_bytes())
        self._metrics.open_files.labels().set(_open_files())


def thread_busy_s() -> float:
    """Seconds in which the calling thread ran or was ready to run: what remains of the time, it has slept.

    A thread that waits for a processor, because other programs or a quota of the container take it, can do no more, but
    takes little processor time. Where the kernel does not count the wait, only the processor time counts.
    """
    try:
        waited_ns = int(_SCHEDULER.read_bytes().split()[1])  # proc(5): /proc/pid/schedstat
    except (OSError, IndexError, ValueError):
        waited_ns = 0
    return time.thread_time() + waited_ns / 1e9


def _resident_bytes() -> int:
    try:
        return int(_STAT.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _open_files() -> int:
    try:
        return sum(1 for _ in _FILES.iterdir())
    except OSError:
        return 0
