"""Counting with lists of numbers, compared with prometheus_client's own metrics."""

import json
from collections.abc import Sequence

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.telemetry.series import Family

BOUNDS = (0.5, 1, 2, 10)
values = st.lists(st.floats(0, 20) | st.sampled_from(BOUNDS), max_size=30)


def histogram(observed: Sequence[float]) -> Family:
    """A histogram of these values."""
    family = Family("histogram", "h", "text", ("model",), BOUNDS)
    series = family.labels("digits")
    for value in observed:
        series.observe(value)
    return family


def samples(metric: prometheus_client.Metric) -> dict[str, float]:
    """The samples of a metric, without the time at which it was made."""
    return {
        json.dumps([sample.name, sample.labels], sort_keys=True): round(sample.value, 9)
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@given(values)
def test_a_histogram_equals_prometheus_clients(observed: list[float]) -> None:
    """The same values, also on the bounds, give the same buckets, count and sum."""
    registry = CollectorRegistry()
    theirs = prometheus_client.Histogram("h", "text", ["model"], buckets=BOUNDS, registry=registry)
    series = theirs.labels("digits")
    for value in observed:
        series.observe(value)
    (expected,) = registry.collect()
    assert samples(histogram(observed).collect()) == samples(expected)


@given(values, values)
def test_workers_add_up(first: list[float], second: list[float]) -> None:
    """The states of two workers, added, after JSON too, equal that of one worker that observed everything."""
    total = histogram([])
    for part in (first, second):
        total.add(json.loads(json.dumps(histogram(part).state())))
    assert samples(total.collect()) == samples(histogram([*first, *second]).collect())


def test_a_value_may_count_several_times() -> None:
    """Three items that waited a second equal one item that waited a second, counted three times."""
    thrice = histogram([])
    thrice.labels("digits").observe(1, 3)
    assert histogram([1, 1, 1]).state() == thrice.state()


def test_counting_continues_from_a_state() -> None:
    """After a state was added, counting goes on from it; series that callers keep count on; the state is a copy."""
    family = histogram([1])
    state = family.state()
    successor = histogram([])
    kept = successor.labels("digits")
    successor.add(state)
    kept.observe(3)
    assert successor.state() == histogram([1, 3]).state()
    assert state == histogram([1]).state()


def test_series_are_kept() -> None:
    """The same labels give the same series, others another; a gauge has the value that was set last."""
    counter = Family("counter", "c", "text", ("code",))
    assert counter.labels("a") is counter.labels("a")
    assert counter.labels("a") is not counter.labels("b")
    gauge = Family("gauge", "g", "text", ())
    gauge.labels().set(7)
    gauge.labels().set(2)
    assert gauge.state() == [((), [2])]
