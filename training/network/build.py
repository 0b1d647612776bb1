"""Recipe -> torch module.

`build` gives the network that is trained: scaled pictures in, logits out. `Served` wraps it into the graph that
is exported: encoded bytes' pixels in, calibrated probabilities out, so that training and serving cannot drift.
"""

from functools import singledispatch
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from training.data.schema import Text
from training.network.calibrated import Calibration, stretch
from training.network.initialise import initialise
from training.network.ngrams import RunTable
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
    Windows,
)
from training.recipe.schema import Recipe
from training.recipe.shapes import Shape, trace
from training.section import Activation

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def build(recipe: Recipe) -> nn.Sequential:
    """The network of a recipe: what `normalise` makes of its input -> logits float32 (N, classes).

    Weights are drawn from torch's global generator.

    Raises:
        RecipeError: a stack that cannot be built.
    """
    modules: list[nn.Module] = []
    for layer, step in zip(recipe.layers, trace(recipe), strict=True):
        if isinstance(layer, Embedding | NGrams):
            assert isinstance(recipe.input, Text), "trace lets words be read from a text only"
            vocabulary = recipe.input.vocabulary
            reads = Embed(vocabulary, layer.embedding) if isinstance(layer, Embedding) else RunTable(layer, vocabulary)
            modules.append(reads)
        else:
            modules += layer_modules(layer, step.input, recipe.activation)
    network = WithRuns(*modules) if isinstance(modules[-1], RunTable) else nn.Sequential(*modules)
    initialise(network, recipe.initialise)
    return network


@singledispatch
def layer_modules(layer: Layer, shape: Shape, activation: Activation) -> list[nn.Module]:
    """The modules of one layer on an input of `shape`, in the order they run."""
    raise AssertionError(f"no module for {layer!r} on {shape} with {activation}")


@layer_modules.register
def _(layer: Conv, shape: Shape, activation: Activation) -> list[nn.Module]:
    conv = nn.Conv2d(
        shape[0],
        layer.conv,
        layer.kernel,
        layer.stride,
        layer.padding,
        groups=layer.groups,
        bias=not layer.batch_norm,
    )
    norm = [nn.BatchNorm2d(layer.conv)] if layer.batch_norm else []
    return [conv, *norm, *_activation(layer.activation or activation)]


@layer_modules.register
def _(layer: Pool, _shape: Shape, _activation: Activation) -> list[nn.Module]:
    if layer.size == "global":
        return [nn.AdaptiveMaxPool2d(1) if layer.pool == "max" else nn.AdaptiveAvgPool2d(1)]
    return [(nn.MaxPool2d if layer.pool == "max" else nn.AvgPool2d)(layer.size, layer.stride)]


@layer_modules.register
def _(_layer: Flatten, _shape: Shape, _activation: Activation) -> list[nn.Module]:
    return [nn.Flatten()]


@layer_modules.register
def _(layer: Dense, shape: Shape, activation: Activation) -> list[nn.Module]:
    bias = not layer.batch_norm
    bounded = layer.max_norm is not None
    dense = BoundedLinear(shape[0], layer, bias=bias) if bounded else nn.Linear(shape[0], layer.dense, bias=bias)
    norm = [nn.BatchNorm1d(layer.dense)] if layer.batch_norm else []
    return [dense, *norm, *_activation(layer.activation or activation)]


@layer_modules.register
def _(layer: Dropout, shape: Shape, _activation: Activation) -> list[nn.Module]:
    if layer.scale_in == "training":
        drop: nn.Module = nn.Dropout(layer.dropout)
    else:
        drop = UnscaledDropout(layer.dropout)
    return [EmbeddedDropout(drop) if len(shape) == 2 else drop]  # noqa: PLR2004 -- (E, L)


@layer_modules.register
def _(layer: LocalResponseNorm, _shape: Shape, _activation: Activation) -> list[nn.Module]:
    # torch divides alpha by the number of neighbours, the paper does not.
    return [nn.LocalResponseNorm(layer.lrn, alpha=layer.alpha * layer.lrn, beta=layer.beta, k=layer.k)]


@layer_modules.register
def _(layer: Windows, shape: Shape, activation: Activation) -> list[nn.Module]:
    return [ParallelWindows(shape[0], layer, _activation(layer.activation or activation))]


def _activation(name: Activation) -> list[nn.Module]:
    """No module for softmax: it stands in the loss and in the exported graph, the network gives logits."""
    return [] if name in {"none", "softmax"} else [_ACTIVATIONS[name]()]


class BoundedLinear(nn.Linear):
    """A dense layer whose rows of weights are scaled back to `max_norm` where they grew beyond it."""

    def __init__(self, width: int, layer: Dense, *, bias: bool) -> None:
        super().__init__(width, layer.dense, bias)
        assert layer.max_norm is not None, "a layer without a bound is a plain nn.Linear"
        self.max_norm = layer.max_norm

    @torch.no_grad()
    def bound(self) -> None:
        """Scale long rows back (Hinton et al., 2012; Kim, 2014, section 2.1). Called after each step."""
        self.weight.copy_(self.weight.renorm(2, 0, self.max_norm))


class Embedded(NamedTuple):
    """Texts as vectors: values (N, E, L), and where a text has a token, bool (N, 1, L)."""

    values: Tensor
    present: Tensor


class Embed(nn.Module):
    """Token ids (N, L) -> Embedded; the vector of padding, id 0, is 0 and is not trained.

    That of the unknown word, id 1, starts at 0: where every word of the training texts is known it is never trained,
    and a vector by chance would stand, the same, in every text with a new word.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        with torch.no_grad():
            self.table.weight[1:].uniform_(-0.25, 0.25)  # as the author of Kim (2014) draws them
            self.table.weight[1].zero_()

    def forward(self, tokens: Tensor) -> Embedded:
        values = self.table(tokens).transpose(1, 2)  # (N, L, E) -> (N, E, L)
        return Embedded(values, (tokens != 0).unsqueeze(1))


class UnscaledDropout(nn.Module):
    """Dropout that leaves kept values as they are, and weakens all of them in evaluation (Hinton et al., 2012)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.kept = 1 - share

    def forward(self, values: Tensor) -> Tensor:
        return values * (torch.rand_like(values) < self.kept) if self.training else values * self.kept


class EmbeddedDropout(nn.Module):
    """Dropout of single values of the vectors."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, texts: Embedded) -> Embedded:
        return Embedded(self.drop(texts.values), texts.present)


class ParallelWindows(nn.Module):
    """Parallel 1-D convolutions with pooling over time: Embedded -> (N, F); Kim (2014), section 2.

    A window may reach beyond the end of its text, where it sees zeros, but starts inside of it, or less than its width
    before it where windows are wide; so a short text is read by every width, and the padding behind a text changes
    nothing.
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


class WithRuns(nn.Sequential):
    """A network and, as its last module, a table of runs of words: token ids -> a mean of the logits of both.

    In training the network is alone: what it shall learn is what to say by itself.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        *layers, table = self
        logits = tokens
        for layer in layers:
            logits = layer(logits)
        assert isinstance(table, RunTable), "build puts the table last"
        return logits if self.training else torch.lerp(logits, table(tokens), table.share)


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


class Ids(nn.Module):
    """Token ids of any integer type (N, L) -> int64 (N, L)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.to(torch.int64)


def normalise(recipe: Recipe) -> nn.Module:
    """What stands before the first layer: the scaling of pictures, the type of token ids."""
    if isinstance(recipe.input, Text):
        return Ids()
    return Normalise(recipe.input.mean, list(recipe.input.std))


class Served(nn.Module):
    """The exported graph: pictures uint8 (N, H, W, C) or token ids int64 (N, L) -> calibrated probabilities.

    The temperature of Guo et al. (2017) is folded into the last dense layer, what it is multiplied by for the length of
    a text stands behind that; `network` is taken over and changed.
    """

    def __init__(self, recipe: Recipe, network: nn.Sequential, calibration: Calibration) -> None:
        super().__init__()
        self.length_exponent = calibration.length_exponent
        self.normalise = normalise(recipe)
        self.network = network.eval()
        *layers, last = network
        if isinstance(last, RunTable):
            last.soften(calibration.temperature)
            last = layers[-1]
        assert isinstance(last, nn.Linear), f"the temperature folds into a dense layer, not into {last}"
        with torch.no_grad():
            last.weight.div_(calibration.temperature)
            last.bias.div_(calibration.temperature)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.network(self.normalise(inputs))
        if self.length_exponent:
            logits = logits / stretch((inputs != 0).sum(dim=1), self.length_exponent)
        return torch.softmax(logits, dim=1)
