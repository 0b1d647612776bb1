"""One ONNX Runtime session: checks against the manifest, golden inputs, warm-up, runs, and races between sessions.

The graph takes pixels or token ids and gives calibrated probabilities; scaling and softmax are inside it.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from contract import batches, golden, processors, providers
from contract.batches import Batch
from contract.errors import ModelRefused
from contract.manifest import GOLDEN, Manifest, Precision
from contract.padding import PaddedRuns, padded_sizes
from contract.providers import ENGINE_CACHE, Provider
from contract.spec import Axes, format_axes

QUICK_S = 0.001
"""A run up to this long costs less on the event loop than handing it to a thread and back: 16 digits, for example, are
answered 1.35 times as fast (10,200 instead of 7,600 requests/s at 16 connections, quiet 2-core EPYC)."""

_TRIES = 10
_MIN_ROUNDS, _MAX_ROUNDS, _RACE_S = 3, 25, 0.05  # a race ends after `_RACE_S` or `_MAX_ROUNDS`


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
        """Load a graph and check that its input and output are those of the manifest.

        Args:
            graph: the ONNX file.
            manifest: the description of the version.
            provider: `cpu`, `cuda`, `tensorrt`, or `auto`, which selects CUDA if an NVIDIA driver is installed.
            threads: CPU threads for one run.
            precision: the precision in which the graph computes.
            engine_cache: the folder in which TensorRT keeps its engines.
            cuda_graphs: whether CUDA runs items of a fixed shape in batches of fixed sizes, each captured as a CUDA
                graph.

        Raises:
            ProviderError: this machine does not have the provider.
            ModelRefused: the graph is harmful, ONNX Runtime cannot load it, or its input or output is not the
                manifest's.
        """
        name = providers.choose(provider)
        captured = cuda_graphs and name == providers.CUDA and manifest.input.has_fixed_shape
        self._session = providers.open_graph(
            graph, manifest, options(threads), name, engine_cache=engine_cache, cuda_graphs=captured
        )
        self.provider: str = name
        self.precision: Precision = precision
        self.is_on_cpu: bool = name == providers.CPU
        self.is_single: bool = self.is_on_cpu and threads == 1
        self.parallel_runs: int = max(processors.count() // threads, 1) if self.is_on_cpu else 1
        """How many runs at the same time use the whole machine; a GPU gets one at a time, in large batches."""
        self.manifest = manifest
        _check_ends(self._session, graph, manifest)
        self._input = manifest.input.tensor
        self._max_items = manifest.max_batch
        if name == providers.CPU:
            self._max_items = min(manifest.input.max_run_items, manifest.max_batch)
        self._padded = PaddedRuns(self._session, manifest) if captured else None
        self._graph = graph
        self._quick_extent = 0

    def is_quick(self, extent: int) -> bool:
        """Whether a batch of that extent (its items, or the tokens of all its items) took less than `QUICK_S`."""
        return extent <= self._quick_extent

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities float32 (N, classes) of images uint8 (N, H, W, C) or token ids int64 (N, L)."""
        if self._padded is not None:
            return self._padded.run(batch)
        if len(batch) <= self._max_items:
            return self._run(batch)
        starts = range(0, len(batch), self._max_items)
        return np.concatenate([self._run(batch[start : start + self._max_items]) for start in starts])

    def _run(self, batch: Batch) -> npt.NDArray[np.float32]:
        probabilities: npt.NDArray[np.float32] = self._session.run(["probabilities"], {self._input: batch})[0]
        return probabilities

    def warm_up(self) -> None:
        """Run batches of all kinds, so that no request pays for the first run, and measure which of them are quick.

        Raises:
            ModelRefused: the graph fails on a batch of a shape that the manifest allows.
        """
        spec, max_batch = self.manifest.input, self.manifest.max_batch
        sizes = padded_sizes(max_batch) if self._padded else []
        for batch in (*batches.warm_up(spec, self._max_items), *(batches.example(spec, size) for size in sizes)):
            try:
                self.run(batch)
            except Exception as error:  # ONNX Runtime's own exceptions share no base class
                raise ModelRefused(f"{self._graph}: cannot be run on {self._input} {batch.shape}: {error}") from error
        quick_s = 0.0
        for extent, batch in batches.growing(spec, max_batch):
            run_s = self._measure_s(batch)
            if run_s > QUICK_S:
                share = (QUICK_S - quick_s) / (run_s - quick_s) if quick_s else 0.0
                self._quick_extent += int(share * (extent - self._quick_extent))
                break
            self._quick_extent, quick_s = extent, run_s

    def _measure_s(self, batch: Batch) -> float:
        """The duration of an undisturbed run: the shortest of a few, since other models may be loaded meanwhile."""
        clock = _clock(self)
        return min(_timed(self, batch, clock) for _ in range(_TRIES))

    def replay(self, folder: Path) -> None:
        """Run a version's golden inputs, and compare the outputs with those that were stored at publication.

        Raises:
            ModelRefused: the outputs differ, or the golden file cannot be read or does not fit the graph.
        """
        path = folder / GOLDEN
        inputs, expected = golden.read(path, self.manifest, self.precision)
        try:
            difference = float(np.abs(self.run(inputs) - expected).max())
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise ModelRefused(f"{path}: the golden inputs cannot be run: {error}") from error
        tolerance = providers.tolerance(self.provider, self.precision)
        if not difference <= tolerance:
            raise ModelRefused(
                f"{path}: in {self.precision} on {self.provider} the golden probabilities differ by {difference:.2g} "
                f"(maximum {tolerance:g})"
            )


def options(threads: int, *, spinning: bool = False, arena: bool = False) -> ort.SessionOptions:
    """How sessions run on CPUs; CONTRIBUTING has the measurements (`make bench-sessions`).

    Threads that spin while they wait for the next run occupy a CPU that others could use. ONNX Runtime's arena keeps
    the memory of the largest batch that ever ran, in blocks of doubled sizes; the system's allocator is as fast.
    """
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 3
    session_options.enable_cpu_mem_arena = arena
    session_options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return session_options


def race(sessions: Sequence[Session], size: int) -> list[float]:
    """The median seconds that each session takes for a batch of `size` items.

    The sessions run in turns, so that other work on the machine slows all of them alike. If all runs stay in the
    calling thread, its CPU time is measured, which does not include other work.
    """
    batch = batches.example(sessions[0].manifest.input, size)
    clock = _clock(*sessions)
    rounds_s: list[list[float]] = []
    for session in sessions:
        session.run(batch)
    start = time.perf_counter()
    for done in range(_MAX_ROUNDS):
        if done >= _MIN_ROUNDS and time.perf_counter() - start > _RACE_S:
            break
        rounds_s.append([_timed(session, batch, clock) for session in sessions])
    return [median(durations_s) for durations_s in zip(*rounds_s, strict=True)]


def _clock(*sessions: Session) -> Callable[[], float]:
    """The clock for runs: the CPU time of the calling thread, if all runs stay in it."""
    return time.thread_time if all(session.is_single for session in sessions) else time.perf_counter


def _timed(session: Session, batch: Batch, clock: Callable[[], float]) -> float:
    start = clock()
    session.run(batch)
    return clock() - start


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
                f"{graph}: expected {name} {dtype} of shape {format_axes(axes)}, "
                f"found {[(end.name, end.type, end.shape) for end in actual]}"
            )


def _named(shape: Sequence[Any], axes: Axes) -> Axes:
    """A graph's shape, its open axes under the names that `axes` has for them."""
    names = [*axes, *("?" for _ in shape[len(axes) :])]
    return tuple(size if isinstance(size, int) else name for size, name in zip(shape, names, strict=False))
