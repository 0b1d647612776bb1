"""The training loop on synthetic data: it learns, takes the right steps, resumes, and stops early."""

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

from training.data.dataset import Split
from training.errors import RunError
from training.evaluation import metrics as evaluate
from training.fit import augment, checkpoint
from training.fit.batch import batches, resolution
from training.fit.loop import fit
from training.fit.optimise import loss_of, optimiser
from training.fit.state import Epoch, best_epoch, seconds, trained
from training.network.build import BoundedLinear, build, normalise
from training.recipe.gate import Gate
from training.recipe.optimise import Loss
from training.recipe.schema import Recipe

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


TEXTS: dict[str, Any] = {
    "labels": ["down", "up"],
    "input": {"kind": "text", "length": 12, "vocabulary": 30},
    "layers": [
        {"embedding": 6},
        {"dropout": 0.2},
        {"windows": [2, 3], "filters": 4},
        {"dense": 2, "activation": "none", "max_norm": 1.0},
    ],
    "epochs": 4,
    "batch_size": 16,
    "average_decay": 0.5,
    "augment": {"word_dropout": 0.1},
    "optimiser": {"name": "adam", "learning_rate": 0.02},
    "data": {"name": "mr", "validation": 100},
}


class Stop(Exception):
    """Interrupts a training."""


def assert_equal(ours: Any, theirs: Any) -> None:
    """Nested dicts and lists of tensors and values are equal, bit for bit, except for times."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds", "images_per_s"}:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_equal(our, their)
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
    """A step of an optimiser: its learning rate, and the first layer's weights after it."""

    rate: float
    weights: Tensor


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """A log of the steps of all optimisers."""
    log: list[Step] = []

    def record(own: optim.Optimizer, *_: Any) -> None:
        (group,) = own.param_groups
        log.append(Step(group["lr"], group["params"][0].detach().clone()))

    def recording(*arguments: Any) -> optim.Optimizer:
        result = optimiser(*arguments)
        result.register_step_post_hook(record)
        return result

    monkeypatch.setattr("training.fit.state.optimiser", recording)
    return log


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_learns(
    precision: str, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """After three epochs the loss has fallen, and unseen stripes are classified correctly."""
    recipe = recipe_with(precision=precision)
    network = fit(recipe, stripes(200), stripes(60, seed=1), tmp_path / "fit.pt")
    epochs = history(tmp_path / "fit.pt")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert epochs[-1]["loss"] < epochs[0]["loss"] / 2
    assert epochs[-1]["validation_loss"] < epochs[0]["validation_loss"]
    assert epochs[-1]["validation_accuracy"] > 0.95
    unseen = stripes(60, seed=2)
    predicted = network(normalise(recipe)(unseen.inputs)).argmax(dim=1)
    assert float((predicted == unseen.labels).float().mean()) > 0.95
    assert not network.training


PLATEAU: dict[str, Any] = {
    "epochs": 6,
    "accumulate": 3,
    "clip_gradient": 1.0,
    "early_stopping": 4,
    "schedule": {"name": "plateau", "patience": 1, "factor": 0.5},
    "optimiser": {"name": "rmsprop", "learning_rate": 0.1, "momentum": 0.5},
}


@pytest.mark.parametrize(("stop", "changes"), [(1, {}), (9, {}), (21, {}), (27, {}), (36, PLATEAU), (45, PLATEAU)])
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(
    stop: int,
    changes: dict[str, Any],
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in any of 4 or 6 epochs of 7 batches and resumed: the same weights, averages, moments and history.

    So does a run with accumulated batches, the best epoch kept, and a learning rate that its history has lowered.
    """
    recipe, train, validation = recipe_with(**(EVERYTHING | changes)), stripes(200), stripes(30, seed=1)
    uninterrupted = fit(recipe, train, validation, tmp_path / "whole.pt")
    calls, original = 0, augment.augment

    def stopping(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Stop
        return original(*arguments)

    monkeypatch.setattr("training.fit.augment.augment", stopping)
    with pytest.raises(Stop):
        fit(recipe, train, validation, tmp_path / "stopped.pt")
    before = history(tmp_path / "stopped.pt") if stop > 8 else []
    assert len(before) == (stop - 1) // 8  # 7 batches, and the examples whose outputs are checked after an epoch
    torch.manual_seed(999)  # a new process starts with another state of the generator
    continued = fit(recipe, train, validation, tmp_path / "stopped.pt")
    assert_equal(dict(continued.state_dict()), dict(uninterrupted.state_dict()))
    assert_equal(checkpoint.load(tmp_path / "stopped.pt"), checkpoint.load(tmp_path / "whole.pt"))
    rates = [epoch["learning_rate"] for epoch in history(tmp_path / "whole.pt")]
    assert not changes or rates[-1] < rates[0], "the learning rate has been lowered"


def test_a_finished_training_is_not_repeated(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path, steps: list[Step]
) -> None:
    """A second `fit` takes no step and keeps the checkpoint; `trained` returns the same network."""
    recipe, path = recipe_with(epochs=1), tmp_path / "fit.pt"
    first = fit(recipe, stripes(40), None, path)
    before, count = path.read_bytes(), len(steps)
    again = fit(recipe, stripes(40), None, path)
    assert count == len(steps) == 2
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
    """19 examples: one step in full, 19 of 1, 5 of 4; with 6, the last batch of a single example is left out."""
    fit(recipe_with(layers=LINEAR, batch_size=batch_size, epochs=2), stripes(19), None, tmp_path / "fit.pt")
    assert len(steps) == 2 * expected


def test_a_full_batch_is_one_step_down_the_gradient_of_all_examples(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The weights become w - rate * gradient of the mean loss over the split, with the recipe's label smoothing."""
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
    network = fit(recipe, split, None, tmp_path / "fit.pt")
    for weight, slope, ours in zip(start.parameters(), slopes, network.parameters(), strict=True):
        np.testing.assert_allclose(ours.detach(), (weight - 0.5 * slope).detach(), rtol=1e-4, atol=1e-6)
    assert history(tmp_path / "fit.pt")[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_learning_rate_follows_the_schedule_over_all_epochs(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path, steps: list[Step]
) -> None:
    """Two epochs of five steps follow one cosine from the recipe's rate, which would be 0 after the last step."""
    recipe = recipe_with(layers=LINEAR, batch_size=4, epochs=2, schedule={"name": "cosine"})
    fit(recipe, stripes(20), None, tmp_path / "fit.pt")
    expected = [0.05 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    assert [step.rate for step in steps] == pytest.approx(expected)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.998])
def test_the_result_is_the_moving_average_of_the_weights(
    decay: float,
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    steps: list[Step],
) -> None:
    """After step n, counted from 0, a = d * a + (1 - d) * w with d = min(decay, (1 + n) / (10 + n)), from the first w.

    A short run with a decay near 1 thus does not keep its initial weights; with a decay of 0, a = w.
    """
    recipe = recipe_with(layers=LINEAR, epochs=2, average_decay=decay)
    network = fit(recipe, stripes(100), None, tmp_path / "fit.pt")
    expected = steps[0].weights
    for number, step in enumerate(steps[1:], start=1):
        share = min(decay, (1 + number) / (10 + number))
        expected = share * expected + (1 - share) * step.weights
    assert len(steps) == 8
    np.testing.assert_allclose(next(network.parameters()).detach(), expected, rtol=1e-5, atol=1e-6)


def test_validation_measures_the_resulting_network(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The last epoch's validation figures are those of the averaged network, without label smoothing or dropout."""
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
    """The trained weights are the same without a validation split and with different ones."""
    recipe = recipe_with(**{**EVERYTHING, "epochs": 2})
    networks = [
        fit(recipe, stripes(60), validation, tmp_path / f"{number}.pt")
        for number, validation in enumerate([None, stripes(30, seed=1), stripes(9, seed=2)])
    ]
    for network in networks[1:]:
        assert_equal(dict(network.state_dict()), dict(networks[0].state_dict()))
    assert history(tmp_path / "0.pt")[0]["validation_accuracy"] is None


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message names epoch, rate and remedy; the last good checkpoint is kept and can be resumed."""
    path = tmp_path / "fit.pt"
    fit(recipe_with(epochs=1), stripes(100), None, path)
    before = path.read_bytes()
    diverging = recipe_with(epochs=3, optimiser={"name": "sgd", "learning_rate": 1e38})
    monkeypatch.setattr("training.fit.state._check_unchanged", lambda *_: None)
    with pytest.raises(RunError, match=r"(nan|inf) .*epoch 2, step \d+, .*1e\+38.* epoch 1\..*=1e\+37"):
        fit(diverging, stripes(100), None, path)
    assert path.read_bytes() == before
    fit(recipe_with(epochs=2), stripes(100), None, path)
    assert len(history(path)) == 2


def test_infinite_weights_after_the_last_step_are_not_saved(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The loss before an epoch's only step is finite; the weights after it are not."""
    recipe = recipe_with(batch_size="full", epochs=1, optimiser={"name": "sgd", "learning_rate": 1e38})
    with pytest.raises(RunError):
        fit(recipe, stripes(60), stripes(30, seed=1), tmp_path / "fit.pt")
    assert not (tmp_path / "fit.pt").exists()


def test_a_validation_loss_that_is_not_finite_ends_the_run(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The average of weights may be infinite where the trained network is not; its epoch is not saved as the best."""
    monkeypatch.setattr("training.fit.loop.evaluate.logits", lambda *_, **__: torch.full((30, 3), math.inf))
    with pytest.raises(RunError, match="infinite or NaN after epoch 1"):
        fit(recipe_with(average_decay=0.9), stripes(60), stripes(30, seed=1), tmp_path / "fit.pt")
    assert not (tmp_path / "fit.pt").exists()


def test_an_unfinished_training_has_no_network(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """`trained` refuses a missing checkpoint, and one with 1 of 3 epochs."""
    path = tmp_path / "fit.pt"
    with pytest.raises(RunError, match="0 of 3"):
        trained(recipe_with(), path)
    fit(recipe_with(epochs=1), stripes(40), None, path)
    with pytest.raises(RunError, match="1 of 3"):
        trained(recipe_with(), path)


@pytest.mark.parametrize("state", [{"network": {}}, {"no": "network"}, []])
def test_a_checkpoint_with_other_content_is_refused(
    state: Any, recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    """A readable file without this network's weights is a RunError that names the file."""
    checkpoint.save(tmp_path / "fit.pt", state)
    with pytest.raises(RunError, match=r"fit\.pt: .*recipe"):
        trained(recipe_with(), tmp_path / "fit.pt")


def test_a_checkpoint_of_another_recipe_is_refused(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Weights of other layers do not match, and the file is not overwritten."""
    path = tmp_path / "fit.pt"
    fit(recipe_with(epochs=1), stripes(40), None, path)
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"fit\.pt: .*recipe"):
        fit(recipe_with(layers=LINEAR), stripes(40), None, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"labels": ["right", "middle", "left"]}, "labels"),
        ({"seed": 1}, "seed"),
        ({"optimiser": {"name": "adam", "learning_rate": 0.05}}, "optimiser.name"),
        ({"optimiser": {"name": "sgd", "learning_rate": 0.06, "momentum": 0.9}}, "optimiser.learning_rate"),
        ({"data": {"name": "mnist", "validation": 200}}, "data.validation"),
    ],
)
def test_a_recipe_that_was_changed_is_not_resumed(
    change: dict[str, Any],
    key: str,
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
) -> None:
    """A key that differs is named, with both values, before training and before publishing; epochs may be added."""
    path = tmp_path / "fit.pt"
    fit(recipe_with(epochs=1), stripes(40), None, path)
    changed = recipe_with(epochs=2, **change)
    with pytest.raises(RunError, match=rf"{key} = .* has .* now"):
        fit(changed, stripes(40), None, path)
    with pytest.raises(RunError, match=rf"{key} = "):
        trained(changed, path)
    fit(recipe_with(epochs=2, description="longer"), stripes(40), None, path)


def test_the_seed_decides_the_training(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The same seed gives the same network bit for bit; another seed gives another."""
    networks: list[nn.Sequential] = []
    for number, seed in enumerate([0, 0, 1]):
        torch.manual_seed(number)
        recipe = recipe_with(**{**EVERYTHING, "epochs": 1}, seed=seed)
        networks.append(fit(recipe, stripes(40), None, tmp_path / f"{number}.pt"))
    assert_equal(dict(networks[0].state_dict()), dict(networks[1].state_dict()))
    assert not torch.equal(next(networks[0].parameters()), next(networks[2].parameters()))


def test_the_seconds_of_a_training_are_the_sum_of_its_epochs(tmp_path: Path) -> None:
    """Over all sessions; 0 without a checkpoint."""
    epochs = [vars(Epoch(number, 1.0, 0.5, None, None, 10.0, number + 0.5)) for number in (1, 2)]
    checkpoint.save(tmp_path / "fit.pt", {"history": epochs})
    assert seconds(tmp_path / "fit.pt") == 4.0
    assert seconds(tmp_path / "other.pt") == 0.0


def sentences(count: int, seed: int = 0) -> Split:
    """Texts of 1 to 12 words, of the lower or the upper half of the vocabulary: int32 (count, 12)."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    tokens = torch.randint(2, 16, (count, 12), generator=draw, dtype=torch.int32) + 14 * labels.int().unsqueeze(1)
    lengths = torch.randint(1, 13, (count, 1), generator=draw)
    return Split(tokens * (torch.arange(12) < lengths), labels)


def worsening(stripes: Callable[..., Split]) -> Split:
    """A validation split with wrong labels only: the better the network, the higher its loss."""
    split = stripes(30, seed=1)
    return Split(split.inputs, (split.labels + 1) % 3)


def stop_after(epochs: int) -> Callable[[list[Epoch]], None]:
    """A watcher that interrupts a training after this number of epochs."""

    def watch(history: list[Epoch]) -> None:
        if len(history) == epochs:
            raise Stop

    return watch


@pytest.mark.parametrize("patience", [1, 3])
def test_a_training_that_does_not_improve_stops_early_with_the_best_weights(
    patience: int, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """If every epoch makes validation worse, it ends `patience` epochs after the first, with the first's weights."""
    recipe = recipe_with(epochs=9, early_stopping=patience, average_decay=0.5)
    result = fit(recipe, stripes(100), worsening(stripes), tmp_path / "fit.pt")
    losses = [epoch["validation_loss"] for epoch in history(tmp_path / "fit.pt")]
    assert losses == sorted(losses)
    assert len(losses) == 1 + patience
    first = fit(recipe_with(epochs=1, average_decay=0.5), stripes(100), None, tmp_path / "first.pt")
    for network in (result, trained(recipe, tmp_path / "fit.pt")):
        assert_equal(dict(network.state_dict()), dict(first.state_dict()))


def test_a_training_that_improves_does_not_stop_early(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """If every epoch is better than the previous one, all are trained and the last is kept."""
    recipe = recipe_with(epochs=5, early_stopping=1)
    result = fit(recipe, stripes(100), stripes(30, seed=1), tmp_path / "fit.pt")
    reference = fit(recipe_with(epochs=5), stripes(100), None, tmp_path / "whole.pt")
    assert len(history(tmp_path / "fit.pt")) == 5
    assert_equal(dict(result.state_dict()), dict(reference.state_dict()))


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_early_stopping_is_the_same_after_an_interruption(
    epochs: int, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Stopped after any epoch and resumed: the best weights and the last epoch are those of an uninterrupted run."""
    recipe = recipe_with(**{**EVERYTHING, "epochs": 9}, early_stopping=2)
    data = (stripes(100), worsening(stripes))
    uninterrupted = fit(recipe, *data, tmp_path / "whole.pt")
    assert len(history(tmp_path / "whole.pt")) >= 3
    with pytest.raises(Stop):
        fit(recipe, *data, tmp_path / "stopped.pt", watch=stop_after(epochs))
    continued = fit(recipe, *data, tmp_path / "stopped.pt")
    assert_equal(dict(continued.state_dict()), dict(uninterrupted.state_dict()))
    assert_equal(checkpoint.load(tmp_path / "stopped.pt"), checkpoint.load(tmp_path / "whole.pt"))


@pytest.mark.parametrize(
    ("losses", "best"), [([], 0), ([None, None], 2), ([3, 2, 1], 3), ([3, 1, 2], 2), ([1, 1, 1], 1), ([2, None, 1], 3)]
)
def test_among_equal_accuracies_the_best_epoch_is_the_first_of_the_lowest_loss(
    losses: list[float | None], best: int
) -> None:
    """Counted from 1; an equal loss is not better; without a validation split it is the last epoch."""
    epochs = [
        Epoch(number, 1.0, 0.5, loss, None if loss is None else 0.5, 10.0, 1.0) for number, loss in enumerate(losses, 1)
    ]
    assert best_epoch(epochs, Gate()) == best


def test_the_best_epoch_has_the_highest_accuracy_whatever_its_loss() -> None:
    """If loss and accuracy both rise, the later epoch is the better one."""
    epochs = [
        Epoch(number, 1.0, 0.5, loss, accuracy, 10.0, 1.0) for number, loss, accuracy in [(1, 1, 0.7), (2, 3, 0.8)]
    ]
    assert best_epoch(epochs, Gate()) == 2


def test_the_best_epoch_is_that_of_the_metric_of_the_gate() -> None:
    """Where the gate holds on another figure than the accuracy, this decides; without it, the loss."""
    epochs = [
        Epoch(number, 1.0, 0.5, 1.0 / number, accuracy, 10.0, 1.0, validation_figures={"balanced_accuracy": balanced})
        for number, accuracy, balanced in [(1, 0.7, 0.9), (2, 0.9, 0.6), (3, 0.8, 0.5)]
    ]
    found = [best_epoch(epochs, gate) for gate in (Gate(), Gate(metric="balanced-accuracy"))]
    assert found == [2, 1]
    assert best_epoch(epochs, Gate(metric="recall", label="a")) == 3


def test_the_resolution_grows_over_the_epochs(
    recipe_with: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides 4, 6 and 8 over 7 epochs, each for its share, in the history and in the network's inputs."""
    recipe = recipe_with(
        layers=[{"conv": 2, "kernel": 3}, {"pool": "average", "size": "global"}, {"flatten": True}, LINEAR[1]],
        input={"height": 8, "width": 8, "mode": "L", "framing": "squash", "mean": [0.4], "std": [0.3]},
        resolutions=[4, 6, 8],
        epochs=7,
    )
    images = torch.randint(0, 256, (20, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shapes: list[tuple[int, ...]] = []

    def recording(*arguments: Any) -> nn.Sequential:
        network = build(*arguments)
        network.register_forward_pre_hook(lambda module, args: shapes.append((*args[0].shape, module.training)))
        return network

    monkeypatch.setattr("training.fit.state.build", recording)
    fit(recipe, Split(images, torch.arange(20) % 3), None, tmp_path / "fit.pt")
    expected = [4, 4, 4, 6, 6, 8, 8]
    assert [resolution(recipe, number) for number in range(1, 8)] == expected
    short = {epochs: recipe.model_copy(update={"epochs": epochs}) for epochs in (1, 2)}
    assert resolution(short[1], 1) == resolution(short[2], 2) == 8  # never 4 and 6 alone, where 8 is served
    assert [epoch["resolution"] for epoch in history(tmp_path / "fit.pt")] == expected
    assert [shape[:4] for shape in shapes if shape[4]] == [(20, 1, side, side) for side in expected]
    assert {shape[2] for shape in shapes if not shape[4]} == {8}  # validation is at the full resolution


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mean_squared_error_is_of_the_probabilities(smoothing: float) -> None:
    """The mean over examples of sum_k (p_k - y_k)^2, y one-hot, smoothed to (1 - s) y + s / K."""
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 3, 0, 1])
    scores = np.exp(logits.double().numpy())
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    target = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    actual = loss_of(Loss(name="mean-squared-error", label_smoothing=smoothing), logits, labels)
    assert actual.item() == pytest.approx(((probabilities - target) ** 2).sum(axis=1).mean(), rel=1e-6)


def test_mean_squared_error_can_be_minimised(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The history holds the recipe's loss, which is about (K - 1) / K for a random guess, and falls."""
    fit(recipe_with(loss={"name": "mean-squared-error"}), stripes(200), stripes(60, seed=1), tmp_path / "fit.pt")
    epochs = history(tmp_path / "fit.pt")
    assert epochs[-1]["loss"] < epochs[0]["loss"] / 2 < 1 / 3
    assert epochs[-1]["validation_accuracy"] > 0.95


def test_max_norm_is_enforced_after_each_step(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a high learning rate, rows grow beyond 0.3 and are scaled back to it."""
    lengths: list[tuple[float, float]] = []
    bound = BoundedLinear.bound

    def longest(layer: nn.Linear) -> float:
        return float(layer.weight.detach().norm(dim=1).max())

    def recording(layer: BoundedLinear) -> None:
        before = longest(layer)
        bound(layer)
        lengths.append((before, longest(layer)))

    monkeypatch.setattr(BoundedLinear, "bound", recording)
    layers = [{"flatten": True}, {"dense": 3, "activation": "none", "max_norm": 0.3}]
    network = fit(recipe_with(layers=layers), stripes(100), None, tmp_path / "fit.pt")
    assert len(lengths) == 3 * 4
    assert max(before for before, _ in lengths) > 0.31
    assert max(after for _, after in lengths) < 0.3001
    last = network[-1]
    assert isinstance(last, nn.Linear)
    assert longest(last) == pytest.approx(0.3, abs=1e-4)


def test_a_batch_holds_texts_of_about_equal_length() -> None:
    """2,000 texts in batches of 8, sorted within every 50 batches: each text once, beside others of its length."""
    split = sentences(2000)
    assert split.lengths is not None
    torch.manual_seed(0)
    parts = list(batches(split, 8))
    assert sorted(torch.cat(parts).tolist()) == list(range(2000))
    assert {len(batch) for batch in parts} == {8}
    spans = [int(split.lengths[batch].max() - split.lengths[batch].min()) for batch in parts]
    assert max(spans) <= 2
    longest = [int(split.lengths[batch].max()) for batch in parts]
    assert longest != sorted(longest)  # the batches are shuffled
    torch.manual_seed(0)
    assert_equal(list(batches(split, 8)), parts)
    torch.manual_seed(1)
    assert not torch.equal(torch.cat(list(batches(split, 8))), torch.cat(parts))


@pytest.mark.parametrize(("count", "expected"), [(17, 16), (18, 18)])
def test_a_last_text_alone_is_left_out(count: int, expected: int) -> None:
    """As with images: batch norm has no variance over a single example."""
    torch.manual_seed(0)
    assert sum(len(batch) for batch in batches(sentences(count), 8)) == expected


def test_words_are_dropped_in_training_only(
    recipe_with: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training, about 3 of 10 words become the unknown word, and padding stays; validation sees every word."""
    seen: dict[bool, list[Tensor]] = {True: [], False: []}

    def recording(*arguments: Any) -> nn.Sequential:
        network = build(*arguments)
        network.register_forward_pre_hook(lambda module, args: seen[module.training].append(args[0].clone()))
        return network

    monkeypatch.setattr("training.fit.state.build", recording)
    recipe = recipe_with(**{**TEXTS, "augment": {"word_dropout": 0.3}, "epochs": 2})
    train = sentences(300)
    fit(recipe, train, sentences(20, seed=1), tmp_path / "fit.pt")
    words = torch.cat([tokens[tokens != 0] for tokens in seen[True]])
    assert len(words) == 2 * int((train.inputs != 0).sum())
    assert float((words == 1).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert all(bool((tokens != 1).all()) for tokens in seen[False])


def test_a_text_recipe_learns(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """Unseen texts with words of two halves of a vocabulary are classified correctly."""
    recipe = recipe_with(**TEXTS)
    network = fit(recipe, sentences(300), sentences(60, seed=1), tmp_path / "fit.pt")
    epochs = history(tmp_path / "fit.pt")
    assert epochs[-1]["validation_accuracy"] > 0.95
    assert epochs[-1]["resolution"] == 0
    unseen = sentences(60, seed=2)
    predicted = evaluate.logits(network, normalise(recipe), unseen).argmax(dim=1)
    assert float((predicted == unseen.labels).float().mean()) > 0.95


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_text_recipe_resumes_bit_for_bit(epochs: int, recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """With word dropout, dropout, averages and max-norm: an interrupted run ends as an uninterrupted one."""
    recipe, data = recipe_with(**TEXTS), (sentences(100), sentences(20, seed=1))
    fit(recipe, *data, tmp_path / "whole.pt")
    with pytest.raises(Stop):
        fit(recipe, *data, tmp_path / "stopped.pt", watch=stop_after(epochs))
    torch.manual_seed(999)  # a new process starts with another state of the generator
    fit(recipe, *data, tmp_path / "stopped.pt")
    assert_equal(checkpoint.load(tmp_path / "stopped.pt"), checkpoint.load(tmp_path / "whole.pt"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_out_of_memory_is_a_run_error_with_a_remedy(
    error: Exception,
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message names the batch size, half of it, and the last good checkpoint, which is kept."""
    path = tmp_path / "fit.pt"
    fit(recipe_with(epochs=1), stripes(100), None, path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("training.fit.loop.loss_of", fail)
    with pytest.raises(RunError, match=r"epoch 2 .* 32\. .* epoch 1\. .* --set batch_size=16"):
        fit(recipe_with(), stripes(100), None, path)
    assert path.read_bytes() == before


def test_another_error_is_not_mistaken_for_out_of_memory(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors in the code are raised as they are."""

    def fail(*_: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("training.fit.loop.loss_of", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit(recipe_with(), stripes(100), None, tmp_path / "fit.pt")


def test_a_full_disk_keeps_the_previous_checkpoint(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the second epoch cannot be saved, the first epoch's checkpoint is kept and the run can resume from it."""
    path, recipe = tmp_path / "fit.pt", recipe_with()
    uninterrupted = fit(recipe, stripes(100), None, tmp_path / "whole.pt")
    fit(recipe_with(epochs=1), stripes(100), None, path)
    before = path.read_bytes()

    def disk_full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.fit.checkpoint.os.fsync", disk_full)
        with pytest.raises(RunError, match=r"fit\.pt: .*No space left on device"):
            fit(recipe, stripes(100), None, path)
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"fit.pt", "whole.pt"}
    assert_equal(dict(fit(recipe, stripes(100), None, path).state_dict()), dict(uninterrupted.state_dict()))


def test_bfloat16_is_of_the_layers_in_training_alone(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Layers compute bfloat16 in training and float32 in validation; weights and loss stay float32."""
    dtypes: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    losses: set[torch.dtype] = set()

    def recording(*arguments: Any) -> nn.Sequential:
        network = build(*arguments)
        network.register_forward_hook(lambda module, _, output: dtypes[module.training].add(output.dtype))
        return network

    def recording_loss(options: Loss, outputs: Tensor, *labels: Any) -> Tensor:
        losses.add(outputs.dtype)
        return loss_of(options, outputs, *labels)

    monkeypatch.setattr("training.fit.state.build", recording)
    monkeypatch.setattr("training.fit.loop.loss_of", recording_loss)
    network = fit(recipe_with(precision="bfloat16"), stripes(60), stripes(30, seed=1), tmp_path / "fit.pt")
    assert dtypes == {True: {torch.bfloat16}, False: {torch.float32}}
    assert losses == {torch.float32}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_a_run_that_stops_early_keeps_its_metric(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The gate may change before a run is resumed, unless it has chosen the weights that are kept."""
    data = (stripes(60), stripes(30, seed=1))
    for patience in (None, 2):
        path = tmp_path / f"{patience}.pt"
        fit(recipe_with(epochs=1, early_stopping=patience), *data, path)
        changed = recipe_with(epochs=2, early_stopping=patience, gate={"metric": "macro-f1"})
        if patience is None:
            fit(changed, *data, path)
            continue
        with pytest.raises(RunError, match=r"gate\.metric"):
            fit(changed, *data, path)
