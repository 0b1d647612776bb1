"""Counters, gauges and histograms as plain numbers.

prometheus_client's own take a lock and, with several processes, write to a mapped file at every step, which costs
fifteen times as much (`python -m benchmarks.observing`). These belong to the worker's event loop; only whole snapshots
leave it. All kinds are lists of numbers, and workers add up number by number.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]
State = dict[Labels, list[float]]
"""Label values -> numbers: one of a counter or gauge; of a histogram those in each bucket, those above, and the sum."""

_FAMILIES: dict[Kind, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Counter:
    """A number that only grows."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Count something that happened."""
        self._value += amount

    def numbers(self) -> list[float]:
        """What a snapshot holds."""
        return [self._value]

    def restore(self, numbers: Sequence[float]) -> None:
        """Go on from a snapshot."""
        (self._value,) = numbers


class Gauge(Counter):
    """A number that is set."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Take the value of now."""
        self._value = value


class Histogram:
    """How many values fell below each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Enter a value, as often as it counts."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def numbers(self) -> list[float]:
        """What a snapshot holds."""
        return [*self._counts, self._sum]

    def restore(self, numbers: Sequence[float]) -> None:
        """Go on from a snapshot."""
        *counts, self._sum = numbers
        self._counts = [int(count) for count in counts]


Child = TypeVar("Child", bound=Counter | Histogram)


class Family(Generic[Child]):
    """One metric: its children by the values of their labels."""

    def __init__(
        self,
        kind: Kind,
        name: str,
        text: str,
        labels: Labels,
        make: Callable[[], Child],
        bounds: Sequence[float] = (),
    ) -> None:
        self.kind = kind
        self.name = name
        self.text = text
        self.label_names = labels
        self.bounds = bounds
        self._make = make
        self._children: dict[Labels, Child] = {}

    def labels(self, *values: str) -> Child:
        """The child with these values of the labels; the same one each time, so that callers may keep it."""
        child = self._children.get(values)
        if child is None:
            assert len(values) == len(self.label_names), f"{self.name} has the labels {self.label_names}"
            child = self._children[values] = self._make()
        return child

    def state(self) -> State:
        """A snapshot."""
        return {values: child.numbers() for values, child in list(self._children.items())}

    def restore(self, state: Mapping[Labels, Sequence[float]]) -> None:
        """Go on from a snapshot."""
        for values, numbers in state.items():
            self.labels(*values).restore(numbers)

    def metric(self, state: State) -> Metric:
        """A snapshot, of one worker or added up, as prometheus_client writes it."""
        family = _FAMILIES[self.kind](self.name, self.text, labels=self.label_names)
        for values, numbers in sorted(state.items()):
            if self.kind == "histogram":
                family.add_metric(values, list(self._cumulative(numbers[:-1])), numbers[-1])
            else:
                family.add_metric(values, *numbers)
        found: Metric = family
        return found

    def _cumulative(self, counts: Sequence[float]) -> Iterator[tuple[str, float]]:
        """Counts a bucket -> (upper bound, values at or below it), as Prometheus has them."""
        below = 0.0
        for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
            below += count
            yield ("+Inf" if bound == float("inf") else str(float(bound))), below


def add(states: Sequence[State]) -> State:
    """Snapshots of the same metric, number by number."""
    total: State = {}
    for state in states:
        for values, numbers in state.items():
            before = total.get(values)
            total[values] = [*numbers] if before is None else [a + b for a, b in zip(before, numbers, strict=True)]
    return total
