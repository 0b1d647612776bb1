"""Golden files: read within limits, and only if they fit the graph."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract import golden
from contract import manifest as contract
from contract.errors import ModelRefused
from tests import reviews


def archive(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(f"{name}.npy", content)


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """The header of an array file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue()


@pytest.mark.parametrize(
    ("members", "fact"),
    [
        ({"inputs": header((1 << 22,)) + bytes(1 << 22), "probabilities": header((1,)) + b"x"}, "too much"),
        ({"inputs": header((1 << 50,)), "probabilities": header((1,)) + b"x"}, "cannot be read"),
        ({f"a{number}": b"" for number in range(20)}, "20 arrays"),
        ({"inputs": header((1,), "|O") + b"cos\nsystem\n(S'true'\ntR.", "probabilities": b""}, "allow_pickle=False"),
    ],
    ids=["zeros above the limit", "a shape above the file", "many arrays", "a pickle"],
)
def test_bombs_are_refused(
    version: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], fact: str
) -> None:
    """Archives that unpack to more than they may, and objects, which are pickles, are not loaded."""
    monkeypatch.setattr(golden, "MAX_BYTES", 1 << 20)
    path = version / contract.GOLDEN
    archive(path, **members)
    with pytest.raises(ModelRefused, match=fact):
        golden.read(path, contract.read(version))


@pytest.mark.parametrize("content", [b"PK", b"PK\x03\x04" + bytes(50)])
def test_damaged_files_are_refused(version: Path, content: bytes) -> None:
    """The message names the file."""
    (version / contract.GOLDEN).write_bytes(content)
    with pytest.raises(ModelRefused, match=r"golden\.npz: cannot be read"):
        golden.read(version / contract.GOLDEN, contract.read(version))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda inputs, rows: (inputs[:, :5], rows), r"expected inputs uint8 of shape \[N, 28, 28, 1\]"),
        (lambda inputs, rows: (inputs[..., 0], rows), r"found uint8 of shape \[16, 28, 28\]"),
        (lambda inputs, rows: (inputs.astype(np.int64), rows), "found int64"),
        (lambda inputs, rows: (inputs[:0], rows[:0]), r"found uint8 of shape \[0, 28, 28, 1\]"),
        (lambda inputs, rows: (inputs, rows[:3]), r"expected probabilities float32 of shape \[16, 10\]"),
        (lambda inputs, rows: (inputs, rows.astype(np.float64)), "found float64"),
        (lambda inputs, rows: (inputs, rows * np.nan), "not finite"),
    ],
)
def test_arrays_that_do_not_fit_the_graph_are_refused(version: Path, change: Callable[..., Any], fact: str) -> None:
    """Inputs and outputs of another type or shape, and outputs that are not finite, are refused."""
    manifest, path = contract.read(version), version / contract.GOLDEN
    inputs, rows = change(*golden.read(path, manifest))
    np.savez(path, inputs=inputs, probabilities=rows)
    with pytest.raises(ModelRefused, match=fact):
        golden.read(path, manifest)


@pytest.mark.parametrize(
    "change", [lambda tokens: tokens.astype(np.int32), lambda tokens: tokens[0], lambda tokens: tokens[:, :0]]
)
def test_tokens_that_do_not_fit_the_graph_are_refused(tmp_path: Path, change: Callable[..., Any]) -> None:
    """A graph of texts takes int64 (N, L), and so must the golden inputs."""
    version = reviews.publish(tmp_path)
    manifest, path = contract.read(version), version / contract.GOLDEN
    inputs, rows = golden.read(path, manifest)
    np.savez(path, inputs=change(inputs), probabilities=rows)
    with pytest.raises(ModelRefused, match=r"expected inputs int64 of shape \[N, L\]"):
        golden.read(path, manifest)
