"""One ONNX Runtime session: checks against the manifest, golden inputs, warm-up, run, and races between sessions.

The graph takes pixels or token ids and gives calibrated probabilities; scaling and softmax are inside it.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from contract import batches, golden, providers
from contract.batches import Batch
from contract.errors import ModelRefused
from contract.manifest import GOLDEN, Manifest, Precision
from contract.padding import PaddedRuns, sizes
from contract.providers import ENGINE_CACHE, Provider
from contract.spec import Axes

QUICK_S = 0.0005
"""A run that takes no longer costs less on the event loop than handing it to a thread and back."""

COMPANY_S = 0.00002
"""What an item must save by running in company to be worth the queue, which costs a caller as much."""

_TRIES = 5
_FEW = 8  # items with which the gain of company is measured
_ROUNDS, _RACE_S = (3, 25), 0.1  # of a race: the least and the most, and seconds after which it may end


class Session:
    """A loaded graph: uint8 (N, H, W, C) or int64 (N, L) in, float32 (N, classes) out.

    `run` may be called from any thread.
    """

    def __init__(
        self,
        graph: Path,
        manifest: Manifest,
        *,
        provider: Provider = "auto",
        threads: int = 1,
        precision: Precision = "float32",
        engine_cache: Path = ENGINE_CACHE,
        cuda_graphs: bool = False,
    ) -> None:
        """Load a graph and check that its ends are those of the manifest.

        Args:
            graph: the ONNX file.
            manifest: what the graph should be.
            provider: `cpu`, `cuda`, `tensorrt`, or `auto`, which takes CUDA where an NVIDIA driver is installed.
            threads: processor threads for one run.
            precision: what the graph computes in.
            engine_cache: where TensorRT keeps its engines.
            cuda_graphs: whether CUDA runs pictures in batches of fixed sizes, each captured as a CUDA graph.

        Raises:
            ProviderError: a provider was asked for and cannot be had.
            ModelRefused: ONNX Runtime cannot load the graph, or its inputs and outputs are not the manifest's.
        """
        name = providers.choose(provider)
        captured = cuda_graphs and name == providers.CUDA and manifest.input.has_fixed_shape
        self._session = providers.open_graph(
            graph, manifest, options(threads), name, engine_cache=engine_cache, cuda_graphs=captured
        )
        self.provider: str = name
        self.precision: Precision = precision
        self.is_single: bool = name == providers.CPU and threads == 1
        self.lanes: int = max((os.cpu_count() or 1) // threads, 1) if name == providers.CPU else 1
        """How many runs at once make use of the whole machine; a GPU is given one, and that in large batches."""
        self.manifest = manifest
        _check_ends(self._session, graph, manifest)
        self._input = manifest.input.tensor
        self._max_items = manifest.max_batch
        if name == providers.CPU:
            self._max_items = min(manifest.input.max_run_items, manifest.max_batch)
        self._padded = PaddedRuns(self._session, manifest) if captured else None
        self._graph = graph
        self._quick = 0
        self._gains = True

    def is_quick(self, extent: int) -> bool:
        """Whether a batch of that extent (items, or the tokens of all its items) took less than `QUICK_S`."""
        return extent <= self._quick

    def runs_alone(self, extent: int) -> bool:
        """Whether a batch is quick, and its items would save less than `COMPANY_S` each in a larger one."""
        return not self._gains and extent <= self._quick

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities float32 (N, classes) of pictures uint8 (N, H, W, C) or token ids int64 (N, L)."""
        if self._padded is not None:
            return self._padded.run(batch)
        if len(batch) <= self._max_items:
            return self._run(batch)
        slices = (batch[start : start + self._max_items] for start in range(0, len(batch), self._max_items))
        return np.concatenate([self._run(some) for some in slices])

    def _run(self, batch: Batch) -> npt.NDArray[np.float32]:
        probabilities: npt.NDArray[np.float32] = self._session.run(["probabilities"], {self._input: batch})[0]
        return probabilities

    def warm_up(self) -> None:
        """Run one item and as many as run at once, texts of all lengths, so that no caller pays for the first.

        Raises:
            ModelRefused: the graph fails on a batch of a shape that it must take.
        """
        fixed = sizes(self.manifest.max_batch) if self._padded else ()
        for batch in [
            *batches.warm_up(self.manifest.input, self._max_items),
            *(batches.example(self.manifest.input, size) for size in fixed),
        ]:
            try:
                self.run(batch)
            except Exception as error:  # ONNX Runtime's own exceptions share no base class
                raise ModelRefused(f"{self._graph}: cannot be run on {self._input} {batch.shape}: {error}") from error
        self._quick = self._measure_quick()
        few = batches.example(self.manifest.input, min(_FEW, self.manifest.max_batch))
        self._gains = self._seconds(few[:1]) - self._seconds(few) / len(few) > COMPANY_S

    def _measure_quick(self) -> int:
        """The largest extent that is run within `QUICK_S`; 0 if even a single item takes longer."""
        quick = 0
        for extent, batch in batches.growing(self.manifest.input, self.manifest.max_batch):
            if self._seconds(batch) > QUICK_S:
                break
            quick = extent
        return quick

    def _seconds(self, batch: Batch) -> float:
        """How long a batch runs: the median of some tries; other models may be loaded at the same time."""
        clock = _clock(self)
        return sorted(_timed(self, batch, clock) for _ in range(_TRIES))[_TRIES // 2]

    def replay(self, folder: Path) -> None:
        """Run a version's golden inputs and compare with the outputs that publication stored.

        Raises:
            ModelRefused: this machine computes something else, or the golden file cannot be read, or is no input and
                output of this model.
        """
        path = folder / GOLDEN
        inputs, expected = golden.read(path, golden.outputs_of(self.precision))
        _check_golden(path, self.manifest, inputs, expected)
        try:
            found = self.run(inputs)
            gap = float(np.abs(found - expected).max())
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise ModelRefused(f"{path}: the golden inputs cannot be run: {error}") from error
        allowed = providers.tolerance(self.provider, self.precision)
        if not gap <= allowed:
            raise ModelRefused(
                f"{path}: in {self.precision} on {self.provider} the golden probabilities differ by {gap:.2g}, "
                f"allowed is {allowed:g}"
            )


def options(threads: int, *, spinning: bool = False, arena: bool = False) -> ort.SessionOptions:
    """How sessions run on processors; CONTRIBUTING has the measurements (`make bench-sessions`).

    Threads that spin wait a while for the next run on a processor that others could use. ONNX Runtime's arena keeps the
    memory of the largest batch that ever ran, in blocks of doubled sizes; the system's allocator is as fast.
    """
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 3
    chosen.enable_cpu_mem_arena = arena
    chosen.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return chosen


def race(sessions: Sequence[Session], size: int) -> list[float]:
    """The median seconds of a run of `size` items by each session, in turns, so that other work slows all alike.

    Where runs stay in the calling thread, these are seconds of the processor, without those that it spent on others.
    """
    batch = batches.example(sessions[0].manifest.input, size)
    clock = _clock(*sessions)
    times_s: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.run(batch)
    began = time.perf_counter()
    for done in range(_ROUNDS[1]):
        if done >= _ROUNDS[0] and time.perf_counter() - began > _RACE_S:
            break
        for session, taken_s in zip(sessions, times_s, strict=True):
            taken_s.append(_timed(session, batch, clock))
    return [float(np.median(taken_s)) for taken_s in times_s]


def _clock(*sessions: Session) -> Callable[[], float]:
    """What runs are timed by: the thread's own processor time, where they stay in the calling thread."""
    return time.thread_time if all(session.is_single for session in sessions) else time.perf_counter


def _timed(session: Session, batch: Batch, clock: Callable[[], float]) -> float:
    began = clock()
    session.run(batch)
    return clock() - began


def _check_ends(session: ort.InferenceSession, graph: Path, manifest: Manifest) -> None:
    """Refuse a graph whose input or output is not the one that the manifest describes."""
    spec = manifest.input
    ends: list[tuple[Any, str, str, Axes]] = [
        (session.get_inputs(), spec.tensor, f"tensor({spec.dtype})", spec.axes),
        (session.get_outputs(), "probabilities", "tensor(float)", ("N", len(manifest.labels))),
    ]
    for actual, name, dtype, axes in ends:
        if [(end.name, end.type, _named(end.shape, axes)) for end in actual] != [(name, dtype, axes)]:
            raise ModelRefused(
                f"{graph}: expected {name} {dtype} of shape {_shown(axes)}, "
                f"found {[(end.name, end.type, end.shape) for end in actual]}"
            )


def _named(shape: Sequence[Any], axes: Axes) -> Axes:
    """A graph's shape, its open axes under the names of `axes`, which stand in the same places."""
    names = [*axes, *("?" for _ in shape[len(axes) :])]
    return tuple(size if isinstance(size, int) else name for size, name in zip(shape, names, strict=False))


def _shown(axes: Axes) -> str:
    return f"[{', '.join(map(str, axes))}]"


def _check_golden(path: Path, manifest: Manifest, inputs: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> None:
    """Refuse golden arrays that cannot be inputs and outputs of the manifest's graph."""
    spec = manifest.input
    fits = len(inputs.shape) == len(spec.axes) and all(
        size == axis or isinstance(axis, str) for size, axis in zip(inputs.shape, spec.axes, strict=True)
    )
    if inputs.dtype != spec.dtype or not fits or not inputs.size:
        raise ModelRefused(
            f"{path}: expected inputs {spec.dtype} of shape {_shown(spec.axes)}, "
            f"found {inputs.dtype} of shape {list(inputs.shape)}"
        )
    shape = (len(inputs), len(manifest.labels))
    if outputs.dtype != np.float32 or outputs.shape != shape:
        raise ModelRefused(
            f"{path}: expected probabilities float32 of shape {list(shape)}, "
            f"found {outputs.dtype} of shape {list(outputs.shape)}"
        )
    if not np.isfinite(outputs).all():
        raise ModelRefused(f"{path}: the probabilities hold values that are not finite numbers")
