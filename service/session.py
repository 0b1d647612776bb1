"""One ONNX Runtime session: provider, checks against the manifest, warm-up, run.

The graph takes pixels or token ids and gives calibrated probabilities; scaling and softmax are inside it.
"""

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service import golden
from service.errors import ModelRefused, ProviderError
from service.graph import inspect
from service.manifest import GOLDEN, ImageInput, Manifest

Provider = Literal["auto", "cpu", "cuda"]
Batch = npt.NDArray[np.uint8] | npt.NDArray[np.int64]

MAX_BATCH_TOKENS = 1 << 15
"""Token ids in one batch of several texts, padding included: what bounds the memory of a run. A single text may be
longer."""

QUICK_S = 0.0005
"""A run that takes no longer costs less on the event loop than handing it to a thread and back."""

COMPANY_S = 0.00002
"""What an item must save by running in company to be worth the queue, which costs a caller as much."""

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_TRIES = 5
_FEW, _SENTENCE = 8, 32  # items and tokens with which the gain of company is measured
_TOLERANCE = {_CUDA: 1e-3, _CPU: 1e-4}  # CUDA computes in TF32; processors differ in the last bits


class Session:
    """A loaded graph: uint8 (N, H, W, C) or int64 (N, L) in, float32 (N, classes) out.

    `run` may be called from any thread.
    """

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
        self._graph = graph
        self._quick = 0
        self._gains = True

    def is_quick(self, items: int, tokens: int = 1) -> bool:
        """Whether a run of so many pictures, or of texts of so many tokens each, took less than `QUICK_S`."""
        return items * tokens <= self._quick

    def runs_alone(self, items: int, tokens: int = 1) -> bool:
        """Whether a run is quick, and its items would save less than `COMPANY_S` each in a larger batch."""
        return not self._gains and self.is_quick(items, tokens)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities float32 (N, classes) of pictures uint8 (N, H, W, C) or token ids int64 (N, L)."""
        probabilities: npt.NDArray[np.float32] = self._session.run(["probabilities"], {self._input: batch})[0]
        return probabilities

    def warm_up(self) -> None:
        """Run at batch 1 and at the largest batch, texts of all lengths, so that no caller pays for the first.

        Raises:
            ModelRefused: the graph fails on a batch of a shape that it must take.
        """
        for shape in _warm_up_shapes(self._manifest):
            batch = np.ones(shape, np.uint8 if isinstance(self._manifest.input, ImageInput) else np.int64)
            try:
                self.run(batch)
            except Exception as error:  # ONNX Runtime's own exceptions share no base class
                raise ModelRefused(f"{self._graph}: cannot be run on {self._input} {shape}: {error}") from error
        self._quick = self._measure_quick()
        one, many = _company(self._manifest)
        self._gains = self._seconds(one) - self._seconds(many) / len(many) > COMPANY_S

    def _measure_quick(self) -> int:
        """How many pictures, or tokens of a text, are run within `QUICK_S`; 0 where not one is."""
        quick = 0
        for size, batch in _growing(self._manifest):
            if self._seconds(batch) > QUICK_S:
                break
            quick = size
        return quick

    def _seconds(self, batch: Batch) -> float:
        """How long a batch runs: the median of some tries."""
        times_s: list[float] = []
        for _ in range(_TRIES):
            began = time.perf_counter()
            self.run(batch)
            times_s.append(time.perf_counter() - began)
        return sorted(times_s)[_TRIES // 2]

    def replay(self, folder: Path) -> None:
        """Run a version's golden inputs and compare with the outputs that publication stored.

        Raises:
            ModelRefused: this machine computes something else, or the golden file cannot be read, or is no input and
                output of this model.
        """
        path = folder / GOLDEN
        inputs, expected = golden.read(path)
        _check_golden(path, self._manifest, inputs, expected)
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
    inspect(graph)
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
    name, kind = ("image", "uint8") if isinstance(manifest.input, ImageInput) else ("tokens", "int64")
    ends: list[tuple[Any, str, str, list[str | int]]] = [
        (session.get_inputs(), name, f"tensor({kind})", _input_axes(manifest)),
        (session.get_outputs(), "probabilities", "tensor(float)", ["N", len(manifest.labels)]),
    ]
    for found, end, tensor, axes in ends:
        described = [(one.name, one.type, _named(one.shape, axes)) for one in found]
        if described != [(end, tensor, axes)]:
            raise ModelRefused(
                f"{graph}: expected {end} {tensor} of shape [{', '.join(map(str, axes))}], "
                f"found {[(one.name, one.type, one.shape) for one in found]}"
            )
    return name


def _input_axes(manifest: Manifest) -> list[str | int]:
    """The axes of the graph's input: a number where the size is fixed, a letter where any is taken."""
    spec = manifest.input
    return ["N", spec.height, spec.width, spec.channels] if isinstance(spec, ImageInput) else ["N", "L"]


def _named(shape: list[Any], axes: list[str | int]) -> list[Any]:
    """A graph's shape with its open axes under our names, as far as there are any."""
    names = [*axes, *("?" for _ in shape[len(axes) :])]
    return [size if isinstance(size, int) else name for size, name in zip(shape, names, strict=False)]


def _warm_up_shapes(manifest: Manifest) -> list[tuple[int, ...]]:
    """Batches of one item and of as many as may come; texts of one token, of the longest, and those between."""
    spec, most = manifest.input, manifest.max_batch
    if isinstance(spec, ImageInput):
        return [(size, spec.height, spec.width, spec.channels) for size in (1, most)]
    many = min(most, MAX_BATCH_TOKENS)
    few = min(most, max(MAX_BATCH_TOKENS // spec.length, 1))
    return [(1, 1), (1, spec.length), (many, min(MAX_BATCH_TOKENS // many, spec.length)), (few, spec.length)]


def _growing(manifest: Manifest) -> Iterator[tuple[int, Batch]]:
    """Batches of 1, 2, 4, ... pictures, or texts of as many tokens, up to the largest that may come."""
    spec, size = manifest.input, 1
    while size <= (manifest.max_batch if isinstance(spec, ImageInput) else spec.length):
        if isinstance(spec, ImageInput):
            yield size, np.ones((size, spec.height, spec.width, spec.channels), np.uint8)
        else:
            yield size, np.ones((1, size), np.int64)
        size *= 2


def _company(manifest: Manifest) -> tuple[Batch, Batch]:
    """One picture, or text of a sentence's length, and as many as a small batch has."""
    spec, many = manifest.input, min(_FEW, manifest.max_batch)
    if isinstance(spec, ImageInput):
        batch: Batch = np.ones((many, spec.height, spec.width, spec.channels), np.uint8)
    else:
        batch = np.ones((many, min(_SENTENCE, spec.length)), np.int64)
    return batch[:1], batch


def _check_golden(path: Path, manifest: Manifest, inputs: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> None:
    """Refuse golden arrays that cannot be an input of the manifest's graph and what it gave."""
    kind = "uint8" if isinstance(manifest.input, ImageInput) else "int64"
    axes = _input_axes(manifest)
    sizes = [axis if isinstance(axis, str) else size for axis, size in zip(axes, inputs.shape, strict=False)]
    if inputs.dtype != kind or inputs.ndim != len(axes) or sizes != axes or not inputs.size:
        raise ModelRefused(
            f"{path}: expected inputs {kind} of shape [{', '.join(map(str, axes))}], "
            f"found {inputs.dtype} of shape {list(inputs.shape)}"
        )
    shape = (len(inputs), len(manifest.labels))
    if outputs.dtype != np.float32 or outputs.shape != shape:
        raise ModelRefused(
            f"{path}: expected probabilities float32 of shape {list(shape)}, "
            f"found {outputs.dtype} of shape {list(outputs.shape)}"
        )
    if not np.isfinite(outputs).all():
        raise ModelRefused(f"{path}: holds probabilities that are no numbers")
