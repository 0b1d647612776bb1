"""The metrics and what they count; the dashboard shows them."""

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
    """The name of each exposed metric -> the name of its family, and its labels."""
    return {
        family.name + suffix: (family.name, family.label_names)
        for family in Metrics().families
        for suffix in SUFFIXES[family.kind]
    }


def expressions() -> Iterator[str]:
    """The queries of the dashboard."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


def test_the_dashboard_shows_all_metrics() -> None:
    """It queries every family, no metric that is not exposed, and groups by labels that the metrics have."""
    metrics = exposed()
    queried = {name for expression in expressions() for name in re.findall(r"\b(?:convoke|process)_\w+", expression)}
    assert queried <= set(metrics)
    assert {metrics[name][0] for name in queried} == {family.name for family in Metrics().families}
    for expression in expressions():
        for by in re.findall(r"by \(([^)]*)\)", expression):
            (name, *_) = re.findall(r"\b(?:convoke|process)_\w+", expression)
            assert set(by.split(", ")) <= {*metrics[name][1], "le", "job"}, expression


def test_the_dashboard_is_valid() -> None:
    """Panels have unique ids, titles, and do not overlap; brackets are balanced; legends name labels of the query."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    occupied: set[tuple[int, int]] = set()
    for panel in panels:
        position = panel["gridPos"]
        assert position["x"] + position["w"] <= 24
        cells = {(position["x"] + x, position["y"] + y) for x in range(position["w"]) for y in range(position["h"])}
        assert not occupied & cells
        occupied |= cells
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            labels = re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert all(re.search(rf"by \([^)]*\b{label}\b", target["expr"]) for label in labels)
    for expression in expressions():
        for opening, closing in ("()", "[]", "{}"):
            assert expression.count(opening) == expression.count(closing), expression


def test_buckets_rise_and_cover_all_values() -> None:
    """Bounds rise; those of seconds reach from a digit's batch to the timeout of a request."""
    for family in Metrics().families:
        assert all(low < high for low, high in pairwise(family.bounds))
        if family.name.endswith("_seconds") and family.kind == "histogram":
            assert family.bounds[0] <= 0.0001
            assert family.bounds[-1] >= 30


def test_labels_of_requests_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request of a route is counted without looking up its labels."""
    metrics = Metrics()
    metrics.on_response(RequestFacts("x", "GET", route="/models", status=200, total_s=0.5))
    monkeypatch.setattr(metrics.requests, "labels", lambda *_: pytest.fail("labels were looked up again"))
    metrics.on_response(RequestFacts("x", "GET", route="/models", status=200, total_s=0.5))
    assert metrics.requests.state() == [(("/models", "200"), [2])]


def test_names_are_unique() -> None:
    """Each metric has its own name, which starts with ours or as those of any process, and a description."""
    families = Metrics().families
    assert len({family.name for family in families}) == len(families)
    assert all(family.name.startswith(("convoke_", "process_")) and family.text for family in families)
