"""The log: plain lines on a terminal, JSON elsewhere.

Lines of requests do not pass through `logging`: each is one f-string, and another thread writes them a few times a
second, so that a slow reader never blocks the event loop. They contain nothing that a client sent: no body, key, header
or path, except a plain X-Request-ID.
"""

import asyncio
import json
import logging
import os
import select
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Literal

from service.telemetry.facts import RequestFacts
from service.telemetry.series import Series

Format = Literal["auto", "json", "text"]

FLUSH_S = 0.25
"""Seconds for which lines are collected before they are written together."""

CLOSE_TIMEOUT_S = 2.0
"""Seconds for which a worker that stops waits until its last lines are written."""

MAX_LINES = 20_000
"""Lines that may wait for a slow reader; more are dropped and counted."""


def choose_format(chosen: Format) -> Literal["json", "text"]:
    """The chosen format; `auto` is text if standard output is a terminal, else JSON."""
    if chosen != "auto":
        return chosen
    return "text" if os.isatty(1) else "json"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, and the traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break."""
        timestamp = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def format_line(level: int, message: str) -> str:
    """A line of JSON for a message from before the log is set up."""
    return JsonFormatter().format(logging.LogRecord("bentoml.convoke", level, "", 0, message, None, None))


class RequestLog:
    """Writes one line for each request when its response starts. Use it on the event loop only."""

    def __init__(self, chosen: Format, lost: Series, *, file: int = 1) -> None:
        """Write nothing before the first request.

        Args:
            chosen: the format of the lines.
            lost: counts dropped lines.
            file: the file descriptor to write to.
        """
        self._line = _json_line if choose_format(chosen) == "json" else _text_line
        self._lost = lost
        self._file = file
        self._lines: list[str] = []
        self._added = 0
        self._written = 0  # changed by the writer's thread only
        self._second = self._millisecond = 0
        self._date = self._timestamp = ""
        self._waiting: SimpleQueue[list[str]] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)

    def on_response(self, facts: RequestFacts) -> None:
        """Add the line of a request whose response starts."""
        if self._added - self._written >= MAX_LINES:
            self._lost.inc()
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
        now = int(time.time() * 1000)
        if now != self._millisecond:
            self._millisecond = now
            self._timestamp = self._timestamp_of(*divmod(now, 1000))
        self._added += 1
        self._lines.append(self._line(self._timestamp, facts))

    def _timestamp_of(self, second: int, millisecond: int) -> str:
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{millisecond:03d}Z"

    def close(self) -> None:
        """Write the lines that are left, unless the reader takes too long."""
        self._flush()
        if self._writer.is_alive():
            self._waiting.put([])
            self._writer.join(CLOSE_TIMEOUT_S)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._waiting.put(lines)
            if self._writer.ident is None:
                self._writer.start()

    def _write(self) -> None:
        """The writer's thread."""
        while lines := self._waiting.get():
            _write(self._file, lines)
            self._written += len(lines)


def _json_line(timestamp: str, facts: RequestFacts) -> str:
    """No value needs escapes: names are our own, the request id is checked, and unusual methods are `other`."""
    level = "error" if facts.status >= 500 else "info"  # noqa: PLR2004 -- our error, not the client's
    served = f',"model":"{facts.model}","version":"{facts.version}","items":{facts.items}' if facts.model else ""
    code = f',"error":"{facts.error}"' if facts.error else ""
    parts = "".join([f'"{name}":{seconds * 1000:.3f},' for name, seconds in facts.timings_s.items()])
    return (
        f'{{"time":"{timestamp}","level":"{level}","logger":"convoke.request","request_id":"{facts.id}",'
        f'"method":"{facts.method}","route":"{facts.route}","status":{facts.status},"bytes":{facts.body_bytes}'
        f'{served}{code},"ms":{{{parts}"total":{facts.total_s * 1000:.3f}}}}}\n'
    )


def _text_line(timestamp: str, facts: RequestFacts) -> str:
    served = f" {facts.model}/{facts.version} {facts.items} items" if facts.model else ""
    code = f" {facts.error}" if facts.error else ""
    parts = "".join([f" {name} {seconds * 1000:.1f}" for name, seconds in facts.timings_s.items()])
    return (
        f"{timestamp} {facts.method} {facts.route} {facts.status}{code}{served} {facts.body_bytes} bytes{parts} "
        f"total {facts.total_s * 1000:.1f} ms {facts.id}\n"
    )


def _write(file: int, lines: Sequence[str]) -> None:
    """Write lines in pieces that a pipe takes as a whole, so that lines of several workers do not mix."""
    for piece in _pieces(lines):
        left = memoryview(piece)
        try:
            while left:
                left = left[os.write(file, left) :]
        except OSError:  # the reader is gone; requests matter more than their log
            return


def _pieces(lines: Sequence[str]) -> Iterator[bytes]:
    """Join as many lines as a pipe takes in one write."""
    piece = b""
    for line in lines:
        data = line.encode()
        if piece and len(piece) + len(data) > select.PIPE_BUF:
            yield piece
            piece = b""
        piece += data
    if piece:
        yield piece
