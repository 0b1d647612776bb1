"""Batches of fixed sizes, on the processor: what CUDA captures of them can be seen on a GPU only."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from contract import manifest as contract
from contract.padding import PaddedRuns, pad, padded_size, sizes

CPU = ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("items", "most", "size"), [(1, 256, 1), (2, 256, 2), (3, 256, 4), (64, 256, 64), (65, 256, 128), (90, 100, 100)]
)
def test_a_batch_runs_in_the_next_power_of_two(items: int, most: int, size: int) -> None:
    """Or in the largest batch, where that is none."""
    assert padded_size(items, most) == size


@pytest.mark.parametrize("most", [1, 2, 5, 8, 100])
def test_the_sizes_are_those_that_batches_run_in(most: int) -> None:
    """What is warmed up is what is run."""
    assert list(sizes(most)) == sorted({padded_size(items, most) for items in range(1, most + 1)})


def test_padding_is_zeros_behind_the_batch() -> None:
    """The pictures stay first and whole."""
    batch = np.arange(1, 7, dtype=np.uint8).reshape(3, 1, 2, 1)
    padded = pad(batch, 4)
    assert padded.shape == (4, 1, 2, 1)
    assert np.array_equal(padded[:3], batch)
    assert not padded[3].any()


def test_padded_runs_give_what_plain_runs_give(version: Path) -> None:
    """At every size, from several threads at once, and again after other sizes; each size is bound once."""
    manifest = contract.read(version)
    session = ort.InferenceSession(version / contract.GRAPH, providers=CPU)
    bindings = []

    def bind() -> Any:
        bindings.append(session.io_binding())
        return bindings[-1]

    seam = SimpleNamespace(io_binding=bind, run_with_iobinding=session.run_with_iobinding)
    runs = PaddedRuns(seam, manifest, "cpu")
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (items, 28, 28, 1), dtype=np.uint8) for items in (1, 3, 4, 31, 200, 256)] * 3
    before = [batch.copy() for batch in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(runs.run, pictures))
    assert all(map(np.array_equal, pictures, before))
    for batch, rows in zip(before, found, strict=True):
        assert rows.shape == (len(batch), 10)
        assert np.abs(rows - session.run(None, {"image": batch})[0]).max() < 1e-5
    assert len(bindings) == len({1, 4, 32, 256})
