"""What Prometheus sees. Labels come from our own names, never from a caller.

BentoML starts workers with prometheus_client's multiprocess mode; there the answer adds up all workers.
"""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The service's metrics in one registry, made when a worker starts."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        model = ("model", "version")
        self.requests = Counter(
            "convoke_requests",
            "Requests answered, by route and status",
            ("route", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "convoke_request_seconds",
            "Seconds from a request's head to its answer",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.errors = Counter(
            "convoke_errors", "Errors answered, of requests and of items", ("code",), registry=registry
        )
        self.items = Counter("convoke_items", "Items predicted", model, registry=registry)
        self.batch_items = Histogram(
            "convoke_batch_items", "Items in a batch as it ran", model, buckets=_ITEMS, registry=registry
        )
        self.queue_seconds = Histogram(
            "convoke_queue_seconds",
            "Seconds that an item waited for its batch",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "convoke_compute_seconds", "Seconds that a batch ran", model, buckets=_SECONDS, registry=registry
        )
        self.queue_items = Gauge(
            "convoke_queue_items", "Items waiting now", model, registry=registry, multiprocess_mode="livesum"
        )
        self.model_info = Gauge(
            "convoke_model_info",
            "1 where a version is loaded: by which execution provider it runs, and in which precision",
            (*model, "provider", "precision"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.model_loads = Counter(
            "convoke_model_loads",
            "Model versions looked at, by outcome",
            ("model", "outcome"),
            registry=registry,
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests.labels(route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        everyone = CollectorRegistry()
        multiprocess.MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)
