"""The loop on made-up pictures: it learns, counts its steps, goes on where it stopped and stops when it must."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn, optim

from training import augment, checkpoint
from training.data import Split
from training.errors import RunError
from training.fit import Epoch, fit, loss_of, seconds, trained
from training.network import build, normalise
from training.optimise import optimiser
from training.recipe import Loss, Recipe

LINEAR = [{"flatten": True}, {"dense": 3, "activation": "none"}]
EVERYTHING: dict[str, Any] = {
    "layers": [
        {"conv": 4, "kernel": 3, "batch_norm": True},
        {"flatten": True},
        {"dropout": 0.3},
        {"dense": 3, "activation": "none"},
    ],
    "epochs": 4,
    "average_decay": 0.9,
    "optimiser": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
    "schedule": {"name": "one-cycle"},
    "augment": {"rotate_deg": 10, "shift_px": 1},
}


class Stop(Exception):
    """A kill at some step of a training."""


def assert_equal(ours: Any, theirs: Any) -> None:
    """Nested dicts and lists of tensors and values are the same, bit for bit, but for times."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds", "images_per_s"}:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    elif isinstance(ours, Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def history(path: Path) -> list[dict[str, Any]]:
    state = checkpoint.load(path)
    assert state is not None
    epochs: list[dict[str, Any]] = state["history"]
    return epochs


@dataclass(frozen=True)
class Step:
    """One step of an optimiser: its learning rate, and the first layer's weights after it."""

    rate: float
    weights: Tensor


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that the optimisers take, as they take them."""
    taken: list[Step] = []

    def record(own: optim.Optimizer, *_: Any) -> None:
        (group,) = own.param_groups
        taken.append(Step(group["lr"], group["params"][0].detach().clone()))

    def recorded(*arguments: Any) -> optim.Optimizer:
        made = optimiser(*arguments)
        made.register_step_post_hook(record)
        return made

    monkeypatch.setattr("training.fit.optimiser", recorded)
    return taken


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_learns(
    precision: str, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Three epochs on stripes: the loss falls, and stripes that were not seen are told apart."""
    recipe = recipe_with(precision=precision)
    network = fit(recipe, stripes(200), stripes(60, seed=1), tmp_path / "fit.pt")
    epochs = history(tmp_path / "fit.pt")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert epochs[-1]["loss"] < epochs[0]["loss"] / 2
    assert epochs[-1]["validation_loss"] < epochs[0]["validation_loss"]
    assert epochs[-1]["validation_accuracy"] > 0.95
    unseen = stripes(60, seed=2)
    found = network(normalise(recipe)(unseen.inputs)).argmax(dim=1)
    assert float((found == unseen.labels).float().mean()) > 0.95
    assert not network.training


@pytest.mark.parametrize("stop", [1, 9, 21, 27])
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    stop: int,
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in any of the 4 epochs of 7 steps and continued: the same weights, averages, moments and history."""
    recipe, train, validation = recipe_with(**EVERYTHING), stripes(200), stripes(30, seed=1)
    whole = fit(recipe, train, validation, tmp_path / "whole.pt")
    calls, whole_augment = 0, augment.augment

    def stopping(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Stop
        return whole_augment(*arguments)

    monkeypatch.setattr("training.augment.augment", stopping)
    with pytest.raises(Stop):
        fit(recipe, train, validation, tmp_path / "stopped.pt")
    before = history(tmp_path / "stopped.pt") if stop > 7 else []
    assert len(before) == (stop - 1) // 7
    torch.manual_seed(999)  # another process has drawn other numbers
    continued = fit(recipe, train, validation, tmp_path / "stopped.pt")
    assert_equal(dict(continued.state_dict()), dict(whole.state_dict()))
    assert_equal(checkpoint.load(tmp_path / "stopped.pt"), checkpoint.load(tmp_path / "whole.pt"))


def test_a_finished_training_is_not_repeated(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path, steps: list[Step]
) -> None:
    """Fitting once more takes no step and leaves the checkpoint as it is; `trained` gives the same network."""
    recipe, path = recipe_with(epochs=1), tmp_path / "fit.pt"
    first = fit(recipe, stripes(40), None, path)
    before, taken = path.read_bytes(), len(steps)
    again = fit(recipe, stripes(40), None, path)
    assert taken == len(steps) == 2
    assert path.read_bytes() == before
    for network in (again, trained(recipe, path)):
        assert_equal(dict(network.state_dict()), dict(first.state_dict()))


@pytest.mark.parametrize(("batch_size", "expected"), [("full", 1), (1, 19), (4, 5), (6, 3), (19, 1), (64, 1)])
def test_an_epoch_has_as_many_steps_as_batches(
    batch_size: Any,
    expected: int,
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    steps: list[Step],
) -> None:
    """19 examples: one step in full, 19 one by one, 5 of 4; a last batch of a single one, as of 6, is left out."""
    fit(recipe_with(layers=LINEAR, batch_size=batch_size, epochs=2), stripes(19), None, tmp_path / "fit.pt")
    assert len(steps) == 2 * expected


def test_a_full_batch_is_one_step_down_the_gradient_of_all_examples(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """W - rate * gradient of the mean loss over the whole split, the loss smoothed as the recipe says."""
    recipe = recipe_with(
        layers=LINEAR,
        batch_size="full",
        epochs=1,
        optimiser={"name": "sgd", "learning_rate": 0.5},
        loss={"label_smoothing": 0.1},
    )
    split = stripes(19)
    torch.manual_seed(recipe.seed)
    start = build(recipe)
    target = F.one_hot(split.labels, 3) * 0.9 + 0.1 / 3
    loss = -(target * F.log_softmax(start(normalise(recipe)(split.inputs)), dim=1)).sum(dim=1).mean()
    slopes = torch.autograd.grad(loss, list(start.parameters()))
    found = fit(recipe, split, None, tmp_path / "fit.pt")
    for weight, slope, ours in zip(start.parameters(), slopes, found.parameters(), strict=True):
        np.testing.assert_allclose(ours.detach(), (weight - 0.5 * slope).detach(), rtol=1e-4, atol=1e-6)
    assert history(tmp_path / "fit.pt")[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_learning_rate_follows_the_schedule_over_all_epochs(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path, steps: list[Step]
) -> None:
    """Two epochs of five steps go down one cosine from the recipe's rate to 0."""
    recipe = recipe_with(layers=LINEAR, batch_size=4, epochs=2, schedule={"name": "cosine"})
    fit(recipe, stripes(20), None, tmp_path / "fit.pt")
    expected = [0.05 * (1 + math.cos(math.pi * step / 9)) / 2 for step in range(10)]
    assert [step.rate for step in steps] == pytest.approx(expected)


@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_the_network_that_is_given_is_the_moving_average_of_the_weights(
    decay: float,
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    steps: list[Step],
) -> None:
    """A = decay * a + (1 - decay) * w after each step, from the first step's weights on; a decay of 0 is w itself."""
    recipe = recipe_with(layers=LINEAR, epochs=2, average_decay=decay)
    found = fit(recipe, stripes(100), None, tmp_path / "fit.pt")
    expected = steps[0].weights
    for step in steps[1:]:
        expected = decay * expected + (1 - decay) * step.weights
    assert len(steps) == 8
    np.testing.assert_allclose(next(found.parameters()).detach(), expected, rtol=1e-5, atol=1e-6)


def test_validation_is_of_the_weights_that_are_given(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The last epoch's validation figures are those of the averaged network, without smoothing or dropout."""
    recipe, validation = recipe_with(**EVERYTHING, loss={"label_smoothing": 0.1}), stripes(30, seed=1)
    network = fit(recipe, stripes(100), validation, tmp_path / "fit.pt")
    with torch.inference_mode():
        outputs = network(normalise(recipe)(validation.inputs))
    last = history(tmp_path / "fit.pt")[-1]
    assert last["validation_loss"] == pytest.approx(F.cross_entropy(outputs, validation.labels).item(), rel=1e-5)
    assert last["validation_accuracy"] == (outputs.argmax(dim=1) == validation.labels).float().mean().item()


def test_the_validation_split_changes_nothing(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """With and without validation, and whatever is in it, the trained weights are the same."""
    recipe = recipe_with(**{**EVERYTHING, "epochs": 2})
    networks = [
        fit(recipe, stripes(60), validation, tmp_path / f"{number}.pt")
        for number, validation in enumerate([None, stripes(30, seed=1), stripes(9, seed=2)])
    ]
    for network in networks[1:]:
        assert_equal(dict(network.state_dict()), dict(networks[0].state_dict()))
    assert history(tmp_path / "0.pt")[0]["validation_accuracy"] is None


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The message names epoch, rate and a way out; the last good checkpoint stays as it is and can be continued."""
    path = tmp_path / "fit.pt"
    fit(recipe_with(epochs=1), stripes(100), None, path)
    before = path.read_bytes()
    hot = recipe_with(epochs=3, optimiser={"name": "sgd", "learning_rate": 1e38})
    with pytest.raises(RunError, match=r"the loss became (nan|inf) in epoch 2, step \d+, .* 1e\+38.* is of epoch 1\."):
        fit(hot, stripes(100), None, path)
    assert path.read_bytes() == before
    fit(recipe_with(epochs=2), stripes(100), None, path)
    assert len(history(path)) == 2


def test_weights_that_the_last_step_made_infinite_are_no_good_checkpoint(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A loss that was finite before the one step of an epoch says nothing of the weights after it."""
    recipe = recipe_with(batch_size="full", epochs=1, optimiser={"name": "sgd", "learning_rate": 1e38})
    with pytest.raises(RunError):
        fit(recipe, stripes(60), stripes(30, seed=1), tmp_path / "fit.pt")
    assert not (tmp_path / "fit.pt").exists()


def test_an_unfinished_training_has_no_network(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """`trained` refuses a checkpoint of 1 of 3 epochs, and the absence of one."""
    path = tmp_path / "fit.pt"
    with pytest.raises(RunError, match="0 of 3 epochs are trained"):
        trained(recipe_with(), path)
    fit(recipe_with(epochs=1), stripes(40), None, path)
    with pytest.raises(RunError, match="1 of 3 epochs are trained"):
        trained(recipe_with(), path)


@pytest.mark.parametrize("state", [{"network": {}}, {"no": "network"}, []])
def test_a_checkpoint_of_something_else_is_refused(
    state: Any, recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    """A readable file without this network's weights is a RunError that names it."""
    checkpoint.save(tmp_path / "fit.pt", state)
    with pytest.raises(RunError, match=r"fit\.pt: this checkpoint is not of this recipe"):
        trained(recipe_with(), tmp_path / "fit.pt")


def test_a_checkpoint_of_another_recipe_is_refused(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Weights of other layers do not fit, and are not written over."""
    path = tmp_path / "fit.pt"
    fit(recipe_with(epochs=1), stripes(40), None, path)
    before = path.read_bytes()
    with pytest.raises(RunError, match="not of this recipe"):
        fit(recipe_with(layers=LINEAR), stripes(40), None, path)
    assert path.read_bytes() == before


def test_the_seed_decides_the_training(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The same seed gives the same network bit for bit, another one another."""
    found: list[nn.Sequential] = []
    for number, seed in enumerate([0, 0, 1]):
        torch.manual_seed(number)
        recipe = recipe_with(**{**EVERYTHING, "epochs": 1}, seed=seed)
        found.append(fit(recipe, stripes(40), None, tmp_path / f"{number}.pt"))
    assert_equal(dict(found[0].state_dict()), dict(found[1].state_dict()))
    assert not torch.equal(next(found[0].parameters()), next(found[2].parameters()))


def test_the_seconds_of_a_training_are_the_sum_of_its_epochs(tmp_path: Path) -> None:
    """Over all sittings; 0 where there is no checkpoint."""
    epochs = [vars(Epoch(number, 1.0, 0.5, None, None, 10.0, number + 0.5)) for number in (1, 2)]
    checkpoint.save(tmp_path / "fit.pt", {"history": epochs})
    assert seconds(tmp_path / "fit.pt") == 4.0
    assert seconds(tmp_path / "other.pt") == 0.0


def test_early_stopping_keeps_the_best_epoch(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Accuracies 0.5, 0.8, 0.8, 0.7, 0.9 with a patience of 2: no fifth epoch, the second's weights stay."""
    figures = iter([(3.0, 0.5), (1.0, 0.8), (2.0, 0.8), (0.5, 0.7), (0.0, 0.9)])
    weights: list[Tensor] = []

    def validate(_recipe: object, state: Any, *_: Any) -> tuple[float, float]:
        weights.append(state.best_known[0].weight.detach().clone())
        return next(figures)

    monkeypatch.setattr("training.fit._validate", validate)
    recipe = recipe_with(epochs=5, early_stopping=2, average_decay=0.5)
    network = fit(recipe, stripes(60), stripes(30, seed=1), tmp_path / "fit.pt")
    assert len(history(tmp_path / "fit.pt")) == 4
    assert torch.equal(network.state_dict()["0.weight"], weights[1])
    again = trained(recipe, tmp_path / "fit.pt")
    assert torch.equal(again.state_dict()["0.weight"], weights[1])


def test_progressive_resolution_gives_each_side_its_share_of_the_epochs(
    recipe_with: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four epochs over two sides: two of each, the first ones small; validation stays at the input's side."""
    sides: list[tuple[int, int]] = []
    whole = augment.augment

    def watch(*arguments: Any) -> Tensor:
        found = whole(*arguments)
        sides.append((found.shape[2], found.shape[3]))
        return found

    monkeypatch.setattr("training.augment.augment", watch)
    square = {"height": 8, "width": 8, "mode": "L", "framing": "squash", "mean": [0.4], "std": [0.3]}
    layers = [{"conv": 2, "kernel": 3}, {"pool": "max", "size": "global"}, *LINEAR]
    recipe = recipe_with(input=square, layers=layers, resolutions=[4, 8], epochs=4, batch_size=64)
    split = Split(torch.randint(0, 256, (60, 8, 8, 1), dtype=torch.uint8), torch.arange(60) % 3)
    fit(recipe, split, split, tmp_path / "fit.pt")
    assert sides == [(4, 4), (4, 4), (8, 8), (8, 8)]
    assert [epoch["resolution"] for epoch in history(tmp_path / "fit.pt")] == [4, 4, 8, 8]


def test_mean_squared_error_is_of_probabilities_against_smoothed_labels() -> None:
    """The sum over classes of (softmax - goal)^2, meaned over the batch."""
    outputs, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    goal = torch.full((5, 3), 0.3 / 3, dtype=torch.float64)
    goal[torch.arange(5), labels] += 0.7
    expected = (torch.softmax(outputs, 1) - goal).square().sum(1).mean()
    how = Loss(name="mean-squared-error", label_smoothing=0.3)
    torch.testing.assert_close(loss_of(how, outputs, labels), expected)


@pytest.mark.parametrize(
    "failure",
    [MemoryError(), RuntimeError("DefaultCPU: can't allocate memory"), torch.OutOfMemoryError("CUDA")],
)
def test_too_little_memory_ends_with_advice_and_an_intact_checkpoint(
    failure: Exception,
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the second epoch: the message names the epoch and a smaller batch, the first epoch's checkpoint is whole."""
    recipe, whole = recipe_with(epochs=2), augment.augment
    fit(recipe_with(epochs=1), stripes(60), None, tmp_path / "fit.pt")

    def fail(*_: Any) -> Tensor:
        raise failure

    monkeypatch.setattr("training.augment.augment", fail)
    with pytest.raises(RunError, match=r"too small for epoch 2 .* checkpoint is of epoch 1\. .*batch_size=16"):
        fit(recipe, stripes(60), None, tmp_path / "fit.pt")
    monkeypatch.setattr("training.augment.augment", whole)
    assert len(history(tmp_path / "fit.pt")) == 1
    fit(recipe, stripes(60), None, tmp_path / "fit.pt")
    assert len(history(tmp_path / "fit.pt")) == 2


def test_another_runtime_error_is_not_taken_for_too_little_memory(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our own mistakes come out as they are."""

    def fail(*_: Any) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("training.augment.augment", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        fit(recipe_with(), stripes(60), None, tmp_path / "fit.pt")
