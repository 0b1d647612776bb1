"""An instrumented twin of a graph: the same operations, with the values of all layers as further outputs.

It runs on the processor in float32, apart from the session that answers predictions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from contract import batches, onnx_file
from contract.anatomy import Layer, dissect
from contract.errors import NotInspectable
from contract.manifest import Manifest
from contract.operators import Candidates
from contract.protobuf import Malformed
from contract.providers import CPU
from contract.session import options

MAX_VALUES = 1 << 26
"""Of all layers together for one item: 256 MiB in float32."""

Tensor = npt.NDArray[Any]


@dataclass(frozen=True)
class Inspection:
    """The layers of a network and their values for one item."""

    manifest: Manifest
    item: Tensor
    """As the graph takes it: uint8 (H, W, C) or int64 (L)."""
    row: npt.NDArray[np.float32]
    """The probabilities (classes,), in float32 on the processor."""
    layers: list[Layer]
    tensors: Mapping[str, Tensor]
    """Name in the graph -> values, with an axis for the one item."""

    def values(self, layer: Layer) -> Tensor:
        """What a layer gives: (C, H, W), (C, L), (L, E) or (F,), for example."""
        values: Tensor = self.tensors[layer.output][0]
        return values

    def layer(self, name: str) -> Layer | None:
        """The layer of a name, or with this name of its node; None without such a layer."""
        named = (layer for layer in self.layers if name in {layer.name, layer.node.name})
        return next(named, None)


class Twin:
    """A graph whose layers give their values. `run` may be called from any thread."""

    def __init__(self, content: bytes, manifest: Manifest) -> None:
        """Load a graph and find its layers.

        Args:
            content: the file `model.onnx` of the version, which has passed its checks.
            manifest: of the version.

        Raises:
            NotInspectable: its layers cannot be read, or have too many values.
        """
        self._manifest = manifest
        spec = manifest.input
        try:
            self._found = Candidates(onnx_file.read(content), [spec.tensor])
            instrumented = onnx_file.with_outputs(content, [name for name in self._found.tensors() if name != _OUTPUT])
            self._session = ort.InferenceSession(instrumented, options(1), providers=[CPU])
        except Malformed as error:
            raise NotInspectable(f"the layers of {manifest.model} cannot be read: {error}") from error
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise NotInspectable(f"the layers of {manifest.model} cannot be made outputs: {error}") from error
        self._outputs = [end.name for end in self._session.get_outputs()]
        self._fixed: list[Layer] | None = None
        if spec.has_fixed_shape:
            self._fixed = self.run(batches.example(spec, 1)[0]).layers

    def run(self, item: Tensor) -> Inspection:
        """The layers and their values for an item as the graph takes it.

        Raises:
            NotInspectable: the layers have too many values for this item, or the graph fails on it.
        """
        spec, count = self._manifest.input, 0
        for end in self._session.get_outputs():
            count += prod(axis if isinstance(axis, int) else len(item) if axis == "L" else 1 for axis in end.shape)
        if count > MAX_VALUES:
            raise NotInspectable(f"the layers of {self._manifest.model} have {count:,} values (maximum {MAX_VALUES:,})")
        batch = item[None]
        try:
            values = self._session.run(self._outputs, {spec.tensor: batch})
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise NotInspectable(f"{self._manifest.model} cannot be run layer by layer: {error}") from error
        tensors = {**dict(zip(self._outputs, values, strict=True)), spec.tensor: batch}
        layers = self._fixed or dissect(self._found, tensors, self._manifest.recipe, is_text=spec.is_text)
        return Inspection(self._manifest, item, tensors[_OUTPUT][0], layers, tensors)


_OUTPUT = "probabilities"
