"""How busy a worker is: 1 at capacity and half of it at half, whatever it runs out of."""

import asyncio
import re
import time
from dataclasses import replace

import httpx
import pytest

from service.inference.decoding import Decoders
from service.telemetry.metrics import Metrics
from service.telemetry.utilisation import Capacity, Sample, Utilisation, shares
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
    assert abs(metric("process_start_time_seconds") - time.time()) < 600
