"""OpenTelemetry spans of requests. Without a configured exporter nothing of OpenTelemetry is imported.

The span of a request and those of its parts (read, queue, infer) are made when its response starts, from times that
are measured anyway. OpenTelemetry's own variables configure export and sampling; OTEL_TRACES_SAMPLER and
OTEL_RESOURCE_ATTRIBUTES, for example, have their usual meaning.
"""

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from service import __version__
from service.settings import SettingsError
from service.telemetry.facts import RequestFacts

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_PARENT = (b"traceparent", b"tracestate")


def chosen_exporter(environment: Mapping[str, str] | None = None) -> str | None:
    """The exporter that OpenTelemetry's variables choose: `otlp`, `console`, or None.

    Raises:
        SettingsError: the exporter or its protocol is not supported.
    """
    environment = os.environ if environment is None else environment
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    name = environment.get("OTEL_TRACES_EXPORTER", "")
    if name == "none" or not (name or any(environment.get(endpoint) for endpoint in _ENDPOINTS)):
        return None
    if name not in {"", "otlp", "console"}:
        raise SettingsError(f"OTEL_TRACES_EXPORTER={name!r}: expected otlp, console or none")
    protocol = next(filter(None, map(environment.get, _PROTOCOLS)), _PROTOCOL)
    if name != "console" and protocol != _PROTOCOL:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: expected {_PROTOCOL}")
    return name or "otlp"


def make_exporter(name: str) -> "SpanExporter":
    """Make an exporter, which reads its own settings from the environment.

    Raises:
        SettingsError: its package is not installed.
    """
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415 -- only with an exporter

        return ConsoleSpanExporter(out=sys.stdout, formatter=lambda span: span.to_json(indent=None) + "\n")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise SettingsError(
            "cannot export traces: OpenTelemetry's exporter is not installed. Install requirements/otel.txt next to "
            "the service, or set OTEL_TRACES_EXPORTER=none"
        ) from error
    exporter: SpanExporter = OTLPSpanExporter()
    return exporter


class Tracer:
    """Makes the spans of requests and exports them in the background."""

    def __init__(self, exporter: "SpanExporter") -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 -- only with an exporter
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "convoke"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("convoke", __version__)

    def on_response(self, facts: RequestFacts) -> None:
        """Make the spans of a request whose response starts."""
        from opentelemetry import trace  # noqa: PLC0415 -- only with an exporter

        started_ns = time.time_ns() - int(facts.total_s * 1e9)
        span = self._tracer.start_span(
            f"{facts.method} {facts.route}",
            context=_parent(facts),
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(facts),
            start_time=started_ns,
        )
        if facts.status >= 500:  # noqa: PLR2004 -- our error, not the client's
            span.set_status(trace.StatusCode.ERROR)
        parent = trace.set_span_in_context(span)
        time_ns = started_ns
        for part, seconds in facts.timings_s.items():
            child = self._tracer.start_span(part, context=parent, start_time=time_ns)
            time_ns += int(seconds * 1e9)
            child.end(end_time=time_ns)
        span.end(end_time=started_ns + int(facts.total_s * 1e9))

    def close(self) -> None:
        """Export the spans that are left. Blocks."""
        self._provider.shutdown()


def _parent(facts: RequestFacts) -> "Context":
    """The span that the client names in headers of W3C Trace Context, if any."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier = {name.decode(): value.decode("latin-1") for name, value in facts.headers if name in _PARENT}
    return TraceContextTextMapPropagator().extract(carrier)


def _attributes(facts: RequestFacts) -> dict[str, str | int]:
    """Attributes by OpenTelemetry's conventions, and our own."""
    attributes: dict[str, str | int] = {
        "http.request.method": facts.method,
        "http.route": facts.route,
        "http.response.status_code": facts.status,
        "http.request.body.size": facts.body_bytes,
        "convoke.request_id": facts.id,
    }
    if facts.model:
        attributes |= {"convoke.model": facts.model, "convoke.version": facts.version, "convoke.items": facts.items}
    if facts.error:
        attributes["error.type"] = facts.error
    return attributes
