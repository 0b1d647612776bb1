"""Recipes as torch modules: the scaling of the input, each layer's values, and the graph that is served."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from training import recipe as recipes
from training.network import Embed, Normalise, Served, build, layer_modules, normalise
from training.recipe import Conv, Dense, Dropout, Embedding, LocalResponseNorm, Pool, Recipe, Text
from training.shapes import trace


@pytest.mark.parametrize(("mean", "std"), [([0.1307], [0.3081]), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
def test_normalise_is_the_formula_on_pictures_that_are_not_square(mean: list[float], std: list[float]) -> None:
    """uint8 (N, H, W, C) becomes (x / 255 - mean) / std a channel, as float32 (N, C, H, W)."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 7, len(mean)), dtype=np.uint8)
    expected = ((pictures / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    found = Normalise(mean, std)(torch.from_numpy(pictures))
    assert found.dtype == torch.float32
    assert found.shape == (2, len(mean), 5, 7)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


def test_normalise_takes_mean_and_std_of_the_recipe(recipe_with: Callable[..., Recipe]) -> None:
    """A recipe's black and white pixels come to -mean/std and (1 - mean)/std."""
    scale = normalise(recipe_with())
    pictures = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)
    np.testing.assert_allclose(scale(pictures).flatten().numpy(), [-0.4 / 0.3, 0.6 / 0.3], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_served_gives_softmax_of_logits_over_temperature(
    temperature: float, recipe_with: Callable[..., Recipe]
) -> None:
    """The temperature folded into the last layer is softmax(logits / T) of the network that was trained."""
    recipe = recipe_with()
    torch.manual_seed(0)
    network = build(recipe).eval()
    pictures = torch.randint(0, 256, (4, 6, 9, 1), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network(normalise(recipe)(pictures)).double()
        found = Served(recipe, deepcopy(network), temperature)(pictures)
    np.testing.assert_allclose(found, torch.softmax(logits / temperature, dim=1), rtol=0, atol=1e-6)


def test_served_is_in_evaluation_mode(recipe_with: Callable[..., Recipe]) -> None:
    """An exported network neither drops values nor takes a batch's statistics: a picture's row is its own."""
    hidden = [{"conv": 4, "kernel": 3, "batch_norm": True}, {"flatten": True}, {"dropout": 0.5}]
    recipe = recipe_with(layers=[*hidden, {"dense": 3, "activation": "none"}])
    served = Served(recipe, build(recipe).train(), 1.0)
    pictures = torch.randint(0, 256, (5, 6, 9, 1), dtype=torch.uint8)
    with torch.inference_mode():
        together, alone = served(pictures), torch.cat([served(picture[None]) for picture in pictures])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_batch_norm_takes_the_batch_s_statistics_in_training_and_the_running_ones_in_evaluation() -> None:
    """In training each channel of a batch comes out at mean 0 and variance 1, in evaluation by running averages."""
    conv, norm = layer_modules(Conv(conv=3, kernel=1, batch_norm=True, activation="none"), (2, 4, 5), "relu")
    torch.manual_seed(0)
    values = torch.randn(16, 2, 4, 5) * 3 + 1
    block = nn.Sequential(conv, norm)
    with torch.no_grad():
        before = block.eval()(values)
        np.testing.assert_allclose(before, conv(values) / (1 + 1e-5) ** 0.5, rtol=1e-5, atol=1e-6)  # as at the start
        trained = block.train()(values)
        np.testing.assert_allclose(trained.mean(dim=(0, 2, 3)), np.zeros(3), atol=1e-5)
        np.testing.assert_allclose(trained.var(dim=(0, 2, 3), unbiased=False), np.ones(3), atol=1e-3)
        assert not torch.allclose(block.eval()(values), before)


def test_dropout_drops_in_training_only() -> None:
    """In training a share p comes out as 0 and the rest as x / (1 - p); in evaluation nothing changes."""
    (dropout,) = layer_modules(Dropout(dropout=0.25), (40_000,), "relu")
    torch.manual_seed(0)
    ones = torch.ones(40_000)
    dropped = dropout.train()(ones)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.equal(dropout.eval()(ones), ones)


def test_a_layer_with_batch_norm_has_no_bias() -> None:
    """Batch norm's own shift stands in for the bias of a convolution or dense layer."""
    conv = layer_modules(Conv(conv=3, kernel=1, batch_norm=True), (2, 4, 4), "relu")[0]
    dense = layer_modules(Dense(dense=3, batch_norm=True), (8,), "relu")[0]
    assert [name for name, _ in conv.named_parameters()] == ["weight"]
    assert [name for name, _ in dense.named_parameters()] == ["weight"]


@pytest.mark.parametrize(("kind", "reduce"), [("max", np.max), ("average", np.mean)])
def test_pooling_reduces_each_window(kind: str, reduce: Callable[..., float]) -> None:
    """Max and average pooling are numpy's max and mean over each window."""
    (pool,) = layer_modules(Pool.model_validate({"pool": kind, "size": 2}), (1, 4, 6), "relu")
    values = np.random.default_rng(0).normal(size=(1, 1, 4, 6)).astype(np.float32)
    expected = reduce(values.reshape(1, 1, 2, 2, 3, 2), axis=(3, 5))
    np.testing.assert_allclose(pool(torch.from_numpy(values)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("own", "usual", "expected"),
    [
        (None, "relu", [0.0, 0.5]),
        (None, "tanh", np.tanh([-0.5, 0.5])),
        ("sigmoid", "relu", 1 / (1 + np.exp([0.5, -0.5]))),
        ("none", "relu", [-0.5, 0.5]),
    ],
)
def test_a_layer_s_activation_is_its_own_or_the_recipe_s(own: str | None, usual: str, expected: list[float]) -> None:
    """A layer that names no activation takes the recipe's; `none` is none."""
    layer = Dense.model_validate({"dense": 2, "activation": own})
    modules = layer_modules(layer, (2,), usual)  # type: ignore[arg-type]
    with torch.no_grad():
        found = nn.Sequential(*modules[1:])(torch.tensor([[-0.5, 0.5]]))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_a_seed_gives_the_same_network(recipe_with: Callable[..., Recipe]) -> None:
    """Weights come from torch's global generator alone."""
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(torch.cat([weight.flatten() for weight in build(recipe_with()).parameters()]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_local_response_norm_is_the_paper_s_formula() -> None:
    """B = a / (k + alpha * sum over n neighbouring channels of a^2)^beta; alpha is not divided by n."""
    layer = LocalResponseNorm(lrn=3, k=1.5, alpha=0.2, beta=0.6)
    (module,) = layer_modules(layer, (6, 2, 2), "relu")
    maps = torch.randn(1, 6, 2, 2, dtype=torch.float64)
    expected = maps.clone()
    for channel in range(6):
        around = maps[:, max(channel - 1, 0) : channel + 2].square().sum(dim=1)
        expected[:, channel] = maps[:, channel] / (1.5 + 0.2 * around) ** 0.6
    torch.testing.assert_close(module(maps), expected)


@pytest.mark.parametrize(("kind", "reduce"), [("max", torch.amax), ("average", torch.mean)])
def test_a_global_pool_leaves_one_value_a_channel(kind: Any, reduce: Callable[..., torch.Tensor]) -> None:
    """The whole map is one window, at any resolution."""
    (module,) = layer_modules(Pool(pool=kind, size="global"), (3, 5, 7), "relu")
    for size in ((5, 7), (2, 3)):
        maps = torch.randn(2, 3, *size)
        torch.testing.assert_close(module(maps)[:, :, 0, 0], reduce(maps, dim=(2, 3)))


def test_groups_see_their_own_channels_only() -> None:
    """In two groups, the first half of the filters does not change with the second half of the channels."""
    (conv, _) = layer_modules(Conv(conv=4, kernel=3, groups=2), (6, 5, 5), "relu")
    maps = torch.randn(1, 6, 5, 5)
    other = torch.cat([maps[:, :3], torch.randn(1, 3, 5, 5)], dim=1)
    assert torch.equal(conv(maps)[:, :2], conv(other)[:, :2])
    assert not torch.equal(conv(maps)[:, 2:], conv(other)[:, 2:])


def test_a_softmax_at_the_end_stands_in_the_served_graph_only(recipe_with: Callable[..., Recipe]) -> None:
    """With activation "softmax" the network gives the logits that it gives with "none"."""
    networks = []
    for activation in ("softmax", "none"):
        torch.manual_seed(0)
        networks.append(build(recipe_with(layers=[{"flatten": True}, {"dense": 3, "activation": activation}])))
    inputs = torch.randn(2, 1, 6, 9)
    torch.testing.assert_close(networks[0](inputs), networks[1](inputs))


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_s_network_has_the_parameters_that_its_table_counts(name: str) -> None:
    """Every recipe that comes along is built, without memory for its weights, and counted both ways."""
    recipe = recipes.load(name)
    with torch.device("meta"):
        network = torch.nn.Sequential(
            *(
                module
                for layer, step in zip(recipe.layers, trace(recipe), strict=True)
                for module in (
                    [Embed(recipe.input.vocabulary, layer.embedding)]
                    if isinstance(layer, Embedding) and isinstance(recipe.input, Text)
                    else layer_modules(layer, step.input, recipe.activation)
                )
            )
        )
    assert sum(weights.numel() for weights in network.parameters()) == sum(step.parameters for step in trace(recipe))
