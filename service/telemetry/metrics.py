"""What Prometheus sees. Labels come from our own names, never from a caller.

With several workers each counts for itself, and the one that is scraped adds up what all have published
(`service/server/fleet.py`).
"""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from service.telemetry.facts import RequestFacts
from service.telemetry.tally import Counter, Family, Gauge, Histogram, Labels, State, add

CONTENT_TYPE = CONTENT_TYPE_LATEST

Snapshot = dict[str, State]
"""Name of a metric -> its numbers."""

_SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_MODEL = ("model", "version")


class Metrics:
    """The metrics of one worker, made when it starts."""

    def __init__(self) -> None:
        self.families: list[Family[Counter] | Family[Gauge] | Family[Histogram]] = []
        self.requests = self._counter("convoke_requests", "Requests answered, by route and status", "route", "status")
        self.request_seconds = self._histogram(
            "convoke_request_seconds", "Seconds from a request's head to its answer", _SECONDS, "route"
        )
        self.errors = self._counter("convoke_errors", "Requests answered with an error, by its code", "code")
        self.items = self._counter("convoke_items", "Items predicted", *_MODEL)
        self.item_errors = self._counter(
            "convoke_item_errors", "Items that have an error, by its code", *_MODEL, "code"
        )
        self.batch_items = self._histogram("convoke_batch_items", "Items in a batch as it ran", _ITEMS, *_MODEL)
        self.queue_seconds = self._histogram(
            "convoke_queue_seconds", "Seconds that an item waited for its batch, counted in items", _SECONDS, *_MODEL
        )
        self.compute_seconds = self._histogram(
            "convoke_compute_seconds", "Seconds that an item's batch ran, counted in items", _SECONDS, *_MODEL
        )
        self.busy_seconds = self._counter("convoke_busy_seconds", "Seconds in which batches ran", *_MODEL)
        self.queue_items = self._gauge("convoke_queue_items", "Items waiting now", *_MODEL)
        self.model_loads = self._counter(
            "convoke_model_loads", "Versions loaded or refused, in each worker", "model", "outcome"
        )
        self.model_info = self._gauge(
            "convoke_model_info",
            "Workers that have a version loaded, by the execution provider that runs it, and in which precision",
            *_MODEL,
            "provider",
            "precision",
        )
        self.served = self._gauge("convoke_model_served", "Workers that serve this version", *_MODEL)
        self.ready = self._gauge("convoke_workers_ready", "Workers whose models are loaded")
        self.log_lines_lost = self._counter(
            "convoke_log_lines_lost", "Lines of the request log that its reader was too slow for"
        )
        self._responses: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def on_response(self, facts: RequestFacts) -> None:
        """Count a request whose response starts."""
        key = facts.route, facts.status
        children = self._responses.get(key)
        if children is None:
            children = self.requests.labels(facts.route, str(facts.status)), self.request_seconds.labels(facts.route)
            self._responses[key] = children
        requests, seconds = children
        requests.inc()
        seconds.observe(facts.total_s)
        if facts.error:
            self.errors.labels(facts.error).inc()

    def snapshot(self) -> Snapshot:
        """This worker's numbers."""
        return {family.name: family.state() for family in self.families}

    def restore(self, snapshot: Mapping[str, Mapping[Labels, list[float]]]) -> None:
        """Go on where a worker ended whose place this one takes; what gauges said of it holds no more."""
        for family in self.families:
            if family.kind != "gauge":
                family.restore(snapshot.get(family.name, {}))

    def text(self, snapshots: Sequence[Snapshot]) -> bytes:
        """The snapshots of one worker or more, added up, in Prometheus's text format."""
        registry = CollectorRegistry()
        registry.register(_Collector(list(self._metrics(snapshots))))
        return generate_latest(registry)

    def without_gauges(self, snapshot: Snapshot) -> Snapshot:
        """What stays true of a worker that has ended."""
        gauges = {family.name for family in self.families if family.kind == "gauge"}
        return {name: state for name, state in snapshot.items() if name not in gauges}

    def _metrics(self, snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
        for family in self.families:
            yield family.metric(add([snapshot.get(family.name, {}) for snapshot in snapshots]))

    def _counter(self, name: str, text: str, *labels: str) -> Family[Counter]:
        family = Family("counter", name, text, labels, Counter)
        self.families.append(family)
        return family

    def _gauge(self, name: str, text: str, *labels: str) -> Family[Gauge]:
        family = Family("gauge", name, text, labels, Gauge)
        self.families.append(family)
        return family

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Family[Histogram]:
        family = Family("histogram", name, text, labels, lambda: Histogram(bounds), bounds)
        self.families.append(family)
        return family


class _Collector:
    """What prometheus_client asks for metrics."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics
