"""Every recipe of the repository trains from its first to its last step on generated data."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.data import layouts
from tests.training.data.test_labels import mnist, photos, reviews
from training.network import pretrained
from training.recipe import schema as recipes
from training.runs import run

SMALL = {  # of large dense layers, whose checkpoints would take gigabytes
    "alexnet-2012": ["layers[12].dense=16", "layers[14].dense=16"],
    "alexnet-finetune": ["layers[11].dense=16", "layers[13].dense=16"],
    "kim-2014-rand": ["data.folds=2"],
    "review-cnn": ["layers[1].embedding=8", "layers[2].filters=8", "layers[5].slots=20000", "layers[5].min_count=1"],
}
WRITERS: dict[str, Callable[[Path], None]] = {
    "mnist": mnist,
    "cats-vs-dogs": lambda root: layouts.folders(root, photos(24, 1), photos(6, 2)),
    "mr": reviews,
    "reviews": reviews,
}


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs, validation and refit or folds, calibration and plots, with the data set that the recipe names."""
    monkeypatch.setenv("CONVOKE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "fetch", lambda _options: tmp_path)  # 233 MB of weights
    monkeypatch.setattr(pretrained, "load", lambda _network, _options: None)
    (tmp_path / "data").mkdir()
    shipped = recipes.load(name)
    is_text = shipped.input.kind == "text"
    validation = 40 if is_text else 8
    overrides = [*SMALL.get(name, []), "epochs=2", f"data.validation={validation}", "precision=float32"]
    recipe = recipes.load(name, overrides)
    WRITERS[recipe.data.name](tmp_path / "data")
    data = run.prepare(recipe)
    assert len(data.validation) >= validation
    folder = run.start(recipe, tmp_path / "runs")
    result = run.train(folder, data=data)
    assert result.validation.n >= validation
    assert bool(result.folds) == (name == "kim-2014-rand")
    if not result.folds:
        network, _ = run.finished(folder)
        assert all(weights.isfinite().all() for weights in network.parameters())
        assert (folder / "pictures" / "curves.png").exists()
