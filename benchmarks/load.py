"""Closed loop: wrk keeps a number of connections busy, each with one request at a time.

wrk (Debian's) is one thread here, so that it takes no more than one processor, and as little of that as can be.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contender import HERE
from benchmarks.server import BenchmarkError

TIMEOUT_S = 20


@dataclass(frozen=True)
class Load:
    """What a closed loop found. Good answers have a status below 400; p50 and p99 are over all answers.

    Errors are the other answers, and connections that broke or waited longer than `TIMEOUT_S`.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    good: int


def is_installed() -> bool:
    """Whether there is a wrk on the path."""
    return shutil.which("wrk") is not None


def write(requests: Sequence[bytes], folder: Path) -> None:
    """Put requests where both drivers find them: FOLDER/0.request, FOLDER/1.request, ..."""
    for old in folder.glob("*.request"):
        old.unlink()
    for index, request in enumerate(requests):
        (folder / f"{index}.request").write_bytes(request)


def closed_loop(port: int, folder: Path, connections: int, seconds: int) -> Load:
    """Send a folder's requests in turn for some seconds.

    Raises:
        BenchmarkError: wrk fails.
    """
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_S}s"]
    words += ["-s", str(HERE / "post.lua"), f"http://127.0.0.1:{port}/", "--", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 120)
    return parse(done.stdout, done.stderr, done.returncode)


def parse(output: str, errors: str = "", code: int = 0) -> Load:
    """What post.lua printed on the last line of wrk's output.

    Raises:
        BenchmarkError: it is not there.
    """
    lines = output.splitlines()
    if code or not lines or not lines[-1].startswith("{"):
        raise BenchmarkError(f"wrk failed with code {code}: {errors.strip() or output.strip()}")
    found = json.loads(lines[-1])
    good = found["requests"] - found["bad_status"]
    return Load(
        requests_per_s=round(good / found["duration_us"] * 1e6, 2),
        p50_ms=found["p50_us"] / 1000,
        p99_ms=found["p99_us"] / 1000,
        errors=found["bad_status"] + found["broken"],
        good=good,
    )
