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

from starlette.types import Scope

from service.tally import Counter

Format = Literal["auto", "json", "text"]

FLUSH_S = 0.25
"""Seconds that a request's line waits for others, to be written with them."""

LAST_S = 2.0
"""Seconds that the end of a worker waits for its last lines to be read."""

MAX_LINES = 20_000
"""Lines that may wait for a slow reader; what comes on top is lost, and counted."""

_OURS = ("", "bentoml", "uvicorn.error", "circus")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def choose_format(chosen: Format) -> Literal["json", "text"]:
    """Text where standard output is a terminal, unless one was chosen."""
    if chosen != "auto":
        return chosen
    return "text" if os.isatty(1) else "json"


def set_up(chosen: Format) -> None:
    """Give all log lines of this process, BentoML's too, the chosen form."""
    if choose_format(chosen) == "text":
        return
    for name in _OURS:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(JsonFormatter())


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

    def __init__(self, chosen: Format, lost: Counter, *, file: int = 1) -> None:
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

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Note a request: its scope, the status of its answer, the seconds until that began."""
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
        self._lines.append(self._line(f"{self._moment}.{int(now % 1 * 1000):03d}Z", scope, status, seconds))

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


def _json_line(moment: str, scope: Scope, status: int, seconds: float) -> str:
    """Nothing here needs escapes: names are our own, the request id is checked, other methods are not repeated."""
    level = "error" if status >= 500 else "info"  # noqa: PLR2004 -- ours, not the caller's
    model, version, items = scope.get("convoke.served", ("", "", 0))
    served = f',"model":"{model}","version":"{version}","items":{items}' if model else ""
    code = f',"error":"{scope["convoke.error"]}"' if "convoke.error" in scope else ""
    timing: dict[str, float] = scope.get("convoke.timing", {})
    parts = "".join([f'"{name}":{value * 1000:.3f},' for name, value in timing.items()])
    return (
        f'{{"time":"{moment}","level":"{level}","logger":"convoke.request","request_id":"{scope["convoke.id"]}",'
        f'"method":"{known_method(scope)}","route":"{scope.get("convoke.route", "none")}","status":{status},'
        f'"bytes":{scope.get("convoke.bytes", 0)}{served}{code},"ms":{{{parts}"total":{seconds * 1000:.3f}}}}}\n'
    )


def _text_line(moment: str, scope: Scope, status: int, seconds: float) -> str:
    model, version, items = scope.get("convoke.served", ("", "", 0))
    served = f" {model}/{version} {items} items" if model else ""
    code = f" {scope['convoke.error']}" if "convoke.error" in scope else ""
    timing: dict[str, float] = scope.get("convoke.timing", {})
    parts = "".join([f" {name} {value * 1000:.1f}" for name, value in timing.items()])
    return (
        f"{moment} {known_method(scope)} {scope.get('convoke.route', 'none')} {status}{code}{served} "
        f"{scope.get('convoke.bytes', 0)} bytes{parts} total {seconds * 1000:.1f} ms {scope['convoke.id']}\n"
    )


def known_method(scope: Scope) -> str:
    """A request's method; `other` for one that is none of HTTP's own."""
    method: str = scope["method"]
    return method if method in _METHODS else "other"


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
