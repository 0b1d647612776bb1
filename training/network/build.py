"""Recipe -> torch module.

`build` makes the network that is trained, from scaled images or token ids to logits. `Served` wraps it into the graph
that is exported, from pixels or token ids to calibrated probabilities, so that training and serving cannot differ.
"""

from functools import singledispatch
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from training.data.schema import Text
from training.network.calibrated import Calibration
from training.network.initialise import initialise
from training.network.ngrams import NGramTable
from training.recipe.arithmetic import Shape, Texts
from training.recipe.layers import (
    Conv,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Layer,
    LocalResponseNorm,
    NGrams,
    Pool,
    Reshape,
    Windows,
)
from training.recipe.schema import Recipe
from training.recipe.shapes import trace
from training.section import Activation

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
# By the number of axes beside examples and channels.
_CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORMS: dict[int, Any] = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_PADS: dict[int, Any] = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d}
_POOLS: dict[tuple[str, int], Any] = {
    ("max", 1): nn.MaxPool1d,
    ("max", 2): nn.MaxPool2d,
    ("max", 3): nn.MaxPool3d,
    ("average", 1): nn.AvgPool1d,
    ("average", 2): nn.AvgPool2d,
    ("average", 3): nn.AvgPool3d,
}


def build(recipe: Recipe) -> nn.Sequential:
    """The network of a recipe: the output of `normalise` -> logits float32 (N, classes).

    Weights are drawn from torch's global generator.

    Raises:
        RecipeError: a stack that cannot be built.
    """
    modules: list[nn.Module] = []
    for layer, step in zip(recipe.layers, trace(recipe), strict=True):
        if isinstance(layer, Embedding | NGrams):
            assert isinstance(recipe.input, Text), "trace refuses these layers for images"
            words = recipe.input.vocabulary
            modules.append(Embed(words, layer.embedding) if isinstance(layer, Embedding) else NGramTable(layer, words))
        else:
            modules += layer_modules(layer, step.input, recipe.activation)
    network = WithNGrams(*modules) if isinstance(modules[-1], NGramTable) else nn.Sequential(*modules)
    initialise(network, recipe.initialise)
    return network


@singledispatch
def layer_modules(layer: Layer, shape: Shape, activation: Activation) -> list[nn.Module]:
    """The modules of one layer on an input of `shape`, in the order in which they run."""
    raise AssertionError(f"no module for {layer!r} on {shape} with {activation}")


@layer_modules.register
def _(layer: Conv, shape: Shape, activation: Activation) -> list[nn.Module]:
    axes = len(shape) - 1
    before, padding = _same_padding(layer, axes) if layer.padding == "same" else ([], _per_axis(layer.padding))
    conv = _CONVS[axes](
        shape[0],
        layer.conv,
        _per_axis(layer.kernel),
        _per_axis(layer.stride),
        padding,
        _per_axis(layer.dilation),
        groups=layer.groups,
        bias=layer.norm is None,
    )
    return [*before, conv, *_norm(layer, layer.conv, axes), *_activation(layer.activation or activation)]


@layer_modules.register
def _(layer: Pool, shape: Shape, _activation: Activation) -> list[nn.Module]:
    key = layer.pool, len(shape) - 1
    if isinstance(layer.size, str):
        return [nn.AdaptiveAvgPool2d(1) if key == ("average", 2) else GlobalPool(layer.pool)]
    return [_POOLS[key](_per_axis(layer.size), None if layer.stride is None else _per_axis(layer.stride))]


def _same_padding(layer: Conv, axes: int) -> tuple[list[nn.Module], tuple[int, ...]]:
    """What pads an input so that a convolution keeps its size: a module for uneven sides, or the padding of torch."""
    kernels, dilations = (
        value if isinstance(value, list) else [value] * axes for value in (layer.kernel, layer.dilation)
    )
    added = [dilation * (kernel - 1) for kernel, dilation in zip(kernels, dilations, strict=True)]
    if not any(each % 2 for each in added):
        return [], tuple(each // 2 for each in added)
    sides = tuple(side for each in reversed(added) for side in (each // 2, each - each // 2))
    return [_PADS[axes](sides)], (0,) * axes


def _per_axis(value: int | list[int] | str) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _norm(layer: Conv | Dense, channels: int, axes: int) -> list[nn.Module]:
    """The norm over an output of `channels` with so many other axes."""
    match layer.norm:
        case "batch norm":
            return [_BATCH_NORMS[axes](channels)]
        case "group norm":
            assert layer.group_norm is not None, "norm says so"
            return [nn.GroupNorm(layer.group_norm, channels)]
        case "layer norm":
            return [nn.GroupNorm(1, channels)]
        case _:
            return []


@layer_modules.register
def _(layer: Reshape, _shape: Shape, _activation: Activation) -> list[nn.Module]:
    return [nn.Flatten(), nn.Unflatten(1, tuple(layer.reshape))]


@layer_modules.register
def _(_layer: Flatten, _shape: Shape, _activation: Activation) -> list[nn.Module]:
    return [nn.Flatten()]


@layer_modules.register
def _(layer: Dense, shape: Shape, activation: Activation) -> list[nn.Module]:
    bias = layer.norm is None
    bounded = layer.max_norm is not None
    dense = BoundedLinear(shape[0], layer, bias=bias) if bounded else nn.Linear(shape[0], layer.dense, bias=bias)
    return [dense, *_norm(layer, layer.dense, 0), *_activation(layer.activation or activation)]


@layer_modules.register
def _(layer: Dropout, shape: Shape, _activation: Activation) -> list[nn.Module]:
    if layer.scale_in == "training":
        drop: nn.Module = nn.Dropout(layer.dropout)
    else:
        drop = UnscaledDropout(layer.dropout)
    return [EmbeddedDropout(drop) if isinstance(shape, Texts) else drop]


@layer_modules.register
def _(layer: LocalResponseNorm, _shape: Shape, _activation: Activation) -> list[nn.Module]:
    # torch divides alpha by the number of neighbours; the paper does not.
    return [nn.LocalResponseNorm(layer.lrn, alpha=layer.alpha * layer.lrn, beta=layer.beta, k=layer.k)]


@layer_modules.register
def _(layer: Windows, shape: Shape, activation: Activation) -> list[nn.Module]:
    return [ParallelWindows(shape[0], layer, _activation(layer.activation or activation))]


def _activation(name: Activation) -> list[nn.Module]:
    """The activation's module; none for softmax, which is part of the loss and of the exported graph."""
    return [] if name in {"none", "softmax"} else [_ACTIVATIONS[name]()]


class GlobalPool(nn.Module):
    """The maximum or the mean over all axes beside examples and channels, which stay with a size of 1."""

    def __init__(self, kind: Literal["max", "average"]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, values: Tensor) -> Tensor:
        axes = list(range(2, values.ndim))
        return values.amax(axes, keepdim=True) if self.kind == "max" else values.mean(axes, keepdim=True)


class BoundedLinear(nn.Linear):
    """A dense layer with a max-norm constraint: the weights of each unit have a norm of at most `max_norm`."""

    def __init__(self, width: int, layer: Dense, *, bias: bool) -> None:
        super().__init__(width, layer.dense, bias)
        assert layer.max_norm is not None, "a layer without a bound is a plain nn.Linear"
        self.max_norm = layer.max_norm

    @torch.no_grad()
    def bound(self) -> None:
        """Scale longer rows down to the bound, after each step (Hinton et al., 2012; Kim, 2014, section 2.1)."""
        self.weight.copy_(self.weight.renorm(2, 0, self.max_norm))


class Embedded(NamedTuple):
    """Embedded texts: values float32 (N, E, L), and a mask of the tokens that are present, bool (N, 1, L)."""

    values: Tensor
    present: Tensor


class Embed(nn.Module):
    """Token ids (N, L) -> Embedded.

    The vector of padding, id 0, is 0 and is not trained. The vector of the unknown word, id 1, starts at 0: if the
    training texts hold known words only, it is never trained, and a random vector would be noise in every text with a
    new word.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        with torch.no_grad():
            self.table.weight[1:].uniform_(-0.25, 0.25)  # as in the code of Kim (2014)
            self.table.weight[1].zero_()

    def forward(self, tokens: Tensor) -> Embedded:
        values = self.table(tokens).transpose(1, 2)  # (N, L, E) -> (N, E, L)
        return Embedded(values, (tokens != 0).unsqueeze(1))


class UnscaledDropout(nn.Module):
    """Dropout that scales in evaluation instead of training (Hinton et al., 2012)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.kept = 1 - probability

    def forward(self, values: Tensor) -> Tensor:
        return values * (torch.rand_like(values) < self.kept) if self.training else values * self.kept


class EmbeddedDropout(nn.Module):
    """Dropout of single values of embedded texts."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, texts: Embedded) -> Embedded:
        return Embedded(self.drop(texts.values), texts.present)


class ParallelWindows(nn.Module):
    """Parallel 1-D convolutions with pooling over time: Embedded -> (N, F); Kim (2014), section 2.

    Every window starts inside the text, or, for wide windows, up to its width minus 1 before it. It may extend beyond
    the end, where it sees zeros. So every width can read a short text, and padding after a text changes nothing.
    """

    def __init__(self, width: int, layer: Windows, activation: list[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(width, layer.filters, size) for size in layer.windows)
        self.activation = nn.Sequential(*activation)
        self.over_time, self.wide = layer.over_time, layer.wide

    def forward(self, texts: Embedded) -> Tensor:
        pooled: list[Tensor] = []
        for conv in self.convs:
            assert isinstance(conv, nn.Conv1d)
            (size,) = conv.kernel_size
            before = size - 1 if self.wide else 0
            present = F.pad(texts.present, (before, 0), value=True)  # (N, 1, L) -> (N, 1, before + L)
            maps = self.activation(conv(F.pad(texts.values, (before, size - 1))))  # (N, F, before + L)
            if self.over_time != "average":
                pooled.append(maps.masked_fill(~present, -torch.inf).amax(dim=2))
            if self.over_time != "max":
                pooled.append((maps * present).sum(dim=2) / present.sum(dim=2))
        return torch.cat(pooled, dim=1)


class WithNGrams(nn.Sequential):
    """A network with an n-gram table as its last module: token ids -> a weighted mean of the logits of both.

    In training, the output is the network's alone, so that it learns to classify without the table.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        *layers, table = self
        logits = tokens
        for layer in layers:
            logits = layer(logits)
        assert isinstance(table, NGramTable), "build puts the table last"
        return logits if self.training else torch.lerp(logits, table(tokens), table.share)


class Normalise(nn.Module):
    """uint8 (N, H, W, C) -> float32 (N, C, H, W), scaled to [0, 1], then (x - mean) / std for each channel."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        # One multiplication and one addition for each value: x / 255 / std - mean / std.
        std_255 = torch.tensor(std) * 255
        self.register_buffer("scale", (1 / std_255).view(1, -1, 1, 1))
        self.register_buffer("shift", (-torch.tensor(mean) / torch.tensor(std)).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        images = images.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
        return self.scaled(images.to(torch.float32))

    def scaled(self, images: Tensor) -> Tensor:
        """Images float32 (N, C, H, W) from 0 to 255 -> scaled."""
        return images * self.get_buffer("scale") + self.get_buffer("shift")


class Ids(nn.Module):
    """Token ids of any integer type (N, L) -> int64 (N, L)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.to(torch.int64)


def normalise(recipe: Recipe) -> nn.Module:
    """The module before the first layer: it scales images, or converts the type of token ids."""
    if isinstance(recipe.input, Text):
        return Ids()
    return Normalise(recipe.input.mean, list(recipe.input.std))


class Served(nn.Module):
    """The exported graph: images uint8 (N, H, W, C) or token ids int64 (N, L) -> calibrated probabilities.

    The temperature (Guo et al., 2017) is folded into the last dense layer of `network`, which is changed in place. Its
    factor for the length of a text, if any, is applied to the logits.
    """

    def __init__(self, recipe: Recipe, network: nn.Sequential, calibration: Calibration) -> None:
        super().__init__()
        self.calibration = calibration
        self.normalise = normalise(recipe)
        self.network = network.eval()
        *layers, last = network
        if isinstance(last, NGramTable):
            last.divide(calibration.temperature)
            last = layers[-1]
        assert isinstance(last, nn.Linear), f"the temperature can only be folded into a dense layer, not into {last}"
        with torch.no_grad():
            last.weight.div_(calibration.temperature)
            last.bias.div_(calibration.temperature)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.network(self.normalise(inputs))
        if self.calibration.length_exponent:
            logits = logits / self.calibration.stretch((inputs != 0).sum(dim=1))
        return torch.softmax(logits, dim=1)
