"""Runs: what their folders hold, how they continue, and which folders are refused."""

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from contract.manifest import Metrics
from training.data import catalogue
from training.data.dataset import Dataset, Split
from training.errors import RecipeError, RunError
from training.evaluation import metrics as evaluate
from training.evaluation.calibration import fit_temperature
from training.fit import loop as fit
from training.fit import state
from training.network.build import normalise
from training.recipe.schema import Recipe
from training.release.publish import publish
from training.runs import record, run


@pytest.fixture
def data(stripes: Callable[..., Split], monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Stripes in place of the data set of a recipe."""
    made = Dataset(stripes(120), stripes(45, seed=1), {"stripes": stripes(30, seed=2)}, "sha256:stripes")
    monkeypatch.setattr("training.runs.run.load", lambda _recipe: made)
    return made


def test_a_run_keeps_its_recipe(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """The recipe in a run's folder equals the recipe that the run was started with, with its overrides."""
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
def test_a_folder_that_is_not_a_run_is_refused(content: str | None, tmp_path: Path) -> None:
    """The error names a folder without a recipe, or with a damaged one."""
    if content is not None:
        (tmp_path / record.RECIPE).write_text(content)
    with pytest.raises(RunError, match=f"{tmp_path}: not a run; .*runs/RECIPE/TIME"):
        run.recipe_of(tmp_path)


def test_runs_that_cannot_be_written_are_refused(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """A file in the place of the folder of runs is named."""
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(RunError, match=f"{tmp_path / 'runs'}"):
        run.start(recipe_with(), tmp_path / "runs")


@pytest.mark.parametrize("refit", [False, True])
def test_a_finished_run_has_its_network_and_its_metrics(
    *, refit: bool, recipe_with: Callable[..., Recipe], data: Dataset, tmp_path: Path
) -> None:
    """Temperature and metrics are of the first training; the network is that of the refit, if the recipe has one."""
    recipe = recipe_with(data={"name": "mnist", "validation": 100, "refit": refit})
    folder = run.start(recipe, tmp_path)
    result = run.train(folder)
    assert {path.name for path in folder.iterdir()} - {"events"} == {
        ".lock",
        "recipe.json",
        "result.json",
        "pictures",
        "fit.pt",
        "metrics.jsonl",
        *(["refit.pt", "metrics-refit.jsonl"] if refit else []),
    }
    first = state.trained(recipe, folder / "fit.pt")
    outputs = evaluate.logits(first, normalise(recipe), data.validation)
    probabilities = torch.softmax(outputs / result.temperature, dim=1).numpy()
    assert result.temperature == fit_temperature(outputs, data.validation.labels)
    assert result.validation == evaluate.metrics(probabilities, data.validation.labels)
    assert result.fingerprint == data.fingerprint
    network, read = run.finished(folder)
    assert read == result
    both = data.train + data.validation
    expected = fit.fit(recipe, both, None, tmp_path / "again.pt") if refit else first
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        np.testing.assert_array_equal(ours.detach(), theirs.detach())


@pytest.mark.usefixtures("data")
def test_training_a_finished_run_changes_nothing(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """A run that is resumed when it is done gives the same result, seconds included."""
    folder = run.start(recipe_with(), tmp_path)
    assert run.train(folder) == run.train(folder)


@pytest.mark.usefixtures("data")
def test_a_run_that_is_not_finished_has_the_command_that_continues_it(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    """A run without a result, or with a damaged one, is not finished."""
    folder = run.start(recipe_with(), tmp_path)
    with pytest.raises(RunError, match=f"not finished.* train --resume {folder}"):
        run.finished(folder)
    run.train(folder)
    stored = json.loads((folder / record.RESULT).read_text())
    del stored["validation"]
    (folder / record.RESULT).write_text(json.dumps(stored))
    with pytest.raises(RunError, match=rf"result\.json: .*validation: .* train --resume {folder}"):
        run.finished(folder)


def test_a_recipe_that_does_not_fit_its_data_is_refused(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of another size are refused before any training; `test_labels.py` has other labels."""
    data = Dataset(stripes(60), stripes(30, seed=1), {"stripes": stripes(30, seed=2)}, "sha256:0")
    monkeypatch.setattr("training.data.catalogue.load", lambda *_: data)
    spec = {"height": 9, "width": 6, "mode": "L", "framing": "squash", "mean": [0.4], "std": [0.3]}
    with pytest.raises(RecipeError, match=r"input: .*\(9, 6, 1\).*mnist.*\(6, 9, 1\)"):
        run.load(recipe_with(input=spec))


class Stop(Exception):
    """A kill at some moment of a run."""


@pytest.mark.usefixtures("data")
def test_a_run_is_trained_by_one_process_at_a_time(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """While another process holds the lock a training is refused and changes nothing; afterwards it runs."""
    folder = run.start(recipe_with(epochs=1), tmp_path)
    with (folder / run.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=f"{folder}: another process trains this run"):
            run.train(folder)
        assert {path.name for path in folder.iterdir()} == {"recipe.json", ".lock"}
    assert run.train(folder).validation.n == 45


@pytest.mark.usefixtures("data")
def test_a_training_holds_the_lock_until_its_end(
    recipe_with: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that starts while another is in an epoch is refused; a training that fails releases the lock."""
    folder, original_fit = run.start(recipe_with(epochs=1), tmp_path), fit.fit

    def meanwhile(*arguments: Any, **more: Any) -> Any:
        with pytest.raises(RunError, match="another process trains this run"):
            run.train(folder)
        original_fit(*arguments, **more)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("training.fit.loop.fit", meanwhile)
        with pytest.raises(Stop):
            run.train(folder)
    assert run.train(folder).validation.n == 45


@pytest.mark.usefixtures("data")
def test_a_run_leaves_its_plots(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """Six PNG files of the validation split; a network without convolutions has no filters."""
    plots = {"curves.png", "confusion.png", "classes.png", "reliability.png", "filters.png", "mistakes.png"}
    flat = [{"flatten": True}, {"dense": 3, "activation": "none"}]
    for changes, expected in (({}, plots), ({"layers": flat}, plots - {"filters.png"})):
        folder = run.start(recipe_with(epochs=1, **changes), tmp_path)
        run.train(folder)
        files = list((folder / run.PICTURES).iterdir())
        assert {path.name for path in files} == expected
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


@pytest.mark.usefixtures("data")
def test_plots_that_cannot_be_written_do_not_cost_the_run(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """A file in the place of their folder is a RunError; without the file the run continues to its end."""
    folder = run.start(recipe_with(epochs=1), tmp_path)
    (folder / run.PICTURES).write_text("in the way")
    with pytest.raises(RunError, match=f"{folder / run.PICTURES}: "):
        run.train(folder)
    (folder / run.PICTURES).unlink()
    assert run.train(folder).validation.n == 45


def test_the_precision_is_decided_once(
    recipe_with: Callable[..., Recipe], data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is measured when the run starts, and saved; a run that continues does not measure again."""
    measured: list[str] = []

    def resolve(recipe: Recipe, device: torch.device) -> str:
        measured.append(f"{recipe.precision} on {device}")
        return "bfloat16"

    with monkeypatch.context() as patch:
        patch.setattr("training.fit.precision.resolve", resolve)
        folder = run.start(recipe_with(precision="auto", epochs=1), tmp_path)
        assert run.recipe_of(folder).precision == "bfloat16"
        run.train(folder)
    assert measured == ["auto on cpu"]
    expected = fit.fit(recipe_with(precision="bfloat16", epochs=1), data.train, None, tmp_path / "again.pt")
    network, _ = run.finished(folder)
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        np.testing.assert_array_equal(ours.detach(), theirs.detach())


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_saved_recipe_has_a_precision(precision: str, recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """A precision is kept, `auto` becomes a precision, and the rest of the recipe does not change."""
    recipe = recipe_with(precision=precision)
    saved = run.recipe_of(run.start(recipe, tmp_path))
    assert saved.precision in ({"float32", "bfloat16"} if precision == "auto" else {precision})
    assert saved.model_copy(update={"precision": precision}) == recipe


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("failing", [1, 3])
def test_a_full_disk_at_the_log_keeps_the_run(
    failing: int, recipe_with: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first or a later epoch: the error has the command that continues, and then the log is complete."""
    folder, count = run.start(recipe_with(), tmp_path), 0

    def full(_file: int) -> None:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.runs.log.os", SimpleNamespace(fsync=full))
        with pytest.raises(RunError, match=f"No space left on device.* train --resume {folder}"):
            run.train(folder)
    assert len(state.history(folder / "fit.pt")) == failing - 1
    run.train(folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert [json.loads(line) for line in lines] == [vars(epoch) for epoch in state.history(folder / "fit.pt")]


FOLDS = 3


@pytest.fixture
def folds(stripes: Callable[..., Split], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three folds of different data in place of those of a data set; the list of the folds that were loaded."""
    loaded: list[int] = []

    def fold(_data: Any, _spec: Any, _labels: Any, number: int) -> Dataset:
        loaded.append(number)
        parts = [stripes(count + 3 * number, seed=10 * number + place) for place, count in enumerate((90, 45, 30))]
        wrong = parts[2].labels.clone()
        wrong[: number + 1] = (wrong[: number + 1] + 1) % 3  # each fold has its own accuracy
        return Dataset(parts[0], parts[1], {"stripes": Split(parts[2].inputs, wrong)}, "sha256:folds")

    monkeypatch.setattr("training.runs.run.catalogue.fold", fold)
    return loaded


@pytest.fixture
def in_folds(recipe_with: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A run of three folds that has not started yet."""
    return run.start(recipe_with(data={"name": "mr", "validation": 100, "folds": FOLDS}, epochs=2), tmp_path / "runs")


def test_a_cross_validation_trains_and_tests_every_fold(folds: list[int], in_folds: Path) -> None:
    """The metrics of a fold are of its own test split; those of the run are means over all examples."""
    result = run.train(in_folds)
    assert folds == [0, 1, 2]
    assert [fold.n for fold in result.folds] == [30, 33, 36]
    assert [fold.accuracy for fold in result.folds] == pytest.approx([29 / 30, 31 / 33, 33 / 36])
    assert result.validation.n == 99
    assert result.validation.accuracy == pytest.approx(93 / 99)
    assert result.validation.nll == pytest.approx(sum(fold.nll * fold.n for fold in result.folds) / 99)
    assert result.fingerprint == "sha256:folds"
    stored = json.loads((in_folds / record.RESULT).read_text())
    assert [Metrics(**fold) for fold in stored["folds"]] == list(result.folds)
    assert list(in_folds.glob("*.pt")) == []
    assert {path.name for path in in_folds.glob("metrics*")} == {
        f"metrics-fold-0{number}.jsonl" for number in (1, 2, 3)
    }


def test_folds_differ_in_nothing_but_their_data(
    folds: list[int], in_folds: Path, tmp_path: Path, recipe_with: Callable[..., Recipe]
) -> None:
    """The metrics of a fold are those of a training by itself, calibrated on its own validation split."""
    result = run.train(in_folds)
    recipe = recipe_with(epochs=2)
    data = catalogue.fold(recipe.data, recipe.input, recipe.labels, 1)
    network = fit.fit(recipe, data.train, None, tmp_path / "fit.pt")
    scale, test = normalise(recipe), data.tests["stripes"]
    temperature = fit_temperature(evaluate.logits(network, scale, data.validation), data.validation.labels)
    probabilities = torch.softmax(evaluate.logits(network, scale, test) / temperature, dim=1).numpy()
    assert result.folds[1] == evaluate.metrics(probabilities, test.labels)
    assert folds == [0, 1, 2, 1]


@pytest.mark.parametrize("moment", ["between", "within"])
def test_a_cross_validation_continues_with_the_fold_it_was_killed_in(
    moment: str, folds: list[int], in_folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before fold 2 or after its first epoch: fold 1 is not trained again, and the result is the same."""
    shutil.copytree(in_folds, tmp_path / "uninterrupted")
    uninterrupted = run.train(tmp_path / "uninterrupted")
    folds.clear()
    original_fit, original_fold = fit.fit, catalogue.fold

    def killed(*arguments: Any, **more: Any) -> Any:
        def watch(history: list[state.Epoch]) -> None:
            more["watch"](history)
            if len(history) == 1 and arguments[3].stem == "fold-02":
                raise Stop

        return original_fit(*arguments, **{**more, "watch": watch})

    def none(data: Any, spec: Any, labels: Any, number: int) -> Dataset:
        if number == 1:
            raise Stop
        dataset: Dataset = original_fold(data, spec, labels, number)
        return dataset

    with monkeypatch.context() as patch:
        patch.setattr(
            *(("training.fit.loop.fit", killed) if moment == "within" else ("training.runs.run.catalogue.fold", none))
        )
        with pytest.raises(Stop):
            run.train(in_folds)
    before = (in_folds / "fold-01.json").read_bytes()
    assert (in_folds / "fold-02.pt").exists() == (moment == "within")
    result = run.train(in_folds)
    assert folds == ([0, 1, 1, 2] if moment == "within" else [0, 1, 2])
    assert (in_folds / "fold-01.json").read_bytes() == before
    assert result.folds == uninterrupted.folds
    assert result.validation == uninterrupted.validation


@pytest.mark.usefixtures("folds")
def test_a_cross_validation_is_not_published(in_folds: Path, tmp_path: Path) -> None:
    """A cross-validation leaves no model, whether it is finished or not."""
    with pytest.raises(RunError, match="not finished"):
        publish(in_folds, tmp_path / "models")
    run.train(in_folds)
    with pytest.raises(RunError, match=f"{in_folds}: .*cross-validation"):
        publish(in_folds, tmp_path / "models", force=True)
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("folds")
@pytest.mark.parametrize("content", ["{", "[]", '{"metrics": {}}'])
def test_a_damaged_fold_is_named(content: str, in_folds: Path) -> None:
    """The error names the file, and a fold is trained again only after the file was removed."""
    (in_folds / "fold-02.json").write_text(content)
    with pytest.raises(RunError, match=rf"fold-02\.json: .* Remove the file.* --resume {in_folds}"):
        run.train(in_folds)
    (in_folds / "fold-02.json").unlink()
    assert len(run.train(in_folds).folds) == FOLDS
