"""How long new work would wait, by the measured duration of work like it."""

_WEIGHT = 0.1  # of the latest measurement in the averages


class Rate:
    """The average duration of one piece of work, of which the latest count most."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        """0 until the first piece is done."""
        self._seconds = 0.0
        self._pieces = 0.0

    def record(self, seconds: float, pieces: int) -> None:
        """Count pieces that took this long together."""
        self._seconds += (seconds - self._seconds) * _WEIGHT
        self._pieces += (pieces - self._pieces) * _WEIGHT
        self.mean_s = self._seconds / self._pieces
