"""Reading a run's folder without torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.errors import RunError
from training.recipe.schema import Recipe
from training.runs import record


def write(folder: Path, **recipe: Any) -> Path:
    (folder / record.RECIPE).write_text(json.dumps({"name": "small", "epochs": 4, **recipe}))
    return folder


def test_a_run_that_has_started_can_be_read(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """`record` reads the recipe that `run` writes."""
    from training.runs import run  # noqa: PLC0415 -- imports torch, which the other tests do not need

    recipe = recipe_with(seed=5)
    assert record.read(run.start(recipe, tmp_path)).recipe == json.loads(recipe.model_dump_json())


@pytest.mark.parametrize(
    ("data", "planned"), [({}, 4), ({"refit": True}, 8), ({"folds": 10}, 40), ({"folds": None, "refit": False}, 4)]
)
def test_the_epochs_planned_are_of_all_trainings(data: dict[str, Any], planned: int, tmp_path: Path) -> None:
    """A refit doubles the epochs of a recipe, and a cross-validation has them once for each fold."""
    assert record.read(write(tmp_path, data=data)).epochs_planned == planned


def test_stages_are_read_apart_and_summed(tmp_path: Path) -> None:
    """Epochs and seconds are summed over all stages; the last epoch is the last with validation metrics."""
    first = {"epoch": 1, "validation_accuracy": 0.5, "seconds": 3.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(first) + "\n")
    (tmp_path / "metrics-refit.jsonl").write_text('{"epoch": 1, "validation_accuracy": null, "seconds": 4.5}\n')
    run = record.read(write(tmp_path))
    assert list(run.histories) == ["fit", "refit"]
    assert (run.epochs_done, run.seconds, run.last, run.result) == (2, 7.5, first, None)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    """A run can be read while it is training."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2, "lo')
    assert record.epochs(path) == [{"epoch": 1}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("recipe.json", "{", "recipe.json: invalid JSON"),
        ("recipe.json", "[]", "recipe.json: expected a JSON object, got list"),
        ("recipe.json", "{}", "not a run"),
        ("recipe.json", "\udce4", "recipe.json: cannot be read"),
        ("result.json", "3", "result.json: expected a JSON object, got int"),
        ("metrics.jsonl", '{"epoch": 1}\nnonsense\n', "metrics.jsonl, line 2: invalid JSON"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    """The error names the file, and the line of a metrics file."""
    (write(tmp_path) / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=message):
        record.read(tmp_path)


def test_a_path_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    """The error names a missing folder, a file, and a folder of something else."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(RunError, match=f"{path}: not a run; expected a folder runs/RECIPE/TIME"):
            record.read(path)
