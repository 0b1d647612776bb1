"""The log of a training: one line for each epoch in metrics.jsonl, and points for TensorBoard.

The history in the checkpoint is the truth. The log of a training that continues is first made equal to it, so that a
run that was killed between checkpoint and log has each epoch once.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from training.errors import RunError
from training.progress import say
from training.runs.record import metrics_file

EVENTS = "events"

_SCALARS = {
    "loss": "loss/train",
    "validation_loss": "loss/validation",
    "accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "balanced_accuracy": "accuracy/validation_balanced",
    "macro_f1": "macro_f1/validation",
    "learning_rate": "learning_rate",
    "images_per_s": "images_per_s",
    "resolution": "resolution_px",
}


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Log:
    """The log of one training, in the run's folder: call `update` with the history at the start and after each epoch.

    An epoch is a mapping of plain values, with its number, from 1, as `epoch`. Points for TensorBoard go to
    events/STAGE if `tensorboard` is installed: `tensorboard --logdir runs` shows them.

    Args:
        folder: the run's folder.
        stage: which training of the run this is: `fit`, `refit`, `fold-01` and so on.
    """

    def __init__(self, folder: Path, stage: str = "fit") -> None:
        self._path = metrics_file(folder, stage)
        self._events = folder / EVENTS / stage
        self._writer: _Writer | None = None
        self._open = False

    def update(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Bring the log up to the history of the training, which has at most one more epoch than at the call before.

        The lines are on the disk when this returns. Values that are not finite become null.

        Raises:
            RunError: the file cannot be written or the disk is full.
        """
        try:
            if not self._open:
                _replace(self._path, "".join(map(_line, history)))
                self._writer = _open_events(self._events, history)
                self._open = True
                return
            _write(self._path, "a", _line(history[-1]))
            if self._writer is not None:
                _add_points(self._writer, history[-1])
        except OSError as error:
            raise RunError(
                f"{self._path}: cannot be written: {error}. The checkpoints beside it are complete; free some space, "
                f"then continue with: python -m training train --resume {self._path.parent}"
            ) from error

    def close(self) -> None:
        """Close the file of points."""
        if self._writer is not None:
            self._writer.close()


def _replace(path: Path, content: str) -> None:
    """Replace the content of a file in one step, unless it is equal to `content`."""
    if path.exists() and path.read_bytes() == content.encode():
        return
    partial = path.with_suffix(".partial")
    _write(partial, "w", content)
    partial.replace(path)


def _write(path: Path, mode: str, content: str) -> None:
    with path.open(mode, encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _line(epoch: Mapping[str, Any]) -> str:
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in epoch.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def _open_events(folder: Path, history: Sequence[Mapping[str, Any]]) -> _Writer | None:
    """A writer of TensorBoard's points after those of `history`; None if `tensorboard` is not installed."""
    if find_spec("tensorboard") is None:
        hint()
        return None
    exists = folder.is_dir() and any(folder.iterdir())
    # TensorBoard drops the points from the purged step on: those of epochs that the checkpoint lacks.
    writer = _summary_writer(folder, purge_step=len(history) + 1 if exists else None)
    for epoch in () if exists else history:
        _add_points(writer, epoch)
    return writer


def _summary_writer(folder: Path, purge_step: int | None) -> _Writer:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- fails if tensorboard is not installed

    writer: _Writer = SummaryWriter(str(folder), purge_step=purge_step)
    return writer


def _add_points(writer: _Writer, epoch: Mapping[str, Any]) -> None:
    for tag, value in scalars(epoch).items():
        writer.add_scalar(tag, value, int(epoch["epoch"]))
    writer.flush()


def scalars(epoch: Mapping[str, Any]) -> dict[str, float]:
    """The curves of an epoch that trackers show, each with its value."""
    values = {**(epoch.get("validation_figures") or {}), **epoch}
    return {tag: float(values[key]) for key, tag in _SCALARS.items() if values.get(key) is not None}


@cache
def hint() -> None:
    """Say once in a process how to get points for TensorBoard."""
    say("TensorBoard is not installed, so no points are written for it; pip install 'tensorboard>=2.21' adds it")
