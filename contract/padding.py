"""Batches of fixed sizes at fixed addresses, as CUDA graphs need them.

A CUDA graph replays the kernels of one run in one launch, on the same shapes and the same memory. So a batch is padded
to the next power of two and copied to the input memory of that size, and the rows of the padding are dropped.
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html (using CUDA graphs)
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from contract.manifest import Manifest

Array = npt.NDArray[Any]


def padded_size(items: int, max_batch: int) -> int:
    """The size in which a batch of `items` runs: the next power of two, or the largest batch."""
    assert 1 <= items <= max_batch, (items, max_batch)
    return min(1 << (items - 1).bit_length(), max_batch)


def padded_sizes(max_batch: int) -> list[int]:
    """All sizes in which batches of up to `max_batch` items run."""
    return [*(1 << power for power in range((max_batch - 1).bit_length())), max_batch]


def pad(batch: Array, size: int) -> Array:
    """A batch (n, ...) with zeros behind it: (size, ...)."""
    if len(batch) == size:
        return np.ascontiguousarray(batch)
    return np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])


class PaddedRuns:
    """Runs batches of a session in fixed sizes, one at a time, since batches of one size share memory."""

    def __init__(self, session: ort.InferenceSession, manifest: Manifest, device: str = "cuda") -> None:
        self._session = session
        self._manifest = manifest
        self._device = device
        self._bound: dict[int, tuple[Any, Any, Any, ort.RunOptions]] = {}
        self._lock = threading.Lock()

    def run(self, batch: Array) -> npt.NDArray[np.float32]:
        """Probabilities float32 (N, classes) of a batch of N items of a fixed shape."""
        size = padded_size(len(batch), self._manifest.max_batch)
        padded = pad(batch, size)
        with self._lock:
            if size not in self._bound:
                self._bound[size] = self._bind(padded)
            binding, inputs, probabilities, options = self._bound[size]
            inputs.update_inplace(padded)
            self._session.run_with_iobinding(binding, options)
            rows: npt.NDArray[np.float32] = probabilities.numpy()[: len(batch)]
            return rows.copy()

    def _bind(self, padded: Array) -> tuple[Any, Any, Any, ort.RunOptions]:
        """Reserve the memory of one size; its number tells ONNX Runtime which captured graph to replay."""
        inputs = ort.OrtValue.ortvalue_from_shape_and_type(padded.shape, padded.dtype, self._device, 0)
        shape = (len(padded), len(self._manifest.labels))
        probabilities = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._manifest.input.tensor, inputs)
        binding.bind_ortvalue_output("probabilities", probabilities)
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(len(padded)))
        return binding, inputs, probabilities, options
