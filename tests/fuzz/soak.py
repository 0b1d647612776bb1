"""Soak test: under a long mix of valid, invalid, aborted and slow requests, memory and open files must not grow.

`python -m tests.fuzz.soak --minutes 10` starts the service and sends requests from 16 clients over plain sockets. It
fails if a response has an unexpected status, if a request is lost, or if the workers hold more memory or files at the
end than after the first minutes. Then it kills a worker and stops the server, both under load.
"""

import argparse
import asyncio
import json
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil  # type: ignore[import-untyped]

from tests.drawing import draw, encode, mnist_like
from tests.fuzz.decompression_bombs import huge_headers
from tests.fuzz.faults import Outcome, drain, kill_a_worker
from tests.serving import ROOT, Server

CLIENTS = 16
RESPONSE_S = 20.0  # a request without a response by then is lost
SETTLE = 0.2  # the share of the time after which memory has settled
GROWTH_MIB = 24.0  # growth after that which caches and fragmentation may cause
SPARE_FILES = 4  # how many more files may be open at the end than before the first request
SETTINGS = {
    "CONVOKE_BODY_TIMEOUT_S": "2",
    "CONVOKE_WORKERS": "2",
    "CONVOKE_DRAIN_S": "2",
    "CONVOKE_MAX_WAIT_S": "10",  # the machine may be busy with other tests: 16 clients are never refused for that
}


@dataclass(frozen=True)
class Scenario:
    """A kind of request: its bytes, the expected statuses, and the client's behaviour.

    `behaviour` is `wait` (for the response), `leave` (close after sending), `reset` (the connection after sending) or
    `half` (send half of the request and close).
    """

    name: str
    request: bytes
    statuses: frozenset[int] = frozenset({200})
    behaviour: str = "wait"


@dataclass
class Tally:
    """The outcomes so far; a sample has seconds since the start, and resident MiB and open files of all workers."""

    answered: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    samples: list[tuple[float, float, int]] = field(default_factory=list)


def main() -> int:
    """Run the soak test, print a line every ten seconds and the findings at the end."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="duration (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        tally = asyncio.run(soak(server, args.minutes * 60, args.seed, print))
        outcomes = asyncio.run(inject_faults(server))
    violations = [*findings(tally), *(text for fault, outcome in outcomes.items() for text in outcome.findings(fault))]
    print(json.dumps({"answered": sum(tally.answered.values()), "by kind": dict(sorted(tally.answered.items()))}))
    print(json.dumps({"lost": tally.lost, "unexpected": len(tally.wrong), **growth(tally)}))
    print(json.dumps({fault: asdict(outcome) for fault, outcome in outcomes.items()}))
    print("\n".join(["FAILED:", *violations]) if violations else "passed: no growth, and every response as expected")
    return 1 if violations else 0


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """The service, started and ready."""
    server = Server([sys.executable, "-m", "service"], ROOT, folder / "log", SETTINGS)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if server.running:
            server.stop()


async def soak(server: Server, seconds: float, seed: int, log: Callable[[str], object]) -> Tally:
    """Send requests for a number of seconds, and sample the workers' memory and open files."""
    tally, start = Tally(), time.monotonic()
    workers = psutil.Process(server.pid).children(recursive=True)
    mix = scenarios()

    async def client(number: int) -> None:
        generator = random.Random(f"{seed} {number}")
        while time.monotonic() - start < seconds:
            await _send(server.port, generator.choice(mix), tally)

    async def watch() -> None:
        logged = 0.0
        while True:
            now = time.monotonic() - start
            tally.samples.append((now, *_resources(workers)))
            if now - logged >= 10:
                logged = now
                _, resident, files = tally.samples[-1]
                done = sum(tally.answered.values())
                log(f"{now:4.0f} s: {done:,} answered, {tally.lost} lost, {resident:.0f} MiB, {files} open files")
            await asyncio.sleep(min(1.0, seconds / 20))

    tally.samples.append((0.0, *_resources(workers)))
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    watching.cancel()
    await asyncio.sleep(3)  # until the service has closed slow connections
    tally.samples.append((time.monotonic() - start, *_resources(workers)))
    return tally


async def inject_faults(server: Server) -> dict[str, Outcome]:
    """Kill a worker, then stop the server, both while clients send valid requests."""
    valid = [scenario for scenario in scenarios() if scenario.behaviour == "wait" and scenario.statuses == {200}]

    async def send() -> bool:
        tally = Tally()
        await _send(server.port, random.choice(valid), tally)
        return not tally.lost and not tally.wrong

    return {"killed worker": await kill_a_worker(server, send), "stop": await drain(server, send)}


def growth(tally: Tally) -> dict[str, float]:
    """MiB after the first part and at the end; open files before the first request and after the last."""
    end = tally.samples[-1][0]
    settled = [resident for at_s, resident, _ in tally.samples if SETTLE * end <= at_s <= 2 * SETTLE * end]
    late = [resident for at_s, resident, _ in tally.samples if at_s >= (1 - SETTLE) * end]
    files = (tally.samples[0][2], tally.samples[-1][2])
    return {"MiB before": median(settled), "MiB after": median(late), "files before": files[0], "files after": files[1]}


def findings(tally: Tally, spare_mib: float = GROWTH_MIB) -> list[str]:
    """A sentence for each violation; memory may grow by `spare_mib`."""
    grown = growth(tally)
    violations = [*tally.wrong[:20]]
    if tally.lost:
        violations.append(f"{tally.lost} requests without a response")
    if grown["MiB after"] - grown["MiB before"] > spare_mib:
        violations.append(f"memory grew from {grown['MiB before']:.0f} to {grown['MiB after']:.0f} MiB")
    if grown["files after"] - grown["files before"] > SPARE_FILES:
        violations.append(f"open files grew from {grown['files before']:.0f} to {grown['files after']:.0f}")
    return violations


def scenarios() -> list[Scenario]:
    """All kinds of requests; valid ones are listed several times, so that they are sent more often."""
    digit, large = encode(mnist_like(3)), encode(draw(7, size=(400, 300)))
    photo = (ROOT / "examples/cat.jpg").read_bytes()
    several = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + part + b"\r\n" for part in (digit, large, b"?")
    )
    valid = [
        Scenario("digit", _post("/classify/digits", digit)),
        Scenario("large digit", _post("/classify/digits", large)),
        Scenario("photo", _post("/classify/cats-vs-dogs", photo)),
        Scenario("several", _post("/classify/digits", several + b"--x--\r\n", "multipart/form-data; boundary=x")),
        Scenario("models", b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n"),
    ]
    json_type = "application/json"
    invalid = [
        Scenario("not an image", _post("/classify/digits", b"hello" * 100), frozenset({415})),
        Scenario("truncated", _post("/classify/cats-vs-dogs", photo[: len(photo) // 2]), frozenset({422})),
        Scenario("bomb", _post("/classify/digits", huge_headers()["png"]), frozenset({413})),
        Scenario("bad JSON", _post("/classify/digits", b'{"images": [', json_type), frozenset({400})),
        Scenario("bad base64", _post("/classify/digits", b'{"images": ["!"]}', json_type), frozenset({422})),
        Scenario("unknown model", _post("/classify/none", digit), frozenset({404})),
        Scenario("unknown route", b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n", frozenset({404})),
        Scenario("declared too large", _post("/classify/digits", b"", length=1 << 40), frozenset({413})),
    ]
    aborted = [
        Scenario("leaves", _post("/classify/cats-vs-dogs", photo), behaviour="leave"),
        Scenario("resets", _post("/classify/cats-vs-dogs", photo), behaviour="reset"),
        Scenario("half a body", _post("/classify/cats-vs-dogs", photo), behaviour="half"),
        Scenario("slow", _post("/classify/digits", digit[:50], length=len(digit)), frozenset({408})),
    ]
    return [*valid * 4, *invalid, *aborted]


def _post(path: str, body: bytes, content_type: str = "image/png", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    header = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {size}\r\n\r\n"
    return header.encode() + body


async def _send(port: int, scenario: Scenario, tally: Tally) -> None:
    """Send one request on its own connection, and record the outcome."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        tally.lost += 1
        return
    request = scenario.request
    try:
        writer.write(request[: len(request) // 2] if scenario.behaviour == "half" else request)
        await writer.drain()
        if scenario.behaviour == "wait":
            status = int((await asyncio.wait_for(reader.readline(), RESPONSE_S)).split()[1])
            if status not in scenario.statuses:
                tally.wrong.append(f"{scenario.name}: status {status}, expected {sorted(scenario.statuses)}")
        elif scenario.behaviour == "reset":
            _reset_on_close(writer)
        tally.answered[scenario.name] += 1
    except (OSError, TimeoutError, IndexError):
        tally.lost += scenario.behaviour == "wait"
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    """Make the socket send a reset when it is closed."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _resources(workers: list[psutil.Process]) -> tuple[float, int]:
    """Resident MiB and open files of all workers."""
    return sum(worker.memory_info().rss for worker in workers) / 2**20, sum(worker.num_fds() for worker in workers)


if __name__ == "__main__":
    sys.exit(main())
