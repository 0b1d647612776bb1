"""Memory that a load has left behind, given back to the system.

The C library keeps what is freed for later; between long-lived blocks that is as much again as what is in use, and the
next load of another kind finds little of it fit.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

WORTH_BYTES = 32 << 20
"""Less than this that came since the last time is let be: giving back takes milliseconds, and taking anew some more."""

_STATUS = Path("/proc/self/statm")


class Memory:
    """What this process holds, and how much it held when it last gave some back."""

    def __init__(self, resident: Callable[[], int] | None = None, trim: Callable[[], object] | None = None) -> None:
        """Take the system's ways to ask and to give back, where it has them.

        Args:
            resident: bytes that the process holds.
            trim: gives back what is free.
        """
        self._resident = resident or _resident
        self._trim = trim or _trim_of_libc()
        self._least = self._resident()

    def give_back(self) -> None:
        """Give back what is free, if it can be much. Blocks for milliseconds, without the interpreter's lock."""
        held = self._resident()
        self._least = min(self._least, held)
        if self._trim is not None and held - self._least >= WORTH_BYTES:
            self._trim()
            self._least = self._resident()


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not tell."""
    try:
        return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _trim_of_libc() -> Callable[[], object] | None:
    """Glibc's malloc_trim; None where the C library has none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(0)
