"""The form of log lines, and that a slow reader stops nothing."""

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


def written(calls: list[dict[str, Any]], form: Format = "json") -> list[str]:
    """What the log of an application says of these calls."""
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


def test_a_request_is_one_line_of_what_happened() -> None:
    """Route, status, sizes, model and times of an answer; the code of a refusal; the fields of no other kind."""
    digit = encode(mnist_like(3))
    parts = [("f", ("x", digit)), ("f", ("x", b"none"))]
    calls: list[dict[str, Any]] = [
        {"method": "POST", "url": "/classify/digits", "files": parts, "headers": {"X-Request-ID": "a"}},
        {"method": "POST", "url": "/classify/digits", "content": b"no picture", "headers": {"X-Request-ID": "b"}},
        {"method": "POST", "url": "/v2/models/digits/infer", "content": b"{", "headers": {"X-Request-ID": "c"}},
        {"method": "BREW", "url": '/tea"pot', "headers": {"X-Request-ID": '"d'}},
    ]
    fine, refused, protocol, unknown = map(json.loads, written(calls))
    assert (fine["request_id"], fine["model"], fine["version"], fine["items"]) == ("a", "digits", "1", 2)
    assert fine["bytes"] > len(digit)
    assert list(fine["ms"]) == ["read", "queue", "infer", "total"]
    assert sum(fine["ms"].values()) <= 2.01 * fine["ms"]["total"]
    assert (refused["status"], refused["error"], refused["items"]) == (415, "unsupported_kind", 1)
    assert (protocol["route"], protocol["error"]) == ("/v2/models/{model}/infer", "invalid_request")
    assert (unknown["method"], unknown["route"], unknown["error"]) == ("other", "none", "not_found")
    assert '"d' not in unknown["request_id"]
    assert "model" not in unknown


def test_text_says_the_same_to_people() -> None:
    """One line, the status and the model in it."""
    (line,) = written([{"method": "POST", "url": "/classify/digits", "content": encode(mnist_like(3))}], "text")
    assert " POST /classify/{model} 200 digits/1 1 items " in line


def test_other_lines_have_the_same_form() -> None:
    """Time, level and message, the traceback inside of the line, whatever characters they hold."""
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


def test_the_form_is_text_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` looks where the lines go; a choice is a choice."""
    for terminal, form in ((True, "text"), (False, "json")):
        monkeypatch.setattr("os.isatty", lambda _, terminal=terminal: terminal)
        assert log.choose_format("auto") == form
        assert log.choose_format("json") == "json"
        assert log.choose_format("text") == "text"


def test_a_reader_who_stops_reading_stops_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait up to the bound, those on top are counted as lost, and no call blocks; later what waited is read."""
    monkeypatch.setattr(log, "MAX_LINES", 1000)
    monkeypatch.setattr(log, "FLUSH_S", 0)
    reader, writer = os.pipe()
    lost = Series()
    requests = RequestLog("json", lost, file=writer)
    facts = RequestFacts("x" * 200, "GET")

    async def ask() -> None:
        for _ in range(40):
            for _ in range(50):
                requests.on_response(facts)
            await asyncio.sleep(0)

    asyncio.run(ask())
    (many,) = lost.numbers
    assert 0 < many <= 1000
    found: list[bytes] = []

    def read() -> None:
        while data := os.read(reader, select.PIPE_BUF):
            found.append(data)

    reading = threading.Thread(target=read)
    reading.start()
    requests.close()
    os.close(writer)
    reading.join()
    os.close(reader)
    lines = b"".join(found).splitlines()
    assert len(lines) == 2000 - many
    assert all(json.loads(line)["request_id"] == "x" * 200 for line in lines)


def test_lines_reach_a_pipe_whole() -> None:
    """They are written in pieces of whole lines that a pipe takes in one step, whatever their lengths."""
    texts = [f"{'y' * length}\n" for length in (10, 4000, 100, 5000, 1)]
    pieces = list(log._pieces(texts))  # noqa: SLF001 -- from outside it cannot be told from luck
    assert b"".join(pieces).decode() == "".join(texts)
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= select.PIPE_BUF or piece.count(b"\n") == 1 for piece in pieces)
