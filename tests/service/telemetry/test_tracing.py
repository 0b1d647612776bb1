"""Spans of requests, and the variables that switch them on."""

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
    """An application that calls the functions in ON_RESPONSE."""
    return application(on_response=ON_RESPONSE)


def send(exporter: SpanExporter, **call: Any) -> None:
    """Send one request to a traced application, whose spans go to the exporter."""
    tracer = tracing.Tracer(exporter)
    ON_RESPONSE[:] = [tracer.on_response]

    async def request() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app()), base_url="http://test") as session:
            await session.request(**call)

    asyncio.run(request())
    tracer.close()


def spans(**call: Any) -> dict[str, ReadableSpan]:
    """The spans of one request, by name."""
    exporter = InMemorySpanExporter()
    send(exporter, **call)
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_is_a_span_with_its_parts() -> None:
    """It has route, status, model, version and items; read, queue and infer are its children, one after another."""
    by_name = spans(method="POST", url="/classify/digits", content=encode(mnist_like(3)))
    assert set(by_name) == {"POST /classify/{model}", "read", "queue", "infer"}
    request = by_name.pop("POST /classify/{model}")
    assert request.kind == SpanKind.SERVER
    assert request.attributes is not None
    expected = {
        "http.request.method": "POST", "http.route": "/classify/{model}", "http.response.status_code": 200,
        "convoke.model": "digits", "convoke.version": "1", "convoke.items": 1,
    }  # fmt: skip
    assert expected.items() <= dict(request.attributes).items()
    assert request.resource.attributes["service.name"] == "convoke"
    time_ns = request.start_time
    for part in (by_name["read"], by_name["queue"], by_name["infer"]):
        assert part.parent is not None
        assert part.parent.span_id == request.context.span_id
        assert part.start_time == time_ns
        time_ns = part.end_time
    assert time_ns is not None
    assert request.end_time is not None
    assert time_ns <= request.end_time


def test_a_clients_trace_continues() -> None:
    """A traceparent of W3C is continued; an unsampled one gives no spans; a malformed one starts a new trace."""
    call = {"method": "GET", "url": "/models"}
    span = spans(**call, headers=PARENT)["GET /models"]
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN
    assert spans(**call, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"}) == {}
    assert spans(**call, headers={"traceparent": "nonsense"})["GET /models"].parent is None


def test_errors_have_their_code() -> None:
    """A span has the code of its error; only errors of the service set the status of the span."""
    invalid = spans(method="POST", url="/classify/digits", content=b"x")["POST /classify/{model}"]
    assert invalid.attributes is not None
    assert invalid.attributes["error.type"] == "unsupported_kind"
    assert invalid.status.is_unset
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
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
    ],
)
def test_variables_choose_the_exporter(environment: dict[str, str], exporter: str | None) -> None:
    """OpenTelemetry's own variables choose; without them nothing is exported."""
    assert tracing.chosen_exporter(environment) == exporter


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_an_unsupported_exporter_is_an_error(environment: dict[str, str]) -> None:
    """Another exporter or protocol is an error that names the variable."""
    with pytest.raises(SettingsError, match=list(environment)[-1]):
        tracing.chosen_exporter(environment)


def test_a_missing_exporter_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If its package is not installed, the message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"requirements/otel\.txt"):
        tracing.make_exporter("otlp")


def test_the_console_has_a_line_for_each_span(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a collector, spans can be seen on standard output."""
    send(tracing.make_exporter("console"), method="GET", url="/models", headers=PARENT)
    (line,) = capsys.readouterr().out.splitlines()
    assert TRACE in line


def test_spans_arrive_at_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spans of one request, sent with OTLP, reach a listener on this machine."""
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
        send(tracing.make_exporter("otlp"), method="POST", url="/classify/digits", content=encode(mnist_like(3)))
        listener.shutdown()
    exported = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    names = {
        span.name
        for request in exported
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert names == {"POST /classify/{model}", "read", "queue", "infer"}
