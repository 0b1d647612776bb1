"""What the service can do on a number of processors, and what `convoke_utilisation` says of it: `make bench-capacity`.

For each kind of items wrk first sends as many as the service answers, which is the capacity, and open_loop.py then half
of it. The utilisation, a mean of 10 s, is read from /metrics near the end of each; it should be 1 and 0.5. The service
runs with its own settings, with one worker for each processor, on processors of its own, and both senders on the
others; where the machine has no others, they share. Requests a second of processor time do not depend on what else
runs on the machine, the other figures do.
"""

import argparse
import http.client
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load
from benchmarks.contender import CONTENDERS, CONVOKE, ROOT
from benchmarks.items import Model, Runtime
from benchmarks.measure import open_loop
from benchmarks.results import markdown_table, number
from benchmarks.server import BenchmarkError, Server, serving
from benchmarks.workloads import CLOSED, ItemSet, Workload, find_models

LOOPS = {
    "digits": ("digits-64", 64), "reviews": ("review-16", 16), "photos": ("photo-16", 16), "large": ("large-16", 4),
}  # fmt: skip
"""The workload of each kind of items, and how many connections keep the service busy without that it refuses any."""
WINDOW_S = 10
"""The utilisation is the mean of so many seconds; each load takes a little more."""

_LONG_S = WINDOW_S + 4
_READ_S = WINDOW_S + 2.5
_COLUMNS = (
    "items", "requests/s", "requests a processor second", "p99 ms", "utilisation", "at half: p99 ms", "utilisation",
    "memory MiB",
)  # fmt: skip


@dataclass(frozen=True)
class Capacity:
    """What was measured for one kind of items; memory is the peak of the largest process."""

    items: str
    requests_per_s: float
    requests_per_cpu_s: float
    p99_ms: float
    full: float
    half_p99_ms: float
    half: float
    memory_mib: float

    def cells(self) -> list[str]:
        """The cells of its line in the table."""
        rates = number(self.requests_per_s), number(self.requests_per_cpu_s)
        half = number(self.half_p99_ms), f"{self.half:.2f}"
        return [self.items, *rates, number(self.p99_ms), f"{self.full:.2f}", *half, number(self.memory_mib)]


def measure(
    server: Server, item_set: ItemSet, name: str, *, long_s: int = _LONG_S, read_s: float = _READ_S
) -> Capacity:
    """Send a kind of items at capacity, then at half of it.

    Raises:
        BenchmarkError: a response was wrong, or a sender failed.
    """
    key, connections = LOOPS[name]
    loop: Workload = next(loop for loop in CLOSED if loop.key == key)
    form = server.contender.forms[0]
    item_set.check_items(server, form, loop.names[0])
    load.write([request.encode(server.port) for request in loop.requests(item_set, form)], server.folder)
    load.closed_loop(server.port, server.folder, connections, 2)
    with server.meter() as meter, reading(server.port, read_s) as full:
        closed = load.closed_loop(server.port, server.folder, connections, long_s)
    with reading(server.port, read_s) as half:
        outcomes = open_loop(server.port, server.folder, max(closed.requests_per_s / 2, 0.1), long_s)
    if closed.errors or outcomes["lost"] or outcomes["other"]:
        raise BenchmarkError(f"{name}: {closed.errors} errors at capacity, {outcomes} at half of it")
    return Capacity(
        name, closed.requests_per_s, closed.succeeded / max(meter.usage.cpu_s, 1e-9), closed.p99_ms, full[0],
        outcomes["accepted_p99_ms"], half[0], meter.usage.largest_mib,
    )  # fmt: skip


@contextmanager
def reading(port: int, after_s: float) -> Iterator[list[float]]:
    """Read the utilisation `after_s` seconds from the start of the context; the list holds it at the end."""
    values: list[float] = []
    thread = threading.Timer(after_s, lambda: values.append(read(port)))
    thread.start()
    yield values
    thread.join()


def read(port: int) -> float:
    """The value of convoke_utilisation; not a number if /metrics does not have it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    match = re.search(r"^convoke_utilisation (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else float("nan")


def main() -> int:
    """Measure all kinds of items whose models are published, and print a table."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(LOOPS), help=f"items (default: {','.join(LOOPS)})")
    parser.add_argument("--processors", type=int, default=1, help="processors and workers of the service (default: 1)")
    parser.add_argument("--workers", type=int, help="workers of the service (default: one for each processor)")
    args = parser.parse_args()
    usable = sorted(os.sched_getaffinity(0))
    names = args.only.split(",")
    if not load.is_installed() or not set(names) <= set(LOOPS) or not 0 < args.processors <= len(usable):
        print(
            f"wrk must be installed; --only takes {', '.join(LOOPS)}; --processors is at most {len(usable)}",
            file=sys.stderr,
        )
        return 2
    own, others = usable[-args.processors :], usable[: -args.processors] or usable
    try:
        capacities = _measure_all(names, args.workers or args.processors, own, others)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(markdown_table(_COLUMNS, (one.cells() for one in capacities))))
    return 0


def _measure_all(names: Sequence[str], workers: int, own: Sequence[int], others: Sequence[int]) -> list[Capacity]:
    runtime = Runtime()
    folders = find_models(Path(os.environ.get("CONVOKE_MODELS") or ROOT / "models"))
    models = {kind: Model.load(kind, folder, runtime) for kind, folder in folders.items()}
    item_set = ItemSet(models)
    convoke = next(contender for contender in CONTENDERS if contender.key == CONVOKE)
    capacities = []
    with tempfile.TemporaryDirectory(prefix="capacity", ignore_cleanup_errors=True) as folder:
        os.sched_setaffinity(0, own)  # the server inherits it
        with serving(
            convoke, Path(sys.executable), folders, Runtime(precision="auto"), Path(folder), workers
        ) as server:
            os.sched_setaffinity(0, others)
            server.await_ready(item_set.first_requests(convoke.forms[0]))
            for name in names:
                if name not in item_set.encoded:
                    print(f"{name}: no model", file=sys.stderr)
                    continue
                capacities.append(measure(server, item_set, name))
                print(" | ".join(capacities[-1].cells()), file=sys.stderr)
                time.sleep(1)
    return capacities


if __name__ == "__main__":
    sys.exit(main())
