"""The layers of a graph: which of its operations a person would draw, with their names, weights and arithmetic.

An activation or a norm belongs to the layer before it. Operations that only move values (casts, transpositions, masks)
are not layers. Names follow the keys of recipes, `conv1`, `pool1`, `dense1`; where the recipe in the manifest has as
many layers of a kind as the graph, each layer also has its place in the recipe.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.arithmetic import AXES, MAPS, formulas, title, windows_of
from contract.fields import Fields
from contract.onnx_file import Constant, Node
from contract.operators import ACTIVATIONS, NORMS, POOLS, Candidates, Kind, is_activation, kind_of
from contract.receptive import Receptive, Window

Shape = tuple[int, ...]
Tensor = npt.NDArray[Any]

MAX_LAYERS = 400
"""Of a graph, in its order."""

_PROBABILITIES = "probabilities"
_WEIGHTED = {"conv", "dense", "embedding", "norm", "activation", "other"}


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a graph, for one item: shapes are without the axis of the items."""

    name: str
    kind: Kind
    title: str
    """What it is, as recipes say it: `conv 16, 5x5, padding 2, relu`."""
    node: Node
    output: str
    """The tensor of its values, after its norm and activation."""
    input: str
    """The tensor that it takes, which may be the graph's own input."""
    input_shape: Shape
    shape: Shape
    weights: Constant | None
    bias: Constant | None
    activation: str
    """Empty if it has none."""
    parameters: int
    multiply_adds: int
    formulas: tuple[str, ...]
    windows: tuple[Window, ...]
    receptive: Receptive | None
    """None if each cell may see the whole input."""
    position: int | None = None
    """In the recipe, from 1."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What the recipe says of it."""

    @property
    def is_maps(self) -> bool:
        """Whether its output is feature maps (C, ...), and not a vector."""
        return len(self.shape) >= MAPS - 1


def dissect(
    found: Candidates, tensors: Mapping[str, Tensor], recipe: Mapping[str, Any], *, is_text: bool
) -> list[Layer]:
    """The layers of a graph, in its order.

    Args:
        found: what may be a layer.
        tensors: the values of `found.tensors()`, of the graph's inputs and its output, for any one item, with its axis.
        recipe: of the manifest; empty if the graph was not made from one.
        is_text: whether the graph takes token ids, so that one-dimensional convolutions are windows over tokens.
    """
    fields = Fields(found, tensors, is_text=is_text)
    layers: list[Layer] = []
    covered: set[str] = set()
    for node in found.file.nodes:
        kind = kind_of(node)
        if kind is None or node.outputs[0] not in tensors or node.outputs[0] in covered:
            continue
        if (layer := _layer(node, kind, found, tensors, fields, is_text=is_text)) is None:
            continue
        covered.update(each.outputs[0] for each in found.end(node)[1])
        layers.append(layer)
        if len(layers) == MAX_LAYERS:
            break
    return list(_named(layers, recipe))


def _layer(
    node: Node, kind: Kind, found: Candidates, tensors: Mapping[str, Tensor], fields: Fields, *, is_text: bool
) -> Layer | None:
    """A node as a layer; None if it only moves values, or if its weights cannot be found."""
    data = node.inputs[1 if kind == "embedding" else 0]
    output, merged = found.end(node)
    if data not in tensors or output not in tensors or not _is_layer(node, kind, found, tensors):
        return None
    before, after = tensors[data], tensors[node.outputs[0]]
    constants = [found.constant(name) for name in node.inputs]
    weights, windows = _weights(kind, constants), _windows(node, kind, constants, before)
    bias = _bias(kind, constants, merged, found)
    steps = [NORMS[each.operator] for each in merged if each.operator in NORMS]
    activation = next((ACTIVATIONS.get(each.operator, "swish") for each in merged if is_activation(each)), "")
    work = 0
    if weights is not None and kind in {"conv", "dense"}:
        work = prod(weights.shape) * prod(after.shape[2:] if kind == "conv" else after.shape[1:-1])
    return Layer(
        name=node.name,
        kind="windows" if kind == "conv" and is_text else kind,
        title=", ".join([*title(node, kind, weights, windows, before, after), *steps, *filter(None, [activation])]),
        node=node,
        output=output,
        input=data,
        input_shape=before.shape[1:],
        shape=tensors[output].shape[1:],
        weights=weights,
        bias=bias,
        activation=activation,
        parameters=_parameters([*constants, bias], merged, found) if kind in _WEIGHTED else 0,
        multiply_adds=work,
        formulas=tuple(formulas(kind, before.shape[1:], after.shape[1:], windows, weights, has_bias=bias is not None)),
        windows=windows,
        receptive=fields.of(output),
    )


def _is_layer(  # noqa: PLR0911 -- a line for each kind
    node: Node, kind: Kind, found: Candidates, tensors: Mapping[str, Tensor]
) -> bool:
    """Whether a person would draw an operation, by the shapes and the weights that it has in this graph."""
    before, after = tensors[node.inputs[1 if kind == "embedding" else 0]], tensors[node.outputs[0]]
    if not np.issubdtype(after.dtype, np.floating) or min(before.ndim, after.ndim) < 2:  # noqa: PLR2004 -- without items
        return False
    weights = _weights(kind, [found.constant(name) for name in node.inputs])
    match kind:
        case "conv":
            return weights is not None and after.ndim - 2 in AXES
        case "dense":
            return weights is not None and len(weights.shape) == 2  # noqa: PLR2004 -- a matrix
        case "embedding":
            is_table = weights is not None and weights.is_float and len(weights.shape) > 1
            return is_table and node.inputs[1] in found.varying
        case "pool":
            return node.operator in POOLS or _is_global_pool(before, after)
        case "flatten":
            return before.ndim >= MAPS and after.ndim == 2 and node.inputs[0] not in found.inputs  # noqa: PLR2004
        case "sum" | "concat":
            values = [name for name in node.inputs if name in found.varying]
            is_of_logits = after[0].size <= tensors[_PROBABILITIES][0].size  # which a calibration adds to, for example
            return len(values) > 1 and not is_of_logits and found.inputs.isdisjoint(values)
    return True


def _is_global_pool(before: Tensor, after: Tensor) -> bool:
    """Whether one value is left of each map (N, C, ...) or (N, ..., C), and not of each place, as a norm has it."""
    if before.ndim < MAPS or not np.issubdtype(before.dtype, np.floating):
        return False
    if before.ndim == MAPS and after.ndim == MAPS:
        return bool(after.shape[1] == 1)
    return int(after.size) in {before.shape[0] * before.shape[1], before.shape[0] * before.shape[-1]}


def _weights(kind: Kind, constants: Sequence[Constant | None]) -> Constant | None:
    """The stored tensor of a layer's weights, or of its table."""
    if kind == "embedding":
        return constants[0]
    return constants[1] if kind in {"conv", "dense"} and len(constants) > 1 else None


def _windows(node: Node, kind: Kind, constants: Sequence[Constant | None], before: Tensor) -> tuple[Window, ...]:
    """The windows of a convolution or pool; none of a global pool and of other layers."""
    weights = _weights(kind, constants)
    if kind == "conv" and weights is not None:
        return windows_of(node, before.shape[2:], weights.shape[2:])
    return windows_of(node, before.shape[2:], node.integers("kernel_shape") or ()) if node.operator in POOLS else ()


def _parameters(constants: Iterable[Constant | None], merged: Iterable[Node], found: Candidates) -> int:
    """The stored real numbers of a layer, its norm and its activation."""
    others = (found.constant(name) for node in merged for name in node.inputs)
    stored = {id(each): each for each in (*constants, *others) if each is not None and each.is_float}
    return sum(prod(each.shape) for each in stored.values())


def _bias(
    kind: Kind, constants: Sequence[Constant | None], merged: Sequence[Node], found: Candidates
) -> Constant | None:
    """The bias of a convolution or dense layer: its third input, or what is added right after it."""
    if kind not in {"conv", "dense"}:
        return None
    if len(constants) > 2:  # noqa: PLR2004
        return constants[2]
    added = [each for each in merged[:1] if each.operator == "Add"]
    return next((each for part in added for name in part.inputs if (each := found.constant(name))), None)


def _named(layers: Sequence[Layer], recipe: Mapping[str, Any]) -> Iterator[Layer]:
    """The layers with their names and places in the recipe."""
    numbers: Counter[str] = Counter()
    places = _places(layers, recipe)
    widths: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        if layer.kind == "windows":
            widths[layer.input].append(layer)
    for layer in layers:
        beside = widths.get(layer.input, []) if layer.kind == "windows" else []
        if not beside or beside[0] is layer:
            numbers[layer.kind] += 1
        name = f"{layer.kind}{numbers[layer.kind]}"
        if len(beside) > 1:
            name += f"-{layer.windows[0].size}"
        position, keys = places.get(id(layer), (None, {}))
        yield replace(layer, name=name, position=position, recipe=keys)


def _places(layers: Sequence[Layer], recipe: Mapping[str, Any]) -> dict[int, tuple[int, Mapping[str, Any]]]:
    """The place in the recipe of each layer of a kind, if the recipe has as many of this kind as the graph."""
    listed = recipe.get("layers")
    if not isinstance(listed, list):
        return {}
    flat = [layer for layer in _flat(listed) if isinstance(layer, dict)]
    places: dict[int, tuple[int, Mapping[str, Any]]] = {}
    for kind in ("conv", "pool", "dense", "embedding", "flatten"):
        ours = [layer for layer in layers if layer.kind == kind]
        theirs = [(place, keys) for place, keys in enumerate(flat, start=1) if kind in keys]
        if len(ours) == len(theirs):
            places |= {id(layer): (place, _stated(keys)) for layer, (place, keys) in zip(ours, theirs, strict=True)}
    windows = [(place, keys) for place, keys in enumerate(flat, start=1) if "windows" in keys]
    ours = [layer for layer in layers if layer.kind == "windows"]
    if len(windows) == 1 and len(ours) == len(windows[0][1]["windows"]):
        places |= {id(layer): (windows[0][0], _stated(windows[0][1])) for layer in ours}
    return places


def _flat(layers: Iterable[Any]) -> Iterator[Any]:
    """The layers of a recipe, those of blocks as often as they are repeated."""
    for layer in layers:
        block = layer.get("block") if isinstance(layer, dict) else None
        if isinstance(block, list):
            for _ in range(layer.get("repeat") or 1):
                yield from _flat(block)
        else:
            yield layer


def _stated(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value is not None and value is not False}
