"""The log of a training: equal to the history in the checkpoint after any interruption, and on the disk at once."""

import json
import math
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from training.errors import RunError
from training.runs import log, record
from training.runs.log import Log


class Writer:
    """Takes the place of TensorBoard's writer and keeps its points."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "events").touch()
        self.folder, self.purge_step = folder, purge_step
        self.points: list[tuple[str, float, int]] = []
        self.closed = False

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.points.append((tag, scalar_value, global_step))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests do not depend on whether `tensorboard` is installed."""
    monkeypatch.setattr(log, "find_spec", lambda _name: None)
    log.hint.cache_clear()


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """The writers that were opened, as if `tensorboard` were installed."""
    opened: list[Writer] = []

    def summary_writer(folder: Path, purge_step: int | None) -> Writer:
        opened.append(Writer(folder, purge_step))
        return opened[-1]

    monkeypatch.setattr(log, "find_spec", lambda _name: object())
    monkeypatch.setattr(log, "_summary_writer", summary_writer)
    return opened


def epoch(number: int, **changes: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "epoch": number,
        "loss": 1 / number,
        "accuracy": 0.5,
        "validation_loss": 2 / number,
        "validation_accuracy": 0.25,
        "images_per_s": 1000.0,
        "seconds": 2.0,
    }
    return {**figures, **changes}


def epochs(count: int) -> list[dict[str, Any]]:
    return [epoch(number) for number in range(1, count + 1)]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / record.METRICS).read_text().splitlines()]


def test_each_epoch_is_a_line_at_once(tmp_path: Path) -> None:
    """The line of an epoch is complete in the file when `update` returns."""
    log_of_run = Log(tmp_path)
    for number in (0, 1, 2, 3):
        log_of_run.update(epochs(number))
        assert lines(tmp_path) == epochs(number)
    assert [path.name for path in tmp_path.iterdir()] == [record.METRICS]


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(None, id="no file"),
        pytest.param("", id="an empty file"),
        pytest.param("1", id="an epoch missing"),
        pytest.param("12", id="all of them"),
        pytest.param("123", id="an epoch that the checkpoint lacks"),
        pytest.param("122", id="an epoch twice"),
        pytest.param("12half", id="half a line"),
    ],
)
def test_a_resumed_log_has_each_epoch_once(left: str | None, tmp_path: Path) -> None:
    """Whatever a killed run left, the file holds the epochs of the checkpoint and then the new ones."""
    if left is not None:
        complete = "".join(json.dumps(epoch(int(number))) + "\n" for number in left.removesuffix("half"))
        (tmp_path / record.METRICS).write_text(complete + ('{"epoch": 3, "lo' if left.endswith("half") else ""))
    updated = Log(tmp_path)
    updated.update(epochs(2))
    assert lines(tmp_path) == epochs(2)
    updated.update(epochs(3))
    assert lines(tmp_path) == epochs(3)


def test_a_file_that_agrees_is_left_alone(tmp_path: Path) -> None:
    """The first update of a finished training writes nothing."""
    Log(tmp_path).update(epochs(2))
    before = (tmp_path / record.METRICS).stat()
    Log(tmp_path).update(epochs(2))
    after = (tmp_path / record.METRICS).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_figures_that_are_not_finite_become_null(tmp_path: Path) -> None:
    """Each line is valid JSON, which has neither NaN nor infinity."""
    Log(tmp_path).update([epoch(1, validation_loss=math.inf, loss=math.nan)])
    text = (tmp_path / record.METRICS).read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line == epoch(1, validation_loss=None, loss=None)


def test_stages_of_a_run_have_files_of_their_own(tmp_path: Path) -> None:
    """The log of the refit does not change that of the first training."""
    for stage, count in (("fit", 2), ("refit", 1)):
        Log(tmp_path, stage).update(epochs(count))
    assert record.epochs(record.metrics_file(tmp_path)) == epochs(2)
    assert record.epochs(record.metrics_file(tmp_path, "refit")) == epochs(1)


def test_a_full_disk_is_reported_with_the_command_that_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file, the cause and the command; the log is right again when the run continues."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    updated = Log(tmp_path)
    updated.update(epochs(1))
    monkeypatch.setattr(os, "fsync", full)
    message = rf"metrics\.jsonl: .*No space left on device.* train --resume {tmp_path}"
    for log_of_run, count in ((updated, 2), (Log(tmp_path), 1)):
        with pytest.raises(RunError, match=message):
            log_of_run.update(epochs(count))
    monkeypatch.undo()
    Log(tmp_path).update(epochs(1))
    assert lines(tmp_path) == epochs(1)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """A run's folder that was removed is a RunError that names the file."""
    with pytest.raises(RunError, match=r"gone/metrics\.jsonl"):
        Log(tmp_path / "gone").update([])


def test_without_tensorboard_there_is_one_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hint how to get points is printed once in a process, and no folder is made."""
    for stage in ("fit", "refit"):
        Log(tmp_path, stage).update(epochs(1))
    assert capsys.readouterr().err.count("pip install 'tensorboard>=2.21'") == 1
    assert not (tmp_path / log.EVENTS).exists()


def test_each_stage_has_its_folder_of_points(writers: list[Writer], tmp_path: Path) -> None:
    """Each value that is not None is a point at its epoch, and the writer is closed with the log."""
    with closing(Log(tmp_path, "refit")) as log_of_run:
        log_of_run.update([])
        log_of_run.update([epoch(1, validation_loss=None, validation_accuracy=None, learning_rate=0.125)])
        assert not writers[0].closed
    assert writers[0].folder == tmp_path / "events" / "refit"
    assert writers[0].purge_step is None
    assert writers[0].points == [
        ("loss/train", 1.0, 1),
        ("accuracy/train", 0.5, 1),
        ("learning_rate", 0.125, 1),
        ("images_per_s", 1000.0, 1),
    ]
    assert writers[0].closed


def test_resuming_purges_the_points_that_the_checkpoint_lacks(writers: list[Writer], tmp_path: Path) -> None:
    """Points of epochs in the checkpoint are kept and not written again; later ones are dropped."""
    for counts in ((0, 1, 2, 3), (2, 3)):
        log_of_run = Log(tmp_path)
        for count in counts:
            log_of_run.update(epochs(count))
    assert writers[1].purge_step == 3
    assert {step for _, _, step in writers[1].points} == {3}


def test_points_of_epochs_before_tensorboard_was_installed_are_added(writers: list[Writer], tmp_path: Path) -> None:
    """A run that has no points has all of them after it continues with `tensorboard`."""
    Log(tmp_path).update(epochs(2))
    assert writers[0].purge_step is None
    assert [step for tag, _, step in writers[0].points if tag == "loss/validation"] == [1, 2]
