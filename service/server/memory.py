"""Returns memory to the system after a load.

The C library keeps freed memory for later. Between blocks that are in use this is as much again, and little of it fits
the next load of another kind.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

MIN_BYTES = 32 << 20
"""Growth below which nothing is returned, because returning memory and taking it again costs milliseconds."""

_STATUS = Path("/proc/self/statm")


class Memory:
    """The resident memory of this process, and its lowest value since memory was last returned."""

    def __init__(
        self, resident_bytes: Callable[[], int] | None = None, trim: Callable[[], object] | None = None
    ) -> None:
        """Use the system's own functions, unless others are given.

        Args:
            resident_bytes: the resident memory of this process.
            trim: returns free memory to the system.
        """
        self._resident_bytes = resident_bytes or _resident_bytes
        self._trim = trim or _libc_trim()
        self._lowest = self._resident_bytes()

    def release(self) -> None:
        """Return free memory if the process has grown. Blocks for milliseconds, without the interpreter's lock."""
        resident = self._resident_bytes()
        self._lowest = min(self._lowest, resident)
        if self._trim is not None and resident - self._lowest >= MIN_BYTES:
            self._trim()
            self._lowest = self._resident_bytes()


def _resident_bytes() -> int:
    """The resident memory of this process; 0 on a system without /proc."""
    try:
        return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _libc_trim() -> Callable[[], object] | None:
    """The `malloc_trim` of glibc; None with another C library."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(0)
