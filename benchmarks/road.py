"""Microseconds that each stage of one request takes: for a digit, a text and a photo.

    make bench-road        # or: .venv/serve/bin/python -m benchmarks.road

Each stage is called alone, many times: what is printed is processor time of one thread (for runs in other threads wall
time), the median of several passes. `whole` is a request from the bytes that arrive to the bytes that leave, without
the system's sockets, alone and among 16 that arrive together; `rest` is what the stages do not explain.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from benchmarks import items
from contract.inputs import warm_up
from service.http import items as http_items
from service.inference.predictor import Answer
from service.inference.version import Version
from service.routes.answer import render
from service.server.assembly import Parts, assemble
from service.server.connections import Connection
from service.server.headers import new_parser
from service.server.limits import Limits
from service.settings import Settings
from service.telemetry.facts import RequestFacts
from service.telemetry.log import RequestLog
from service.telemetry.metrics import Metrics

PASSES = 7
TOGETHER = 16
SAMPLES: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "digit": ("digits", lambda: items.digits(1)[0]),
    "text": ("reviews", lambda: items.reviews(1)[0]),
    "photo": ("cats-vs-dogs", lambda: items.photos(1, items.SMALL)[0]),
}
"""Item -> the model that takes it, and one encoded example."""


class Sink(asyncio.Transport):
    """A transport that counts the responses written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.responses = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Count a response by its first part."""
        self.responses += bytes(data[:5]) == b"HTTP/"

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


def microseconds(step: Callable[[], object], seconds: float = 0.1) -> float:
    """The duration of a function: the median of several passes."""
    step()
    start = time.perf_counter()
    step()
    times = max(int(seconds / PASSES / (time.perf_counter() - start)), 1)
    passes = []
    for _ in range(PASSES):
        start = time.perf_counter()
        for _ in range(times):
            step()
        passes.append((time.perf_counter() - start) / times * 1e6)
    return median(passes)


def request(model: str, body: bytes) -> bytes:
    """A plain request of one item."""
    header = f"POST /classify/{model} HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nContent-Length: {len(body)}\r\n\r\n"
    return header.encode() + body


def stages(parts: Parts, version: Version, body: bytes, log: RequestLog) -> dict[str, float]:
    """Microseconds of each stage of a request with this body."""
    settings, spec = Settings(workers=1), version.manifest.input
    data, preprocessor = request(version.name, body), version.preprocessor
    decoded = preprocessor.decode(body)
    answer = Answer(version, [preprocessor.run(version.session.run, [decoded])[0]], 0.0, 0.0, 0.0)
    facts = RequestFacts("0" * 32, "POST", route="/classify/{model}", model=version.name, version=version.number)
    facts.items, facts.status, facts.timings_s = 1, 200, {"read": 1e-4, "queue": 1e-5, "infer": 1e-4}

    def report() -> None:
        parts.metrics.on_response(facts)
        log.on_response(facts)

    assert parts.fast_path is not None
    is_quick = preprocessor.decode_quickly(body) is not None
    parse = partial(parts.fast_path.read, data) if is_quick else partial(_parse, data)
    return {
        "parse": microseconds(parse),
        "split": microseconds(lambda: http_items.split(body, b"", spec, settings)),
        "decode": microseconds(partial(preprocessor.decode_quickly if is_quick else preprocessor.decode, body)),
        "run": microseconds(lambda: preprocessor.run(version.session.run, [decoded])),
        f"run in a batch of {TOGETHER}": microseconds(
            lambda: preprocessor.run(version.session.run, [decoded] * TOGETHER)
        )
        / TOGETHER,
        "render": microseconds(lambda: render(answer)),
        "metrics and log": microseconds(report),
    }


def _parse(data: bytes) -> None:
    """The header by the parser of the ordinary path, without what follows from it."""
    new_parser(object()).feed_data(data)


async def whole(parts: Parts, data: bytes, together: int, seconds: float) -> float:
    """Microseconds of a request through a connection, of `together` that arrive at once."""
    config = uvicorn.Config(
        parts.application, http="httptools", lifespan="off", log_config=None, timeout_keep_alive=3600
    )
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")]
    connections = []
    for _ in range(together):
        limits = Limits(1 << 20, 1 << 16, 1e6, parts.fast_path)
        connection = Connection(config, state, {}, asyncio.get_running_loop(), limits=limits)
        sink = Sink()
        connection.connection_made(sink)
        connections.append((connection, sink))

    async def step() -> None:
        expected = connections[0][1].responses + 1
        for connection, _ in connections:
            connection.data_received(data)
        while min(sink.responses for _, sink in connections) < expected:  # noqa: ASYNC110 -- the next turn of the loop
            await asyncio.sleep(0)

    passes = []
    for _ in range(PASSES + 1):
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / PASSES:
            await step()
            count += together
        passes.append((time.perf_counter() - start) / count * 1e6)
    return median(passes[1:])


async def measure(models: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Item -> stage -> microseconds."""
    warm_up()
    metrics = Metrics()
    with Path(os.devnull).open("w") as nowhere:  # noqa: ASYNC230 -- nothing else runs
        log = RequestLog("json", metrics.log_lines_lost.labels(), file=nowhere.fileno())
        settings = Settings(models=models, workers=1, max_wait_s=50)
        parts = assemble(settings, metrics=metrics, on_response=[log.on_response])
        await asyncio.to_thread(parts.repository.load)
        table: dict[str, dict[str, float]] = {}
        for item, (model, example) in SAMPLES.items():
            version, body = parts.repository.get(model), example()
            row = stages(parts, version, body, log)
            row["whole"] = await whole(parts, request(model, body), 1, seconds)
            row[f"whole among {TOGETHER}"] = await whole(parts, request(model, body), TOGETHER, seconds)
            batched = f"run in a batch of {TOGETHER}"
            row["rest"] = row["whole"] - sum(value for name, value in row.items() if "whole" not in name) + row[batched]
            table[item] = row
        log.close()
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = Path(__file__).resolve().parent.parent / "models"
    parser.add_argument("--models", type=Path, default=models, help="folder of the models (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each whole request (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    runner: Any = asyncio.Runner
    try:
        import uvloop  # noqa: PLC0415 -- not on every platform

        runner = partial(asyncio.Runner, loop_factory=uvloop.new_event_loop)
    except ImportError:
        print("uvloop is not installed: `whole` is slower than in the service")
    with runner() as loop:
        table = loop.run(measure(arguments.models, arguments.seconds))
    names = list(next(iter(table.values())))
    print(f"{'microseconds':<24}" + "".join(f"{item:>10}" for item in table))
    for name in names:
        print(f"{name:<24}" + "".join(f"{table[item][name]:>10.1f}" for item in table))
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
