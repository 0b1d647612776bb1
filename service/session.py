"""One ONNX Runtime session: provider, checks against the manifest, warm-up, run.

The graph takes pixels and gives calibrated probabilities; scaling and softmax are inside it.
"""

import ctypes
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.errors import ModelRefused, ProviderError
from service.manifest import GOLDEN, Manifest

Provider = Literal["auto", "cpu", "cuda"]

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_TOLERANCE = {_CUDA: 1e-3, _CPU: 1e-4}  # CUDA computes in TF32; processors differ in the last bits


class Session:
    """A loaded graph: uint8 (N, H, W, C) in, float32 (N, classes) out. `run` may be called from any thread."""

    def __init__(self, graph: Path, manifest: Manifest, *, provider: Provider = "auto", threads: int = 1) -> None:
        """Load a graph and check that its ends are those of the manifest.

        Args:
            graph: the ONNX file.
            manifest: what the graph should be.
            provider: `cpu`, `cuda`, or `auto`, which takes CUDA where an NVIDIA driver is installed.
            threads: processor threads for one run.

        Raises:
            ProviderError: `cuda` was asked for and cannot be had.
            ModelRefused: ONNX Runtime cannot load the graph, or its inputs and outputs are not the manifest's.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Without this, ONNX Runtime's threads burn a processor for a while after each run.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = _open(graph, options, choose_provider(provider))
        self.provider: str = self._session.get_providers()[0]
        self._manifest = manifest
        self._input = _check_ends(self._session, graph, manifest)

    def run(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities float32 (N, classes) of pictures uint8 (N, H, W, C)."""
        probabilities: npt.NDArray[np.float32] = self._session.run(["probabilities"], {self._input: batch})[0]
        return probabilities

    def warm_up(self) -> None:
        """Run once at batch 1 and at the largest batch, so that no caller pays for the first."""
        spec = self._manifest.input
        for size in (1, self._manifest.max_batch):
            self.run(np.zeros((size, spec.height, spec.width, spec.channels), np.uint8))

    def replay(self, folder: Path) -> None:
        """Run a version's golden inputs and compare with the outputs that publication stored.

        Raises:
            ModelRefused: this machine computes something else, or the golden file cannot be read.
        """
        path = folder / GOLDEN
        try:
            with np.load(path, allow_pickle=False) as golden:
                inputs, expected = golden["inputs"], golden["probabilities"]
        except (OSError, ValueError, KeyError) as error:
            raise ModelRefused(f"{path}: cannot be read: {error}") from error
        try:
            found = self.run(inputs)
            gap = float(np.abs(found - expected).max())
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise ModelRefused(f"{path}: the golden inputs cannot be run: {error}") from error
        tolerance = _TOLERANCE[self.provider]
        if not gap <= tolerance:
            raise ModelRefused(
                f"{path}: on {self.provider} the golden probabilities differ by {gap:.2g}, allowed is {tolerance:g}"
            )


def choose_provider(provider: Provider) -> str:
    """ONNX Runtime's name of the execution provider that a setting means on this machine.

    Raises:
        ProviderError: `cuda` was asked for, and the build or the driver is missing.
    """
    available = ort.get_available_providers()
    if provider == "cpu" or (provider == "auto" and not (_CUDA in available and _has_nvidia_driver())):
        return _CPU
    if _CUDA not in available:
        raise ProviderError(f"CUDA was asked for, but this build of ONNX Runtime has only {', '.join(available)}")
    if not _has_nvidia_driver():
        raise ProviderError("CUDA was asked for, but there is no NVIDIA driver (libcuda.so.1) on this machine")
    return _CUDA


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _open(graph: Path, options: ort.SessionOptions, provider: str) -> ort.InferenceSession:
    if provider == _CUDA:
        ort.preload_dlls()
    providers = [provider] if provider == _CPU else [provider, _CPU]
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise ModelRefused(f"{graph}: ONNX Runtime cannot load this graph: {error}") from error
    if session.get_providers()[0] != provider:
        raise ProviderError(f"{provider} was asked for, but its libraries do not load; see ONNX Runtime's log")
    session.disable_fallback()
    return session


def _check_ends(session: ort.InferenceSession, graph: Path, manifest: Manifest) -> str:
    """The name of the graph's input, once both ends are found to be the manifest's."""
    spec = manifest.input
    ends = [
        (session.get_inputs(), ("image", "tensor(uint8)", [spec.height, spec.width, spec.channels])),
        (session.get_outputs(), ("probabilities", "tensor(float)", [len(manifest.labels)])),
    ]
    for found, (name, kind, shape) in ends:
        described = [(end.name, end.type, end.shape[1:]) for end in found]
        if described != [(name, kind, shape)] or isinstance(found[0].shape[0], int):
            raise ModelRefused(
                f"{graph}: expected {name} {kind} of shape [N, {', '.join(map(str, shape))}], "
                f"found {[(end.name, end.type, end.shape) for end in found]}"
            )
    return "image"
