"""Layers nested in blocks, as in residual networks, are trained like layers in a row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.data.dataset import Split
from training.fit.loop import fit
from training.network.build import BoundedLinear, Served, build
from training.network.calibrated import Calibration
from training.recipe.schema import Recipe

COLOUR = {"height": 6, "width": 9, "mode": "RGB", "framing": "squash", "mean": [0.4] * 3, "std": [0.3] * 3}
LAYERS: list[dict[str, Any]] = [
    {"conv": 4, "kernel": 3, "batch_norm": True},
    {"flatten": True},
    {"dropout": 0.3},
    {"dense": 8, "max_norm": 0.3, "activation": "tanh"},
    {"dense": 3, "activation": "none"},
]


def in_blocks(network: nn.Sequential) -> nn.Sequential:
    """The same layers, all but the last in nested blocks."""
    *body, last = network
    return nn.Sequential(nn.Sequential(*body[:2], nn.Sequential(*body[2:])), last)


@pytest.fixture
def networks(
    recipe_with: Callable[..., Recipe],
    stripes: Callable[..., Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[nn.Sequential, nn.Sequential]:
    """Two networks after the same training: with their layers in a row, and in blocks."""
    grey = stripes(100)
    split = Split(grey.inputs.repeat(1, 1, 1, 3), grey.labels)
    recipe = recipe_with(layers=LAYERS, input=COLOUR, average_decay=0.5, initialise={"name": "he"})
    in_a_row = fit(recipe, split, split.first(30), tmp_path / "row.pt")
    monkeypatch.setattr("training.fit.state.build", lambda recipe: in_blocks(build(recipe)))
    return in_a_row, fit(recipe, split, split.first(30), tmp_path / "blocks.pt")


def test_layers_in_blocks_get_the_weights_of_layers_in_a_row(networks: tuple[nn.Sequential, nn.Sequential]) -> None:
    """Initial weights, steps, averages, running statistics and max-norm, which takes effect, are equal bit for bit."""
    in_a_row, blocks = (list(network.state_dict().values()) for network in networks)
    assert len(in_a_row) == len(blocks)
    for expected, actual in zip(in_a_row, blocks, strict=True):
        assert torch.equal(actual, expected)
    for network in networks:
        (bounded,) = (module for module in network.modules() if isinstance(module, BoundedLinear))
        assert float(bounded.weight.detach().norm(dim=1).max()) == pytest.approx(0.3, abs=0.05)


def test_blocks_do_not_change_the_exported_graph(
    networks: tuple[nn.Sequential, nn.Sequential], recipe_with: Callable[..., Recipe]
) -> None:
    """The temperature is folded into the last layer, wherever the other layers are."""
    images = torch.randint(0, 256, (4, 6, 9, 3), dtype=torch.uint8)
    recipe = recipe_with(layers=LAYERS, input=COLOUR)
    with torch.inference_mode():
        expected, actual = (Served(recipe, network, Calibration(2.0))(images) for network in networks)
    assert torch.equal(actual, expected)
