"""Counters, gauges and histograms as lists of numbers.

prometheus_client's own take a lock at each step and, where several processes count, write to a mapped file, which
takes more than ten times as long (`python -m benchmarks.observing`). These are changed on the worker's event loop and
may be read by any thread; those of several workers are added number by number.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]
State = list[tuple[Labels, list[float]]]
"""Values of the labels, and numbers: [value], or of a histogram [count of each bucket, count above all, sum]."""

_METRICS: dict[Kind, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Series:
    """The numbers of a metric for one combination of its labels' values."""

    __slots__ = ("_bounds", "_counts", "_value")

    def __init__(self, bounds: Sequence[float] = ()) -> None:
        """Start at 0.

        Args:
            bounds: the upper bounds of a histogram's buckets, which rise; empty for a counter or gauge.
        """
        self._bounds = bounds
        self._counts = [0.0] * (len(bounds) + 1 if bounds else 0)
        self._value = 0.0  # of a histogram the sum

    def inc(self, amount: float = 1) -> None:
        """Increase a counter."""
        self._value += amount

    def set(self, value: float) -> None:
        """Set a gauge."""
        self._value = value

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value in its bucket of a histogram, `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._value += value * times

    def numbers(self) -> list[float]:
        """A copy of the numbers, as they stand in a `State`."""
        return [*self._counts, self._value]

    def add(self, numbers: Sequence[float]) -> None:
        """Add numbers of another worker, or of this one's predecessor."""
        *self._counts, self._value = (mine + other for mine, other in zip(self.numbers(), numbers, strict=True))


class Family:
    """One metric: its series by the values of its labels."""

    def __init__(self, kind: Kind, name: str, text: str, labels: Labels, bounds: Sequence[float] = ()) -> None:
        self.kind = kind
        self.name = name
        self.text = text
        self.label_names = labels
        self.bounds = bounds
        self._series: dict[Labels, Series] = {}

    def labels(self, *values: str) -> Series:
        """The series with these values of the labels; always the same object, so that callers may keep it."""
        series = self._series.get(values)
        if series is None:
            assert len(values) == len(self.label_names), f"{self.name} has the labels {self.label_names}"
            series = self._series[values] = Series(self.bounds)
        return series

    def state(self) -> State:
        """A copy of all numbers, which can be written as JSON."""
        return [(values, series.numbers()) for values, series in [*self._series.items()]]

    def add(self, state: State) -> None:
        """Add the state of another worker, or of this one's predecessor."""
        for values, numbers in state:
            self.labels(*values).add(numbers)

    def collect(self) -> Metric:
        """The metric in prometheus_client's form."""
        metric = _METRICS[self.kind](self.name, self.text, labels=self.label_names)
        bounds = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        for values, numbers in sorted(self.state()):
            if self.kind == "histogram":
                *counts, total = numbers
                metric.add_metric(values, [*zip(bounds, accumulate(counts), strict=True)], total)
            else:
                metric.add_metric(values, *numbers)
        collected: Metric = metric
        return collected
