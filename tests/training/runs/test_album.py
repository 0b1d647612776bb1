"""The images that a run leaves."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from training.data.dataset import Dataset, Split
from training.fit.state import Epoch
from training.network.build import build
from training.network.calibrated import Calibration
from training.recipe.schema import Recipe
from training.runs import album


def test_the_first_filters_are_drawn_wherever_the_layer_stands(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A convolution inside of a block is drawn as one in a row: the same file."""
    recipe, split = recipe_with(), stripes(30)
    torch.manual_seed(0)
    *body, last = network = build(recipe)
    data = Dataset(train=split, validation=split, tests={}, fingerprint="")
    for name, drawn in (("row", network), ("blocks", nn.Sequential(nn.Sequential(*body), last))):
        logits = torch.eye(3)[split.labels]
        history = [Epoch(1, 1.0, 0.5, 1.0, 0.5, 10.0, 1.0)]
        album.draw(tmp_path / name, recipe, drawn, data, logits, Calibration(1.0), history)
    in_a_row, blocks = ((tmp_path / name / "filters.png").read_bytes() for name in ("row", "blocks"))
    assert blocks == in_a_row
