"""A run's folder: what is in it, and what is refused as one."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training import evaluate, fit, run
from training.data import Dataset, Split
from training.errors import RecipeError, RunError
from training.network import normalise
from training.recipe import Recipe


@pytest.fixture
def data(stripes: Callable[..., Split], monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Stripes in place of the data set that a recipe names."""
    made = Dataset(stripes(120), stripes(45, seed=1), {"stripes": stripes(30, seed=2)}, "sha256:stripes")
    monkeypatch.setattr("training.run.load", lambda _recipe: made)
    return made


def test_a_run_keeps_its_recipe(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """The recipe that is read from a run's folder equals the one that it was started with, overrides and all."""
    recipe = recipe_with(batch_size="full", augment={"shift_px": 1.5}, optimiser={"name": "adadelta"})
    folder = run.start(recipe, tmp_path)
    assert folder.parent == tmp_path / "small"
    assert run.recipe_of(folder) == recipe


def test_two_runs_have_two_folders(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """Runs of one recipe that are started in the same second do not share a folder."""
    assert len({run.start(recipe_with(), tmp_path) for _ in range(3)}) == 3


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        '{"name": "small"}',
        "[]",
    ],
)
def test_what_is_no_run_is_refused(content: str | None, tmp_path: Path) -> None:
    """A folder without a recipe, or with something else in its place, is named in the refusal."""
    if content is not None:
        (tmp_path / run.RECIPE).write_text(content)
    with pytest.raises(RunError, match="this is no run's folder; expected runs/RECIPE/TIME"):
        run.recipe_of(tmp_path)


def test_runs_that_cannot_be_written_are_refused(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """Where the folder of runs is a file, the refusal says so."""
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(RunError, match="the run's folder cannot be made"):
        run.start(recipe_with(), tmp_path / "runs")


@pytest.mark.parametrize("refit", [False, True])
def test_a_finished_run_knows_its_network_and_what_it_is_worth(
    *, refit: bool, recipe_with: Callable[..., Recipe], data: Dataset, tmp_path: Path
) -> None:
    """Temperature and metrics are of the first training; the network is the refitted one where one is asked for."""
    recipe = recipe_with(data={"name": "mnist", "validation": 100, "refit": refit})
    folder = run.start(recipe, tmp_path)
    result = run.train(folder)
    assert {path.name for path in folder.iterdir()} == {
        "recipe.json",
        "result.json",
        "fit.pt",
        "metrics.jsonl",
        ".lock",
        "pictures",
        *(["refit.pt", "metrics-refit.jsonl"] if refit else []),
    }
    first = fit.trained(recipe, folder / "fit.pt")
    outputs = evaluate.logits(first, normalise(recipe), data.validation)
    probabilities = torch.softmax(outputs / result.temperature, dim=1).numpy()
    assert result.temperature == evaluate.fit_temperature(outputs, data.validation.labels)
    assert result.validation == evaluate.metrics(probabilities, data.validation.labels)
    assert result.fingerprint == data.fingerprint
    network, read = run.finished(folder)
    assert read == result
    whole = data.train + data.validation
    expected = fit.fit(recipe, whole, None, tmp_path / "again.pt") if refit else first
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        np.testing.assert_array_equal(ours.detach(), theirs.detach())


@pytest.mark.usefixtures("data")
def test_training_a_finished_run_changes_nothing(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """A run that is resumed when it is done gives the same result, seconds included."""
    folder = run.start(recipe_with(), tmp_path)
    assert run.train(folder) == run.train(folder)


@pytest.mark.usefixtures("data")
def test_a_run_that_is_not_finished_says_how_to_go_on(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """Neither a run without a result nor one with a broken result is taken as finished."""
    folder = run.start(recipe_with(), tmp_path)
    with pytest.raises(RunError, match=f"this run is not finished: .* train --resume {folder}"):
        run.finished(folder)
    run.train(folder)
    record = json.loads((folder / run.RESULT).read_text())
    del record["validation"]
    (folder / run.RESULT).write_text(json.dumps(record))
    with pytest.raises(RunError, match="this run is not finished"):
        run.finished(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"input": {"height": 9, "width": 6, "mode": "L", "framing": "squash", "mean": [0.4], "std": [0.3]}},
            "input: is",
        ),
        ({"labels": ["a", "b"], "layers": [{"flatten": True}, {"dense": 2, "activation": "none"}]}, "labels: names 2"),
    ],
)
def test_a_recipe_that_does_not_fit_its_data_is_refused(
    change: dict[str, Any],
    said: str,
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pictures of another size, or classes without a label, are found before any training."""
    data = Dataset(stripes(60), stripes(30, seed=1), {"stripes": stripes(30, seed=2)}, "sha256:0")
    monkeypatch.setattr("training.data.mnist.load", lambda _validation: data)
    with pytest.raises(RecipeError, match=said):
        run.load(recipe_with(**change))


def test_a_run_leaves_its_log_and_its_pictures(
    recipe_with: Callable[..., Recipe], data: Dataset, tmp_path: Path
) -> None:
    """A line an epoch, and the five pictures of the validation split."""
    assert len(data.validation) == 45
    folder = run.start(recipe_with(epochs=2), tmp_path)
    run.train(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    found = {path.name for path in (folder / run.PICTURES).iterdir()}
    assert found == {"curves.png", "confusion.png", "reliability.png", "filters.png", "mistakes.png"}


@pytest.mark.usefixtures("data")
def test_a_run_is_trained_by_one_process_at_a_time(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """While another process holds the run's lock, training it is refused, and goes on once that has ended."""
    folder = run.start(recipe_with(epochs=1), tmp_path)
    with (folder / run.LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process trains this run"):
            run.train(folder)
    assert run.train(folder).seconds > 0


def test_the_precision_that_a_run_computes_in_is_saved(
    recipe_with: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is resolved once, when the run starts."""
    monkeypatch.setattr("training.precision.resolve", lambda _recipe, _device: "bfloat16")
    folder = run.start(recipe_with(precision="auto"), tmp_path)
    assert run.recipe_of(folder).precision == "bfloat16"


def test_a_cross_validation_trains_every_fold_and_goes_on_where_it_stopped(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the third of three folds, the first two are not trained again; the result holds all three."""
    asked: list[int] = []

    def fold(_data: object, _spec: object, number: int) -> Dataset:
        asked.append(number)
        if len(asked) == 3:
            raise KeyboardInterrupt
        test = {"stripes": stripes(30 + number, seed=10 + number)}
        return Dataset(stripes(60, seed=number), stripes(30, seed=5), test, "sha256:folds")

    monkeypatch.setattr("training.data.catalogue.fold", fold)
    folder = run.start(recipe_with(data={"name": "mr", "validation": 100, "folds": 3}), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.train(folder)
    result = run.train(folder)
    assert asked == [0, 1, 2, 2]
    assert [metrics.n for metrics in result.folds] == [30, 31, 32]
    assert result.validation.n == 93
    assert result.validation.accuracy == pytest.approx(sum(fold.accuracy * fold.n for fold in result.folds) / 93)
    assert not list(folder.glob("fold-*.pt"))
    with pytest.raises(RunError, match="leaves no model to publish"):
        run.finished(folder)
    assert run.train(folder) == result
    assert asked == [0, 1, 2, 2]
