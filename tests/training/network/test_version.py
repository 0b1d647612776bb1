"""Networks that start from the body of a published version."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from contract import batches
from contract import manifest as manifests
from contract.session import Session
from training.errors import RecipeError
from training.fit.optimise import optimiser, slow_down
from training.network import version
from training.network.build import build, normalise
from training.recipe.schema import Recipe, parse

MODELS = Path(__file__).parents[3] / "models"


def recipe_from(folder: Path, **changes: Any) -> Recipe:
    """The recipe of a version, for other labels, from that version's body."""
    table = parse(manifests.read(folder).recipe).model_dump(exclude_defaults=True)
    last = {"dense": 3, "activation": "softmax"}
    data = {"name": "folder", "path": "photos", "test": 0.2, "validation": 0.2}
    return parse({
        **table, "labels": ["a", "b", "c"], "layers": [*table["layers"][:-1], last], "data": data, "resolutions": None,
        "augment": {}, "initialise": {"name": "version", "path": str(folder)}, **changes,
    })  # fmt: skip


@pytest.mark.parametrize("name", ["digits/1", "cats-vs-dogs/2"])
def test_the_body_computes_what_the_version_computes(name: str) -> None:
    """With the version's own last layer, the network gives the version's probabilities."""
    folder = MODELS / name
    manifest = manifests.read(folder)
    recipe = recipe_from(folder)
    network = build(recipe)
    version.load(network, recipe)
    weights = {each.name: each for each in onnx.load(folder / manifests.GRAPH).graph.initializer}
    last = {key: torch.from_numpy(numpy_helper.to_array(weights[f"network.{len(network) - 1}.{key}"]).copy())
            for key in ("weight", "bias")}  # fmt: skip
    network[-1] = nn.Linear(last["weight"].shape[1], len(manifest.labels))
    network[-1].load_state_dict(last)
    inputs = batches.random(manifest.input, 4)
    with torch.inference_mode():
        actual = torch.softmax(network.eval()(normalise(recipe)(torch.from_numpy(inputs))), dim=1).numpy()
    expected = Session(folder / manifests.GRAPH, manifest, provider="cpu", threads=1).run(inputs)
    assert actual == pytest.approx(expected, abs=1e-4)


def test_what_is_not_the_body_of_a_version_is_refused(tmp_path: Path, table_with: Any) -> None:
    """Other layers, another scaling, texts and folders that are not versions each have a sentence."""
    digits = MODELS / "digits/1"
    for changes, sentence in (
        ({"layers": [{"flatten": True}, {"dense": 3}]}, "all but the last must be those of"),
        ({"initialise": {"name": "version", "path": str(tmp_path)}}, "not a version to start from"),
        ({"initialise": {"name": "version", "path": str(tmp_path / "none")}}, "does not exist"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            version.check(recipe_from(digits, **changes))
    other = recipe_from(digits).model_dump(exclude_defaults=True)
    other["input"]["mean"] = [0.5]
    with pytest.raises(RecipeError, match=r"input.mean: .* needs \[0.1307\], got \[0.5\]"):
        version.check(parse(other))
    with pytest.raises(RecipeError, match="path is required"):
        parse(table_with(initialise={"name": "version"}))


def test_a_body_learns_at_its_share_of_the_rate() -> None:
    """The parameters of the body are in groups with their share, the others in groups with 1."""
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    options = recipe_from(MODELS / "digits/1").optimiser
    steps = optimiser(options, network.parameters())
    slow_down(steps, network[:-1].parameters(), 0.1)
    shares = {id(each): group["share"] for group in steps.param_groups for each in group["params"]}
    assert [shares[id(each)] for each in network.parameters()] == [0.1, 0.1, 1.0, 1.0]
