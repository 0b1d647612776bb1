"""Reads the nodes and weights of an ONNX file, and adds outputs to it, without the package `onnx`.

The serving environment has ONNX Runtime only. What is needed of ONNX's messages is a few numbered fields, which never
change (onnx.proto). A file that is read here has passed `contract.graph.inspect`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.protobuf import fields, numbers

_GRAPH_FIELD, _OUTPUT_FIELD, _NAME_FIELD = 7, 12, 1  # ModelProto.graph, GraphProto.output, ValueInfoProto.name
_MODEL = {_GRAPH_FIELD: "graph"}
_GRAPH = {1: "node", 5: "initializer"}
_NODE = {1: "input", 2: "output", 3: "name", 4: "op_type", 5: "attribute"}
_ATTRIBUTE = {1: "name", 3: "i", 4: "s", 5: "t", 8: "ints"}
_TENSOR = {1: "dims", 2: "data_type", 4: "float_data", 5: "int32_data", 7: "int64_data", 8: "name", 9: "raw_data"}

_FLOAT, _INT32, _INT64 = 1, 6, 7
_TYPES: Mapping[int, str] = {
    _FLOAT: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", _INT32: "<i4", _INT64: "<i8", 9: "?", 10: "<f2", 11: "<f8"
}  # fmt: skip
_MANY = 1 << 31

Values = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Node:
    """An operation of a graph: the names of its inputs and outputs, and those of its attributes that are read."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def integer(self, name: str, default: int) -> int:
        """An attribute that is a number."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else default

    def integers(self, name: str) -> list[int] | None:
        """An attribute that is a list of numbers; None if the node does not have it."""
        value = self.attributes.get(name)
        return value if isinstance(value, list) else None


class Constant:
    """A stored tensor, whose values are read when they are needed."""

    def __init__(self, tensor: memoryview) -> None:
        self.name, self.data_type = "", 0
        dims: list[int] = []
        self._raw: bytes | None = None
        self._packed: dict[str, list[memoryview | int]] = {"float_data": [], "int32_data": [], "int64_data": []}
        for name, value in fields(tensor, _TENSOR):
            match name, value:
                case "dims", _:
                    dims += numbers(value, _MANY)
                case "data_type", int():
                    self.data_type = value
                case "name", memoryview():
                    self.name = _text(value)
                case "raw_data", memoryview():
                    self._raw = bytes(value)
                case (("float_data" | "int32_data" | "int64_data"), _):
                    self._packed[name].append(value)
        self.shape = tuple(dims)

    @property
    def is_float(self) -> bool:
        """Whether its values are real numbers."""
        return self.data_type in {_FLOAT, 10, 11}

    @cached_property
    def values(self) -> Values | None:
        """Its values; None if they have a type that is not read here."""
        dtype = _TYPES.get(self.data_type)
        if dtype is None:
            return None
        if self._raw is not None:
            return np.frombuffer(self._raw, dtype).reshape(self.shape)
        if self.data_type == _FLOAT:
            parts = [np.frombuffer(part, "<f4") for part in self._packed["float_data"] if isinstance(part, memoryview)]
            return np.concatenate(parts or [np.zeros(0, "<f4")]).reshape(self.shape)
        packed = self._packed["int64_data" if self.data_type == _INT64 else "int32_data"]
        listed = [_signed(number) for part in packed for number in numbers(part, _MANY)]
        return np.array(listed, np.int64).astype(dtype).reshape(self.shape)


@dataclass(frozen=True)
class OnnxFile:
    """The nodes of a graph in their order, which is topological, and its stored tensors by their names."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]


def read(content: bytes) -> OnnxFile:
    """Read an ONNX file.

    Raises:
        Malformed: the bytes are not such a file.
    """
    nodes: list[Node] = []
    constants: dict[str, Constant] = {}
    for _, graph in fields(memoryview(content), _MODEL):
        assert isinstance(graph, memoryview)
        for name, value in fields(graph, _GRAPH):
            if not isinstance(value, memoryview):
                continue
            if name == "initializer":
                constant = Constant(value)
                constants[constant.name] = constant
                continue
            node = _node(value)
            stored = node.attributes.get("value")
            if node.operator == "Constant" and isinstance(stored, Constant):
                constants[node.outputs[0]] = stored
            else:
                nodes.append(node)
    return OnnxFile(tuple(nodes), constants)


def with_outputs(content: bytes, names: Collection[str]) -> bytes:
    """The same file with these tensors as further outputs of its graph.

    Parsers merge messages that are concatenated: lists are joined. So the outputs alone, as the graph of a second
    model, are appended. https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    outputs = b"".join(_field(_OUTPUT_FIELD, _field(_NAME_FIELD, name.encode())) for name in names)
    return content + _field(_GRAPH_FIELD, outputs) if names else content


def _node(message: memoryview) -> Node:
    texts = {"name": "", "op_type": ""}
    ends: dict[str, list[str]] = {"input": [], "output": []}
    attributes: dict[str, Any] = {}
    for name, value in fields(message, _NODE):
        if not isinstance(value, memoryview):
            continue
        if name == "attribute":
            key, read = _attribute(value)
            attributes[key] = read
        elif name in ends:
            ends[name].append(_text(value))
        else:
            texts[name] = _text(value)
    return Node(texts["name"], texts["op_type"], tuple(ends["input"]), tuple(ends["output"]), attributes)


def _attribute(message: memoryview) -> tuple[str, Any]:
    key = ""
    read: Any = None
    ints: list[int] = []
    for name, value in fields(message, _ATTRIBUTE):
        match name, value:
            case "name", memoryview():
                key = _text(value)
            case "i", int():
                read = _signed(value)
            case "s", memoryview():
                read = _text(value)
            case "t", memoryview():
                read = Constant(value)
            case "ints", _:
                ints += [_signed(number) for number in numbers(value, _MANY)]
    return key, ints or read


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")


def _signed(number: int) -> int:
    """A number of 64 bits as protobuf stores it -> with its sign."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, with its number and length before it."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:  # noqa: PLR2004 -- seven bits in a group
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
