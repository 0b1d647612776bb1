"""What each layer of a network makes of one item: as a report for JSON, as pictures, and cell by cell."""

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from contract import sheets
from contract.anatomy import Layer
from contract.receptive import Receptive
from contract.twin import Inspection

Show = Literal["maps", "filters"]
Floats = npt.NDArray[Any]

MAX_LISTED = 1 << 18
"""Values of a layer that are listed in JSON, at most."""
STRONGEST = 12
"""Filters over a text that are reported, those that respond most strongly or count most."""

_FEW_VALUES, _FEW_PRODUCTS, _FEW_INPUTS = 256, 4096, 20
_FILTERS, _CHANNELS = 64, 48  # of a sheet of filters over more than three channels


def report(inspection: Inspection, units: Sequence[str]) -> dict[str, Any]:
    """The item, the prediction and all layers, for JSON.

    Args:
        inspection: the values.
        units: the tokens of a text, in words; empty for an image.
    """
    labels, row = inspection.manifest.labels, inspection.row
    best = int(row.argmax())
    return {
        "prediction": labels[best],
        "score": _short(row[best]),
        "input": _input(inspection, units),
        "layers": [describe(inspection, layer, units) for layer in inspection.layers],
    }


def describe(inspection: Inspection, layer: Layer, units: Sequence[str]) -> dict[str, Any]:
    """A layer for JSON, without all its values."""
    values = inspection.values(layer)
    described: dict[str, Any] = {
        "name": layer.name,
        "kind": layer.kind,
        "title": layer.title,
        "node": layer.node.name,
        "input_shape": list(layer.input_shape),
        "shape": list(layer.shape),
        "parameters": layer.parameters,
        "multiply_adds": layer.multiply_adds,
        "formulas": list(layer.formulas),
        "activation": layer.activation or None,
        "minimum": _short(values.min()),
        "maximum": _short(values.max()),
        "mean": _short(values.mean()),
        "zeros": _short((values == 0).mean()),
        "sheet": sheets.layout(sheets.as_maps(values)).report(),
    }
    if layer.position is not None:
        described["recipe"] = {"layer": layer.position, **layer.recipe}
    if layer.receptive is not None and layer.is_maps:
        field = layer.receptive
        described["receptive_field"] = {name: list(getattr(field, name)) for name in ("size", "stride", "start")}
    if (shape := _filters_shape(inspection, layer)) is not None:
        described["filters"] = sheets.layout(np.empty(shape, np.bool_)).report()
    if values.size <= _FEW_VALUES and values.ndim == 1:
        described["values"] = [_short(value) for value in values]
    if layer.kind == "windows":
        described["strongest"] = strongest(inspection, layer, units)
    return described


def listed(inspection: Inspection, layer: Layer, units: Sequence[str]) -> dict[str, Any]:
    """A layer for JSON, with all its values.

    Raises:
        ValueError: it has too many.
    """
    values = inspection.values(layer)
    if values.size > MAX_LISTED:
        raise ValueError(
            f"{layer.name} has {values.size:,} values (maximum {MAX_LISTED:,}): read it as image/png, or cell by cell"
        )
    return {**describe(inspection, layer, units), "values": np.round(values.astype(np.float64), 5).tolist()}


def sheet(inspection: Inspection, layer: Layer, show: Show) -> bytes:
    """A PNG of a layer's maps or of its filters.

    Raises:
        ValueError: the layer does not have filters that can be drawn.
    """
    if show == "maps":
        return sheets.draw(sheets.as_maps(inspection.values(layer)))
    filters = _filters(inspection, layer)
    if filters is None:
        drawn = [each.name for each in inspection.layers if _filters_shape(inspection, each) is not None]
        raise ValueError(f"{layer.name} has no filters to draw; these have: {', '.join(drawn) or 'none'}")
    return sheets.draw_colours(filters) if filters.ndim == 4 else sheets.draw(filters)  # noqa: PLR2004


def cell(inspection: Inspection, layer: Layer, place: Sequence[int], units: Sequence[str]) -> dict[str, Any]:
    """How one value of a layer came about: what it saw of the input, and its arithmetic.

    Args:
        inspection: the values.
        layer: one of its layers.
        place: a position in the layer's output, like (map, row, column).
        units: the tokens of a text.

    Raises:
        ValueError: the layer has no such position.
    """
    values = inspection.values(layer)
    if len(place) != values.ndim or not all(0 <= at < size for at, size in zip(place, values.shape, strict=True)):
        raise ValueError(
            f"{layer.name} has no cell {','.join(map(str, place))}: expected {values.ndim} numbers from 0, "
            f"below {', '.join(map(str, values.shape))}"
        )
    found: dict[str, Any] = {"layer": layer.name, "cell": list(place), "value": _short(values[tuple(place)])}
    if layer.receptive is not None and layer.is_maps:
        found["saw"] = _saw(layer.receptive, place[layer.kind != "embedding" :], inspection, units)
    source = inspection.tensors.get(layer.input)
    if source is None:
        return found
    match layer.kind:
        case "conv" | "windows" if layer.node.operator == "Conv":
            found |= _convolved(layer, source[0], place)
        case "pool" if layer.windows:
            inputs = _window(source[0][place[0]], layer, place[1:])
            if inputs.size <= _FEW_PRODUCTS:
                found["inputs"] = _nested(inputs)
        case "dense" if values.ndim == 1:
            found |= _multiplied(layer, source[0], place[0])
    return found


def strongest(inspection: Inspection, layer: Layer, units: Sequence[str]) -> list[dict[str, Any]]:
    """For filters over a text their strongest position, its tokens, and what it adds to the predicted label's logit.

    Filters that add or take most come first; where the way to the logits is another than maximum over time and one
    dense layer, those with the largest values, without `weight`.
    """
    values = inspection.values(layer)  # (F, L)
    values = values.reshape(len(values), -1)
    places = values.argmax(axis=1)
    highest = values[np.arange(len(values)), places]
    weights = _weights_of_filters(inspection, layer)
    order = np.argsort(-np.abs(highest if weights is None else highest * weights), kind="stable")[:STRONGEST]
    rows = []
    for number in order.tolist():
        row = {"filter": number, "position": int(places[number]), "value": _short(highest[number])}
        if weights is not None:
            row["weight"] = _short(highest[number] * weights[number])
        if layer.receptive is not None:
            row |= _saw(layer.receptive, [int(places[number])], inspection, units)
        rows.append(row)
    return rows


def _weights_of_filters(inspection: Inspection, layer: Layer) -> Floats | None:
    """What one unit of each filter's maximum adds to the predicted label's logit, against the mean of the others."""
    dense = next((each for each in reversed(inspection.layers) if each.kind == "dense"), None)
    if dense is None or dense.weights is None or dense.weights.values is None or dense.node.operator != "Gemm":
        return None
    if dense.shape != inspection.row.shape or not dense.node.integer("transB", 0):
        return None
    joined = next((each for each in inspection.layers if each.output == dense.input and each.kind == "concat"), None)
    parts = [dense.input] if joined is None else list(joined.node.inputs)
    filters, offset = len(inspection.values(layer)), 0
    over_time = _pools_of(inspection, layer)
    for part in parts:
        size = inspection.tensors[part].shape[-1] if part in inspection.tensors else 0
        if part in over_time and size == filters:
            weights = dense.weights.values.astype(np.float64)
            best = int(inspection.row.argmax())
            against = np.delete(weights, best, axis=0).mean(axis=0)
            return np.asarray((weights[best] - against)[offset : offset + size])
        offset += size
    return None


def _pools_of(inspection: Inspection, layer: Layer) -> set[str]:
    """The outputs of the layer's maximum over time, which follows it and its mask."""
    highest = inspection.values(layer).max(axis=-1)
    return {
        each.output
        for each in inspection.layers
        if each.kind == "pool" and "max" in each.title and np.array_equal(inspection.values(each).ravel(), highest)
    }


def _input(inspection: Inspection, units: Sequence[str]) -> dict[str, Any]:
    item = inspection.item
    if inspection.manifest.input.is_text:
        return {"shape": list(item.shape), "tokens": list(units)}
    png = sheets.image(item)
    return {"shape": list(item.shape), "image": base64.b64encode(png).decode()}


def _filters_shape(inspection: Inspection, layer: Layer) -> tuple[int, int, int] | None:
    """The shape (N, H, W) in which a layer's filters are drawn."""
    weights = layer.weights
    if weights is None or layer.node.operator == "ConvTranspose":
        return None
    match layer.kind, weights.shape:
        case "conv", (filters, 1 | 3, height, width) if not _is_deep(layer):
            return filters, height, width
        case "conv", (filters, channels, height, width):
            return min(filters, _FILTERS) * min(channels, _CHANNELS), height, width
        case "windows", (filters, channels, width):
            return filters, width, channels
        case "dense", _ if _sees_image(inspection, layer):
            height, width, _ = inspection.item.shape
            return layer.shape[0], height, width
    return None


def _filters(inspection: Inspection, layer: Layer) -> Floats | None:
    """A layer's filters, as they are drawn: (N, H, W), or (N, 3, H, W) over colours."""
    shape = _filters_shape(inspection, layer)
    values = None if layer.weights is None else layer.weights.values
    if shape is None or values is None:
        return None
    match layer.kind:
        case "conv" if values.shape[1] == 3 and not _is_deep(layer):  # noqa: PLR2004 -- red, green and blue
            return values
        case "conv":
            return values[:_FILTERS, :_CHANNELS].reshape(shape) if _is_deep(layer) else values.reshape(shape)
        case "windows":
            return values.transpose(0, 2, 1)
        case _:
            matrix = values if layer.node.integer("transB", 0) else values.T
            return matrix.reshape(shape)


def _is_deep(layer: Layer) -> bool:
    """Whether a convolution's input is other maps, not the image."""
    return layer.input_shape[0] > 3  # noqa: PLR2004


def _sees_image(inspection: Inspection, layer: Layer) -> bool:
    """Whether a dense layer takes the whole grey image, so that the weights of each unit are an image."""
    item, weights = inspection.item, layer.weights
    first = next((each for each in inspection.layers if each.weights is not None), None)
    is_grey = item.ndim == 3 and item.shape[2] == 1  # noqa: PLR2004
    return first is layer and is_grey and weights is not None and layer.input_shape == (item.size,)


def _saw(field: Receptive, place: Sequence[int], inspection: Inspection, units: Sequence[str]) -> dict[str, Any]:
    """The part of the input that a cell has seen: a rectangle of pixels, or tokens; without the last edge."""
    axes = zip(field.start, place, field.stride, strict=False)  # a filter over tokens may have an axis more
    starts = [start + at * stride for start, at, stride in axes]
    ends = [start + size for start, size in zip(starts, field.size, strict=True)]
    if inspection.manifest.input.is_text:
        start, end = max(starts[0], 0), min(ends[0], len(inspection.item))
        return {"start": start, "end": max(end, start), "text": " ".join(units[start:end])}
    height, width = inspection.item.shape[:2]
    edges = {"top": starts[0], "left": starts[1], "bottom": ends[0], "right": ends[1]}
    limits = {"top": height, "left": width, "bottom": height, "right": width}
    return {name: min(max(edge, 0), limits[name]) for name, edge in edges.items()}


def _window(values: Floats, layer: Layer, place: Sequence[int]) -> Floats:
    """What a window at a place takes from the last axes of an array; zeros of the padding are 0."""
    leading = values.ndim - len(layer.windows)
    pads = [(0, 0)] * leading + [(window.before, window.extent + window.stride) for window in layer.windows]
    padded = np.pad(values, pads)
    cut = [slice(None)] * leading
    for window, at in zip(layer.windows, place, strict=True):
        cut.append(slice(at * window.stride, at * window.stride + window.extent, window.dilation))
    taken: Floats = padded[tuple(cut)]
    return taken


def _convolved(layer: Layer, source: Floats, place: Sequence[int]) -> dict[str, Any]:
    """The products of a convolution at a place: sum of inputs * weights, + bias, and then its activation."""
    weights = None if layer.weights is None else layer.weights.values
    if weights is None:
        return {}
    filters, channels = weights.shape[:2]
    group = place[0] // max(filters // layer.node.integer("group", 1), 1)
    inputs = _window(source[group * channels : (group + 1) * channels], layer, place[1:]).astype(np.float64)
    kernel = weights[place[0]].astype(np.float64)
    stored = None if layer.bias is None else layer.bias.values
    bias = 0.0 if stored is None else float(stored.ravel()[place[0]])
    total = float((inputs * kernel).sum())
    found = {
        "bias": _short(bias), "products": int(kernel.size), "sum": _short(total),
        "before_activation": _short(total + bias),
    }  # fmt: skip
    if kernel.size <= _FEW_PRODUCTS:
        found |= {"inputs": _nested(inputs), "weights": _nested(kernel)}
    return found


def _multiplied(layer: Layer, source: Floats, unit: int) -> dict[str, Any]:
    """The products of a dense layer's unit: their sum, the bias, and the inputs that add or take most."""
    weights = None if layer.weights is None else layer.weights.values
    if weights is None:
        return {}
    is_turned = layer.node.operator == "Gemm" and layer.node.integer("transB", 0)
    column = (weights[unit] if is_turned else weights[:, unit]).astype(np.float64)
    products = source.ravel().astype(np.float64) * column
    stored = None if layer.bias is None else layer.bias.values
    bias = 0.0 if stored is None else float(np.broadcast_to(stored, layer.shape).ravel()[unit])
    order = np.argsort(-np.abs(products), kind="stable")[:_FEW_INPUTS]
    return {
        "bias": _short(bias), "products": int(products.size), "sum": _short(products.sum()),
        "before_activation": _short(products.sum() + bias),
        "largest": [
            {"input": place, "value": _short(source.ravel()[place]), "weight": _short(column[place])}
            for place in order.tolist()
        ],
    }  # fmt: skip


def _nested(values: Floats) -> Any:
    return np.round(values.astype(np.float64), 4).tolist()


def _short(value: Any) -> float:
    """A value with five significant digits; what is not finite becomes 0, since JSON has no such number."""
    number = float(value)
    return float(f"{number:.5g}") if np.isfinite(number) else 0.0
