"""The course's arithmetic: what each layer of a recipe turns its input into, and what that costs.

    OH = (H + 2*padding - kernel)/stride + 1, rounded down; OW likewise

after Dumoulin & Visin (2016), relationship 6. No torch here: a stack that cannot be built is refused before any.
"""

from dataclasses import dataclass
from functools import singledispatch
from math import prod

from training.data.schema import Text
from training.errors import RecipeError
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

_PLAIN = {"none", "softmax"}  # a softmax at the end stands in the loss and in the exported graph

Shape = tuple[int, ...]  # (C, H, W) for feature maps, (E, L) for embedded texts, (F,) for vectors


@dataclass(frozen=True)
class LayerShape:
    """One layer's arithmetic for one example: shapes without the batch axis, parameters, multiply-adds."""

    title: str
    input: Shape
    output: Shape
    formulas: tuple[str, ...] = ()
    weights: int = 0
    biases: int = 0
    batch_norm: int = 0
    multiply_adds: int = 0

    @property
    def parameters(self) -> int:
        return self.weights + self.biases + self.batch_norm


def trace(recipe: Recipe) -> list[LayerShape]:
    """Follow one example, a picture (C, H, W) or a text of the greatest length, through the layers.

    Raises:
        RecipeError: a layer that cannot be built on its input, named by its place counted from 1; or an output
            that is not one plain logit a label.
    """
    steps = _trace(recipe, None)
    for side in sorted(set(recipe.resolutions or [])):
        for number, (built, step) in enumerate(zip(steps, _trace(recipe, side), strict=True), start=1):
            if step.weights != built.weights:
                raise RecipeError(
                    f"{recipe.name}: layers[{number}] at resolution {side}: {_times(step.input)} values come in where "
                    f'the layer takes {_times(built.input)}: put {{ pool = "average", size = "global" }} before flatten'
                )
    return steps


def _trace(recipe: Recipe, side: int | None) -> list[LayerShape]:
    """`trace` with pictures of another side."""
    shape, steps = _begin(recipe, side)
    for number, layer in enumerate(recipe.layers[len(steps) :], start=len(steps) + 1):
        try:
            step = layer_shape(layer, shape)
        except RecipeError as error:
            where = f" at resolution {side}" if side else ""
            raise RecipeError(f"{recipe.name}: layers[{number}]{where}: {error}") from error
        steps.append(step)
        shape = step.output
    if shape != (len(recipe.labels),):
        raise RecipeError(
            f"{recipe.name}: layers[{len(steps)}]: the network ends in {_times(shape)}; expected "
            f"{len(recipe.labels)} values, one a label: end with flatten = true, dense = {len(recipe.labels)}"
        )
    _check_end(recipe, steps)
    return steps


def _check_end(recipe: Recipe, steps: list[LayerShape]) -> None:
    """Refuse a stack that does not end in plain logits, or has a softmax before them.

    Raises:
        RecipeError: the layer is named by its place.
    """
    for number, layer in enumerate(recipe.layers[:-1], start=1):
        if isinstance(layer, NGrams):
            raise RecipeError(f"{recipe.name}: layers[{number}]: ngrams can only be the last layer, after the logits")
    _check_runs(recipe)
    last = next(layer for layer in reversed(recipe.layers) if not isinstance(layer, NGrams))
    if not isinstance(last, Dense) or last.batch_norm or (last.activation or recipe.activation) not in _PLAIN:
        raise RecipeError(
            f"{recipe.name}: layers[{len(steps)}]: the last layer must give plain logits, for the temperature to be "
            f'folded into, before the softmax: write {{ dense = {len(recipe.labels)}, activation = "softmax" }}'
        )
    for number, layer in enumerate(recipe.layers[:-1], start=1):
        if layer is last or not isinstance(layer, Conv | Dense | Windows):
            continue
        if (layer.activation or recipe.activation) == "softmax":
            raise RecipeError(f"{recipe.name}: layers[{number}]: softmax is for the last layer: it stands in the loss")
    if recipe.batch_size == 1 and any(isinstance(layer, Dense) and layer.batch_norm for layer in recipe.layers):
        raise RecipeError(f"{recipe.name}: batch_size: batch norm on a dense layer needs at least 2 examples a batch")


def _check_runs(recipe: Recipe) -> None:
    """Refuse a table of runs of words that cannot be learnt.

    Raises:
        RecipeError: what is in its way.
    """
    end = recipe.layers[-1]
    if not isinstance(end, NGrams) or not isinstance(recipe.input, Text):
        return
    if recipe.initialise.name == "pretrained":
        raise RecipeError(f"{recipe.name}: initialise: pretrained weights have no table of ngrams")
    runs = end.ngrams * recipe.input.vocabulary**end.ngrams
    if runs >= 1 << 63:
        raise RecipeError(
            f"{recipe.name}: input.vocabulary: {recipe.input.vocabulary:,} words make {runs:.0e} runs of up to "
            f"{end.ngrams}, more than an int64 can number: set vocabulary or ngrams lower"
        )


def _begin(recipe: Recipe, side: int | None) -> tuple[Shape, list[LayerShape]]:
    """The shape that enters the stack, and the embedding where there is one: only it knows the vocabulary."""
    first, spec = recipe.layers[0], recipe.input
    if not isinstance(spec, Text):
        return (spec.channels, side or spec.height, side or spec.width), []
    if not isinstance(first, Embedding):
        raise RecipeError(f"{recipe.name}: layers[1]: a text needs {{ embedding = N }} first")
    step = LayerShape(
        title=f"embedding {first.embedding} of {spec.vocabulary:,} tokens{_company(first)}",
        input=(spec.length,),
        output=(first.embedding, spec.length),
        weights=spec.vocabulary * first.embedding,
    )
    return step.output, [step]


@singledispatch
def layer_shape(layer: Layer, shape: Shape) -> LayerShape:
    """The arithmetic of one layer on an input of `shape`.

    Raises:
        RecipeError: the layer does not fit its input.
    """
    raise AssertionError(f"no arithmetic for {layer!r} on {shape}")


@layer_shape.register
def _(layer: Conv, shape: Shape) -> LayerShape:
    channels, height, width = _feature_maps(shape, "conv")
    fit = _Window("filter", layer.kernel, layer.stride, layer.padding)
    out_height, how_h = fit.slide("H", height)
    out_width, how_w = fit.slide("W", width)
    if channels % layer.groups or layer.conv % layer.groups:
        raise RecipeError(
            f"{layer.groups} groups do not divide both the {channels} channels that come in and {layer.conv} filters"
        )
    weights = layer.conv * (channels // layer.groups) * layer.kernel**2
    return LayerShape(
        title=f"conv {layer.conv}, {layer.kernel}x{layer.kernel}{fit.details(1)}{_groups(layer)}{_extras(layer)}",
        input=shape,
        output=(layer.conv, out_height, out_width),
        formulas=(how_h,) if (height, out_height) == (width, out_width) else (how_h, how_w),
        weights=weights,
        biases=0 if layer.batch_norm else layer.conv,
        batch_norm=2 * layer.conv if layer.batch_norm else 0,
        multiply_adds=weights * out_height * out_width,
    )


@layer_shape.register
def _(layer: Pool, shape: Shape) -> LayerShape:
    channels, height, width = _feature_maps(shape, "pool")
    if layer.size == "global":
        return LayerShape(f"global {layer.pool} pool", shape, (channels, 1, 1))
    stride = layer.stride or layer.size
    fit = _Window("window", layer.size, stride, 0)
    out_height, how_h = fit.slide("H", height)
    out_width, how_w = fit.slide("W", width)
    return LayerShape(
        title=f"{layer.pool} pool {layer.size}x{layer.size}{fit.details(layer.size)}",
        input=shape,
        output=(channels, out_height, out_width),
        formulas=(how_h,) if (height, out_height) == (width, out_width) else (how_h, how_w),
    )


@layer_shape.register
def _(_layer: Flatten, shape: Shape) -> LayerShape:
    formulas = (f"{_times(shape)} = {prod(shape)}",) if len(shape) > 1 else ()
    if len(shape) == 2:  # noqa: PLR2004 -- (E, L)
        raise RecipeError("a text has no fixed length to flatten: put windows = [...] over it")
    return LayerShape(title="flatten", input=shape, output=(prod(shape),), formulas=formulas)


@layer_shape.register
def _(layer: Dense, shape: Shape) -> LayerShape:
    if len(shape) != 1:
        missing = "flatten = true" if len(shape) > 2 else "windows = [...]"  # noqa: PLR2004 -- (E, L)
        raise RecipeError(f"dense needs a vector, its input is {_times(shape)}: put {missing} before it")
    return LayerShape(
        title=f"dense {layer.dense}{_extras(layer)}",
        input=shape,
        output=(layer.dense,),
        weights=shape[0] * layer.dense,
        biases=0 if layer.batch_norm else layer.dense,
        batch_norm=2 * layer.dense if layer.batch_norm else 0,
        multiply_adds=shape[0] * layer.dense,
    )


@layer_shape.register
def _(layer: Dropout, shape: Shape) -> LayerShape:
    scale = ", scaled in evaluation" if layer.scale_in == "evaluation" else ""
    return LayerShape(title=f"dropout {layer.dropout:g}{scale}", input=shape, output=shape)


@layer_shape.register
def _(layer: LocalResponseNorm, shape: Shape) -> LayerShape:
    _feature_maps(shape, "local response norm")
    return LayerShape(f"local response norm over {layer.lrn}", shape, shape, multiply_adds=layer.lrn * prod(shape))


@layer_shape.register
def _(_layer: Embedding, _shape: Shape) -> LayerShape:
    raise RecipeError("an embedding takes the token ids of a text: it can only be the first layer, under a text input")


@layer_shape.register
def _(layer: Windows, shape: Shape) -> LayerShape:
    if len(shape) != 2:  # noqa: PLR2004 -- (E, L)
        raise RecipeError(f"windows slide over an embedded text, (E, L), their input is {_times(shape)}")
    channels, length = shape
    weights = layer.filters * channels * sum(layer.windows)
    maps, widest = layer.filters * len(layer.windows), max(layer.windows)
    places = [length + (size - 1 if layer.wide else 0) for size in layer.windows]
    kind, zeros, where = ("wide windows", "2*", "on both sides") if layer.wide else ("windows", "", "behind its end")
    over = f"{'maximum and average' if layer.over_time == 'both' else layer.over_time} over time"
    activation = f", {layer.activation}" if layer.activation not in {None, "none"} else ""
    formula = f"OL = ({length} + {zeros}{widest - 1} - {widest})/1 + 1 = {max(places)}"
    return LayerShape(
        title=f"{kind} {', '.join(map(str, layer.windows))}, {layer.filters} filters{activation}",
        input=shape,
        output=(maps * (2 if layer.over_time == "both" else 1),),
        formulas=(f"{formula}, padded {where}; then the {over}",),
        weights=weights,
        biases=maps,
        multiply_adds=layer.filters * channels * sum(map(prod, zip(layer.windows, places, strict=True))),
    )


@layer_shape.register
def _(layer: NGrams, shape: Shape) -> LayerShape:
    if shape != (2,):
        raise RecipeError(f"ngrams weigh a text for or against: two logits, its input is {_times(shape)}")
    return LayerShape(
        title=f"{layer.share:.0%} runs of 1 to {layer.ngrams} words, of {layer.min_count} texts or more",
        input=shape,
        output=shape,
        weights=layer.slots,
        biases=1,
    )


@dataclass(frozen=True)
class _Window:
    """A filter or pooling window that slides over a padded axis."""

    name: str
    size: int
    stride: int
    padding: int

    def slide(self, axis: str, length: int) -> tuple[int, str]:
        """How often the window fits along an axis of `length`, and the formula that says so."""
        padded = length + 2 * self.padding
        if self.size > padded:
            raise RecipeError(
                f"a {self.name} of {self.size} is larger than its input, {axis} = {length} "
                f"with padding {self.padding} on both sides: at most {padded} fits"
            )
        steps, rest = divmod(padded - self.size, self.stride)
        formula = f"O{axis} = ({length} + 2*{self.padding} - {self.size})/{self.stride} + 1 = "
        if not rest:
            return steps + 1, f"{formula}{steps + 1}"
        exact = (padded - self.size) / self.stride + 1
        return steps + 1, (
            f"{formula}{exact:.4g}, rounded down to {steps + 1}: stride {self.stride} does not divide "
            f"{padded - self.size}, the last {rest} of {padded} along {axis} {'is' if rest == 1 else 'are'} not seen"
        )

    def details(self, usual_stride: int) -> str:
        stride = f", stride {self.stride}" if self.stride != usual_stride else ""
        return stride + (f", padding {self.padding}" if self.padding else "")


def _feature_maps(shape: Shape, what: str) -> tuple[int, int, int]:
    if len(shape) != 3:  # noqa: PLR2004 -- (C, H, W)
        found = f"a vector of {shape[0]}" if len(shape) == 1 else f"an embedded text, {_times(shape)}"
        raise RecipeError(f"{what} needs feature maps (C, H, W), its input is {found}")
    channels, height, width = shape
    return channels, height, width


def _extras(layer: Conv | Dense) -> str:
    activation = f", {layer.activation}" if layer.activation not in {None, "none"} else ""
    return (", batch norm" if layer.batch_norm else "") + activation


def _groups(layer: Conv) -> str:
    return f", {layer.groups} groups" if layer.groups > 1 else ""


def _company(layer: Embedding) -> str:
    return f", by {layer.company} words to either side" if layer.company else ""


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def table(recipe: Recipe) -> str:
    """The arithmetic of a whole recipe as people read it.

    Raises:
        RecipeError: as `trace`.
    """
    steps = trace(recipe)
    rows: list[tuple[str, ...]] = [("", "layer", "output", "weights", "biases", "batch norm", "multiply-adds")]
    rows.append(("", "input", _times(steps[0].input), "", "", "", ""))
    for number, step in enumerate(steps, start=1):
        counts = (step.weights, step.biases, step.batch_norm, step.multiply_adds)
        rows.append(
            (
                str(number),
                step.title,
                _times(step.output),
                *(f"{count:,}" if count else "" for count in counts),
            )
        )
    totals = (
        sum(step.weights for step in steps),
        sum(step.biases for step in steps),
        sum(step.batch_norm for step in steps),
        sum(step.multiply_adds for step in steps),
    )
    rows.append(("", "total", "", *(f"{total:,}" for total in totals)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"{recipe.name}: {recipe.description}", ""]
    for index, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column < 3 else cell.rjust(width)  # noqa: PLR2004 -- words left, numbers right
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        if 2 <= index < len(rows) - 1:  # noqa: PLR2004 -- below the head and the input, above the total
            lines += [" " * (widths[0] + 4) + formula for formula in steps[index - 2].formulas]
    lines += ["", f"{sum(step.parameters for step in steps):,} parameters"]
    return "\n".join(lines)
