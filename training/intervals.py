"""How exact a measured share is."""

import math

_NORMAL_95 = 1.96


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share that was measured on n examples (Wilson, 1927); (0, 1) for n = 0."""
    if not n:
        return 0.0, 1.0
    z = _NORMAL_95**2 / n
    centre = (share + z / 2) / (1 + z)
    half = math.sqrt(share * (1 - share) * z + z**2 / 4) / (1 + z)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def percent(bounds: tuple[float, float]) -> str:
    """An interval in percent, like 92.1-99.0."""
    return "-".join(f"{100 * bound:.1f}" for bound in bounds)
