"""Spans of requests, and when there are any."""

import asyncio
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.types import ASGIApp

from service.settings import SettingsError
from service.telemetry import tracing
from service.telemetry.facts import OnResponse, RequestFacts
from tests.drawing import encode, mnist_like
from tests.serving import application

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


ON_RESPONSE: list[OnResponse] = []


@lru_cache
def app() -> ASGIApp:
    """The application, which tells whoever stands in ON_RESPONSE."""
    return application(on_response=ON_RESPONSE)


def ask(exporter: SpanExporter, **call: Any) -> None:
    """Send one request to a traced application, and its spans to the exporter."""
    tracer = tracing.Tracer(exporter)
    ON_RESPONSE[:] = [tracer.on_response]

    async def send() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app()), base_url="http://test") as session:
            await session.request(**call)

    asyncio.run(send())
    tracer.close()


def spans(**call: Any) -> dict[str, ReadableSpan]:
    """The spans of one request, by name."""
    exporter = InMemorySpanExporter()
    ask(exporter, **call)
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_is_a_span_with_its_parts() -> None:
    """Route, status, model, version and items; read, queue and infer inside of it, one after another."""
    found = spans(method="POST", url="/classify/digits", content=encode(mnist_like(3)))
    assert set(found) == {"POST /classify/{model}", "read", "queue", "infer"}
    whole = found.pop("POST /classify/{model}")
    assert whole.kind == SpanKind.SERVER
    assert whole.attributes is not None
    wanted = {
        "http.request.method": "POST", "http.route": "/classify/{model}", "http.response.status_code": 200,
        "convoke.model": "digits", "convoke.version": "1", "convoke.items": 1,
    }  # fmt: skip
    assert wanted.items() <= dict(whole.attributes).items()
    assert whole.resource.attributes["service.name"] == "convoke"
    moment = whole.start_time
    for part in (found["read"], found["queue"], found["infer"]):
        assert part.parent is not None
        assert part.parent.span_id == whole.context.span_id
        assert part.start_time == moment
        moment = part.end_time
    assert moment is not None
    assert whole.end_time is not None
    assert moment <= whole.end_time


def test_a_caller_s_trace_goes_on() -> None:
    """After W3C's traceparent; a caller who keeps no trace is not traced either; nonsense begins a new one."""
    call = {"method": "GET", "url": "/models"}
    span = spans(**call, headers=PARENT)["GET /models"]
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN
    assert spans(**call, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"}) == {}
    assert spans(**call, headers={"traceparent": "nonsense"})["GET /models"].parent is None


def test_errors_are_named_and_ours_are_marked() -> None:
    """A refusal has its code; only what is our fault is an error of the span."""
    refused = spans(method="POST", url="/classify/digits", content=b"x")["POST /classify/{model}"]
    assert refused.attributes is not None
    assert refused.attributes["error.type"] == "unsupported_kind"
    assert refused.status.is_unset
    tracer = tracing.Tracer(exporter := InMemorySpanExporter())
    tracer.on_response(RequestFacts("x", "GET", status=500, error="internal", total_s=0.001))
    tracer.close()
    (failed,) = exporter.get_finished_spans()
    assert failed.name == "GET none"
    assert not failed.status.is_ok


@pytest.mark.parametrize(
    ("environment", "exporter"),
    [
        ({}, None),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://here"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://here"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://here"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
    ],
)
def test_spans_are_made_where_they_are_asked_for(environment: dict[str, str], exporter: str | None) -> None:
    """OpenTelemetry's own variables decide; without them there are none."""
    assert tracing.chosen_exporter(environment) == exporter


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_what_cannot_be_had_is_refused_by_name(environment: dict[str, str]) -> None:
    """Another exporter or protocol is said, never passed over."""
    with pytest.raises(SettingsError, match=list(environment)[-1]):
        tracing.chosen_exporter(environment)


def test_a_missing_exporter_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its package is not installed the message says what is to be done."""
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"requirements/otel\.txt"):
        tracing.make_exporter("otlp")


def test_spans_on_the_console_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """For a first look, without a collector."""
    ask(tracing.make_exporter("console"), method="GET", url="/models", headers=PARENT)
    (line,) = capsys.readouterr().out.splitlines()
    assert TRACE in line


def test_spans_arrive_at_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over OTLP, at a listener on this machine: the spans of one request."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415 -- comes with the extra
        ExportTraceServiceRequest,
    )

    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listener.server_port}")
        ask(tracing.make_exporter("otlp"), method="POST", url="/classify/digits", content=encode(mnist_like(3)))
        listener.shutdown()
    found = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    names = {
        span.name
        for request in found
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert names == {"POST /classify/{model}", "read", "queue", "infer"}
