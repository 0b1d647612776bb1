"""What the service says of itself: lines for people on a terminal, JSON for machines elsewhere.

The lines of requests take a way of their own: one f-string a request, written by another thread a few times a second,
so that a slow reader never stops the event loop. They never hold what a caller sent: no bodies, keys, headers or paths.
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
"""Seconds that a request's line waits for others, to be written with them."""

LAST_S = 2.0
"""Seconds that the end of a worker waits for its last lines to be read."""

MAX_LINES = 20_000
"""Lines that may wait for a slow reader; what comes on top is lost, and counted."""


def choose_format(chosen: Format) -> Literal["json", "text"]:
    """Text where standard output is a terminal, unless one was chosen."""
    if chosen != "auto":
        return chosen
    return "text" if os.isatty(1) else "json"


class JsonFormatter(logging.Formatter):
    """A record -> one line of JSON: time, level, logger, message; the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


class RequestLog:
    """One line a request, once its answer begins. Used on the event loop alone."""

    def __init__(self, chosen: Format, lost: Series, *, file: int = 1) -> None:
        """Nothing is written before the first request.

        Args:
            chosen: the form of the lines.
            lost: counts lines that had to be dropped.
            file: the descriptor to write to.
        """
        self._line = _json_line if choose_format(chosen) == "json" else _text_line
        self._lost = lost
        self._file = file
        self._lines: list[str] = []
        self._noted = 0
        self._written = 0  # by the writer alone
        self._second = 0
        self._moment = ""
        self._waiting: SimpleQueue[list[str]] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)

    def on_response(self, facts: RequestFacts) -> None:
        """Note a request whose response starts."""
        if self._noted - self._written >= MAX_LINES:
            self._lost.inc()
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        self._noted += 1
        self._lines.append(self._line(f"{self._moment}.{int(now % 1 * 1000):03d}Z", facts))

    def close(self) -> None:
        """Write what is left, unless its reader takes too long."""
        self._flush()
        if self._writer.is_alive():
            self._waiting.put([])
            self._writer.join(LAST_S)

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


def _json_line(moment: str, facts: RequestFacts) -> str:
    """Nothing here needs escapes: names are our own, the request id is checked, other methods are not repeated."""
    level = "error" if facts.status >= 500 else "info"  # noqa: PLR2004 -- ours, not the client's
    served = f',"model":"{facts.model}","version":"{facts.version}","items":{facts.items}' if facts.model else ""
    code = f',"error":"{facts.error}"' if facts.error else ""
    parts = "".join([f'"{name}":{seconds * 1000:.3f},' for name, seconds in facts.timings_s.items()])
    return (
        f'{{"time":"{moment}","level":"{level}","logger":"convoke.request","request_id":"{facts.id}",'
        f'"method":"{facts.method}","route":"{facts.route}","status":{facts.status},"bytes":{facts.body_bytes}'
        f'{served}{code},"ms":{{{parts}"total":{facts.total_s * 1000:.3f}}}}}\n'
    )


def _text_line(moment: str, facts: RequestFacts) -> str:
    served = f" {facts.model}/{facts.version} {facts.items} items" if facts.model else ""
    code = f" {facts.error}" if facts.error else ""
    parts = "".join([f" {name} {seconds * 1000:.1f}" for name, seconds in facts.timings_s.items()])
    return (
        f"{moment} {facts.method} {facts.route} {facts.status}{code}{served} {facts.body_bytes} bytes{parts} "
        f"total {facts.total_s * 1000:.1f} ms {facts.id}\n"
    )


def _write(file: int, lines: Sequence[str]) -> None:
    """Write lines in pieces that reach a pipe whole, so that those of several workers do not mix."""
    for piece in _pieces(lines):
        left = memoryview(piece)
        try:
            while left:
                left = left[os.write(file, left) :]
        except OSError:  # nobody reads; requests matter more than their log
            return


def _pieces(lines: Sequence[str]) -> Iterator[bytes]:
    """Whole lines together, as many as a pipe takes in one step."""
    piece = b""
    for line in lines:
        data = line.encode()
        if piece and len(piece) + len(data) > select.PIPE_BUF:
            yield piece
            piece = b""
        piece += data
    if piece:
        yield piece
