"""Puts nodes around a foreign graph, so that it keeps the contract: decoded pixels or token ids in, probabilities out.

What a graph does not say about itself (the range of its values, the order of its channels, whether its scores are
probabilities) is in `Pixels`, `Ids` and `Scores`; the manifest of an adopted version records them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from contract import processors
from contract.session import options
from contract.spec import ImageInput, TextInput
from training.errors import PublishError
from training.release.foreign import PREFIX, numpy_type

Layout = Literal["nchw", "nhwc"]
Mode = Literal["L", "RGB", "BGR"]
Role = Literal["ids", "mask", "types"]
Kind = Literal["probabilities", "logits", "log-probabilities", "shares", "score", "logit"]
"""`shares` are positive and are divided by their sum; `score` and `logit` are scores of the second of two labels."""
KINDS: tuple[Kind, ...] = get_args(Kind)

_TINY = 1e-12
_IMAGE, _TOKENS, _PROBABILITIES = ImageInput.tensor, TextInput.tensor, "probabilities"


@dataclass(frozen=True)
class Pixels:
    """How decoded pixels, uint8 (N, H, W, C) from 0 to 255, become a graph's input: (pixel * scale - mean) / std."""

    name: str
    """Of the graph's input."""
    type: int
    height: int
    width: int
    mode: Mode
    layout: Layout
    shape: tuple[int, ...]
    """Of an item, as the graph takes it."""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    """One value, or one for each channel in the graph's order."""
    has_batch: bool = True
    batch: int | None = None
    """The number of items that the graph takes; None for any."""

    @property
    def channels(self) -> int:
        return 1 if self.mode == "L" else 3


@dataclass(frozen=True)
class Ids:
    """How token ids, int64 (N, L), padded with 0, become the inputs of a graph."""

    roles: Mapping[str, Role]
    """Name of an input -> what it takes."""
    types: Mapping[str, int]
    pad_id: int = 0
    shift: int = 0
    """What is subtracted from each id, since 0 is padding in ours."""
    length: int | None = None
    """The length to which all texts are padded; None for that of the longest in a batch."""
    batch: int | None = None
    left: bool = False
    """Whether padding stands before the tokens, as Keras's pad_sequences puts it."""


@dataclass(frozen=True)
class Scores:
    """What a graph gives, (N, columns), and how it becomes probabilities."""

    name: str
    kind: Kind
    columns: int
    temperature: float = 1.0

    @property
    def classes(self) -> int:
        return 2 if self.kind in {"score", "logit"} else self.columns


def wrap(model: onnx.ModelProto, inputs: Pixels | Ids, scores: Scores | None) -> onnx.ModelProto:
    """A graph that takes `image` or `tokens` and gives `probabilities`, around one whose names start with `PREFIX`.

    Without `scores` it gives what the foreign graph gives.
    """
    before, after = _Nodes("before"), _Nodes("after")
    if isinstance(inputs, Pixels):
        spec: ImageInput | TextInput = spec_of(inputs)
        _feed_pixels(before, inputs)
    else:
        spec = TextInput(length=1, vocabulary=2)
        _feed_ids(before, inputs)
    output = helper.make_empty_tensor_value_info(model.graph.output[0].name)
    output.type.tensor_type.elem_type = model.graph.output[0].type.tensor_type.elem_type
    if scores is not None:
        _give(after, scores, inputs.batch, spec.tensor)
        output = helper.make_tensor_value_info(_PROBABILITIES, TensorProto.FLOAT, ["n", scores.classes])
    dims = [axis if isinstance(axis, int) else axis.lower() for axis in spec.axes]
    graph = helper.make_graph(
        [*before.nodes, *model.graph.node, *after.nodes],
        "adopted",
        [helper.make_tensor_value_info(spec.tensor, _onnx_type(spec.dtype), dims)],
        [output],
        [*before.constants, *model.graph.initializer, *after.constants],
    )
    wrapped = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    wrapped.producer_name = "convoke"
    return wrapped


def spec_of(pixels: Pixels, framing: str = "squash") -> ImageInput:
    """What the service decodes an image to.

    Raises:
        PublishError: it does not decode images to this size, or in this framing.
    """
    mode = "L" if pixels.mode == "L" else "RGB"
    try:
        return ImageInput.model_validate(
            {"height": pixels.height, "width": pixels.width, "mode": mode, "framing": framing}
        )
    except ValueError as error:
        raise PublishError(
            f"the service cannot decode images to {pixels.height} x {pixels.width} pixels of mode {mode}, framing "
            f"{framing}: sides are from 1 to 4096, and framing mnist is for 28 x 28 of mode L"
        ) from error


class _Nodes:
    """Nodes and constants, under names that no other node has."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        output = to or f"{self._prefix}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=f"{output}/node", **attributes))
        return output

    def constant(self, values: Any, dtype: Any) -> str:
        """Add a constant, and return its name."""
        name = f"{self._prefix}/constant/{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)


def _onnx_type(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _repeat(nodes: _Nodes, name: str, batch: int | None) -> str:
    """As many items as the graph takes: those of the batch, again and again."""
    if batch is None:
        return name
    items = nodes.add("Slice", nodes.add("Shape", name), nodes.integers(0), nodes.integers(1), nodes.integers(0))
    return nodes.add("Gather", name, nodes.add("Mod", nodes.integers(*range(batch)), items), axis=0)


def _feed_pixels(nodes: _Nodes, pixels: Pixels) -> None:
    value = _repeat(nodes, _IMAGE, pixels.batch)
    if pixels.mode == "BGR":
        value = nodes.add("Gather", value, nodes.integers(2, 1, 0), axis=3)
    factor = np.divide(pixels.scale, pixels.std)
    shift = -np.divide(pixels.mean, pixels.std)
    is_float = np.issubdtype(numpy_type(pixels.type), np.floating)
    if is_float or (factor != 1).any() or shift.any():
        value = _cast(nodes, value, TensorProto.FLOAT)
        if (factor != 1).any():
            value = nodes.add("Mul", value, nodes.constant(factor, np.float32))
        if shift.any():
            value = nodes.add("Add", value, nodes.constant(shift, np.float32))
    if pixels.layout == "nchw" and pixels.channels > 1:
        value = nodes.add("Transpose", value, perm=[0, 3, 1, 2])
    first = [] if not pixels.has_batch else [pixels.batch or -1]
    value = nodes.add("Reshape", value, nodes.integers(*first, *pixels.shape))
    _cast(nodes, value, pixels.type, PREFIX + pixels.name)


def _feed_ids(nodes: _Nodes, ids: Ids) -> None:
    tokens = _repeat(nodes, _TOKENS, ids.batch)
    if ids.length is not None:  # zeros up to the fixed length
        size = nodes.add("Slice", nodes.add("Shape", tokens), nodes.integers(1), nodes.integers(2), nodes.integers(0))
        missing = nodes.add("Sub", nodes.integers(ids.length), size)
        pads = nodes.add("Concat", nodes.integers(0, 0, 0), missing, axis=0)
        tokens = nodes.add("Pad", tokens, pads)
        tokens = nodes.add("Reshape", tokens, nodes.integers(ids.batch or -1, ids.length))
    if ids.left:  # each row is turned by its number of tokens, which brings the padding to its front
        length = nodes.add("Slice", nodes.add("Shape", tokens), nodes.integers(1), nodes.integers(2), nodes.integers(0))
        zero, one = nodes.constant(0, np.int64), nodes.constant(1, np.int64)
        places = nodes.add("Range", zero, nodes.add("Squeeze", length), one)  # (L)
        present = _cast(nodes, nodes.add("Not", nodes.add("Equal", tokens, zero)), TensorProto.INT64)
        counts = nodes.add("ReduceSum", present, nodes.integers(1), keepdims=1)  # (N, 1)
        tokens = nodes.add("GatherElements", tokens, nodes.add("Mod", nodes.add("Add", places, counts), length), axis=1)
    is_token = nodes.add("Not", nodes.add("Equal", tokens, nodes.constant(0, np.int64)))
    own = nodes.add("Sub", tokens, nodes.constant(ids.shift, np.int64)) if ids.shift else tokens
    if ids.shift or ids.pad_id:
        own = nodes.add("Where", is_token, own, nodes.constant(ids.pad_id, np.int64))
    sources = {
        "ids": lambda: own,
        "mask": lambda: is_token,
        "types": lambda: nodes.add("Mul", tokens, nodes.constant(0, np.int64)),
    }
    for name, role in ids.roles.items():
        _cast(nodes, sources[role](), ids.types[name], PREFIX + name)


def _cast(nodes: _Nodes, value: str, kind: int, name: str | None = None) -> str:
    output = name or f"{value}/cast"
    nodes.nodes.append(helper.make_node("Cast", [value], [output], name=f"{output}/node", to=kind))
    return output


def _give(nodes: _Nodes, scores: Scores, batch: int | None, tensor: str) -> None:
    value = _cast(nodes, PREFIX + scores.name, TensorProto.FLOAT, "after/scores")
    value = nodes.add("Reshape", value, nodes.integers(-1, scores.columns))
    if batch is not None:
        items = nodes.add("Slice", nodes.add("Shape", tensor), nodes.integers(0), nodes.integers(1), nodes.integers(0))
        value = nodes.add("Slice", value, nodes.integers(0), items, nodes.integers(0))
    if scores.kind == "shares":
        value = nodes.add("Div", value, nodes.add("ReduceSum", value, nodes.integers(1), keepdims=1))
    if scores.kind == "logit":
        value = nodes.add("Concat", nodes.add("Mul", value, nodes.constant(0, np.float32)), value, axis=1)
    if scores.kind == "score":
        value = nodes.add("Concat", nodes.add("Sub", nodes.constant(1, np.float32), value), value, axis=1)
    is_share = scores.kind in {"probabilities", "shares", "score"}
    if is_share and scores.temperature == 1:
        nodes.add("Identity", value, to=_PROBABILITIES)
        return
    if is_share:
        value = nodes.add("Log", nodes.add("Max", value, nodes.constant(_TINY, np.float32)))
    if scores.temperature != 1:
        value = nodes.add("Div", value, nodes.constant(scores.temperature, np.float32))
    nodes.add("Softmax", value, axis=1, to=_PROBABILITIES)


def without_fixed_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same graph with each Reshape to `batch` items changed to any number of items."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in changed.graph.initializer}
    for node in changed.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in changed.graph.node:
        tensor = constants.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
        if tensor is None:
            continue
        sizes = numpy_helper.to_array(tensor).tolist()
        if sizes and sizes[0] == batch:
            first = 0 if -1 in sizes[1:] else -1
            tensor.CopyFrom(numpy_helper.from_array(np.array([first, *sizes[1:]], np.int64), tensor.name))
    return changed


def describe(inputs: Pixels | Ids, scores: Scores) -> dict[str, Any]:
    """What the manifest records about the way from pixels or ids to the graph, and from its scores to probabilities."""
    output = {"name": scores.name, "scores": scores.kind}
    if isinstance(inputs, Pixels):
        return {
            "input": {
                "name": inputs.name,
                "type": TensorProto.DataType.Name(inputs.type).lower(),
                "shape": list(inputs.shape),
                "layout": inputs.layout,
                "mode": inputs.mode,
                "scale": inputs.scale,
                "mean": list(inputs.mean),
                "std": list(inputs.std),
                "batch": inputs.batch,
            },
            "output": output,
        }
    return {
        "input": {
            "names": dict(inputs.roles),
            "pad_id": inputs.pad_id,
            "length": inputs.length,
            "batch": inputs.batch,
            "padding": "left" if inputs.left else "right",
        },
        "output": output,
    }


def open_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Load a graph on all processors.

    Raises:
        PublishError: ONNX Runtime cannot load it.
    """
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options(processors.count()), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise PublishError(f"ONNX Runtime cannot load the graph: {error}") from error


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value, or one for each channel.

    Raises:
        ValueError: another number of values.
    """
    if len(values) not in {1, channels}:
        raise ValueError(f"expected 1 value or {channels}, one for each channel, got {len(values)}")
    return tuple(values)
