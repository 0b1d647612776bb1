"""A run's folder as it is read without torch."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.errors import RunError
from training.runs import record


def write(folder: Path, **recipe: Any) -> Path:
    (folder / record.RECIPE).write_text(json.dumps({"name": "small", "epochs": 4, **recipe}))
    return folder


def test_the_names_are_those_of_a_run() -> None:
    """What `run` writes is what is read here."""
    from training.runs import run  # noqa: PLC0415 -- torch, which the other tests here do without

    assert (record.RECIPE, record.RESULT) == (run.RECIPE, run.RESULT)


@pytest.mark.parametrize(
    ("data", "planned"), [({}, 4), ({"refit": True}, 8), ({"folds": 10}, 40), ({"folds": None, "refit": False}, 4)]
)
def test_the_epochs_planned_are_of_all_trainings(data: dict[str, Any], planned: int, tmp_path: Path) -> None:
    """A refit doubles a recipe's epochs, and cross-validation has them once a fold."""
    assert record.read(write(tmp_path, data=data)).epochs_planned == planned


def test_stages_are_read_apart_and_summed(tmp_path: Path) -> None:
    """Epochs and seconds are those of all stages; the last epoch is one with validation figures."""
    first = {"epoch": 1, "validation_accuracy": 0.5, "seconds": 3.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(first) + "\n")
    (tmp_path / "metrics-refit.jsonl").write_text('{"epoch": 1, "validation_accuracy": null, "seconds": 4.5}\n')
    found = record.read(write(tmp_path))
    assert list(found.histories) == ["fit", "refit"]
    assert (found.epochs_done, found.seconds, found.last, found.result) == (2, 7.5, first, None)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    """A run can be looked at while it goes."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2, "lo')
    assert record.epochs(path) == [{"epoch": 1}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("recipe.json", "{", "recipe.json: this is no JSON"),
        ("recipe.json", "[]", "recipe.json: expected a JSON object, found list"),
        ("recipe.json", "{}", "this is no run's folder"),
        ("recipe.json", "\udce4", "recipe.json: cannot be read"),
        ("result.json", "3", "result.json: expected a JSON object, found int"),
        ("metrics.jsonl", '{"epoch": 1}\nnonsense\n', "metrics.jsonl, line 2: this is no JSON"),
    ],
)
def test_damage_is_named(name: str, content: str, said: str, tmp_path: Path) -> None:
    """A file that is not what it should be is refused by its name, and a metrics file by the line."""
    (write(tmp_path) / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=said):
        record.read(tmp_path)


def test_a_path_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """A missing folder, a file and a folder of something else are named in the refusal."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(RunError, match=f"{path}: this is no run's folder; expected runs/RECIPE/TIME"):
            record.read(path)
