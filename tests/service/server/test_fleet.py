"""What the workers of one server publish, and what each of them answers for all."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.server import fleet
from service.server.fleet import Fleet
from service.telemetry.metrics import Metrics


def worker(folder: Path | None, index: int, *, ready: bool = True, workers: int = 2) -> Fleet:
    """A worker that has not joined yet."""
    return Fleet(Metrics(), lambda: ready, workers=workers, index=index, folder=folder)


def value(text: bytes, name: str) -> float:
    """The number under a metric's name and labels."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def die(folder: Path, index: int) -> None:
    """Let a worker's report be one of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = folder / f"{index}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "process": ended.pid}))


def test_any_worker_answers_for_all(tmp_path: Path) -> None:
    """Counters, histograms and gauges are sums over both, whichever is asked."""
    first, second = worker(tmp_path, 1), worker(tmp_path, 2)
    for index, each in enumerate((first, second)):
        each.metrics.items.labels("digits", "1").inc(10 + index)
        each.metrics.batch_items.labels("digits", "1").observe(1)
        each.metrics.queue_items.labels("digits", "1").set(3)
        each.publish()
    for each in (first, second):
        text = each.metrics_text()
        assert value(text, 'convoke_items_total{model="digits",version="1"}') == 21
        assert value(text, 'convoke_batch_items_bucket{le="1.0",model="digits",version="1"}') == 2
        assert value(text, 'convoke_queue_items{model="digits",version="1"}') == 6
        assert value(text, "convoke_workers_ready") == 2


def test_what_was_told_is_never_taken_back(tmp_path: Path) -> None:
    """A count that one worker has told of itself is in the other's next answer: Prometheus would see a restart."""
    first, second = worker(tmp_path, 1), worker(tmp_path, 2)
    for _ in range(3):
        first.metrics.items.labels("digits", "1").inc()
        told = value(first.metrics_text(), 'convoke_items_total{model="digits",version="1"}')
        assert value(second.metrics_text(), 'convoke_items_total{model="digits",version="1"}') == told


def test_the_dead_leave_counts_and_no_gauges(tmp_path: Path) -> None:
    """What a worker has counted stays; what waits in its queue, and that it is ready, holds no more."""
    first, second = worker(tmp_path, 1), worker(tmp_path, 2)
    second.metrics.items.labels("digits", "1").inc(5)
    second.metrics.queue_items.labels("digits", "1").set(5)
    second.publish()
    die(tmp_path, 2)
    text = first.metrics_text()
    assert value(text, 'convoke_items_total{model="digits",version="1"}') == 5
    assert value(text, 'convoke_queue_items{model="digits",version="1"}') == 0
    assert value(text, "convoke_workers_ready") == 1


def test_who_takes_a_dead_worker_s_place_counts_on(tmp_path: Path) -> None:
    """Its counts go on from the dead worker's, and are not told twice."""
    first, second = worker(tmp_path, 1), worker(tmp_path, 2)
    first.publish()
    second.metrics.items.labels("digits", "1").inc(5)
    second.publish()
    die(tmp_path, 2)
    third = worker(tmp_path, 2)
    assert third.join()
    third.metrics.items.labels("digits", "1").inc(2)
    third.publish()
    assert value(first.metrics_text(), 'convoke_items_total{model="digits",version="1"}') == 7


def test_ready_is_who_can_answer_whichever_worker_is_reached(tmp_path: Path) -> None:
    """Not before all have come; not while one that lives is not ready; a dead one is no obstacle."""
    first = worker(tmp_path, 1)
    assert not first.join()
    assert not first.all_ready()
    worker(tmp_path, 2, ready=False).publish()
    assert not first.all_ready()
    worker(tmp_path, 2).publish()
    assert first.all_ready()
    worker(tmp_path, 2, ready=False).publish()
    die(tmp_path, 2)
    assert first.all_ready()
    assert not worker(tmp_path, 1, ready=False).all_ready()


def test_a_worker_alone_needs_no_folder() -> None:
    """Without a server's folder a worker speaks for itself."""
    alone = worker(None, 1, workers=2)
    assert not alone.join()
    assert alone.all_ready()
    assert value(alone.metrics_text(), "convoke_workers_ready") == 1


@pytest.mark.parametrize("spoil", ["garbage", "removed"])
def test_a_folder_that_is_spoilt_costs_metrics_and_nothing_else(tmp_path: Path, spoil: str) -> None:
    """A report that cannot be read, or a folder that is gone: the worker still answers for itself."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    first = worker(folder, 1, workers=1)
    if spoil == "garbage":
        (folder / "2.json").write_text("{")
    else:
        folder.rmdir()
    assert value(first.metrics_text(), "convoke_workers_ready") == 1
    assert first.all_ready()


def test_a_folder_is_made_for_the_workers_to_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It stands in the environment that workers inherit, and only its owner may look into it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("atexit.register", lambda *_, **__: None)
    monkeypatch.setenv(fleet.FOLDER, "")
    fleet.make_folder()
    folder = Path(os.environ[fleet.FOLDER])
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
