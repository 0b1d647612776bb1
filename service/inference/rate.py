"""How long new work would wait, by the measured duration of work like it."""

import math

_MEMORY_S = 0.7  # work that was done this long before counts 1/e; a pause of the machine is averaged over it


class Rate:
    """The average duration of one piece of work, of which the latest seconds of work count most."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        """0 until the first piece is done."""
        self._seconds = 0.0
        self._pieces = 0.0

    def record(self, seconds: float, pieces: int) -> None:
        """Count pieces that took this long together."""
        kept = math.exp(-seconds / _MEMORY_S)
        self._seconds = self._seconds * kept + seconds
        self._pieces = self._pieces * kept + pieces
        self.mean_s = self._seconds / self._pieces
