"""Time that a request costs in metrics and in its line of the log. Run it with `python -m benchmarks.observing`.

Prints microseconds of processor time of one thread, the best of several runs, on Linux, for our metrics and for those
of prometheus_client for several processes.
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable

os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()  # read when prometheus_client is imported

import prometheus_client

from service.telemetry.facts import RequestFacts
from service.telemetry.log import RequestLog
from service.telemetry.metrics import Metrics
from service.telemetry.series import Series

RUNS, TIMES = 9, 5000
MODEL = ("digits", "1")
FACTS = RequestFacts(
    "6b1f0e0f9d5c4a0f8a7b0c9d8e7f6a5b", "POST", route="/classify/{model}", model="digits", version="1", items=1,
    body_bytes=428, timings_s={"read": 0.00012, "queue": 0.00003, "infer": 0.00008}, status=200, total_s=0.0021,
)  # fmt: skip


def microseconds(step: Callable[[], object]) -> float:
    """Processor time of a function, the best of several runs."""
    best = float("inf")
    for _ in range(RUNS):
        start = time.thread_time()
        for _ in range(TIMES):
            step()
        best = min(best, time.thread_time() - start)
    return best / TIMES * 1e6


def our_metrics() -> Callable[[], None]:
    """The metrics of a request for one digit: of its response, its item and its batch of one."""
    metrics = Metrics()
    items, busy = (family.labels(*MODEL) for family in (metrics.items, metrics.busy_seconds))
    waiting = metrics.queue_items.labels(*MODEL)
    batch, queue, compute = (
        family.labels(*MODEL) for family in (metrics.batch_items, metrics.queue_seconds, metrics.compute_seconds)
    )

    def step() -> None:
        waiting.set(1)
        queue.observe(0.0001)
        waiting.set(0)
        batch.observe(1)
        compute.observe(0.0001)
        busy.inc(0.0001)
        items.inc()
        metrics.on_response(FACTS)

    return step


def prometheus_metrics() -> Callable[[], None]:
    """The same with prometheus_client's metrics, whose labels are looked up once."""
    labels = ("model", "version")
    items, busy = (prometheus_client.Counter(name, name, labels).labels(*MODEL) for name in ("items", "busy"))
    waiting = prometheus_client.Gauge("waiting", "waiting", labels, multiprocess_mode="livesum").labels(*MODEL)
    batch, queue, compute = (
        prometheus_client.Histogram(name, name, labels).labels(*MODEL) for name in ("batch", "queue", "compute")
    )
    requests = prometheus_client.Counter("requests", "requests", ("route", "status")).labels("/classify/{model}", "200")
    seconds = prometheus_client.Histogram("seconds", "seconds", ("route",)).labels("/classify/{model}")

    def step() -> None:
        waiting.set(1)
        queue.observe(0.0001)
        waiting.set(0)
        batch.observe(1)
        compute.observe(0.0001)
        busy.inc(0.0001)
        items.inc()
        requests.inc()
        seconds.observe(0.0021)

    return step


async def log_lines() -> float:
    """Processor time of a line of the request log, on the event loop."""
    best = float("inf")
    log = RequestLog("json", Series(), file=os.open(os.devnull, os.O_WRONLY))
    for _ in range(RUNS):
        start = time.thread_time()
        for _ in range(TIMES):
            log.on_response(FACTS)
        best = min(best, time.thread_time() - start)
        await asyncio.sleep(0.3)  # until the lines are written
    log.close()
    return best / TIMES * 1e6


def main() -> None:
    """Measure and print."""
    print(f"metrics of a request           {microseconds(our_metrics()):6.2f} us")
    print(f"the same, prometheus_client    {microseconds(prometheus_metrics()):6.2f} us")
    print(f"a line of the log              {asyncio.run(log_lines()):6.2f} us")
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"])


if __name__ == "__main__":
    main()
