"""The cost of a block of code: CPU seconds, and the rise of the process's memory."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """CPU seconds, and the peak of memory in bytes above the memory before."""

    cpu_s: float = 0.0
    peak_bytes: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure a block. Without Linux's /proc, `peak_bytes` is the rise of the peak over the process's lifetime."""
    cost = Cost()
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5", encoding="ascii")  # proc(5): resets the peak resident set size
    before = resident_bytes()
    start = time.process_time()
    try:
        yield cost
    finally:
        cost.cpu_s = time.process_time() - start
        cost.peak_bytes = max(_peak_bytes() - before, 0)


def resident_bytes() -> int:
    """The process's resident memory (without Linux's /proc: its peak)."""
    return _status("VmRSS") if _CLEAR_REFS.exists() else _peak_bytes()


def _peak_bytes() -> int:
    if _CLEAR_REFS.exists():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS: bytes; other systems: KiB


def _status(name: str) -> int:
    """A value of /proc/self/status, in bytes."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
