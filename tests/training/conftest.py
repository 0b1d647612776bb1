"""What the tests of training share: small recipes, and pictures made up on the spot."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from training.data.dataset import Split, data_folder
from training.recipe.schema import Recipe, parse


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums come out in the same order, bit for bit, on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _table(**changes: Any) -> dict[str, Any]:
    small: dict[str, Any] = {
        "name": "small",
        "description": "Stripes told apart",
        "task": "stripes",
        "labels": ["left", "middle", "right"],
        "layers": [
            {"conv": 4, "kernel": 3, "padding": 1, "batch_norm": True},
            {"pool": "max", "size": 2},
            {"flatten": True},
            {"dense": 3, "activation": "none"},
        ],
        "epochs": 3,
        "batch_size": 32,
        "input": {"height": 6, "width": 9, "mode": "L", "framing": "squash", "mean": [0.4], "std": [0.3]},
        "data": {"name": "mnist", "validation": 100},
        "optimiser": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    }
    return {**small, **changes}


def _stripes(count: int, seed: int = 0) -> Split:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pictures = torch.randint(0, 80, (count, 6, 9, 1), generator=draw, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        pictures[index, :, 3 * label : 3 * label + 3] += 120
    return Split(pictures, labels)


@pytest.fixture(scope="session")
def table_with() -> Callable[..., dict[str, Any]]:
    """The table of a small recipe, keys replaced: three classes of pictures 6 high and 9 wide."""
    return _table


@pytest.fixture(scope="session")
def recipe_with() -> Callable[..., Recipe]:
    """The recipe of such a table."""
    return lambda **changes: parse(_table(**changes))


@pytest.fixture(scope="session")
def stripes() -> Callable[..., Split]:
    """Noise with a bright third for each of three classes: uint8 (count, 6, 9, 1), by seed."""
    return _stripes


@pytest.fixture
def mnist_folder() -> Path:
    """The folder of the real MNIST; the test skips where it is absent."""
    place = data_folder() / "mnist"
    raw = place / "MNIST" / "raw"
    if not any((raw / f"train-images-idx3-ubyte{ending}").exists() for ending in ("", ".gz")):
        pytest.skip(f"there is no MNIST in {raw}: name the data folder in CONVOKE_DATA")
    return place
