"""The receptive fields of the tensors of a graph, from its input on."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from contract.arithmetic import windows_of
from contract.onnx_file import Node
from contract.operators import ACTIVATIONS, POOLS, Candidates
from contract.receptive import Receptive, Window

Tensor = npt.NDArray[Any]

_LOCAL = {"BatchNormalization", "LRN", "Cast", "Identity", "Dropout", "Transpose", "QuantizeLinear", "DequantizeLinear"}
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Concat", "Sum"}


class Fields:
    """The receptive fields of the tensors of a graph."""

    def __init__(self, found: Candidates, tensors: Mapping[str, Tensor], *, is_text: bool) -> None:
        self._axes = 1 if is_text else 2
        self._fields: dict[str, Receptive | None] = dict.fromkeys(found.inputs, Receptive.of_input(self._axes))
        sides = [tensors[name].shape[1:3] for name in found.inputs if tensors[name].ndim == 4] if not is_text else []  # noqa: PLR2004
        self._sides = sides[0] if sides else None
        for node in found.file.nodes:
            if not found.varying.isdisjoint(node.outputs):
                field = self._after(node, found, tensors)
                self._fields.update(dict.fromkeys(node.outputs, field))

    def of(self, name: str) -> Receptive | None:
        """The field of the cells of a tensor; None if it is the whole input, or not known."""
        return self._fields.get(name)

    def _after(self, node: Node, found: Candidates, tensors: Mapping[str, Tensor]) -> Receptive | None:
        fields = [self._fields.get(name) for name in node.inputs if name in found.varying]
        if not fields or None in fields:
            return None
        joined: Receptive | None = fields[0]
        for each in fields[1:]:
            joined = joined.joined(each) if joined is not None and each is not None else None
        if joined is None:
            return None
        if node.operator in {"Conv", *POOLS}:
            return self._slid(node, joined, found, tensors)
        if node.operator == "Pad":
            return self._padded(node, joined, found)
        is_local = node.operator in _LOCAL or node.operator in ACTIVATIONS or node.operator in _ELEMENTWISE
        is_plain = node.operator in {"Reshape", "Unsqueeze", "Squeeze", "Gather", "Equal", "Not"}
        is_of_input = joined == Receptive.of_input(self._axes)
        return joined if is_local or (is_plain and is_of_input) else None

    def _slid(self, node: Node, field: Receptive, found: Candidates, tensors: Mapping[str, Tensor]) -> Receptive | None:
        before = tensors.get(node.inputs[0])
        if before is None:
            return None
        lengths = before.shape[2:]
        constant = found.constant(node.inputs[1]) if node.operator == "Conv" else None
        sizes = constant.shape[2:] if constant is not None else tuple(node.integers("kernel_shape") or ())
        if len(lengths) != len(sizes) or len(sizes) < self._axes:
            return None
        if self._axes == 2 and (len(sizes) > 2 or (field == Receptive.of_input(2) and lengths != self._sides)):  # noqa: PLR2004
            return None
        return field.after(windows_of(node, lengths, sizes)[: self._axes])

    def _padded(self, node: Node, field: Receptive, found: Candidates) -> Receptive | None:
        """Zeros before the last axes move the field; other modes than zeros do the same."""
        if field == Receptive.of_input(self._axes) and self._axes == 1:
            return field  # a mask of tokens
        stored = found.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        pads = node.integers("pads") if stored is None else (None if stored.values is None else stored.values.tolist())
        if pads is None or len(pads) != 2 * (self._axes + 2):
            return None
        before = pads[2 : 2 + self._axes]
        return field.after([Window(1, before=int(zeros)) for zeros in before])
