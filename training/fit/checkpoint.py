"""What a run can be continued from: one file, written anew after every epoch.

The file is replaced in one step and only once its bytes are on the disk, so that a run killed at any moment leaves
the last whole checkpoint. It holds tensors and plain values only and is read with `weights_only=True`.
"""

import os
from pathlib import Path
from typing import Any

import torch

from training.errors import RunError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in place of the one before.

    Raises:
        RunError: the disk is full or the folder cannot be written; the checkpoint before stays whole.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk into a RuntimeError
        partial.unlink(missing_ok=True)
        raise RunError(f"{path}: the checkpoint cannot be written: {error}. The one before it is intact.") from error


def load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint; None where there is none.

    Raises:
        RunError: the file is no checkpoint of ours.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch lets through whatever its unpickler meets in garbage
        # torch's own message advises to trust the file, which would run whatever is in it.
        kind = type(error).__name__
        raise RunError(f"{path}: this is no readable checkpoint ({kind}). Remove it to start anew.") from error
    return state
