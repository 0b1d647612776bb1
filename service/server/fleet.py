"""The workers of one server: what each publishes of itself, and what all of them say together.

A worker writes one file into a folder that the server makes for them and removes when it ends; so whichever worker is
asked can answer for all. BentoML's own folder for metrics will not do: every start under the same home empties it. A
worker that dies leaves its counts to the one that takes its place.
"""

import atexit
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.telemetry.metrics import Metrics, Snapshot

logger = logging.getLogger("bentoml.convoke")

FOLDER = "_CONVOKE_FLEET"
"""The environment variable by which a server tells its workers the folder. Not a setting."""

PUBLISH_S = 1.0
"""Seconds between two looks at whether there is something new to publish."""


def make_folder() -> None:
    """Make the folder of a server that is about to start its workers; it goes when the server ends."""
    folder = tempfile.mkdtemp(prefix="convoke-")
    os.environ[FOLDER] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


@dataclass(frozen=True)
class _Report:
    """What a worker's file says."""

    process: int
    ready: bool
    metrics: Snapshot

    @property
    def lives(self) -> bool:
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


@dataclass
class Fleet:
    """One worker among those of its server.

    Args:
        metrics: this worker's.
        is_ready: whether its models are loaded.
        workers: how many there are to be.
        index: this one's place among them; who takes the place of a dead worker has the same.
        folder: where they publish; None where each is on its own.
    """

    metrics: Metrics
    is_ready: Callable[[], bool]
    workers: int = 1
    index: int = 1
    folder: Path | None = None
    _published: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def join(self) -> bool:
        """Go on with the counts of the worker that had this place, if one had it, and say whether others serve already.

        Where none does, they are told that there is a new one, for whose models /readyz waits. Blocks for a moment.
        """
        if self.folder is None:
            return False
        before = _read(self._path(self.index))
        if before is not None:
            self.metrics.restore(before.metrics)
        if any(other.ready for other in self._others() if other.lives):
            return True
        self.publish()
        return False

    def publish(self) -> Snapshot:
        """Write what this worker has to say, if it is news, and give its metrics. Blocks for a moment."""
        with self._lock:
            self.metrics.ready.labels().set(self.is_ready())
            snapshot = self.metrics.snapshot()
            content = {"process": os.getpid(), "ready": self.is_ready(), "metrics": _as_json(snapshot)}
            if self.folder is not None and content != self._published:
                self._write(self._path(self.index), content)
            return snapshot

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        new = path.with_suffix(".new")
        try:
            new.write_text(json.dumps(content), encoding="utf-8")
            new.replace(path)
        except OSError as error:
            logger.warning("%s cannot be written, other workers' metrics will lack this one's: %s", path, error)
            return
        self._published = content

    def all_ready(self) -> bool:
        """Whether whichever worker a request reaches can answer it: all have started, and those that live are ready."""
        if not self.is_ready():
            return False
        others = list(self._others())
        everyone = self.folder is None or len(others) + 1 >= self.workers
        return everyone and all(other.ready for other in others if other.lives)

    def metrics_text(self) -> bytes:
        """The metrics of all workers, in Prometheus's format. Blocks for a moment.

        What is told is published first, so that no later answer, by whichever worker, has lower counts.
        """
        own, others = self.publish(), self._others()
        return self.metrics.text([own, *(self._what_holds(other) for other in others)])

    def _what_holds(self, other: _Report) -> Snapshot:
        return other.metrics if other.lives else self.metrics.without_gauges(other.metrics)

    def _others(self) -> Iterator[_Report]:
        """What the other workers have published."""
        if self.folder is None:
            return
        for path in sorted(self.folder.glob("*.json")):
            report = _read(path) if path != self._path(self.index) else None
            if report is not None:
                yield report

    def _path(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{index}.json"


def _as_json(snapshot: Snapshot) -> dict[str, list[Any]]:
    return {name: [[values, numbers] for values, numbers in state.items()] for name, state in snapshot.items()}


def _read(path: Path) -> _Report | None:
    """A worker's report, if there is one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read, metrics will lack that worker's: %s", path, error)
        return None
    metrics = {
        name: {tuple(values): numbers for values, numbers in state} for name, state in content["metrics"].items()
    }
    return _Report(content["process"], content["ready"], metrics)
