"""Batches of fixed sizes, on a CPU; capturing them as CUDA graphs needs a GPU."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from contract import manifest as contract
from contract.padding import PaddedRuns, pad, padded_size, padded_sizes

CPU = ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("items", "max_batch", "size"),
    [(1, 256, 1), (2, 256, 2), (3, 256, 4), (64, 256, 64), (65, 256, 128), (90, 100, 100)],
)
def test_a_batch_runs_in_the_next_power_of_two(items: int, max_batch: int, size: int) -> None:
    """Or in the largest batch, if it is smaller."""
    assert padded_size(items, max_batch) == size


@pytest.mark.parametrize("max_batch", [1, 2, 5, 8, 100])
def test_the_warm_up_has_all_sizes(max_batch: int) -> None:
    """The sizes to warm up are those in which batches run."""
    assert padded_sizes(max_batch) == sorted({padded_size(items, max_batch) for items in range(1, max_batch + 1)})


def test_zeros_follow_the_batch() -> None:
    """The items stay first and unchanged."""
    batch = np.arange(1, 7, dtype=np.uint8).reshape(3, 1, 2, 1)
    padded = pad(batch, 4)
    assert padded.shape == (4, 1, 2, 1)
    assert np.array_equal(padded[:3], batch)
    assert not padded[3].any()


def test_padded_runs_give_what_plain_runs_give(version: Path) -> None:
    """At every size, from several threads at once, and after other sizes; the memory of a size is bound once."""
    manifest = contract.read(version)
    session = ort.InferenceSession(version / contract.GRAPH, providers=CPU)
    bindings = []

    def bind() -> Any:
        bindings.append(session.io_binding())
        return bindings[-1]

    wrapper = SimpleNamespace(io_binding=bind, run_with_iobinding=session.run_with_iobinding)
    runs = PaddedRuns(wrapper, manifest, "cpu")
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (items, 28, 28, 1), dtype=np.uint8) for items in (1, 3, 4, 31, 200, 256)] * 3
    copies = [batch.copy() for batch in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(runs.run, images))
    assert all(map(np.array_equal, images, copies))
    for batch, rows in zip(copies, results, strict=True):
        assert rows.shape == (len(batch), 10)
        assert np.abs(rows - session.run(None, {"image": batch})[0]).max() < 1e-5
    assert len(bindings) == len({1, 4, 32, 256})
