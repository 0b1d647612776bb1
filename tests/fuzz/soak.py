"""A long mix of good, bad, broken-off and cancelled requests, under which memory and file descriptors must stay flat.

`python -m tests.fuzz.soak --minutes 10` starts the service and talks to it over plain sockets from 16 callers at once.
It fails where an answer has another status than its request deserves, where a request is lost, or where a worker holds
more at the end than after its first minutes. Then it kills a worker and stops the server, both under load.
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
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil  # type: ignore[import-untyped]

from tests.drawing import draw, encode, mnist_like
from tests.fuzz.faults import Outcome, drain, kill_a_worker
from tests.serving import ROOT, Server

CALLERS = 16
ANSWER_S = 20.0  # a request that has no answer by then is lost
SETTLE = 0.2  # the share of the time after which memory is taken to have its size
GROWTH_MIB = 24.0  # what caches and fragments may add after that
SPARE_FILES = 4  # descriptors that may be open more at the end than before the first request
SETTINGS = {"CONVOKE_BODY_TIMEOUT_S": "2", "CONVOKE_WORKERS": "2", "CONVOKE_DRAIN_S": "2"}


@dataclass(frozen=True)
class Call:
    """A kind of request: its bytes, the statuses that answer it, and how its caller behaves.

    `behaviour` is `wait` for the answer, `leave` right after sending, `reset` the connection after sending, or `half`:
    send half and go.
    """

    name: str
    request: bytes
    statuses: frozenset[int] = frozenset({200})
    behaviour: str = "wait"


@dataclass
class Tally:
    """What has happened so far."""

    answered: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    samples: list[tuple[float, float, int]] = field(default_factory=list)
    """Seconds since the start, MiB resident and open files of the workers together."""


def main() -> int:
    """Soak, print a line every ten seconds and the findings at the end."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="where chance starts (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        tally = asyncio.run(soak(server, arguments.minutes * 60, arguments.seed, print))
        outcomes = asyncio.run(faulty(server))
    faults = [*findings(tally), *(found for name, outcome in outcomes.items() for found in outcome.findings(name))]
    print(json.dumps({"answered": sum(tally.answered.values()), "by kind": dict(sorted(tally.answered.items()))}))
    print(json.dumps({"lost": tally.lost, "unexpected": len(tally.wrong), **growth(tally)}))
    print(json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}))
    print("\n".join(["failed:", *faults]) if faults else "flat, and every answer as it should be")
    return 1 if faults else 0


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


async def soak(server: Server, seconds: float, seed: int, say: Callable[[str], object]) -> Tally:
    """Send requests for some seconds, and watch the workers."""
    tally, began = Tally(), time.monotonic()
    workers = psutil.Process(server.pid).children(recursive=True)
    calls = requests()

    async def caller(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        while time.monotonic() - began < seconds:
            await _ask(server.port, chance.choice(calls), tally)

    async def watch() -> None:
        said = 0.0
        while True:
            now = time.monotonic() - began
            tally.samples.append((now, *_held(workers)))
            if now - said >= 10:
                said = now
                _, resident, files = tally.samples[-1]
                done = sum(tally.answered.values())
                say(f"{now:4.0f} s: {done:,} answered, {tally.lost} lost, {resident:.0f} MiB, {files} files")
            await asyncio.sleep(min(1.0, seconds / 20))

    tally.samples.append((0.0, *_held(workers)))
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    watching.cancel()
    await asyncio.sleep(3)  # slow senders are let go by then
    tally.samples.append((time.monotonic() - began, *_held(workers)))
    return tally


async def faulty(server: Server) -> dict[str, Outcome]:
    """A worker is killed, the server is stopped, while good requests are sent."""
    good = [call for call in requests() if call.behaviour == "wait" and call.statuses == {200}]

    async def ask() -> bool:
        tally = Tally()
        await _ask(server.port, random.choice(good), tally)
        return not tally.lost and not tally.wrong

    return {"killed worker": await kill_a_worker(server, ask), "stop": await drain(server, ask)}


def growth(tally: Tally) -> dict[str, float]:
    """MiB after the first part and at the end, open files before the first request and after the last."""
    end = tally.samples[-1][0]
    settled = [resident for at, resident, _ in tally.samples if SETTLE * end <= at <= 2 * SETTLE * end]
    late = [resident for at, resident, _ in tally.samples if at >= (1 - SETTLE) * end]
    files = (tally.samples[0][2], tally.samples[-1][2])
    return {"MiB before": median(settled), "MiB after": median(late), "files before": files[0], "files after": files[1]}


def findings(tally: Tally, spare_mib: float = GROWTH_MIB) -> list[str]:
    """What is not as it should be, in words; memory may grow by `spare_mib`."""
    grown = growth(tally)
    faults = [*tally.wrong[:20]]
    if tally.lost:
        faults.append(f"{tally.lost} requests have no answer")
    if grown["MiB after"] - grown["MiB before"] > spare_mib:
        faults.append(f"memory grew from {grown['MiB before']:.0f} to {grown['MiB after']:.0f} MiB")
    if grown["files after"] - grown["files before"] > SPARE_FILES:
        faults.append(f"open files grew from {grown['files before']:.0f} to {grown['files after']:.0f}")
    return faults


def requests() -> list[Call]:
    """Every kind of request, the good ones more often."""
    digit, large = encode(mnist_like(3)), encode(draw(7, size=(400, 300)))
    photo = (ROOT / "examples/cat.jpg").read_bytes()
    several = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + part + b"\r\n" for part in (digit, large, b"?")
    )
    header = b"IHDR" + struct.pack(">II", 50_000, 50_000) + digit[24:29]
    bomb = digit[:12] + header + struct.pack(">I", zlib.crc32(header)) + digit[33:]
    good = [
        Call("digit", _post("/classify/digits", digit)),
        Call("large digit", _post("/classify/digits", large)),
        Call("photo", _post("/classify/cats-vs-dogs", photo)),
        Call("several", _post("/classify/digits", several + b"--x--\r\n", "multipart/form-data; boundary=x")),
        Call("models", b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n"),
    ]
    bad = [
        Call("no picture", _post("/classify/digits", b"hello" * 100), frozenset({415})),
        Call("cut off", _post("/classify/cats-vs-dogs", photo[: len(photo) // 2]), frozenset({422})),
        Call("bomb", _post("/classify/digits", bomb), frozenset({413})),
        Call("bad JSON", _post("/classify/digits", b'{"images": [', "application/json"), frozenset({400})),
        Call("no base64", _post("/classify/digits", b'{"images": ["!"]}', "application/json"), frozenset({422})),
        Call("no model", _post("/classify/none", digit), frozenset({404})),
        Call("no route", b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n", frozenset({404})),
        Call("announced too large", _post("/classify/digits", b"", length=1 << 40), frozenset({413})),
    ]
    rude = [
        Call("leaves", _post("/classify/cats-vs-dogs", photo), behaviour="leave"),
        Call("resets", _post("/classify/cats-vs-dogs", photo), behaviour="reset"),
        Call("half a body", _post("/classify/cats-vs-dogs", photo), behaviour="half"),
        Call("slow", _post("/classify/digits", digit[:50], length=len(digit)), frozenset({408})),
    ]
    return [*good * 4, *bad, *rude[:-1], rude[-1]]


def _post(path: str, body: bytes, kind: str = "image/png", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


async def _ask(port: int, call: Call, tally: Tally) -> None:
    """Send one request on a connection of its own, and judge what comes back."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        tally.lost += 1
        return
    try:
        writer.write(call.request if call.behaviour != "half" else call.request[: len(call.request) // 2])
        await writer.drain()
        if call.behaviour == "wait":
            status = int((await asyncio.wait_for(reader.readline(), ANSWER_S)).split()[1])
            if status not in call.statuses:
                tally.wrong.append(f"{call.name}: answered {status}, expected {sorted(call.statuses)}")
        elif call.behaviour == "reset":
            _end_abruptly(writer)
        tally.answered[call.name] += 1
    except (OSError, TimeoutError, IndexError):
        tally.lost += call.behaviour == "wait"
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _end_abruptly(writer: asyncio.StreamWriter) -> None:
    """Have the connection reset when it is closed, not ended in order."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _held(workers: list[psutil.Process]) -> tuple[float, int]:
    """MiB resident and open files of the workers together."""
    return sum(one.memory_info().rss for one in workers) / 2**20, sum(one.num_fds() for one in workers)


if __name__ == "__main__":
    sys.exit(main())
