"""Intervals of shares, compared with published values."""

import pytest

from training.intervals import percent, wilson


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.0, 10, 0.0, 0.2775), (0.5, 10, 0.2366, 0.7634), (1.0, 100, 0.9630, 1.0), (0.9962, 10_000, 0.9948, 0.9972)],
)
def test_the_interval_is_wilson_s(share: float, n: int, low: float, high: float) -> None:
    """Also at 0 and 1, where the usual formula has no width."""
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


def test_nothing_is_known_from_no_examples() -> None:
    """The interval of no examples is the whole range."""
    assert percent(wilson(0.0, 0)) == "0.0-100.0"
