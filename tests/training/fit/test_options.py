"""Keys of a recipe that change a step: accumulation, clipping, L1, frozen layers, stored images, processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from training.data.dataset import Split
from training.errors import RecipeError
from training.fit import state
from training.fit.batch import ImageLoader
from training.fit.loop import Sums, Trainer, fit
from training.fit.parallel import Machine, World
from training.network.build import build, normalise
from training.recipe.schema import Recipe

LINEAR = [{"flatten": True}, {"dense": 3, "activation": "none"}]
SGD = {"name": "sgd", "learning_rate": 0.5}


@pytest.fixture
def start(recipe_with: Callable[..., Recipe]) -> nn.Sequential:
    """The network before the first step."""
    torch.manual_seed(0)
    return build(recipe_with(layers=LINEAR))


def gradient(network: nn.Module, recipe: Recipe, split: Split) -> list[Tensor]:
    """Of the cross-entropy over the whole split."""
    loss = F.cross_entropy(network(normalise(recipe)(split.inputs)), split.labels)
    return list(torch.autograd.grad(loss, list(network.parameters())))


def moved(start: nn.Module, network: nn.Module) -> list[Tensor]:
    """The steps of the parameters, divided by the learning rate."""
    pairs = zip(start.parameters(), network.parameters(), strict=True)
    return [((before - after) / SGD["learning_rate"]).detach() for before, after in pairs]  # type: ignore[operator]


@pytest.mark.parametrize(("batch_size", "accumulate"), [(10, 3), (12, 3), (7, 5)])
def test_accumulated_batches_make_the_step_of_one_large_batch(
    batch_size: int,
    accumulate: int,
    start: nn.Sequential,
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
) -> None:
    """Also if the last batch is smaller: every example has the same weight."""
    split = stripes(30)
    recipe = recipe_with(layers=LINEAR, epochs=1, optimiser=SGD, batch_size=batch_size, accumulate=accumulate)
    network = fit(recipe, split, None, tmp_path / "fit.pt")
    for step, slope in zip(moved(start, network), gradient(start, recipe, split), strict=True):
        np.testing.assert_allclose(step, slope, rtol=1e-4, atol=1e-6)


def test_what_has_no_effect_on_few_examples_is_refused_or_said(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """More batches to accumulate than there are; a batch larger than the data; parts of a schedule without a step."""
    few = {"layers": LINEAR, "epochs": 2, "optimiser": SGD}
    with pytest.raises(RecipeError, match=r"accumulate: 4 .* 3 batches .* 30 examples"):
        fit(recipe_with(**few, batch_size=12, accumulate=4), stripes(30), None, tmp_path / "refused.pt")
    step = {"name": "step", "milestones": [0.5, 0.75], "warmup": 0.2}
    few_said = ["batch_size: 31", "schedule.warmup: 0.2 of 2 steps", "schedule.milestones: 0.75"]
    for examples, said in ((30, few_said), (31 * 4, [])):
        fit(recipe_with(**few, batch_size=31, schedule=step), stripes(examples), None, tmp_path / f"{examples}.pt")
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("epoch ")]
        assert len(lines) == len(said)
        assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


def test_a_long_gradient_is_scaled_to_the_bound(
    start: nn.Sequential, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """The step has the direction of the gradient and the length of the bound; a shorter one is not changed."""
    split, changes = stripes(30), {"layers": LINEAR, "epochs": 1, "optimiser": SGD, "batch_size": "full"}
    slopes = gradient(start, recipe_with(**changes), split)
    length = torch.cat([slope.flatten() for slope in slopes]).norm()
    for bound in (0.01, 100.0):
        network = fit(recipe_with(**changes, clip_gradient=bound), split, None, tmp_path / f"{bound}.pt")
        for step, slope in zip(moved(start, network), slopes, strict=True):
            np.testing.assert_allclose(step, slope * min(bound / length, 1), rtol=1e-3, atol=1e-6)


def test_l1_adds_the_sign_of_the_weights_to_the_gradient(
    start: nn.Sequential, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """As autograd of loss + l1 * sum |w|; biases are left out."""
    split = stripes(30)
    recipe = recipe_with(layers=LINEAR, epochs=1, optimiser=SGD, batch_size="full", l1=0.3)
    weight, bias = moved(start, fit(recipe, split, None, tmp_path / "fit.pt"))
    slope, bias_slope = gradient(start, recipe, split)
    np.testing.assert_allclose(weight, slope + 0.3 * next(start.parameters()).detach().sign(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bias, bias_slope, rtol=1e-4, atol=1e-6)


def test_the_recorded_cross_entropy_is_plain(
    start: nn.Sequential, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """Whatever is minimised, an epoch has the cross-entropy of its examples: in one step, of the first weights."""
    split = stripes(30)
    for name, loss in (("plain", {}), ("smoothed", {"label_smoothing": 0.2}), ("hinge", {"name": "hinge"})):
        recipe = recipe_with(layers=LINEAR, epochs=1, optimiser=SGD, batch_size="full", loss=loss)
        fit(recipe, split, None, tmp_path / f"{name}.pt")
        (epoch,) = state.history(tmp_path / f"{name}.pt")
        expected = F.cross_entropy(start(normalise(recipe)(split.inputs)), split.labels).item()
        assert epoch.cross_entropy == pytest.approx(expected, rel=1e-5)
        assert (epoch.loss == pytest.approx(expected, rel=1e-5)) == (name == "plain")


@pytest.fixture
def wide(recipe_with: Callable[..., Recipe]) -> Recipe:
    """Photos of 6 x 9 pixels that are stored at 12 x 18, for a network that takes one size only."""
    colour = {"height": 6, "width": 9, "mode": "RGB", "framing": "squash", "mean": [0.4] * 3, "std": [0.3] * 3}
    data = {"name": "cats-vs-dogs", "validation": 10, "stored_side": 18, "refit": True}
    return recipe_with(input=colour, data=data, layers=[{"conv": 2, "kernel": 3}, *LINEAR], epochs=2, batch_size=8)


def test_photos_that_are_stored_larger_are_trained_at_the_input_s_size(wide: Recipe, tmp_path: Path) -> None:
    """A network with a flatten head trains, at 6 x 9 pixels, and the check after an epoch uses this size, too."""
    torch.manual_seed(0)
    split = Split(torch.randint(0, 256, (20, 12, 18, 3), dtype=torch.uint8), torch.arange(20) % 3)
    loader = ImageLoader(wide, split, 6, Machine())
    images, _ = loader.load(torch.arange(5))
    assert loader.augment(images, 5).shape == loader.plain(torch.arange(5)).shape == (5, 3, 6, 9)
    fit(wide, split, None, tmp_path / "fit.pt")
    assert len(state.history(tmp_path / "fit.pt")) == 2


def test_frozen_layers_do_not_change(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `freeze`, neither weights nor the statistics of batch norm change, and dropout in frozen layers is off.

    The bound of max-norm leaves frozen weights alone, too.
    """
    monkeypatch.setattr("training.fit.state.pretrained.load", lambda *_: None)
    layers: list[dict[str, Any]] = [
        {"conv": 4, "kernel": 3, "batch_norm": True},
        {"flatten": True},
        {"dropout": 0.5},
        {"dense": 8, "max_norm": 0.01},
        {"dense": 3, "activation": "none"},
    ]
    frozen = {"name": "pretrained", "url": "https://example.org/w.pth", "sha256": "0123abcd", "freeze": True}
    recipe = recipe_with(layers=layers, initialise=frozen)
    torch.manual_seed(recipe.seed)
    before = build(recipe).state_dict()
    modes: set[bool] = set()

    class Seen(nn.Dropout):
        def forward(self, values: Tensor) -> Tensor:
            modes.add(self.training)
            return super().forward(values)

    def watched(recipe: Recipe) -> nn.Sequential:
        network = build(recipe)
        return nn.Sequential(*(Seen(0.5) if isinstance(layer, nn.Dropout) else layer for layer in network))

    monkeypatch.setattr("training.fit.state.build", watched)
    after = fit(recipe, stripes(60), None, tmp_path / "fit.pt").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("7.")}
    assert modes == {False}


def test_accumulated_batches_have_different_dropout(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch of a step drops other units, in each process; the same step draws the same again."""
    masks: list[Tensor] = []

    class Seen(nn.Dropout):
        def forward(self, values: Tensor) -> Tensor:
            masks.append(super().forward(torch.ones_like(values)) == 0)
            return values

    layers = [{"flatten": True}, {"dropout": 0.5}, {"dense": 3, "activation": "none"}]
    recipe, split = recipe_with(layers=layers, accumulate=2, batch_size=8), stripes(32)
    monkeypatch.setattr("training.fit.state.build", lambda _: nn.Sequential(nn.Flatten(), Seen(0.5), nn.Linear(54, 3)))
    for world in (World(), World(0, 2), World(1, 2)):
        masks.clear()
        trainer = Trainer(recipe, state.initial_state(recipe, torch.device("cpu"), split), split, None, 8, Machine())
        monkeypatch.setattr(trainer, "_machine", Machine(world=world))
        loader = ImageLoader(recipe, split, 6, Machine(world=world))
        group = list(torch.arange(16).split(8))  # type: ignore[no-untyped-call]
        for number in (1, 1, 2):
            torch.manual_seed(number)
            trainer.step(loader, group, 0.1, (1, number), Sums())
        first, second, again, _, other, _ = masks
        assert not torch.equal(first, second)
        assert not torch.equal(first, other)
        assert torch.equal(first, again)


def test_processes_draw_different_dropout_and_the_same_batches() -> None:
    """Inside of `own_draws`, ranks differ; after it, all continue alike. One process draws as everywhere else."""
    inside, after = [], []
    for rank in range(3):
        torch.manual_seed(0)
        with World(rank, 3).own_draws(7, 1, 2):
            inside.append(torch.rand(4))
        after.append(torch.rand(4))
    torch.manual_seed(0)
    with World().own_draws(7, 1, 2):
        assert torch.equal(torch.rand(4), after[0])
    assert len({tuple(draws.tolist()) for draws in inside}) == 3
    assert len({tuple(draws.tolist()) for draws in after}) == 1
