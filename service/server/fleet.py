"""The workers of one server: what each publishes, and what all of them report together.

The server makes a folder for its workers and removes it when it ends. Each worker writes one file there, so the worker
that receives a request for /metrics or /readyz can answer for all. BentoML's own folder for metrics is of no use: every
start of a server under the same home empties it. A worker that dies leaves its counts to its successor.
"""

import atexit
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.telemetry.metrics import Metrics, Snapshot

logger = logging.getLogger("bentoml.convoke")

FOLDER = "_CONVOKE_FLEET"
"""The environment variable that names the folder to the workers. It is not a setting."""

PUBLISH_S = 1.0
"""Seconds between two reports of a worker."""


def make_folder() -> None:
    """Make the folder of a server that is about to start its workers, and remove it when the server ends."""
    folder = tempfile.mkdtemp(prefix="convoke-")
    os.environ[FOLDER] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


@dataclass(frozen=True)
class Report:
    """The content of a worker's file."""

    process: int
    ready: bool
    metrics: Snapshot

    @property
    def is_alive(self) -> bool:
        """Whether the worker still runs."""
        try:
            os.kill(self.process, 0)
        except OSError:
            return False
        return True


class Fleet:
    """One worker among those of its server."""

    def __init__(
        self,
        metrics: Metrics,
        is_ready: Callable[[], bool],
        *,
        workers: int = 1,
        index: int = 1,
        folder: Path | None = None,
        refresh: Callable[[], None] = lambda: None,
        complete: Callable[[Metrics], None] = lambda _total: None,
    ) -> None:
        """Publish nothing yet.

        Args:
            metrics: those of this worker.
            is_ready: whether its models are loaded.
            workers: how many workers the server starts.
            index: the number of this worker, from 1; the successor of a dead worker has the same number.
            folder: where the workers publish; None if this worker is alone.
            refresh: brings the metrics of this worker up to date.
            complete: computes what follows from the metrics of all workers, added up.
        """
        self.metrics = metrics
        self.folder = folder
        self._is_ready = is_ready
        self._refresh = refresh
        self._complete = complete
        self._workers = workers
        self._file = f"{index}.json"
        self._published: Report | None = None
        self._lock = threading.Lock()

    def join(self) -> bool:
        """Continue the counts of a predecessor, if any, and say whether other workers serve already. Blocks briefly.

        If none serves, publish that this worker starts, so that /readyz waits for it.
        """
        if self.folder is None:
            return False
        predecessor = _read(self.folder / self._file)
        if predecessor is not None:
            self.metrics.add(predecessor.metrics, gauges=False)
        if any(other.ready and other.is_alive for other in self._others()):
            return True
        self.publish()
        return False

    def publish(self) -> Report:
        """Report the state of this worker, and write it to its file if it has changed. Blocks briefly."""
        with self._lock:
            ready = self._is_ready()
            self._refresh()
            self.metrics.ready.labels().set(ready)
            report = Report(os.getpid(), ready, self.metrics.snapshot())
            if self.folder is not None and report != self._published:
                self._write(self.folder / self._file, report)
            return report

    def all_ready(self) -> bool:
        """Whether any worker can answer a request: all have started, and those that are alive are ready."""
        if not self._is_ready():
            return False
        others = list(self._others())
        have_started = self.folder is None or len(others) + 1 >= self._workers
        return have_started and all(other.ready for other in others if other.is_alive)

    def total(self) -> Metrics:
        """The metrics of all workers added up. Blocks briefly.

        This worker publishes its own first, so that no later response, of any worker, has lower counts.
        """
        total = Metrics()
        total.add(self.publish().metrics)
        for other in self._others():
            total.add(other.metrics, gauges=other.is_alive)
        self._complete(total)
        return total

    def metrics_text(self) -> bytes:
        """The metrics of all workers, in Prometheus's text format. Blocks briefly."""
        return self.total().text()

    def _write(self, path: Path, report: Report) -> None:
        new = path.with_suffix(".new")
        try:
            new.write_text(json.dumps(vars(report)), encoding="utf-8")
            new.replace(path)
        except OSError as error:
            logger.warning("cannot write %s; the metrics of other workers will lack this one's: %s", path, error)
            return
        self._published = report

    def _others(self) -> Iterator[Report]:
        """The reports of the other workers."""
        if self.folder is None:
            return
        for path in sorted(self.folder.glob("*.json")):
            report = _read(path) if path.name != self._file else None
            if report is not None:
                yield report


def _read(path: Path) -> Report | None:
    """A worker's report; None if it is missing or cannot be read."""
    try:
        return Report(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("cannot read %s; the metrics will lack that worker's: %s", path, error)
        return None
