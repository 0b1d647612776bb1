"""What Prometheus sees. The values of labels are our own names; clients cannot make them up.

Each worker counts for itself. The worker that answers /metrics adds up what all have published
(`service/server/fleet.py`).
"""

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import Metric

from service.telemetry.facts import RequestFacts
from service.telemetry.series import Family, Kind, Series, State

CONTENT_TYPE = CONTENT_TYPE_LATEST

Snapshot = dict[str, State]
"""Name of a metric -> its numbers."""

_SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_MODEL = ("model", "version")


class Metrics:
    """The metrics of one worker, or of several added up."""

    def __init__(self) -> None:
        self.families: list[Family] = []
        self.requests = self._new("counter", "convoke_requests", "Requests, by route and status", "route", "status")
        self.request_seconds = self._new(
            "histogram", "convoke_request_seconds", "Seconds from a request's header to its response", "route"
        )
        self.errors = self._new("counter", "convoke_errors", "Requests answered with an error, by its code", "code")
        self.items = self._new("counter", "convoke_items", "Items predicted", *_MODEL)
        self.item_errors = self._new(
            "counter", "convoke_item_errors", "Items answered with an error, by its code", *_MODEL, "code"
        )
        self.batch_items = self._new(
            "histogram", "convoke_batch_items", "Items in each batch that ran", *_MODEL, bounds=_ITEMS
        )
        self.queue_seconds = self._new(
            "histogram", "convoke_queue_seconds", "Seconds that each item waited for its batch", *_MODEL
        )
        self.compute_seconds = self._new(
            "histogram", "convoke_compute_seconds", "Seconds that each item's batch ran", *_MODEL
        )
        self.busy_seconds = self._new("counter", "convoke_busy_seconds", "Seconds in which batches ran", *_MODEL)
        self.queue_items = self._new("gauge", "convoke_queue_items", "Items that wait now", *_MODEL)
        self.decode_wait_seconds = self._new(
            "histogram", "convoke_decode_wait_seconds", "Seconds that items waited for a decoding thread", "model"
        )
        self.utilisation = self._new(
            "gauge", "convoke_utilisation", "Share of what limits the workers that is busy, 0 to 1, mean of 10 s"
        )
        self.model_utilisation = self._new(
            "gauge", "convoke_model_utilisation",
            "Share of a model's runs or of the decoding threads that it keeps busy, 0 to 1, mean of 10 s", "model",
        )  # fmt: skip
        self.in_flight = self._new(
            "gauge", "convoke_requests_in_flight", "Requests that are received or answered now, counted once a second"
        )
        self.cpu_seconds = self._new("counter", "process_cpu_seconds", "Processor time of all workers")
        self.memory_bytes = self._new("gauge", "process_resident_memory_bytes", "Resident memory of all workers")
        self.open_files = self._new("gauge", "process_open_fds", "Open files of all workers")
        self.start_time = self._new(
            "gauge", "process_start_time_seconds", "When the workers started, in seconds since 1970; their mean"
        )
        self.model_loads = self._new(
            "counter", "convoke_model_loads", "Versions loaded or refused, in each worker", "model", "outcome"
        )
        self.model_info = self._new(
            "gauge", "convoke_model_info", "Workers that have loaded a version, by execution provider and precision",
            *_MODEL, "provider", "precision",
        )  # fmt: skip
        self.served = self._new("gauge", "convoke_model_served", "Workers that serve a version", *_MODEL)
        self.drift = self._new(
            "gauge", "convoke_drift",
            "Population stability index of a quantity compared with test data; absent below 200 items",
            *_MODEL, "quantity",
        )  # fmt: skip
        self.drift_items = self._new(
            "gauge", "convoke_drift_items", "Sampled items of the last minutes, by bin of a quantity",
            *_MODEL, "quantity", "bin",
        )  # fmt: skip
        self.feedback = self._new(
            "counter", "convoke_feedback", "Items whose right label a client sent, by whether the answer was right",
            *_MODEL, "answer",
        )  # fmt: skip
        self.ready = self._new("gauge", "convoke_workers_ready", "Workers whose models are loaded")
        self.log_lines_lost = self._new(
            "counter", "convoke_log_lines_lost", "Lines of the request log dropped because its reader was too slow"
        )
        self._responses: dict[tuple[str, int], tuple[Series, Series]] = {}

    def on_response(self, facts: RequestFacts) -> None:
        """Count a request whose response starts."""
        key = facts.route, facts.status
        series = self._responses.get(key)
        if series is None:
            series = self.requests.labels(facts.route, str(facts.status)), self.request_seconds.labels(facts.route)
            self._responses[key] = series
        requests, seconds = series
        requests.inc()
        seconds.observe(facts.total_s)
        if facts.error:
            self.errors.labels(facts.error).inc()

    def snapshot(self) -> Snapshot:
        """A copy of all numbers, which can be written as JSON."""
        return {family.name: family.state() for family in self.families}

    def add(self, snapshot: Snapshot, *, gauges: bool = True) -> None:
        """Add the numbers of another worker; without gauges those of a worker that has ended."""
        for family in self.families:
            if gauges or family.kind != "gauge":
                family.add(snapshot.get(family.name, []))

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """All metrics in prometheus_client's form."""
        return (family.collect() for family in self.families)

    def _new(self, kind: Kind, name: str, text: str, *labels: str, bounds: tuple[float, ...] = _SECONDS) -> Family:
        family = Family(kind, name, text, labels, bounds if kind == "histogram" else ())
        self.families.append(family)
        return family
