"""How busy a worker is: 1 at capacity and half of it at half, whatever it runs out of."""

import asyncio
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.inference.decoding import Decoders
from service.telemetry.metrics import Metrics
from service.telemetry.utilisation import Capacity, Sample, Utilisation, shares, thread_busy_s
from tests.serving import Load, Server

START = Sample(0.0, 0.0, 0.0, {}, {})
CAPACITY = Capacity(workers=1, decode_threads=4, processors=4)
RUNS = {"digits": 4, "cats-vs-dogs": 4}


@pytest.mark.parametrize("load", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("limit", "full"),
    [
        ("event loop", {"loop_s": 10.0, "process_s": 10.0}),
        ("decoding", {"decode_s": {"cats-vs-dogs": 30.0, "digits": 10.0}}),
        ("runs", {"run_s": {"cats-vs-dogs": 40.0}}),
        ("processors", {"process_s": 40.0}),
    ],
)
def test_the_utilisation_follows_the_load(limit: str, full: dict[str, float | dict[str, float]], load: float) -> None:
    """After 10 s in which each kind of capacity was used by that share, the utilisation is that share."""
    used = {
        key: {model: seconds * load for model, seconds in value.items()} if isinstance(value, dict) else value * load
        for key, value in full.items()
    }
    last = replace(START, now_s=10.0, **used)  # type: ignore[arg-type]
    total, models = shares(START, last, CAPACITY, RUNS)
    assert total == pytest.approx(load), limit
    if limit == "decoding":
        assert models == pytest.approx({"cats-vs-dogs": 0.75 * load, "digits": 0.25 * load})


def test_workers_share_the_processors() -> None:
    """Of two workers on four processors each has two, and the sum of their gauges is the mean."""
    last = replace(START, now_s=1.0, process_s=2.0)
    assert shares(START, last, replace(CAPACITY, workers=2), {})[0] == pytest.approx(1.0)
    metrics = Metrics()
    utilisation = Utilisation(metrics, workers=2, decode_threads=1)
    utilisation.sample({}, {}, 0)
    start = time.monotonic()
    while time.monotonic() - start < 0.2:
        pass
    utilisation.sample({}, {}, 3)
    assert 0.02 < metrics.utilisation.labels().numbers()[0] <= 0.5
    assert metrics.in_flight.labels().numbers() == [3.0]
    assert metrics.cpu_seconds.labels().numbers()[0] > 0
    assert metrics.memory_bytes.labels().numbers()[0] > 10 << 20


def test_a_thread_that_waits_for_a_processor_is_busy() -> None:
    """Beside another program on the same processor a busy loop counts as busy all the time; a sleeping one does not."""
    if not (hasattr(os, "sched_setaffinity") and Path("/proc/thread-self/schedstat").exists()):
        pytest.skip("the kernel does not count how long threads wait for a processor")
    processor = {min(os.sched_getaffinity(0))}
    code = f"import os, time\nos.sched_setaffinity(0, {processor})\nprint(flush=True)\nend = time.monotonic() + 20\n"
    command = [sys.executable, "-c", f"{code}while time.monotonic() < end: pass"]

    def busy_shares() -> tuple[float, float, float]:
        """Of the time: what counts as busy and the processor time of a busy loop; what counts as busy of a pause."""
        os.sched_setaffinity(0, processor)  # of this thread
        start, busy_s, cpu_s = time.monotonic(), thread_busy_s(), time.thread_time()
        while time.monotonic() - start < 0.4:
            pass
        loop_s = time.monotonic() - start
        middle_s, used_s = thread_busy_s(), time.thread_time() - cpu_s
        other.wait(20)  # it has ended, or ends soon: this thread sleeps
        pause_s = time.monotonic() - start - loop_s
        return (middle_s - busy_s) / loop_s, used_s / loop_s, (thread_busy_s() - middle_s) / max(pause_s, 0.1)

    with subprocess.Popen(command, stdout=subprocess.PIPE) as other, ThreadPoolExecutor(1) as pool:
        assert other.stdout
        other.stdout.readline()
        future = pool.submit(busy_shares)
        time.sleep(0.8)
        other.kill()
        loop, used, pause = future.result()
    assert loop == pytest.approx(1.0, abs=0.1)
    assert used < 0.8
    assert pause < 0.5


def test_the_wait_for_a_decoding_thread_is_measured() -> None:
    """The second of two requests for one thread waits as long as the first takes it."""
    waits: list[float] = []

    async def scenario() -> Decoders:
        decoders = Decoders(1, lambda _model, seconds: waits.append(seconds))

        async def take() -> None:
            async with decoders.turn("m"):
                await decoders.run(lambda: time.sleep(0.05))

        await asyncio.gather(take(), take())
        decoders.close()
        return decoders

    decoders = asyncio.run(scenario())
    assert waits[0] < 0.04 < waits[1]
    assert decoders.busy_s["m"] == pytest.approx(0.1, rel=0.5)


def test_a_started_service_reports_its_load(server: Server) -> None:
    """Under clients that send without a pause it is busy, and the process metrics have values."""

    def metric(name: str) -> float:
        match = re.search(rf"^{name} (\S+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
        return float(match[1]) if match else 0.0

    with Load(server, clients=4, keep_alive=True):
        server.wait(lambda: metric("convoke_utilisation") > 0.1)
        server.wait(lambda: metric("convoke_requests_in_flight") >= 1)
    assert metric("process_cpu_seconds_total") > 0.5
    assert metric("process_resident_memory_bytes") > 50 << 20
    assert metric("process_open_fds") > 5
    assert abs(metric("process_start_time_seconds") - time.time()) < 3600
