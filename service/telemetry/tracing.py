"""OpenTelemetry spans of requests, where an exporter is configured; elsewhere nothing of it is imported.

A request's span and its parts, read, queue and infer, are made when its answer begins, from times that were taken
anyway. OpenTelemetry's own variables say where they go and how many are kept; OTEL_TRACES_SAMPLER and
OTEL_RESOURCE_ATTRIBUTES, for example, mean what they mean everywhere.
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
    """Which exporter OpenTelemetry's variables ask for: `otlp`, `console`, or none.

    Raises:
        SettingsError: one that is not known here.
    """
    environment = os.environ if environment is None else environment
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    name = environment.get("OTEL_TRACES_EXPORTER", "")
    if name == "none" or not (name or any(environment.get(one) for one in _ENDPOINTS)):
        return None
    if name not in {"", "otlp", "console"}:
        raise SettingsError(f"OTEL_TRACES_EXPORTER={name!r}: expected otlp, console or none")
    protocol = next((found for one in _PROTOCOLS if (found := environment.get(one))), _PROTOCOL)
    if name != "console" and protocol != _PROTOCOL:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: traces are sent by {_PROTOCOL} only")
    return name or "otlp"


def make_exporter(name: str) -> "SpanExporter":
    """An exporter, which reads its own settings from the environment.

    Raises:
        SettingsError: its package is not installed.
    """
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415 -- not without an exporter

        return ConsoleSpanExporter(out=sys.stdout, formatter=lambda span: span.to_json(indent=None) + "\n")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise SettingsError(
            "traces are to be exported, but OpenTelemetry's exporter is not installed: install requirements/otel.txt "
            "beside the service, or set OTEL_TRACES_EXPORTER=none"
        ) from error
    exporter: SpanExporter = OTLPSpanExporter()
    return exporter


class Tracer:
    """Makes the spans of requests and hands them to an exporter, in the background."""

    def __init__(self, exporter: "SpanExporter") -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 -- not without an exporter
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "convoke"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("convoke", __version__)

    def on_response(self, facts: RequestFacts) -> None:
        """Make the span of a request whose response starts."""
        from opentelemetry import trace  # noqa: PLC0415 -- not without an exporter

        began = time.time_ns() - int(facts.total_s * 1e9)
        span = self._tracer.start_span(
            f"{facts.method} {facts.route}",
            context=_parent(facts),
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(facts),
            start_time=began,
        )
        if facts.status >= 500:  # noqa: PLR2004 -- ours, not the client's
            span.set_status(trace.StatusCode.ERROR)
        inside = trace.set_span_in_context(span)
        moment = began
        for part, length_s in facts.timings_s.items():
            child = self._tracer.start_span(part, context=inside, start_time=moment)
            moment += int(length_s * 1e9)
            child.end(end_time=moment)
        span.end(end_time=began + int(facts.total_s * 1e9))

    def close(self) -> None:
        """Send what is left. Blocks."""
        self._provider.shutdown()


def _parent(facts: RequestFacts) -> "Context":
    """The client's span, after W3C Trace Context, where the client names one."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier = {name.decode(): value.decode("latin-1") for name, value in facts.headers if name in _PARENT}
    return TraceContextTextMapPropagator().extract(carrier)


def _attributes(facts: RequestFacts) -> dict[str, str | int]:
    """What OpenTelemetry's conventions have names for, and what is ours."""
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
