"""Checkpoints are written completely or not at all, and read without running code."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from training.errors import RunError
from training.fit import checkpoint


def test_a_loaded_checkpoint_equals_the_saved_one(tmp_path: Path) -> None:
    """Tensors and plain values come back bit for bit, and the folder holds no other file."""
    path = tmp_path / "fit.pt"
    checkpoint.save(path, {"weights": torch.tensor([0.1, -0.0, float("inf")]), "history": [{"epoch": 1, "loss": None}]})
    state = checkpoint.load(path)
    assert state is not None
    assert state["weights"].numpy().tobytes() == torch.tensor([0.1, -0.0, float("inf")]).numpy().tobytes()
    assert state["history"] == [{"epoch": 1, "loss": None}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_checkpoint_is_none(tmp_path: Path) -> None:
    """A training without a checkpoint starts at its first epoch."""
    assert checkpoint.load(tmp_path / "fit.pt") is None


def test_the_error_does_not_advise_to_trust_the_file(tmp_path: Path) -> None:
    """The message is one line without colours, and does not mention `weights_only`."""
    path = tmp_path / "fit.pt"
    torch.save({"weights": Path("/")}, path)
    with pytest.raises(RunError) as raised:
        checkpoint.load(path)
    assert str(raised.value).isprintable()
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("failure", [RuntimeError("unexpected pos 64"), OSError(28, "No space left on device")])
def test_a_failed_write_keeps_the_previous_checkpoint(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is a RunError; the old file stays byte for byte, and the partial file is removed."""
    path = tmp_path / "fit.pt"
    checkpoint.save(path, {"epoch": 1})
    before = path.read_bytes()

    def half_way(_state: Any, file: io.BufferedWriter) -> None:
        file.write(b"half a checkpoint")
        raise failure

    monkeypatch.setattr(torch, "save", half_way)
    with pytest.raises(RunError, match=rf"fit\.pt: .*{re.escape(str(failure))}"):
        checkpoint.save(path, {"epoch": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_writing_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load` reads the old file until the new one takes its name."""
    path = tmp_path / "fit.pt"
    checkpoint.save(path, {"epoch": 1})

    def killed(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.fit.checkpoint.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path) == {"epoch": 1}


def test_a_missing_folder_is_a_run_error(tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(RunError, match=r"gone/fit\.pt: "):
        checkpoint.save(tmp_path / "gone" / "fit.pt", {})


def garbage() -> list[bytes]:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(100)}, buffer)
    whole = buffer.getvalue()
    return [b"", b"hello", b"\x80\x02X", b"\x80\x02e.", bytes(range(256)), whole[:100], whole[: len(whole) // 2]]


@pytest.mark.parametrize("content", garbage(), ids=lambda content: repr(content[:8]))
def test_a_file_that_is_not_a_checkpoint_is_a_run_error(content: bytes, tmp_path: Path) -> None:
    """Garbage, an empty file and half a checkpoint are refused; the message names the file and says to remove it."""
    path = tmp_path / "fit.pt"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"fit\.pt: .*Remove"):
        checkpoint.load(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """A pickle of other objects than tensors and plain values is not loaded."""
    path = tmp_path / "fit.pt"
    torch.save({"weights": Path("/")}, path)
    with pytest.raises(RunError, match=r"fit\.pt: .*UnpicklingError"):
        checkpoint.load(path)
