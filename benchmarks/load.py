"""Closed loop: wrk keeps a number of connections busy, each with one request at a time.

wrk runs on one thread, so that it takes at most one processor away from the server.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contender import FOLDER
from benchmarks.server import BenchmarkError

TIMEOUT_S = 20


@dataclass(frozen=True)
class Load:
    """The result of a closed loop.

    `succeeded` counts responses with a status below 400, and `errors` the other responses and the connections that
    broke or timed out after `TIMEOUT_S`. p50, p99 and the slowest are over all responses.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    succeeded: int
    slowest_ms: float


def is_installed() -> bool:
    """Whether wrk is on the path."""
    return shutil.which("wrk") is not None


def write(requests: Sequence[bytes], folder: Path) -> None:
    """Write the requests that both drivers read: FOLDER/0.request, FOLDER/1.request, ..."""
    for old in folder.glob("*.request"):
        old.unlink()
    for index, request in enumerate(requests):
        (folder / f"{index}.request").write_bytes(request)


def closed_loop(port: int, folder: Path, connections: int, seconds: int) -> Load:
    """Send a folder's requests in turn for a number of seconds.

    Raises:
        BenchmarkError: wrk failed.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_S}s"]
    command += ["-s", str(FOLDER / "post.lua"), f"http://127.0.0.1:{port}/", "--", str(folder)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 120)
    return parse(completed.stdout, completed.stderr, completed.returncode)


def parse(output: str, errors: str = "", code: int = 0) -> Load:
    """Read the JSON that post.lua prints as the last line of wrk's output.

    Raises:
        BenchmarkError: wrk failed, or the last line is not JSON.
    """
    lines = output.splitlines()
    if code or not lines or not lines[-1].startswith("{"):
        raise BenchmarkError(f"wrk failed with exit code {code}: {errors.strip() or output.strip()}")
    result = json.loads(lines[-1])
    succeeded = result["requests"] - result["bad_status"]
    return Load(
        requests_per_s=round(succeeded / result["duration_us"] * 1e6, 2),
        p50_ms=result["p50_us"] / 1000,
        p99_ms=result["p99_us"] / 1000,
        errors=result["bad_status"] + result["broken"],
        succeeded=succeeded,
        slowest_ms=result["slowest_us"] / 1000,
    )
