"""Checkpoints: one file, written again after every epoch, from which a training continues.

The file is replaced in one step and only once its bytes are on the disk, so a process that is killed at any moment
leaves the last complete checkpoint. It holds tensors and plain values only, and is read with `weights_only=True`.
"""

import os
from pathlib import Path
from typing import Any

import torch

from training.errors import RunError


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path`.

    Raises:
        RunError: the file cannot be written; the previous checkpoint stays as it is.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        partial.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot write the checkpoint: {error}. The previous checkpoint is intact.") from error


def load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint; None if the file does not exist.

    Raises:
        RunError: the file is not a checkpoint, or it is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch lets any exception of its unpickler through
        # torch's own message advises to switch `weights_only` off, which would run code from the file.
        kind = type(error).__name__
        raise RunError(f"{path}: not a readable checkpoint ({kind}). Remove the file to start again.") from error
    return state
