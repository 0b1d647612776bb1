"""The arithmetic of one layer: its output shape, parameters and multiply-adds for an input of some shape.

    OH = (H + 2*padding - (dilation*(kernel - 1) + 1))/stride + 1, rounded down; OD, OW and OL likewise

as in Dumoulin & Visin (2016), relationship 6. It needs no torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch
from math import prod
from typing import Literal

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
    Reshape,
    Windows,
)

Shape = tuple[int, ...]  # (C, H, W) for feature maps, or (C, L), (C, D, H, W); (F,) for vectors; Texts
_AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


class Texts(Shape):
    """The shape (E, L) of embedded texts, whose length is that of the longest text and varies."""


@dataclass(frozen=True)
class LayerShape:
    """The arithmetic of one layer for one example: shapes without the batch axis, parameters, multiply-adds."""

    title: str
    input: Shape
    output: Shape
    formulas: tuple[str, ...] = ()
    weights: int = 0
    biases: int = 0
    norms: int = 0
    multiply_adds: int = 0

    @property
    def parameters(self) -> int:
        return self.weights + self.biases + self.norms


@singledispatch
def layer_shape(layer: Layer, shape: Shape) -> LayerShape:
    """The arithmetic of one layer for an input of `shape`.

    Raises:
        RecipeError: the layer does not fit its input.
    """
    raise AssertionError(f"no arithmetic for {layer!r} on {shape}")


@layer_shape.register
def _(layer: Conv, shape: Shape) -> LayerShape:
    channels, *lengths = _feature_maps(shape, "conv")
    fits = _windows("filter", lengths, layer.kernel, layer.stride, layer.padding, layer.dilation)
    outputs, formulas = _slide(fits, lengths)
    if channels % layer.groups or layer.conv % layer.groups:
        raise RecipeError(
            f"groups = {layer.groups} must divide the {channels} input channels and the {layer.conv} filters"
        )
    weights = layer.conv * (channels // layer.groups) * prod(fit.size for fit in fits)
    groups = f", {layer.groups} groups" if layer.groups > 1 else ""
    return LayerShape(
        title=f"conv {layer.conv}, {_by(fit.size for fit in fits)}{_details(fits, 1)}{groups}{_extras(layer)}",
        input=shape,
        output=(layer.conv, *outputs),
        formulas=formulas,
        weights=weights,
        biases=0 if layer.norm else layer.conv,
        norms=_norm_parameters(layer, layer.conv),
        multiply_adds=weights * prod(outputs),
    )


@layer_shape.register
def _(layer: Pool, shape: Shape) -> LayerShape:
    channels, *lengths = _feature_maps(shape, "pool")
    if layer.size == "global":
        return LayerShape(f"global {layer.pool} pool", shape, (channels, *(1 for _ in lengths)))
    fits = _windows("window", lengths, layer.size, layer.size if layer.stride is None else layer.stride, 0, 1)
    outputs, formulas = _slide(fits, lengths)
    return LayerShape(
        title=f"{layer.pool} pool {_by(fit.size for fit in fits)}{_details(fits, None)}",
        input=shape,
        output=(channels, *outputs),
        formulas=formulas,
    )


@layer_shape.register
def _(layer: Reshape, shape: Shape) -> LayerShape:
    if isinstance(shape, Texts):
        raise RecipeError("reshape needs a fixed length, which a text does not have: use windows = [...]")
    if prod(layer.reshape) != prod(shape):
        raise RecipeError(
            f"reshape = {layer.reshape} has {prod(layer.reshape)} values, but the input {times(shape)} has "
            f"{prod(shape)}"
        )
    return LayerShape(f"reshape to {times(tuple(layer.reshape))}", shape, tuple(layer.reshape))


@layer_shape.register
def _(_layer: Flatten, shape: Shape) -> LayerShape:
    if isinstance(shape, Texts):
        raise RecipeError("flatten needs a fixed length, which a text does not have: use windows = [...]")
    formulas = (f"{times(shape)} = {prod(shape)}",) if len(shape) > 1 else ()
    return LayerShape(title="flatten", input=shape, output=(prod(shape),), formulas=formulas)


@layer_shape.register
def _(layer: Dense, shape: Shape) -> LayerShape:
    if len(shape) != 1:
        missing = "windows = [...]" if isinstance(shape, Texts) else "flatten = true"
        raise RecipeError(f"dense expects a vector, got {times(shape)}: put {missing} before it")
    return LayerShape(
        title=f"dense {layer.dense}{_extras(layer)}",
        input=shape,
        output=(layer.dense,),
        weights=shape[0] * layer.dense,
        biases=0 if layer.norm else layer.dense,
        norms=_norm_parameters(layer, layer.dense),
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
    raise RecipeError("embedding must be the first layer, with input.kind = 'text'")


@layer_shape.register
def _(layer: Windows, shape: Shape) -> LayerShape:
    if not isinstance(shape, Texts):
        raise RecipeError(f"windows expects an embedded text (E, L), got {times(shape)}")
    channels, length = shape
    weights = layer.filters * channels * sum(layer.windows)
    maps, widest = layer.filters * len(layer.windows), max(layer.windows)
    lengths = [length + (size - 1 if layer.wide else 0) for size in layer.windows]
    kind, zeros, where = ("wide windows", "2*", "on both sides") if layer.wide else ("windows", "", "at the end")
    over = "maximum and average" if layer.over_time == "both" else layer.over_time
    formula = f"OL = ({length} + {zeros}{widest - 1} - {widest})/1 + 1 = {max(lengths)}"
    return LayerShape(
        title=f"{kind} {', '.join(map(str, layer.windows))}, {layer.filters} filters{_extras(layer)}",
        input=shape,
        output=(maps * (2 if layer.over_time == "both" else 1),),
        formulas=(f"{formula}, padded {where}; then {over} over time",),
        weights=weights,
        biases=maps,
        multiply_adds=layer.filters * channels * sum(map(prod, zip(layer.windows, lengths, strict=True))),
    )


@layer_shape.register
def _(layer: NGrams, shape: Shape) -> LayerShape:
    if shape != (2,):
        raise RecipeError(f"ngrams expects two logits, got {times(shape)}")
    return LayerShape(
        title=f"n-grams of 1 to {layer.ngrams} words in {layer.min_count} texts or more, weight {layer.share:.0%}",
        input=shape,
        output=shape,
        weights=layer.slots,
        biases=1,
    )


@dataclass(frozen=True)
class _Window:
    """A filter or pooling window on a padded axis."""

    name: str
    size: int
    stride: int
    padding: int | Literal["same"]
    dilation: int

    def slide(self, axis: str, length: int) -> tuple[int, str]:
        """The number of positions of the window along an axis of `length`, and its formula."""
        extent = self.dilation * (self.size - 1) + 1
        if self.padding == "same":
            before, after = (extent - 1) // 2, extent // 2
            return length, f"O{axis} = ({length} + {before} + {after} - {self._extent()})/1 + 1 = {length}"
        padded = length + 2 * self.padding
        if extent > padded:
            what = f"of {self.size}" + (f", dilated to {extent}," if self.dilation > 1 else "")
            raise RecipeError(
                f"a {self.name} {what} is larger than {axis} = {length} with padding {self.padding} on both "
                f"sides (maximum {padded})"
            )
        steps, rest = divmod(padded - extent, self.stride)
        formula = f"O{axis} = ({length} + 2*{self.padding} - {self._extent()})/{self.stride} + 1 = "
        if not rest:
            return steps + 1, f"{formula}{steps + 1}"
        exact = (padded - extent) / self.stride + 1
        return steps + 1, (
            f"{formula}{exact:.4g}, rounded down to {steps + 1}: stride {self.stride} does not divide "
            f"{padded - extent}, the last {rest} of {padded} along {axis} {'is' if rest == 1 else 'are'} not used"
        )

    def _extent(self) -> str:
        return str(self.size) if self.dilation == 1 else f"({self.dilation}*({self.size} - 1) + 1)"


def _windows(
    name: str,
    lengths: list[int],
    size: int | list[int],
    stride: int | list[int],
    padding: int | list[int] | Literal["same"],
    dilation: int | list[int],
) -> list[_Window]:
    """The window on each axis."""
    axes = len(lengths)
    sizes = _each("size" if name == "window" else "kernel", size, axes)
    strides, dilations = _each("stride", stride, axes), _each("dilation", dilation, axes)
    paddings: list[int | Literal["same"]] = [
        *([padding] * axes if padding == "same" else _each("padding", padding, axes))
    ]
    return [_Window(name, sizes[axis], strides[axis], paddings[axis], dilations[axis]) for axis in range(axes)]


def _each(key: str, value: int | list[int], axes: int) -> list[int]:
    values = value if isinstance(value, list) else [value] * axes
    if len(values) != axes:
        raise RecipeError(f"{key} = {value} has {len(values)} numbers, but the input has {axes} axes beside channels")
    return values


def _slide(fits: list[_Window], lengths: list[int]) -> tuple[list[int], tuple[str, ...]]:
    """The output along each axis, and the formulas; one for all axes if they are alike."""
    steps = [fit.slide(axis, length) for fit, axis, length in zip(fits, _AXES[len(lengths)], lengths, strict=True)]
    is_alike = len(set(fits)) == len(set(lengths)) == 1
    return [length for length, _ in steps], tuple(formula for _, formula in steps)[: 1 if is_alike else None]


def _details(fits: list[_Window], usual_stride: int | None) -> str:
    """Stride, padding and dilation in a title; a pool's usual stride is its size."""
    parts = []
    if any(fit.stride != (usual_stride or fit.size) for fit in fits):
        parts.append(f"stride {_brief(fit.stride for fit in fits)}")
    if any(fit.padding for fit in fits):
        parts.append(f"padding {_brief(fit.padding for fit in fits)}")
    if any(fit.dilation > 1 for fit in fits):
        parts.append(f"dilation {_brief(fit.dilation for fit in fits)}")
    return "".join(f", {part}" for part in parts)


def _by(values: Iterable[int | str]) -> str:
    """Sizes along the axes, like 3x5."""
    return "x".join(map(str, values))


def _brief(values: Iterable[int | str]) -> str:
    """As `_by`, but one number for all axes if they are equal."""
    listed = list(values)
    return _by(listed[:1] if len(set(listed)) == 1 else listed)


def _norm_parameters(layer: Conv | Dense, channels: int) -> int:
    if layer.group_norm and channels % layer.group_norm:
        raise RecipeError(f"group_norm = {layer.group_norm} must divide the {channels} channels of the layer")
    return 2 * channels if layer.norm else 0


def _feature_maps(shape: Shape, layer: str) -> Shape:
    """Channels and lengths of an input that has at least one axis beside its channels."""
    if len(shape) == 1 or isinstance(shape, Texts):
        actual = f"a vector of {shape[0]}" if len(shape) == 1 else f"an embedded text, {times(shape)}"
        raise RecipeError(f"{layer} expects feature maps (C, H, W), got {actual}")
    return shape


def _extras(layer: Conv | Dense | Windows) -> str:
    """The norm and activation of a layer in its title."""
    norm = None if isinstance(layer, Windows) else layer.norm
    parts = [f"{norm} of {layer.group_norm}" if norm == "group norm" else norm, layer.activation]  # type: ignore[union-attr]
    return "".join(f", {part}" for part in parts if part not in {None, "none"})


def times(shape: Shape) -> str:
    """A shape for people, like 3 x 28 x 28."""
    return " x ".join(map(str, shape))
