"""Sweeps: what is tried, what survives a kill, what a failed trial does, and by what the best is chosen."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.__main__ import main
from training.data.dataset import Dataset, Split
from training.recipe import space
from training.runs import run
from training.runs.sweep import locked

ROOT = Path(__file__).parents[2]
DIVERGES = "1e38"


@pytest.fixture
def sweep(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `sweep` in a folder of its own, with one epoch in each trial."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: main(["sweep", str(recipe_file), "--threads", "1", "--set", "epochs=1", *args])


def rates_of(folder: Path) -> list[float]:
    """The learning rates of the runs in a folder, in the order of their start."""
    paths = sorted((folder / "runs" / "mine").iterdir(), key=lambda path: path.stat().st_ctime)
    return sorted(json.loads((path / "recipe.json").read_text())["optimiser"]["learning_rate"] for path in paths)


@pytest.mark.usefixtures("use_stripes")
def test_a_grid_is_tried_and_compared(
    sweep: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each combination is an ordinary run; a trial that diverges is named and does not end the others."""
    args = ("--grid", f"optimiser.learning_rate=0.001,0.05,{DIVERGES}", "batch_size=16,30")
    assert sweep(*args) == 0
    output = capsys.readouterr().out
    assert rates_of(tmp_path) == [0.001, 0.001, 0.05, 0.05]
    assert "6 trials, a grid over optimiser.learning_rate (0.001, 0.05, 1e38); batch_size (16, 30)" in output
    assert "no trial sees the test splits" in output
    assert output.count("trial 5 failed: ") == 1
    assert "the loss became" in output
    best = re.search(r"the best of 4: (\S+), with accuracy ([\d.]+)%", output)
    assert best is not None
    accuracies = {str(path): json.loads((path / "result.json").read_text()) for path in (Path("runs/mine")).iterdir()}
    highest = max(each["validation"]["accuracy"] for each in accuracies.values())
    assert accuracies[best[1]]["validation"]["accuracy"] == highest == pytest.approx(float(best[2]) / 100, abs=1e-4)
    table = output[output.index("recipes differ in") :]
    assert f"publish {best[1]}" in table
    assert sweep(*args) == 0  # nothing is left to do
    again = capsys.readouterr().out
    assert "6 are finished" in again
    assert again[again.index("recipes differ in") :] == table
    assert len(rates_of(tmp_path)) == 4


@pytest.mark.usefixtures("use_stripes")
def test_draws_do_not_depend_on_interruptions(
    sweep: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep that is stopped in its second trial draws what one that was not stopped draws, and more on request."""
    args = ["--range", "optimiser.learning_rate=1e-4..1e-1:log", "batch_size=8..30", "--seed", "3"]
    assert sweep("--random", "3", *args, "--runs", "whole/runs", "--sweeps", "whole/sweeps") == 0
    expected = rates_of(tmp_path / "whole")
    assert len(set(expected)) == 3
    assert all(1e-4 <= rate <= 1e-1 for rate in expected)
    train, calls = run.train, []

    def stops(folder: Path, *rest: Any) -> Any:
        calls.append(folder)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(folder, *rest)

    monkeypatch.setattr("training.runs.run.train", stops)
    assert sweep("--random", "2", *args) == 130
    assert len(rates_of(tmp_path)) == 2
    capsys.readouterr()
    assert sweep("--random", "3", *args) == 0
    assert "1 are finished" in capsys.readouterr().out
    assert rates_of(tmp_path) == expected
    assert calls[2] == calls[1]  # it continued that run


@pytest.mark.usefixtures("use_stripes")
def test_a_trial_never_receives_the_test_splits(sweep: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The data that a trial is given have no test split; the best is by the metric of the gate."""
    train, seen = run.train, []

    def watch(folder: Path, machine: Any, data: Dataset) -> Any:
        seen.append(data.tests)
        return train(folder, machine, data)

    monkeypatch.setattr("training.runs.run.train", watch)
    assert sweep("--grid", "seed=1,2") == 0
    assert seen == [{}, {}]


def test_the_gate_decides_and_changed_data_end_the_sweep(
    sweep: Callable[..., int],
    stripes: Callable[..., Split],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The recall of a label may be the metric; trials over other data are not mixed with those before."""
    state = {"fingerprint": "sha256:one"}

    def load(_recipe: Any) -> Dataset:
        return Dataset(stripes(60), stripes(30, seed=1), {}, state["fingerprint"])

    monkeypatch.setattr("training.runs.run.load", load)
    monkeypatch.setattr("training.data.schema.check", lambda *_: None)
    monkeypatch.setattr("training.data.folders.check_present", lambda *_: None)
    gate = ("--set", "gate.metric=recall", "--set", "gate.label=left")
    args = ("--range", "optimiser.learning_rate=1e-5..1e-1:log")
    assert sweep(*gate, "--tpe", "2", *args) == 0
    output = capsys.readouterr().out
    assert "chosen by recall of 'left' on the validation split" in output
    assert "the best recall of 'left' first" in output
    state["fingerprint"] = "sha256:two"
    assert sweep(*gate, "--tpe", "3", *args) == 2
    assert "the data have changed" in capsys.readouterr().err


@pytest.mark.usefixtures("use_stripes")
def test_a_sweep_whose_trials_all_fail_says_why(
    sweep: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 with the reason once, and no run is left."""
    assert sweep("--grid", f"optimiser.learning_rate={DIVERGES},2e38") == 2
    assert re.search("error: all 2 trials failed: .*the loss became", capsys.readouterr().err)
    assert not (tmp_path / "runs" / "mine").exists()


@pytest.mark.usefixtures("use_stripes")
def test_what_a_killed_process_left_in_the_journal_is_repaired(
    sweep: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line without its end and Optuna's own lock are removed; a sweep that runs is not disturbed."""
    assert sweep("--random", "1", "--range", "seed=1..9") == 0
    (folder,) = (tmp_path / "sweeps").iterdir()
    journal = folder / "trials.log"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    (folder / "trials.log.lock").symlink_to(journal)
    capsys.readouterr()
    assert sweep("--random", "2", "--range", "seed=1..9") == 0
    assert "1 are finished" in capsys.readouterr().out
    with locked(folder):
        assert sweep("--random", "2", "--range", "seed=1..9") == 2
    assert "another process runs this sweep" in capsys.readouterr().err


PROGRAM = """
import sys, time, torch
import training.data.folders, training.data.schema
from training.__main__ import main
from training.data.dataset import Dataset, Split
from training.fit import loop
from training.runs import run

train, validation = (Split(*each) for each in torch.load("data.pt"))
run.load = lambda _recipe: Dataset(train, validation, {}, "sha256:same")
training.data.schema.check = training.data.folders.check_present = lambda *_: None
epoch = loop.Trainer.epoch

def watched(self, number):
    print("seed", self._recipe.seed, "epoch", number, flush=True)
    if sys.argv[1] == "hangs" and (self._recipe.seed, number) == (2, 2):
        time.sleep(600)
    return epoch(self, number)

loop.Trainer.epoch = watched
sys.exit(main(["sweep", sys.argv[2], "--threads", "1", "--set", "epochs=2", "--grid", "seed=1,2,3"]))
"""


def test_a_sweep_that_is_killed_continues(recipe_file: Path, stripes: Callable[..., Split], tmp_path: Path) -> None:
    """Kill -9 in the second trial after its first epoch: the next process goes on there, and trains nothing twice."""
    torch.save([(each.inputs, each.labels) for each in (stripes(60), stripes(30, seed=1))], tmp_path / "data.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        [*command, "hangs", str(recipe_file)], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        lines = []
        for line in killed.stdout:
            lines.append(line)
            if line == "seed 2 epoch 2\n":
                killed.kill()
    done = subprocess.run(
        [*command, "goes on", str(recipe_file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 are finished" in done.stdout
    trained = [line for line in done.stdout.splitlines() if line.startswith("seed")]
    assert trained == ["seed 2 epoch 2", "seed 3 epoch 1", "seed 3 epoch 2"]
    runs = list((tmp_path / "runs" / "mine").iterdir())
    assert sorted(json.loads((folder / "recipe.json").read_text())["seed"] for folder in runs) == [1, 2, 3]
    assert all((folder / "result.json").exists() for folder in runs)


def test_values_with_commas_are_kept_together() -> None:
    """Lists, tables and quoted texts of TOML may hold commas."""
    (axis,) = space.grid(["layers[1]={ conv = 4, kernel = 3 },{ conv = 8, kernel = 3 }"])
    assert axis.values == ("{ conv = 4, kernel = 3 }", "{ conv = 8, kernel = 3 }")
    assert space.grid(["resolutions=[64, 96],[96]"])[0].values == ("[64, 96]", "[96]")
    assert list(space.combinations(space.grid(["a=1,2", "b=x,y"]))) == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]


def test_ranges_are_of_numbers_or_words() -> None:
    """Whole numbers if both ends are, by the logarithm on request, or a list of values."""
    rate, size, name, shift = space.ranges(["r=1e-4..0.1:log", "size=8..64", "name=sgd,adam", "shift=-1.5..2"])
    assert rate == space.Range("r", 1e-4, 0.1, log=True, whole=False)
    assert size == space.Range("size", 8, 64, log=False, whole=True)
    assert name == space.Choice("name", ("sgd", "adam"))
    assert shift == space.Range("shift", -1.5, 2, log=False, whole=False)
    assert size.text(12.0) == "12"
    assert rate.text(0.00123456) == "0.001235"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--grid", "epochs"], "--grid 'epochs': expected KEY=V1,V2"),
        (["--grid", "epochs=1,,2"], "epochs=1,,2"),
        (["--grid", "epochs=1,1"], "a value twice"),
        (["--grid", "seed=1", "seed=2"], "seed is varied twice"),
        (["--grid", "optimiser.lerning_rate=1"], "with optimiser.lerning_rate=1: .*learning_rate"),
        (["--grid", "layers[1].kernel=3,99"], r"with layers\[1\].kernel=99: "),
        (["--grid", "epochs=1", "--set", "epochs=2"], "both set and varied"),
        (["--random", "3"], "needs --range"),
        (["--random", "0", "--range", "epochs=1..2"], "1 to 1,000 trials"),
        (["--random", "3", "--range", "epochs=9..2"], "the lower first"),
        (["--random", "3", "--range", "l1=0..1:log"], "numbers above 0"),
        (["--random", "3", "--range", "epochs=0..2"], "with epochs=0: .*epochs"),
        (["--grid", "data.folds=2"], "data.folds"),
        (["--grid", "seed=" + ",".join(map(str, range(1001)))], "1,001 combinations"),
    ],
)
def test_what_cannot_be_tried_is_refused_at_once(
    args: list[str],
    message: str,
    recipe_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line that names the option, before any data are read."""
    monkeypatch.setattr("training.data.folders.check_present", lambda *_: None)
    monkeypatch.setattr("training.data.schema.check", lambda *_: None)
    assert main(["sweep", str(recipe_file), *args]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
