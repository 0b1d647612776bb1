"""How much of the service's throughput a page takes on which somebody draws: `make bench-page`.

The page's requests are as its own code sends them (`service/page/pad.js`, `png.js`): while the pen moves, 20 times a
second a framed digit in a PNG without compression; at the end of each stroke, every two seconds, the whole drawing.

First the page is alone: its share of a processor is what it takes from others at capacity, or more,
since alone it shares no batch. This does not depend on what else runs on the machine. Then wrk sends digits over 64
connections, in turns with and without the page; on a busy machine these passes differ by more than the page takes.
"""

import argparse
import http.client
import os
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

import numpy as np
import numpy.typing as npt

from benchmarks import load
from benchmarks.contender import CONTENDERS, CONVOKE, ROOT
from benchmarks.items import Kind, Model, Runtime
from benchmarks.results import markdown_table, number
from benchmarks.server import BenchmarkError, Server, serving
from benchmarks.workloads import CLOSED, ItemSet, Workload, find_models

LIVE_S = 0.05
"""Between two requests while one draws: LIVE_MS of `service/page/app.js`."""
CONNECTIONS = 64
STROKES = 40
"""Requests of a stroke, after which the whole drawing is sent."""

_PAD, _INK = 560, 127
_HEADERS = {
    "Accept": "application/json", "Content-Type": "image/png", "Origin": "http://127.0.0.1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0",
    "Accept-Encoding": "gzip, deflate, br, zstd", "Accept-Language": "en-US,en;q=0.9", "Cache-Control": "no-cache",
    "Pragma": "no-cache", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty",
}  # fmt: skip


@dataclass(frozen=True)
class Pass:
    """Digits of others in a pass: for each second, and for each second of the service's processor time."""

    requests_per_s: float
    requests_per_cpu_s: float
    page_requests: int

    @property
    def processors(self) -> float:
        """How many processors the service had: fewer than one where other programs run beside it."""
        return self.requests_per_s / self.requests_per_cpu_s


def png(levels: npt.NDArray[np.uint8], level: int) -> bytes:
    """Grey levels (H, W) -> a PNG; `level` 0 is without compression, as the page writes it."""
    rows = np.pad(levels, ((0, 0), (1, 0))).tobytes()
    height, width = levels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, level)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def drawing(framed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A digit as MNIST has it, uint8 (28, 28) -> black on white, as the pad has it, (560, 560)."""
    large = framed.repeat(_PAD // len(framed), axis=0).repeat(_PAD // len(framed), axis=1)
    return np.where(large > _INK, 0, 255).astype(np.uint8)


class Page:
    """Sends what a page sends on which somebody draws, until it is stopped."""

    def __init__(self, port: int, model: str, digits: Sequence[npt.NDArray[np.uint8]]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self._path = f"/classify/{model}"
        self._live = [png(digit, 0) for digit in digits]
        self._final = png(drawing(digits[0]), 6)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw)
        self.sent = 0
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _draw(self) -> None:
        start = time.monotonic()
        try:
            for number_ in range(1 << 30):
                if self._stop.wait(max(start + number_ * LIVE_S - time.monotonic(), 0)):
                    return
                self._send(self._live[number_ % len(self._live)])
                if number_ % STROKES == STROKES - 1:
                    self._send(self._final)
        except (OSError, http.client.HTTPException, BenchmarkError) as error:
            self.error = error

    def _send(self, body: bytes) -> None:
        self._connection.request("POST", self._path, body, _HEADERS)
        response = self._connection.getresponse()
        content = response.read()
        if response.status != 200:  # noqa: PLR2004
            raise BenchmarkError(f"the page's request was answered {response.status}: {content[:300]!r}")
        self.sent += 1


def alone(server: Server, digits: Sequence[npt.NDArray[np.uint8]], seconds: int) -> tuple[float, float]:
    """The page alone: its requests a second, and the share of a processor that it takes beyond the idle service.

    Raises:
        BenchmarkError: a request failed.
    """
    server.settle()
    with server.meter() as idle:
        time.sleep(seconds)
    with server.meter() as busy, Page(server.port, "digits", digits) as page:
        time.sleep(seconds)
    if page.error is not None:
        raise BenchmarkError(f"the page: {page.error}")
    return page.sent / seconds, (busy.usage.cpu_s - idle.usage.cpu_s) / seconds


def measure(server: Server, digits: Sequence[npt.NDArray[np.uint8]], seconds: int, *, has_page: bool) -> Pass:
    """One pass of wrk, with or without the page.

    Raises:
        BenchmarkError: a request failed.
    """
    page = Page(server.port, "digits", digits) if has_page else None
    with page or nullcontext(), server.meter() as meter:
        closed = load.closed_loop(server.port, server.folder, CONNECTIONS, seconds)
    if closed.errors or (page is not None and page.error is not None):
        raise BenchmarkError(f"{closed.errors} errors of wrk; the page: {page.error if page else None}")
    return Pass(closed.requests_per_s, closed.succeeded / max(meter.usage.cpu_s, 1e-9), page.sent if page else 0)


@contextmanager
def _served(folder: str) -> Iterator[tuple[Server, ItemSet]]:
    runtime = Runtime()
    folders: dict[Kind, Path] = {"digits": find_models(ROOT / "models")["digits"]}
    items = ItemSet({kind: Model.load(kind, path, runtime) for kind, path in folders.items()})
    convoke = next(contender for contender in CONTENDERS if contender.key == CONVOKE)
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, usable[-1:])  # the server inherits it
    with serving(convoke, Path(sys.executable), folders, Runtime(precision="auto"), Path(folder), 1) as server:
        os.sched_setaffinity(0, usable[:-1] or usable)
        server.await_ready(items.first_requests(convoke.forms[0]))
        yield server, items


def main() -> int:
    """Measure in turns, and print the median of each kind and the cost of the page."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=7, help="passes of each kind, in turns (default: 7)")
    parser.add_argument("--seconds", type=int, default=4, help="seconds of a pass (default: 4)")
    args = parser.parse_args()
    if not load.is_installed():
        print("wrk must be installed", file=sys.stderr)
        return 2
    found: dict[bool, list[Pass]] = {False: [], True: []}
    loop: Workload = next(loop for loop in CLOSED if loop.key == "digits-64")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="page", ignore_cleanup_errors=True) as folder,
            _served(folder) as served,
        ):
            server, items = served
            digits = [items.models["digits"].decode(item)[..., 0] for item in items.encoded["digits"]]
            requests = loop.requests(items, server.contender.forms[0])
            load.write([request.encode(server.port) for request in requests], server.folder)
            load.closed_loop(server.port, server.folder, CONNECTIONS, 2)
            rate, share = alone(server, digits, 3 * args.seconds)
            print(f"The page alone sent {rate:.1f} requests/s and took {share:.2%} of a processor.")
            for _ in range(args.passes):
                for has_page, passes in found.items():
                    passes.append(measure(server, digits, args.seconds, has_page=has_page))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(report(found[False], found[True], args.seconds)))
    return 0


def report(without: list[Pass], beside: list[Pass], seconds: int) -> list[str]:
    """A table of the medians, and the cost of the page: the median of the ratios of neighbouring passes."""
    rows = [
        [
            name,
            number(median(each.requests_per_s for each in passes)),
            number(median(each.requests_per_cpu_s for each in passes)),
        ]
        for name, passes in (("without the page", without), ("beside the page", beside))
    ]
    costs = [
        (1 - page.requests_per_cpu_s / alone.requests_per_cpu_s) * page.processors
        for alone, page in zip(without, beside, strict=True)
    ]
    rate = median(each.page_requests for each in beside) / seconds
    cost = (
        f"The page sent {rate:.1f} requests/s and took {median(costs):.1%} of the digits that a processor gives "
        f"others (median of {len(costs)} pairs of passes of {seconds} s; from {min(costs):.1%} to {max(costs):.1%})."
    )
    return [
        *markdown_table(["digits of others", "requests/s", "requests a processor second"], rows),
        "",
        cost,
    ]


if __name__ == "__main__":
    sys.exit(main())
