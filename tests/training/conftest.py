"""Shared by the tests of training: small recipes and synthetic images."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from training.data.dataset import Dataset, Split
from training.data.folders import data_folder
from training.recipe.schema import Recipe, parse


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """With one thread, sums are the same on any machine, bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _table(**changes: Any) -> dict[str, Any]:
    small: dict[str, Any] = {
        "name": "small",
        "description": "Three classes of stripes",
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
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 80, (count, 6, 9, 1), generator=generator, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        images[index, :, 3 * label : 3 * label + 3] += 120
    return Split(images, labels)


@pytest.fixture(scope="session")
def table_with() -> Callable[..., dict[str, Any]]:
    """The table of a small recipe with some keys replaced: three classes of images 6 high and 9 wide."""
    return _table


@pytest.fixture(scope="session")
def recipe_with() -> Callable[..., Recipe]:
    """The recipe of `table_with`."""
    return lambda **changes: parse(_table(**changes))


@pytest.fixture(scope="session")
def stripes() -> Callable[..., Split]:
    """Noisy images; the class says which third is bright: uint8 (count, 6, 9, 1)."""
    return _stripes


@pytest.fixture
def mnist_folder() -> Path:
    """The folder of the real MNIST; without it, the test is skipped."""
    folder = data_folder() / "mnist"
    raw = folder / "MNIST" / "raw"
    if not any((raw / f"train-images-idx3-ubyte{ending}").exists() for ending in ("", ".gz")):
        pytest.skip(f"no MNIST in {raw}: set CONVOKE_DATA to the data folder")
    return folder


@pytest.fixture
def recipe_file(table_with: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    """A recipe on the disk. The values of JSON are those of TOML."""
    table = table_with()
    del table["name"]
    lines = []
    for key, value in table.items():
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        lines += [f"{key}.{sub} = {_toml(each)}".replace(". =", " =") for sub, each in pairs]
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


@pytest.fixture
def use_stripes(stripes: Callable[..., Split], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe is trained on generated images of stripes."""
    data = Dataset(stripes(60), stripes(30, seed=1), {"stripes": stripes(30, seed=2)}, "sha256:stripes")
    monkeypatch.setattr("training.runs.run.load", lambda _recipe: data)
    monkeypatch.setattr("training.data.schema.check", lambda *_: None)
    monkeypatch.setattr("training.data.folders.check_present", lambda *_: None)
