"""Processes that train together on this machine: `python -m training train RECIPE --processes N`.

torch's elastic launcher starts them, as torchrun does. Where torchrun prints a report of every process after an error,
`launch` raises the error that came first, so that it is shown once.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from training.errors import RunError


def launch(command: Sequence[str], processes: int) -> None:
    """Run a Python program, given as its arguments to the interpreter, in some processes until all have ended.

    Raises:
        RunError: a process failed; the message is that of the process that failed first.
        KeyboardInterrupt: Ctrl-C; the processes have stopped as after Ctrl-C of their own.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it logs is in the error
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        run_id=str(os.getpid()),
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        raise RunError(message(list(error.failures.values()), processes)) from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise RunError(f"stopped by {error.sigval.name}") from error


def message(failures: list[ProcessFailure], processes: int) -> str:
    """What to say of the process that failed first; torch ends the others by SIGTERM."""
    first = min(failures, key=lambda failure: (failure.exitcode == -signal.SIGTERM, failure.timestamp))
    process = f"process {first.local_rank} of {processes}"
    if first.exitcode < 0:
        name = signal.Signals(-first.exitcode).name
        memory = ", which the system sends if memory runs out" if name == "SIGKILL" else ""
        return f"{process} was ended by {name}{memory}; finished epochs are saved: the line `run ...` says how to go on"
    if first.error_file_data.get("timestamp"):
        return str(first.message)
    return f"{process} ended with exit status {first.exitcode}; its own message is above"
