"""Checkpoints: whole or not at all."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from training.errors import RunError
from training.fit import checkpoint


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Tensors and plain values come back bit for bit, and nothing else is left in the folder."""
    path = tmp_path / "fit.pt"
    checkpoint.save(path, {"weights": torch.tensor([0.1, -0.0, float("inf")]), "history": [{"epoch": 1, "loss": None}]})
    state = checkpoint.load(path)
    assert state is not None
    assert state["weights"].numpy().tobytes() == torch.tensor([0.1, -0.0, float("inf")]).numpy().tobytes()
    assert state["history"] == [{"epoch": 1, "loss": None}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_checkpoint_is_none(tmp_path: Path) -> None:
    """A training that has no checkpoint yet starts anew."""
    assert checkpoint.load(tmp_path / "fit.pt") is None


def test_the_refusal_does_not_advise_to_trust_the_file(tmp_path: Path) -> None:
    """One line without colours, and no word of switching `weights_only` off."""
    path = tmp_path / "fit.pt"
    torch.save({"weights": Path("/")}, path)
    with pytest.raises(RunError) as refused:
        checkpoint.load(path)
    assert str(refused.value).isprintable()
    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize("failure", [RuntimeError("unexpected pos 64"), OSError(28, "No space left on device")])
def test_a_write_that_fails_leaves_the_checkpoint_before(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up half way is a RunError, the old file stays byte for byte, and no rest is left."""
    path = tmp_path / "fit.pt"
    checkpoint.save(path, {"epoch": 1})
    before = path.read_bytes()

    def half_way(_state: Any, file: io.BufferedWriter) -> None:
        file.write(b"half a checkpoint")
        raise failure

    monkeypatch.setattr(torch, "save", half_way)
    with pytest.raises(RunError, match=r"the checkpoint cannot be written: .* The one before it is intact"):
        checkpoint.save(path, {"epoch": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_before_the_last_step_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the new file takes the old one's name, what `load` finds is the old one."""
    path = tmp_path / "fit.pt"
    checkpoint.save(path, {"epoch": 1})

    def killed(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.fit.checkpoint.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path) == {"epoch": 1}


def test_a_folder_that_is_not_there_is_a_run_error(tmp_path: Path) -> None:
    """A checkpoint that has no place is refused by its path."""
    with pytest.raises(RunError, match=r"gone/fit\.pt: the checkpoint cannot be written"):
        checkpoint.save(tmp_path / "gone" / "fit.pt", {})


def garbage() -> list[bytes]:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(100)}, buffer)
    whole = buffer.getvalue()
    return [b"", b"hello", b"\x80\x02X", b"\x80\x02e.", bytes(range(256)), whole[:100], whole[: len(whole) // 2]]


@pytest.mark.parametrize("content", garbage(), ids=lambda content: repr(content[:8]))
def test_what_is_no_checkpoint_is_a_run_error(content: bytes, tmp_path: Path) -> None:
    """Garbage, an empty file and half a checkpoint are refused in a line that names the file and the way out."""
    path = tmp_path / "fit.pt"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"fit\.pt: this is no readable checkpoint") as refused:
        checkpoint.load(path)
    assert str(refused.value).endswith("Remove it to start anew.")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """A pickle of anything but tensors and plain values is not loaded."""
    path = tmp_path / "fit.pt"
    torch.save({"weights": Path("/")}, path)
    with pytest.raises(RunError, match="no readable checkpoint"):
        checkpoint.load(path)
