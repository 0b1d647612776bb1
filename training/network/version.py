"""The body of a published version, all its layers but the last, as the start of another network.

Nothing is downloaded: the weights are read from the version's graph. Export has folded each batch norm into the
convolution or dense layer before it, so the norm starts as the identity, with the folded bias as its own.
"""

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from contract import manifest as manifests
from contract.errors import ConvokeError
from contract.manifest import GRAPH
from training.data.folders import locate
from training.data.schema import Image
from training.errors import DataError, RecipeError
from training.recipe.layers import Dropout
from training.recipe.schema import Recipe, parse

_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d
_PREFIX = "network."  # of the names of weights in an exported graph


def check(recipe: Recipe) -> Path:
    """The folder of the version whose body a recipe starts from, which must be a body of that recipe.

    Raises:
        RecipeError: the version cannot be used for this recipe; the message says what differs and what to do.
    """
    path = recipe.initialise.path
    assert path is not None, "the schema requires it"
    try:
        folder = locate(path)
        manifest = manifests.read(folder)
        manifests.verify(folder, manifest)
        source = parse(manifest.recipe)
    except (ConvokeError, DataError) as error:
        raise RecipeError(f"initialise.path: {path}: not a version to start from: {error}") from error
    except RecipeError as error:
        raise RecipeError(
            f"initialise.path: {path}: its recipe is unknown, as that of an adopted model; expected a version that was "
            "trained by this program"
        ) from error
    ours, theirs = recipe.input, source.input
    if not isinstance(ours, Image) or not isinstance(theirs, Image):
        raise RecipeError(
            "initialise.name: 'version' is for images, since word vectors belong to the vocabulary of a version; for "
            "texts, use an embedding with company = 5, which learns from your texts"
        )
    for key in ("mode", "mean", "std"):
        if getattr(ours, key) != getattr(theirs, key):
            raise RecipeError(f"input.{key}: the body of {path} needs {getattr(theirs, key)}, got {getattr(ours, key)}")
    bodies = [[each for each in one.layers[:-1] if not isinstance(each, Dropout)] for one in (recipe, source)]
    if bodies[0] != bodies[1] or recipe.activation != source.activation:
        raise RecipeError(
            f"layers: all but the last must be those of {path}, which has: "
            f"{'; '.join(str(each.model_dump(exclude_defaults=True)) for each in bodies[1])}"
        )
    return folder


def load(network: nn.Sequential, recipe: Recipe) -> None:
    """Copy the weights of a version into all layers of a network but the last.

    Raises:
        RecipeError: as `check`; or the shapes differ, as after another size of the input.
    """
    graph = onnx.load(check(recipe) / GRAPH).graph
    weights = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    body = network[:-1]
    modules = dict(body.named_modules())
    places = list(modules)
    for place, (name, module) in enumerate(modules.items()):
        after = modules[places[place + 1]] if place + 1 < len(places) else None
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            _copy(module.weight, weights, f"{_PREFIX}{name}.weight")
            folded = f"{_PREFIX}{name}.weight_bias"
            if isinstance(after, _NORMS) and folded in weights:
                _become_identity(after, weights, folded)
            elif module.bias is not None:
                _copy(module.bias, weights, f"{_PREFIX}{name}.bias")
        elif isinstance(module, (*_NORMS, nn.GroupNorm)) and f"{_PREFIX}{name}.weight" in weights:
            for key, tensor in module.state_dict(keep_vars=True).items():
                if tensor.ndim:
                    _copy(tensor, weights, f"{_PREFIX}{name}.{key}")


def _become_identity(norm: nn.Module, weights: dict[str, Tensor], bias: str) -> None:
    """A batch norm that adds a bias alone, in evaluation."""
    assert isinstance(norm, _NORMS), norm
    assert norm.running_mean is not None, "our norms keep statistics"
    assert norm.running_var is not None, "our norms keep statistics"
    with torch.no_grad():
        norm.weight.fill_(1.0)
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)
    _copy(norm.bias, weights, bias)


@torch.no_grad()
def _copy(target: Tensor, weights: dict[str, Tensor], name: str) -> None:
    source = weights.get(name)
    if source is None or source.shape != target.shape:
        actual = "nothing" if source is None else f"the shape {tuple(source.shape)}"
        raise RecipeError(
            f"initialise.path: expected the weights {name} of shape {tuple(target.shape)}, got {actual}; "
            "set input.height and input.width to those of the version"
        )
    target.copy_(source)
