"""The range test of the learning rate: what it suggests, draws and leaves."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from training.__main__ import main
from training.data.dataset import Split
from training.fit import range_test
from training.fit.parallel import Machine
from training.recipe.schema import Recipe

ROOT = Path(__file__).parents[2]
OPTIMISERS = ["sgd", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "nadam"]


def ramp_of(recipe: Recipe, split: Split) -> range_test.Ramp:
    return range_test.run(recipe, split, Machine(), lambda _rate, _loss: None)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_optimiser_has_a_range(
    optimiser: str, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split]
) -> None:
    """The rates grow by one factor, the loss falls on a set that is learned at once, and a rate is suggested."""
    recipe = recipe_with(optimiser={"name": optimiser, "learning_rate": 0.01})
    ramp = ramp_of(recipe, stripes(90))
    assert ramp.planned == range_test.MIN_STEPS
    np.testing.assert_allclose([b / a for a, b in pairwise(ramp.rates)], 1e7 ** (1 / (ramp.planned - 1)))
    assert ramp.suggestion is not None
    assert ramp.rates[0] < ramp.suggestion < ramp.rates[-1]
    smooth = ramp.smoothed
    place = int(np.searchsorted(ramp.rates, ramp.suggestion * 1.05)) - 1
    assert place <= smooth.argmin()
    assert smooth[place + 1] - smooth.min() <= 0.15 * (ramp.start - smooth.min())


def test_the_test_depends_on_the_seed_alone(recipe_with: Callable[..., Recipe], stripes: Callable[..., Split]) -> None:
    """Twice the same losses, bit for bit, with augmentation and dropout; others with another seed."""
    layers = [{"flatten": True}, {"dropout": 0.3}, {"dense": 3, "activation": "none"}]
    recipe = recipe_with(layers=layers, augment={"noise": 0.1}, accumulate=2, average_decay=0.9)
    first, again, other = (ramp_of(each, stripes(90)) for each in (recipe, recipe, recipe_with(layers=layers, seed=1)))
    assert first == again
    assert first.losses != other.losses


def test_a_loss_that_rises_ends_the_test(recipe_with: Callable[..., Recipe], stripes: Callable[..., Split]) -> None:
    """Without batch norm, large rates of SGD make the loss grow: no further steps, and a suggestion below."""
    layers = [{"flatten": True}, {"dense": 20}, {"dense": 3, "activation": "none"}]
    split = stripes(90)
    labels = torch.cat([split.labels[:60], split.labels[60:].flip(0)])  # a third is wrong, so no weights fit all
    ramp = ramp_of(recipe_with(layers=layers), Split(split.inputs, labels))
    assert ramp.has_diverged
    assert ramp.suggestion is not None
    assert ramp.suggestion < ramp.rates[-1] / 5


def test_a_network_that_cannot_learn_gets_no_suggestion(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split]
) -> None:
    """With labels that the images do not show, the loss falls by noise alone."""
    split = stripes(300)
    torch.manual_seed(0)
    noise = Split(torch.zeros_like(split.inputs), split.labels[torch.randperm(len(split))])
    recipe = recipe_with(batch_size="full", initialise={"name": "zeros"})
    assert ramp_of(recipe, noise).suggestion is None


def test_texts_with_a_slower_body_have_a_range(recipe_with: Callable[..., Recipe]) -> None:
    """Of texts of two words, each for a label; the body has a tenth of the rate of the last layer."""
    recipe = recipe_with(
        labels=["a", "b"],
        input={"kind": "text", "length": 4, "vocabulary": 10},
        data={"name": "mr", "validation": 10},
        layers=[{"embedding": 4}, {"windows": [1], "filters": 4}, {"dense": 2, "activation": "none"}],
    )
    slow = recipe.model_copy(update={"initialise": recipe.initialise.model_copy(update={"body_rate": 0.1})})
    labels = torch.arange(64) % 2
    words = torch.stack([labels + 2, labels + 4, labels * 0, labels * 0], dim=1)
    split = Split(words.int(), labels)
    plain, slowed = ramp_of(recipe, split), ramp_of(slow, split)
    assert plain.suggestion is not None
    assert slowed.suggestion is not None
    assert plain.losses[0] == slowed.losses[0]
    assert plain.losses != slowed.losses


def test_the_steps_are_those_of_an_epoch_within_bounds(recipe_with: Callable[..., Recipe]) -> None:
    """200 to 400, with accumulated batches counted once; the range reaches beyond the recipe's own rate."""
    assert range_test.steps_of(recipe_with(batch_size=32), 320) == 200
    assert range_test.steps_of(recipe_with(batch_size=32), 9600) == 300
    assert range_test.steps_of(recipe_with(batch_size=32, accumulate=2), 19_200) == 300
    assert range_test.steps_of(recipe_with(batch_size=1), 60_000) == 400
    own = recipe_with(optimiser={"name": "adadelta", "learning_rate": 5.0})
    assert range_test.bounds(own) == (range_test.LOWEST, 50)


@pytest.mark.usefixtures("use_stripes")
def test_the_command_draws_suggests_and_leaves_no_run(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture is all that it writes; the printed command trains with the suggestion and what was set."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert main(["lr", str(recipe_file), "--threads", "1", "--set", "batch_size=16"]) == 0
    picture = tmp_path / "lr-mine.png"
    assert set(tmp_path.rglob("*")) - before == {picture}
    assert picture.read_bytes().startswith(b"\x89PNG")
    output = capsys.readouterr().out
    rate = float(re.search(r"suggested learning rate: ([\d.e-]+)", output)[1])  # type: ignore[index]
    assert 1e-6 < rate < 10
    command = output.splitlines()[-1].strip()
    assert command == (
        f"python -m training train {recipe_file} --set 'batch_size=16' --set optimiser.learning_rate={rate:g}"
    )
    assert "the recipe has 0.05" in output


@pytest.mark.usefixtures("use_stripes")
def test_a_place_for_the_picture_is_checked_first(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is missing or another kind of file is refused before the data are read."""
    for output in (tmp_path / "nowhere" / "lr.png", tmp_path / "lr.jpg"):
        assert main(["lr", str(recipe_file), "--output", str(output)]) == 2
        assert re.search("--output .*PNG", capsys.readouterr().err)


def test_the_recipe_is_checked_before_torch_is_imported() -> None:
    """A misspelt key and missing data are refused at once."""
    code = (
        "import sys; from training.__main__ import main; status = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    for args in (
        ["lr", "lenet", "--set", "gate.metric=acuracy"],
        ["lr", "lenet"],
        ["sweep", "lenet", "--grid", "seed=1,2"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=ROOT,
            env={**os.environ, "CONVOKE_DATA": "/nowhere"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")
