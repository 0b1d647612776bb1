"""What a training writes down while it goes: a line an epoch in metrics.jsonl, and points for TensorBoard.

The checkpoint's history is the truth. A log that is opened for a training which goes on is made equal to it first, so
a run that was killed between checkpoint and log has no epoch twice and none missing.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from training.errors import RunError
from training.progress import say
from training.runs.record import metrics_file

EVENTS = "events"

_SCALARS = {
    "loss": "loss/train",
    "validation_loss": "loss/validation",
    "accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "learning_rate": "learning_rate",
    "images_per_s": "images_per_s",
    "resolution": "resolution_px",
}


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Log:
    """The log of one training, in the run's folder: `with Log(folder, history) as log: log.write(epoch)`.

    An epoch is a mapping of plain values with its number, from 1, as `epoch`. Points for TensorBoard go to
    events/STAGE where `tensorboard` is installed: `tensorboard --logdir runs` shows them.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, Any]], stage: str = "fit") -> None:
        """Open a log for a training whose epochs so far are `history`.

        Args:
            folder: the run's.
            history: the epochs in the checkpoint; none for a training that starts.
            stage: which training of the run this is: `fit`, or `refit` and the like.

        Raises:
            RunError: the folder cannot be written or the disk is full.
        """
        self._path = metrics_file(folder, stage)
        _agree(self._path, "".join(map(_line, history)))
        self._writer = _open_events(folder / EVENTS / stage, history)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, epoch: Mapping[str, Any]) -> None:
        """Add an epoch; it is on the disk when this returns. Figures that are not finite become null.

        Raises:
            RunError: the file cannot be written or the disk is full.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(epoch))
                file.flush()
                os.fsync(file.fileno())
            if self._writer is not None:
                _points(self._writer, epoch)
        except OSError as error:
            raise _unwritable(self._path, error) from error


def _agree(path: Path, expected: str) -> None:
    """Make a file hold `expected`, in one step, unless it does."""
    try:
        if path.exists() and path.read_bytes() == expected.encode():
            return
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(expected)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path}: cannot be written: {error}. The checkpoints beside it are whole; once there is room, go on with: "
        f"python -m training train --resume {path.parent}"
    )


def _line(epoch: Mapping[str, Any]) -> str:
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in epoch.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def _open_events(folder: Path, history: Sequence[Mapping[str, Any]]) -> _Writer | None:
    """A writer of TensorBoard events behind those of `history`; None where `tensorboard` is not installed."""
    if find_spec("tensorboard") is None:
        hint()
        return None
    known = folder.is_dir() and any(folder.iterdir())
    try:
        # TensorBoard drops older points from the purged step on: those of an epoch that the checkpoint lacks.
        writer = _summary_writer(folder, purge_step=len(history) + 1 if known else None)
        for epoch in () if known else history:
            _points(writer, epoch)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return writer


def _summary_writer(folder: Path, purge_step: int | None) -> _Writer:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- fails where tensorboard is not installed

    writer: _Writer = SummaryWriter(str(folder), purge_step=purge_step)
    return writer


def _points(writer: _Writer, epoch: Mapping[str, Any]) -> None:
    for key, tag in _SCALARS.items():
        if epoch.get(key) is not None:
            writer.add_scalar(tag, float(epoch[key]), int(epoch["epoch"]))
    writer.flush()


@cache
def hint() -> None:
    """Say once a process that TensorBoard is to be had."""
    say("no points for TensorBoard are written; to have them: pip install 'tensorboard>=2.21'")
