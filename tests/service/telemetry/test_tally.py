"""Counting with plain numbers, held against prometheus_client's own."""

import json
from collections.abc import Sequence

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.telemetry.tally import Counter, Family, Gauge, Histogram, add

BOUNDS = (0.5, 1, 2, 10)
values = st.lists(st.floats(0, 20) | st.sampled_from(BOUNDS), max_size=30)


def ours(seen: Sequence[float]) -> Family[Histogram]:
    """A histogram that has seen these values."""
    family = Family("histogram", "h", "text", ("model",), lambda: Histogram(BOUNDS), BOUNDS)
    for value in seen:
        family.labels("digits").observe(value)
    return family


def samples(metric: prometheus_client.Metric) -> dict[str, float]:
    """What a metric says, without the time it was made."""
    return {
        json.dumps([sample.name, sample.labels], sort_keys=True): round(sample.value, 9)
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@given(values)
def test_a_histogram_is_prometheus_client_s(seen: list[float]) -> None:
    """The same values, on the bounds, too, give the same buckets, count and sum."""
    registry = CollectorRegistry()
    theirs = prometheus_client.Histogram("h", "text", ["model"], buckets=BOUNDS, registry=registry)
    theirs.labels("digits")
    family = ours(seen)
    family.labels("digits")
    for value in seen:
        theirs.labels("digits").observe(value)
    (expected,) = registry.collect()
    assert samples(family.metric(family.state())) == samples(expected)


@given(values, values)
def test_workers_add_up(first: list[float], second: list[float]) -> None:
    """Two workers' snapshots, added, are that of one who has seen everything."""
    together = ours([*first, *second])
    total = add([ours(first).state(), ours(second).state()])
    assert samples(together.metric(total)) == samples(together.metric(together.state()))


def test_a_value_may_count_several_times() -> None:
    """Three items that waited a second are three times one item that did."""
    once, thrice = ours([1, 1, 1]), ours([])
    thrice.labels("digits").observe(1, 3)
    assert once.state() == thrice.state()


def test_a_snapshot_is_where_one_goes_on() -> None:
    """Restored and counted on, numbers are what they were and more; a snapshot itself does not change."""
    family = ours([1])
    state = family.state()
    again = ours([])
    again.restore(state)
    again.labels("digits").observe(3)
    assert again.state() == ours([1, 3]).state()
    assert state == family.state()


def test_children_are_kept() -> None:
    """The same labels give the same child, others another; a gauge forgets what it was."""
    counter = Family("counter", "c", "text", ("code",), Counter)
    assert counter.labels("a") is counter.labels("a")
    assert counter.labels("a") is not counter.labels("b")
    gauge = Family("gauge", "g", "text", (), Gauge)
    gauge.labels().set(7)
    gauge.labels().set(2)
    assert gauge.state() == {(): [2]}
