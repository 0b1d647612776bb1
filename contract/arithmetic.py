"""What a layer of a graph is in words, and its arithmetic with numbers, as `python -m training shapes` prints it."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy.typing as npt

from contract.onnx_file import Constant, Node
from contract.operators import ACTIVATIONS, GLOBAL_POOLS, NORMS, POOLS, Kind
from contract.receptive import Window

Shape = tuple[int, ...]
Tensor = npt.NDArray[Any]

AXES: Mapping[int, str] = {1: "L", 2: "HW", 3: "DHW"}

MAPS = 3
"""Axes of feature maps at least: items, channels, and one more."""


def windows_of(node: Node, lengths: Sequence[int], sizes: Sequence[int]) -> tuple[Window, ...]:
    """The window of a convolution or pool on each axis."""
    axes = len(sizes)
    strides, dilations = node.integers("strides") or [1] * axes, node.integers("dilations") or [1] * axes
    pads = node.integers("pads") or [0] * (2 * axes)
    mode = node.attributes.get("auto_pad", "NOTSET")
    found = []
    for axis in range(axes):
        before, after = pads[axis], pads[axis + axes]
        if mode in {"SAME_UPPER", "SAME_LOWER"}:
            extent = dilations[axis] * (sizes[axis] - 1) + 1
            zeros = max((-(-lengths[axis] // strides[axis]) - 1) * strides[axis] + extent - lengths[axis], 0)
            before = zeros // 2 if mode == "SAME_UPPER" else zeros - zeros // 2
            after = zeros - before
        found.append(Window(sizes[axis], strides[axis], before, after, dilations[axis]))
    return tuple(found)


def title(
    node: Node, kind: Kind, weights: Constant | None, windows: Sequence[Window], before: Tensor, after: Tensor
) -> list[str]:
    """What a layer is, in the words of recipes: `conv 16`, `5x5`, `padding 2`."""
    parts = _nouns(node, kind, weights, windows, before, after)
    sizes = "x".join(str(window.size) for window in windows)
    if len(windows) > 1:
        usual_stride = None if kind == "conv" else sizes
        parts += _detail("stride", [window.stride for window in windows], 1, usual_stride)
        parts += _detail("padding", [window.before for window in windows], 0)
        parts += _detail("dilation", [window.dilation for window in windows], 1)
    groups = node.integer("group", 1)
    return [*parts, f"{groups} groups"] if groups > 1 else parts


def _nouns(
    node: Node, kind: Kind, weights: Constant | None, windows: Sequence[Window], before: Tensor, after: Tensor
) -> list[str]:
    sizes = "x".join(str(window.size) for window in windows)
    if kind == "conv":
        is_windows = len(windows) == 1
        return [f"windows of {sizes}", f"{after.shape[1]} filters"] if is_windows else [f"conv {after.shape[1]}", sizes]
    if kind == "pool" and windows:
        return [f"{POOLS[node.operator]} pool {sizes}"]
    if kind == "pool":
        over = GLOBAL_POOLS[node.operator]
        return [f"{over} over time" if before.ndim == MAPS else f"global {over} pool"]
    if kind == "dense":
        return [f"dense {after.shape[-1]}"]
    if kind == "embedding" and weights is not None:
        return [f"embedding {weights.shape[-1]} of {weights.shape[0]:,} tokens"]
    return [{**NORMS, **ACTIVATIONS}.get(node.operator, node.operator if kind == "other" else kind)]


def _detail(word: str, values: Sequence[int], plain: int, usual: str | None = None) -> list[str]:
    """A number for each axis, or one for all, if it is worth saying."""
    text = "x".join(map(str, values))
    if all(value == plain for value in values) or text == usual:
        return []
    return [f"{word} {text if len(set(values)) > 1 else values[0]}"]


def formulas(
    kind: Kind, before: Shape, after: Shape, windows: Sequence[Window], weights: Constant | None, *, has_bias: bool
) -> Iterator[str]:
    """The arithmetic of a layer, as `python -m training shapes` prints it."""
    if windows and kind in {"conv", "pool"}:
        lengths, outputs = before[1:], after[1:]
        lines = [
            window.formula(axis, length, output)
            for window, axis, length, output in zip(windows, AXES.get(len(windows), ""), lengths, outputs, strict=True)
        ]
        is_alike = len(set(windows)) == len(set(lengths)) == 1
        yield from lines[: 1 if is_alike else None]
    if kind == "conv" and weights is not None:
        filters, *each = weights.shape
        total = prod(weights.shape) + filters * has_bias
        yield f"{_times([filters, *each])} weights{f' + {filters} biases' if has_bias else ''} = {total:,}"
    if kind == "flatten":
        yield f"{_times(before)} = {prod(before)}"
    if kind == "dense" and weights is not None:
        total = (before[-1] + has_bias) * after[-1]
        yield f"{before[-1]} x {after[-1]} weights{f' + {after[-1]} biases' if has_bias else ''} = {total:,}"
    if kind == "pool" and not windows:
        yield f"{_times(before)} -> {_times(after)}: one value for each of {before[0]} maps"
    if kind == "softmax":
        yield "p_i = exp(z_i) / sum of exp(z_j)"


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
