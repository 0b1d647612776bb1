"""The table of runs: their metrics, and the keys in which their recipes differ."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from training.errors import RunError
from training.recipe.schema import Recipe
from training.runs import compare, record

Maker = Callable[..., Path]


@pytest.fixture
def made(recipe_with: Callable[..., Recipe], tmp_path: Path) -> Maker:
    """Makes a run's folder with so many epochs, a result or None, and changes to the small recipe."""

    def make(name: str, epochs: int = 3, result: dict[str, Any] | None = None, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / record.RECIPE).write_text(recipe_with(**changes).model_dump_json())
        lines = [
            {"epoch": number, "validation_accuracy": 0.25 * number, "seconds": 20.0} for number in range(1, epochs + 1)
        ]
        (folder / record.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        if result is not None:
            (folder / record.RESULT).write_text(json.dumps(result))
        return folder

    return make


def result(accuracy: float = 0.9712) -> dict[str, Any]:
    validation = {"n": 45, "accuracy": accuracy, "nll": 0.12345, "ece": 0.0123}
    return {"temperature": 1.5, "validation": validation, "seconds": 1234.4, "fingerprint": "sha256:0"}


def row(text: str, number: int) -> list[str]:
    return text.splitlines()[number].split()


def test_a_finished_run_has_the_metrics_of_its_result(made: Maker) -> None:
    """Its row has recipe, seed, epochs, parameters (9*4 + 2*4 + 48*3 + 3), calibrated metrics and seconds."""
    folder = made("a", result=result(), seed=7)
    text = compare.table([folder], width=400)
    assert row(text, 1) == [
        "1",
        str(folder),
        "small",
        "7",
        "3/3",
        "191",
        "97.12%",
        "87.4-99.4",
        "45",
        "0.1235",
        "0.0123",
        "1,234",
    ]
    assert "differ" not in text


def with_recall(accuracy: float, recall: float) -> dict[str, Any]:
    figures = {"balanced_accuracy": 0.6, "macro_f1": 0.5, "classes": {"right": {"recall": recall}}}
    return {**result(accuracy), "validation_figures": figures}


def test_runs_are_in_the_order_of_their_gate(made: Maker) -> None:
    """Where all recipes name one metric it decides, in a column of its own; else the accuracy does, which is said."""
    gate = {"metric": "recall", "label": "right"}
    runs = [made("a", result=with_recall(0.9, 0.3), gate=gate), made("b", result=with_recall(0.8, 0.7), gate=gate)]
    text = compare.table(runs, width=400)
    header = next(number for number, line in enumerate(text.splitlines()) if "parameters" in line)
    assert "balanced  recall of 'right'" in text.splitlines()[header]
    assert [row(text, header + 1)[place] for place in (1, 9, 10)] == [str(runs[1]), "60.00%", "70.00%"]
    assert row(text, header + 2)[1] == str(runs[0])
    assert "the best recall of 'right' first" in text
    mixed = compare.table([*runs, made("c", result=with_recall(0.85, 0.1))], width=400)
    assert "different metrics" in mixed
    assert mixed.index(str(runs[0])) < mixed.index(str(runs[1]))


def test_an_unfinished_run_has_the_accuracy_of_its_last_epoch(made: Maker) -> None:
    """Its accuracy is marked and the mark explained; the metrics of finished runs alone are `-`."""
    text = compare.table([made("a", epochs=2)], width=400)
    assert row(text, 1)[4:] == ["2/3", "191", "50.00%", "*", "-", "-", "-", "-", "40"]
    assert "* not finished" in text
    assert row(compare.table([made("b", epochs=0)], width=400), 1)[4:] == [
        "0/3",
        "191",
        "-",
        "*",
        "-",
        "-",
        "-",
        "-",
        "0",
    ]


def test_the_best_run_stands_first_and_failed_runs_last(made: Maker) -> None:
    """Finished runs by accuracy, then unfinished ones by the accuracy of their last epoch, then those without one."""
    runs = [
        made("failed", epochs=0),
        made("worse", result=result(0.6)),
        made("going", epochs=2),
        made("best", result=result()),
    ]
    text = compare.table(runs, width=400)
    table = text.split("\n\n")[1].splitlines()[1:5]
    assert [line.split()[1].rsplit("/", 1)[1] for line in table] == ["best", "worse", "going", "failed"]


def test_a_cross_validated_run_has_mean_and_deviation(made: Maker) -> None:
    """The accuracy is the folds' mean +- their sample deviation; metrics that the folds lack are `-`."""
    accuracies = [0.75, 0.8, 0.79]
    folds = [{"fold": number, "accuracy": value} for number, value in enumerate(accuracies, start=1)]
    text = compare.table([made("a", result={"folds": folds, "seconds": 5}, data={"name": "mr", "validation": 100})])
    assert f"{mean(accuracies):.2%} +- {stdev(accuracies):.2%}  " in text
    assert row(text, 1)[-3:] == ["-", "-", "5"]
    alone = compare.table([made("b", result={"folds": folds[:1]})])
    assert "75.00%" in alone
    assert "75.00% +-" not in alone


def test_only_the_keys_that_differ_are_shown(made: Maker) -> None:
    """Keys of sections and layers are named by their path; the seed and equal keys are left out."""
    layers: list[dict[str, Any]] = [
        {"conv": 4, "kernel": 3, "padding": 1, "batch_norm": True},
        {"pool": "max", "size": 2},
        {"flatten": True},
        {"dropout": 0.5},
        {"dense": 3, "activation": "none"},
    ]
    wider = [{**layers[0], "conv": 8}, *layers[1:3], layers[4]]
    text = compare.table(
        [
            made("a", layers=layers, optimiser={"name": "adam", "learning_rate": 0.001}),
            made("b", layers=wider, seed=3),
        ]
    )
    block = [line.split(maxsplit=1) for line in text.split("\n\n")[0].splitlines()[1:]]
    keys = [words[0] for words in block]
    assert sorted(keys) == sorted(
        [
            "layers[1].conv",
            "layers[4]",
            "layers[5]",
            "optimiser.name",
            "optimiser.learning_rate",
            "optimiser.beta1",
            "optimiser.beta2",
            "optimiser.amsgrad",
            "optimiser.momentum",
            "optimiser.nesterov",
        ]
    )
    cells = {words[0]: words[1].split() for words in block}
    assert cells["layers[1].conv"] == ["4", "8"]
    assert cells["layers[4]"] == ["dropout=0.5", "scale_in=training", "dense=3", "activation=none"]
    assert cells["layers[5]"] == ["dense=3", "activation=none", "-"]
    assert cells["optimiser.name"] == ["adam", "sgd"]
    assert cells["optimiser.momentum"] == ["-", "0.9"]


def test_equal_recipes_have_no_differences(made: Maker) -> None:
    """Two runs of one recipe with different seeds have no second block."""
    assert compare.table([made("a"), made("b", seed=1)]).startswith("the recipes do not differ")


def test_a_key_that_is_missing_equals_one_without_a_value() -> None:
    """A recipe that is older than a key does not differ from one in which the key is null."""
    assert compare.differences([{"epochs": 1}, {"epochs": 1, "resolutions": None}]) == {}
    assert compare.differences([{"augment": {"flip": True}}, {}]) == {"augment.flip": [True, None]}


@pytest.mark.parametrize("width", [100, 120])
def test_no_line_is_wider_than_the_terminal(width: int, made: Maker) -> None:
    """Long paths are cut at their front, long values wrapped, and many runs split into several tables."""
    folders = [
        made(
            f"{'long/' * 12}run-{number}",
            result=with_recall(0.9, 0.3),
            epochs=3,
            seed=number,
            description="x" * 200,
            batch_size=number + 1,
            resolutions=None,
            labels=[f"{letter}{number}" * 20 for letter in "abc"],
        )
        for number in range(12)
    ]
    text = compare.table(folders, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert all(f"run-{number}" in text for number in range(12))
    numbers = [
        int(word) for line in text.splitlines() if line.startswith("recipes differ in") for word in line.split()[3:]
    ]
    assert numbers == list(range(1, 13))


def test_a_long_value_is_wrapped_and_never_cut(made: Maker) -> None:
    """Values that differ only at their end are shown to the end."""
    names = [["left", "middle", f"{'wide ' * 30}{side}"] for side in ("right", "left")]
    text = compare.table([made("a", labels=names[0]), made("b", labels=names[1])])
    assert "right]" in text
    assert text.count("wide") == 60


def test_a_recipe_of_another_version_is_shown_without_its_parameters(made: Maker) -> None:
    """A run whose recipe is no longer valid is compared, too."""
    folder = made("a", result=result())
    recipe = json.loads((folder / record.RECIPE).read_text())
    (folder / record.RECIPE).write_text(json.dumps({**recipe, "withdrawn": 1}))
    assert row(compare.table([folder], width=400), 1)[5:7] == ["-", "97.12%"]


def test_a_metric_that_is_not_a_number_is_refused(made: Maker) -> None:
    """The error names the file, the key and the value."""
    with pytest.raises(RunError, match=r"result\.json: accuracy: .*'high'"):
        compare.table([made("a", result={"validation": {"accuracy": "high"}})])


def test_a_path_that_is_not_a_run_is_named(made: Maker, tmp_path: Path) -> None:
    """The error names the one path that is wrong."""
    with pytest.raises(RunError, match=f"{tmp_path / 'none'}: not a run"):
        compare.table([made("a"), tmp_path / "none"])
