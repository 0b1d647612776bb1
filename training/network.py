"""Recipe -> torch module.

`build` gives the network that is trained: scaled pictures in, logits out. `Served` wraps it into the graph that
is exported: encoded bytes' pixels in, calibrated probabilities out, so that training and serving cannot drift.
"""

from functools import singledispatch

import torch
from torch import Tensor, nn

from training.initialise import initialise
from training.recipe import Activation, Conv, Dense, Dropout, Flatten, Layer, Pool, Recipe
from training.shapes import Shape, trace

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def build(recipe: Recipe) -> nn.Sequential:
    """The network of a recipe: float32 (N, C, H, W), scaled as `normalise` does -> logits float32 (N, classes).

    Weights are drawn from torch's global generator.

    Raises:
        RecipeError: a stack that cannot be built.
    """
    modules: list[nn.Module] = []
    for layer, shape in zip(recipe.layers, trace(recipe), strict=True):
        modules += layer_modules(layer, shape.input, recipe.activation)
    network = nn.Sequential(*modules)
    initialise(network, recipe.initialise)
    return network


@singledispatch
def layer_modules(layer: Layer, shape: Shape, activation: Activation) -> list[nn.Module]:
    """The modules of one layer on an input of `shape`, in the order they run."""
    raise AssertionError(f"no module for {layer!r} on {shape} with {activation}")


@layer_modules.register
def _(layer: Conv, shape: Shape, activation: Activation) -> list[nn.Module]:
    conv = nn.Conv2d(shape[0], layer.conv, layer.kernel, layer.stride, layer.padding, bias=not layer.batch_norm)
    norm = [nn.BatchNorm2d(layer.conv)] if layer.batch_norm else []
    return [conv, *norm, *_activation(layer.activation or activation)]


@layer_modules.register
def _(layer: Pool, _shape: Shape, _activation: Activation) -> list[nn.Module]:
    return [(nn.MaxPool2d if layer.pool == "max" else nn.AvgPool2d)(layer.size, layer.stride)]


@layer_modules.register
def _(_layer: Flatten, _shape: Shape, _activation: Activation) -> list[nn.Module]:
    return [nn.Flatten()]


@layer_modules.register
def _(layer: Dense, shape: Shape, activation: Activation) -> list[nn.Module]:
    dense = nn.Linear(shape[0], layer.dense, bias=not layer.batch_norm)
    norm = [nn.BatchNorm1d(layer.dense)] if layer.batch_norm else []
    return [dense, *norm, *_activation(layer.activation or activation)]


@layer_modules.register
def _(layer: Dropout, _shape: Shape, _activation: Activation) -> list[nn.Module]:
    return [nn.Dropout(layer.dropout)]


def _activation(name: Activation) -> list[nn.Module]:
    return [] if name == "none" else [_ACTIVATIONS[name]()]


class Normalise(nn.Module):
    """uint8 (N, H, W, C) -> float32 (N, C, H, W), scaled to [0, 1], then (x - mean) / std a channel."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        # One multiplication and one addition a value: x / 255 / std - mean / std.
        std_255 = torch.tensor(std) * 255
        self.register_buffer("scale", (1 / std_255).view(1, -1, 1, 1))
        self.register_buffer("shift", (-torch.tensor(mean) / torch.tensor(std)).view(1, -1, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
        return pictures.to(torch.float32) * self.get_buffer("scale") + self.get_buffer("shift")


def normalise(recipe: Recipe) -> Normalise:
    """The scaling of a recipe's input."""
    return Normalise(recipe.input.mean, list(recipe.input.std))


class Served(nn.Module):
    """The exported graph: uint8 (N, H, W, C) -> probabilities float32 (N, classes), calibrated.

    The temperature of Guo et al. (2017) is folded into the last dense layer; `network` is taken over and changed.
    """

    def __init__(self, recipe: Recipe, network: nn.Sequential, temperature: float) -> None:
        super().__init__()
        self.normalise = normalise(recipe)
        self.network = network.eval()
        last = network[-1]
        assert isinstance(last, nn.Linear), f"the temperature folds into a dense layer, not into {last}"
        with torch.no_grad():
            last.weight.div_(temperature)
            last.bias.div_(temperature)

    def forward(self, image: Tensor) -> Tensor:
        return torch.softmax(self.network(self.normalise(image)), dim=1)
