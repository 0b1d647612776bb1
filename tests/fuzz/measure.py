"""What a piece of code takes: processor seconds, and how far the process's memory rises meanwhile."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Processor seconds, and bytes above what the process held before, at the highest."""

    cpu_s: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure a block. Without Linux's /proc the peak is what the process's highest ever rises by."""
    cost = Cost()
    before = _restart_peak()
    began = time.process_time()
    try:
        yield cost
    finally:
        cost.cpu_s = time.process_time() - began
        cost.peak_bytes = max(_peak() - before, 0)


def resident() -> int:
    """Bytes of memory that the process holds now (at the highest, without Linux's /proc)."""
    return _line("VmRSS") if _CLEAR.exists() else _peak()


def _restart_peak() -> int:
    """Let the highest count from now on, and give what is held."""
    if _CLEAR.exists():
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): resets the peak resident set size
    return resident()


def _peak() -> int:
    if _CLEAR.exists():
        return _line("VmHWM")
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024  # kibibytes, but for macOS


def _line(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
