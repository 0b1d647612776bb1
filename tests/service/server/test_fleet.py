"""What the workers of a server publish, and what each of them answers for all."""

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
    """A worker that has not joined the others yet."""
    return Fleet(Metrics(), lambda: ready, workers=workers, index=index, folder=folder)


def value(text: bytes, name: str) -> float:
    """The value of a metric with these labels; 0 if it is missing."""
    match = re.search(rf"^{re.escape(name)} (\S+)$", text.decode(), re.MULTILINE)
    return float(match[1]) if match else 0.0


def kill(folder: Path, index: int) -> None:
    """Replace the process in a worker's report by one that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = folder / f"{index}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "process": ended.pid}))


def test_any_worker_answers_for_all(tmp_path: Path) -> None:
    """Counters, histograms and gauges are sums over both workers, whichever answers."""
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


def test_counts_never_decrease(tmp_path: Path) -> None:
    """A count that one worker has reported is in the other's next response; otherwise Prometheus sees a restart."""
    first, second = worker(tmp_path, 1), worker(tmp_path, 2)
    for _ in range(3):
        first.metrics.items.labels("digits", "1").inc()
        reported = value(first.metrics_text(), 'convoke_items_total{model="digits",version="1"}')
        assert value(second.metrics_text(), 'convoke_items_total{model="digits",version="1"}') == reported


def test_a_dead_worker_leaves_counts_and_no_gauges(tmp_path: Path) -> None:
    """What a dead worker has counted stays; its queue and its readiness do not count."""
    first, second = worker(tmp_path, 1), worker(tmp_path, 2)
    second.metrics.items.labels("digits", "1").inc(5)
    second.metrics.queue_items.labels("digits", "1").set(5)
    second.publish()
    kill(tmp_path, 2)
    text = first.metrics_text()
    assert value(text, 'convoke_items_total{model="digits",version="1"}') == 5
    assert value(text, 'convoke_queue_items{model="digits",version="1"}') == 0
    assert value(text, "convoke_workers_ready") == 1


def test_a_successor_continues_the_counts(tmp_path: Path) -> None:
    """The counts of a dead worker continue in its successor, and are reported once."""
    first, second = worker(tmp_path, 1), worker(tmp_path, 2)
    first.publish()
    second.metrics.items.labels("digits", "1").inc(5)
    second.publish()
    kill(tmp_path, 2)
    third = worker(tmp_path, 2)
    assert third.join()
    third.metrics.items.labels("digits", "1").inc(2)
    third.publish()
    assert value(first.metrics_text(), 'convoke_items_total{model="digits",version="1"}') == 7


def test_ready_means_that_any_worker_can_answer(tmp_path: Path) -> None:
    """Not before all have started, and not while a live one is not ready; a dead one does not matter."""
    first = worker(tmp_path, 1)
    assert not first.join()
    assert not first.all_ready()
    worker(tmp_path, 2, ready=False).publish()
    assert not first.all_ready()
    worker(tmp_path, 2).publish()
    assert first.all_ready()
    worker(tmp_path, 2, ready=False).publish()
    kill(tmp_path, 2)
    assert first.all_ready()
    assert not worker(tmp_path, 1, ready=False).all_ready()


def test_a_worker_alone_needs_no_folder() -> None:
    """Without a folder a worker answers for itself only."""
    alone = worker(None, 1, workers=2)
    assert not alone.join()
    assert alone.all_ready()
    assert value(alone.metrics_text(), "convoke_workers_ready") == 1


@pytest.mark.parametrize("damage", ["garbage", "removed"])
def test_a_damaged_folder_costs_only_metrics(tmp_path: Path, damage: str) -> None:
    """With an unreadable report, or without its folder, a worker still answers for itself."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    first = worker(folder, 1, workers=1)
    if damage == "garbage":
        (folder / "2.json").write_text("{")
    else:
        folder.rmdir()
    assert value(first.metrics_text(), "convoke_workers_ready") == 1
    assert first.all_ready()


def test_the_folder_is_in_the_workers_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder is named in the environment that workers inherit, and only its owner may read it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("atexit.register", lambda *_, **__: None)
    monkeypatch.setenv(fleet.FOLDER, "")
    fleet.make_folder()
    folder = Path(os.environ[fleet.FOLDER])
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
