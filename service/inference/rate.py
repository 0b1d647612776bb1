"""How long new work would wait, by the measured duration of work like it."""

_WEIGHT = 0.1  # of the latest duration in the average


class Rate:
    """The average duration of one piece of work, of which the latest count most."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        """0 until the first piece is done."""

    def record(self, seconds: float, pieces: int = 1) -> None:
        """Count pieces that took this long together."""
        piece_s = seconds / pieces
        self.mean_s += (piece_s - self.mean_s) * _WEIGHT if self.mean_s else piece_s
