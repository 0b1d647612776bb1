"""Batches of fixed sizes at fixed addresses, which is what a CUDA graph can be captured of and replayed on.

A graph replays the kernels of one run in one launch, on the same shapes and the same memory. So a batch is padded to
the next power of two, copied to where that size's input lies, and the rows of the padding are dropped.
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html (using CUDA graphs)
"""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from contract.manifest import Manifest

Pictures = npt.NDArray[Any]  # uint8


def padded_size(items: int, most: int) -> int:
    """The size that a batch of so many items runs in: the next power of two, or the largest batch."""
    assert 1 <= items <= most, (items, most)
    return min(1 << (items - 1).bit_length(), most)


def sizes(most: int) -> Iterator[int]:
    """All sizes that batches of up to `most` items run in."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def pad(batch: Pictures, size: int) -> Pictures:
    """A batch (n, H, W, C) with zeros behind it: (size, H, W, C)."""
    if len(batch) == size:
        return np.ascontiguousarray(batch)
    return np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])


class PaddedRuns:
    """Runs pictures of one session in fixed sizes; one at a time, since they share memory."""

    def __init__(self, session: ort.InferenceSession, manifest: Manifest, device: str = "cuda") -> None:
        self._session = session
        self._manifest = manifest
        self._device = device
        self._bound: dict[int, tuple[Any, Any, Any, ort.RunOptions]] = {}
        self._lock = threading.Lock()

    def run(self, batch: Pictures) -> npt.NDArray[np.float32]:
        """Probabilities float32 (N, classes) of pictures uint8 (N, H, W, C)."""
        size = padded_size(len(batch), self._manifest.max_batch)
        padded = pad(batch, size)
        with self._lock:
            if size not in self._bound:
                self._bound[size] = self._bind(padded)
            binding, image, probabilities, options = self._bound[size]
            image.update_inplace(padded)
            self._session.run_with_iobinding(binding, options)
            rows: npt.NDArray[np.float32] = probabilities.numpy()[: len(batch)]
            return rows.copy()

    def _bind(self, padded: Pictures) -> tuple[Any, Any, Any, ort.RunOptions]:
        """Input and output memory of one size; its number tells ONNX Runtime which captured graph to replay."""
        image = ort.OrtValue.ortvalue_from_shape_and_type(padded.shape, padded.dtype, self._device, 0)
        shape = (len(padded), len(self._manifest.labels))
        probabilities = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._manifest.input.tensor, image)
        binding.bind_ortvalue_output("probabilities", probabilities)
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(len(padded)))
        return binding, image, probabilities, options
