"""The metrics that there are, and what they count."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from service.telemetry.facts import RequestFacts
from service.telemetry.metrics import Metrics
from tests.serving import ROOT

DASHBOARD = json.loads((ROOT / "deploy/grafana.json").read_text(encoding="utf-8"))
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def exposed() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Each name under which a metric is exposed -> the name of its family, and its labels."""
    return {
        family.name + suffix: (family.name, family.label_names)
        for family in Metrics().families
        for suffix in SUFFIXES[family.kind]
    }


def expressions() -> Iterator[str]:
    """What the dashboard asks Prometheus."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


def test_the_dashboard_shows_the_metrics_that_there_are() -> None:
    """It names no metric that is not exposed, leaves none out, and asks by labels that they have."""
    there = exposed()
    asked = {name for expression in expressions() for name in re.findall(r"\bconvoke_\w+", expression)}
    assert asked <= set(there)
    assert {there[name][0] for name in asked} == {family.name for family in Metrics().families}
    for expression in expressions():
        for by in re.findall(r"by \(([^)]*)\)", expression):
            (name, *_) = re.findall(r"\bconvoke_\w+", expression)
            assert set(by.split(", ")) <= {*there[name][1], "le", "job"}, expression


def test_the_dashboard_is_one() -> None:
    """Panels have ids of their own, titles, and places that do not overlap; brackets close; legends name labels."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    fields: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        inside = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not fields & inside
        fields |= inside
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            labels = re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert all(re.search(rf"by \([^)]*\b{label}\b", target["expr"]) for label in labels)
    for expression in expressions():
        for opening, closing in ("()", "[]", "{}"):
            assert expression.count(opening) == expression.count(closing), expression


def test_buckets_rise_and_span_what_they_count() -> None:
    """Bounds rise; seconds from a digit's batch to the longest that a request may take."""
    for family in Metrics().families:
        assert all(low < high for low, high in pairwise(family.bounds))
        if family.name.endswith("_seconds") and family.kind == "histogram":
            assert family.bounds[0] <= 0.0001
            assert family.bounds[-1] >= 30


def test_labels_of_requests_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is counted without looking its labels up again."""
    metrics = Metrics()
    metrics.on_response(RequestFacts("x", "GET", route="/models", status=200, total_s=0.5))
    monkeypatch.setattr(metrics.requests, "labels", lambda *_: pytest.fail("looked up again"))
    metrics.on_response(RequestFacts("x", "GET", route="/models", status=200, total_s=0.5))
    assert metrics.requests.state() == [(("/models", "200"), [2])]


def test_no_name_stands_for_two_things() -> None:
    """Each metric is there once, begins with our name, and says what it is."""
    families = Metrics().families
    assert len({family.name for family in families}) == len(families)
    assert all(family.name.startswith("convoke_") and family.text for family in families)
