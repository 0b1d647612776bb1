"""The log of a training: equal to the checkpoint's history whatever happened before, and on the disk at once."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from training.errors import RunError
from training.runs import log, record
from training.runs.log import Log


class Writer:
    """Stands in for TensorBoard's writer: remembers its points."""

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
    """The tests are the same wherever `tensorboard` is installed."""
    monkeypatch.setattr(log, "find_spec", lambda _name: None)
    log.hint.cache_clear()


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """`tensorboard` as if it were installed: the writers that were opened."""
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
    """An epoch's line is whole in the file when `write` returns, with the figures it was given."""
    with Log(tmp_path, []) as opened:
        for number in (1, 2, 3):
            opened.write(epoch(number))
            assert lines(tmp_path) == epochs(number)
    assert [path.name for path in tmp_path.iterdir()] == [record.METRICS]


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(None, id="no file"),
        pytest.param("", id="an empty one"),
        pytest.param("1", id="an epoch missing"),
        pytest.param("12", id="all of them"),
        pytest.param("123", id="one that the checkpoint lacks"),
        pytest.param("122", id="one twice"),
        pytest.param("12half", id="half a line"),
    ],
)
def test_a_resumed_log_has_each_epoch_once(left: str | None, tmp_path: Path) -> None:
    """Whatever a killed run left, the file holds the checkpoint's epochs and then the new ones."""
    if left is not None:
        whole = "".join(json.dumps(epoch(int(number))) + "\n" for number in left.removesuffix("half"))
        (tmp_path / record.METRICS).write_text(whole + ('{"epoch": 3, "lo' if left.endswith("half") else ""))
    with Log(tmp_path, epochs(2)) as opened:
        assert lines(tmp_path) == epochs(2)
        opened.write(epoch(3))
    assert lines(tmp_path) == epochs(3)


def test_a_file_that_agrees_is_left_alone(tmp_path: Path) -> None:
    """Opening the log of a finished training writes nothing."""
    with Log(tmp_path, epochs(2)):
        pass
    before = (tmp_path / record.METRICS).stat()
    with Log(tmp_path, epochs(2)):
        pass
    after = (tmp_path / record.METRICS).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_figures_that_are_not_finite_become_null(tmp_path: Path) -> None:
    """Every line stays JSON, which has neither NaN nor infinity."""
    with Log(tmp_path, []) as opened:
        opened.write(epoch(1, validation_loss=math.inf, loss=math.nan))
    text = (tmp_path / record.METRICS).read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == epoch(1, validation_loss=None, loss=None)


def test_stages_of_a_run_have_files_of_their_own(tmp_path: Path) -> None:
    """What the refit writes does not touch the figures of the first training."""
    for stage, count in (("fit", 2), ("refit", 1)):
        with Log(tmp_path, epochs(count), stage=stage):
            pass
    assert record.epochs(record.metrics_file(tmp_path)) == epochs(2)
    assert record.epochs(record.metrics_file(tmp_path, "refit")) == epochs(1)


def test_a_full_disk_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names the file, the cause and the command that goes on; resuming mends the file."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Log(tmp_path, epochs(1)) as opened:
        monkeypatch.setattr(os, "fsync", full)
        said = rf"metrics\.jsonl: cannot be written: .*No space left on device.* train --resume {tmp_path}"
        with pytest.raises(RunError, match=said):
            opened.write(epoch(2))
        with pytest.raises(RunError, match=said):
            Log(tmp_path, epochs(1))
    monkeypatch.undo()
    with Log(tmp_path, epochs(1)):
        pass
    assert lines(tmp_path) == epochs(1)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A run's folder that was removed is a RunError, no traceback."""
    with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be written"):
        Log(tmp_path / "gone", [])


def test_without_tensorboard_there_is_one_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However many trainings a process does, the way to have points is said once, and no folder is made."""
    for stage in ("fit", "refit"):
        with Log(tmp_path, [], stage=stage) as opened:
            opened.write(epoch(1))
    assert capsys.readouterr().err.count("pip install 'tensorboard>=2.21'") == 1
    assert not (tmp_path / log.EVENTS).exists()


def test_points_are_written_a_stage_a_folder(writers: list[Writer], tmp_path: Path) -> None:
    """Each figure that is there is a point at its epoch, and the writer is closed with the log."""
    with Log(tmp_path, [], stage="refit") as opened:
        opened.write(epoch(1, validation_loss=None, validation_accuracy=None, learning_rate=0.125))
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
    """Points of epochs in the checkpoint stay and are not written again; later ones are dropped."""
    with Log(tmp_path, []) as opened:
        for number in (1, 2, 3):
            opened.write(epoch(number))
    with Log(tmp_path, epochs(2)) as opened:
        opened.write(epoch(3))
    assert writers[1].purge_step == 3
    assert {step for _, _, step in writers[1].points} == {3}


def test_points_from_before_tensorboard_was_installed_are_made_up_for(writers: list[Writer], tmp_path: Path) -> None:
    """A run that went on without points has all of them once it is resumed with `tensorboard`."""
    with Log(tmp_path, epochs(2)):
        pass
    assert writers[0].purge_step is None
    assert [step for tag, _, step in writers[0].points if tag == "loss/validation"] == [1, 2]
