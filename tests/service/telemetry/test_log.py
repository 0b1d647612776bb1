"""The format of log lines; a slow reader blocks no request."""

import asyncio
import json
import logging
import os
import select
import sys
import threading
from typing import Any

import httpx
import pytest

from service.telemetry import log
from service.telemetry.facts import RequestFacts
from service.telemetry.log import Format, JsonFormatter, RequestLog
from service.telemetry.series import Series
from tests.drawing import encode, mnist_like
from tests.serving import application


def log_of(calls: list[dict[str, Any]], form: Format = "json") -> list[str]:
    """The log lines of an application for these requests."""
    reader, writer = os.pipe()
    requests = RequestLog(form, Series(), file=writer)
    app = application(on_response=[requests.on_response])

    async def send() -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
            for call in calls:
                await session.request(**call)
        requests.close()

    asyncio.run(send())
    os.close(writer)
    with os.fdopen(reader) as lines:
        return lines.read().splitlines()


def test_a_request_is_one_line() -> None:
    """Route, status, sizes, model and timings of a response, or the code of an error; no other fields."""
    digit = encode(mnist_like(3))
    parts = [("f", ("x", digit)), ("f", ("x", b"text"))]
    calls: list[dict[str, Any]] = [
        {"method": "POST", "url": "/classify/digits", "files": parts, "headers": {"X-Request-ID": "a"}},
        {"method": "POST", "url": "/classify/digits", "content": b"text", "headers": {"X-Request-ID": "b"}},
        {"method": "POST", "url": "/v2/models/digits/infer", "content": b"{", "headers": {"X-Request-ID": "c"}},
        {"method": "BREW", "url": '/tea"pot', "headers": {"X-Request-ID": '"d'}},
    ]
    valid, invalid, protocol, unknown = map(json.loads, log_of(calls))
    assert (valid["request_id"], valid["model"], valid["version"], valid["items"]) == ("a", "digits", "1", 2)
    assert valid["bytes"] > len(digit)
    assert list(valid["ms"]) == ["read", "queue", "infer", "total"]
    assert sum(valid["ms"].values()) <= 2.01 * valid["ms"]["total"]
    assert (invalid["status"], invalid["error"], invalid["items"]) == (415, "unsupported_kind", 1)
    assert (protocol["route"], protocol["error"]) == ("/v2/models/{model}/infer", "invalid_request")
    assert (unknown["method"], unknown["route"], unknown["error"]) == ("other", "none", "not_found")
    assert '"d' not in unknown["request_id"]
    assert "model" not in unknown


def test_the_text_format_is_one_line() -> None:
    """It has the route, the status, the model and the items."""
    (line,) = log_of([{"method": "POST", "url": "/classify/digits", "content": encode(mnist_like(3))}], "text")
    assert " POST /classify/{model} 200 digits/1 1 items " in line


def test_other_lines_have_the_same_format() -> None:
    """Time, level, message and traceback are in one line, whatever characters they contain."""
    try:
        int('"é"\n!')
    except ValueError:
        record = logging.LogRecord("bentoml.convoke", logging.ERROR, "", 0, "no %s", ("luck",), sys.exc_info())
    record.created = 1.25
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert "ValueError: invalid literal" in line.pop("traceback")
    expected = {"level": "error", "logger": "bentoml.convoke", "message": "no luck"}
    assert line == {"time": "1970-01-01T00:00:01.250Z", **expected}


def test_auto_is_text_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` depends on standard output; the other formats do not."""
    for terminal, form in ((True, "text"), (False, "json")):
        monkeypatch.setattr("os.isatty", lambda _, terminal=terminal: terminal)
        assert log.choose_format("auto") == form
        assert log.choose_format("json") == "json"
        assert log.choose_format("text") == "text"


def test_a_reader_that_stops_blocks_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait up to the limit, more are dropped and counted, no call blocks; those that waited are read later."""
    monkeypatch.setattr(log, "MAX_LINES", 1000)
    monkeypatch.setattr(log, "FLUSH_S", 0)
    reader, writer = os.pipe()
    lost = Series()
    requests = RequestLog("json", lost, file=writer)
    facts = RequestFacts("x" * 200, "GET")

    async def send() -> None:
        for _ in range(40):
            for _ in range(50):
                requests.on_response(facts)
            await asyncio.sleep(0)

    asyncio.run(send())
    (dropped,) = lost.numbers()
    assert 0 < dropped <= 1000
    received: list[bytes] = []

    def read() -> None:
        while data := os.read(reader, select.PIPE_BUF):
            received.append(data)

    reading = threading.Thread(target=read)
    reading.start()
    requests.close()
    os.close(writer)
    reading.join()
    os.close(reader)
    lines = b"".join(received).splitlines()
    assert len(lines) == 2000 - dropped
    assert all(json.loads(line)["request_id"] == "x" * 200 for line in lines)


def test_a_pipe_takes_lines_as_a_whole() -> None:
    """Lines of any length are written in pieces of complete lines that a pipe takes in one write."""
    texts = [f"{'y' * length}\n" for length in (10, 4000, 100, 5000, 1)]
    pieces = list(log._pieces(texts))  # noqa: SLF001 -- a test from outside would depend on timing
    assert b"".join(pieces).decode() == "".join(texts)
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= select.PIPE_BUF or piece.count(b"\n") == 1 for piece in pieces)
