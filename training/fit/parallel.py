"""Data-parallel training in several processes.

    python -m training train lenet --processes 2            # on one machine: `training.fit.launch`
    torchrun --nnodes 2 ... -m training train lenet         # on several

All processes go through the same batches in the same order. Each computes every `size`-th example of a batch, and
gradients are averaged, so the weights are those that a single process would learn. Without torchrun, a `World` is a
single process and its methods change nothing.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from training.errors import LostProcess, RunError, TrainingError

T = TypeVar("T")

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Set by torch's launcher in each process: the file that it reads the process's error from."""
REPORT_S = 3.0
"""Seconds in which all processes notice that another one is gone."""

_LOST = ("gloo/transport", "closed by peer", "reset by peer", "Broken pipe", "NCCL", "recvValue failed")
"""What errors of torch.distributed say if a process is gone: they have no type of their own."""


@dataclass(frozen=True)
class World:
    """The processes that train together: their number, `size`, and this process's number among them, `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and reports progress."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This process's examples of a batch of `count`."""
        return slice(self.rank, count, self.size)

    def weighted(self, loss: Tensor, count: int, batch_size: int) -> Tensor:
        """A mean loss over this process's `count` examples, scaled so that its mean over processes is the batch's."""
        share = count * self.size / batch_size
        return loss if share == 1 else loss * share

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def broadcast(self, value: T) -> T:
        """The leading process's value, on every process."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    @contextmanager
    def own_draws(self, *seed: int) -> Iterator[None]:
        """Random numbers that differ between processes; afterwards, all draw as if none had been drawn here.

        Without this, all processes would drop the same units. A single process draws as everywhere else.
        """
        if self.size == 1:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(hash((*seed, self.rank)) % 2**63)
            yield

    def wait(self) -> None:
        """Wait until all processes have called this method."""
        if self.size > 1:
            dist.barrier()

    def in_turn(self, work: Callable[[], T]) -> T:
        """The result of `work`, which the leading process does first; the others use its downloads and caches."""
        if not self.leads:
            self.wait()
        result = work()
        if self.leads:
            self.wait()
        return result

    def wrap(self, network: nn.Sequential) -> nn.Module:
        """The network with gradients averaged over the processes, and all its batch norms over the whole batch."""
        if self.size == 1:
            return network
        for block in list(network.modules()):
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                    setattr(block, name, _WholeBatchNorm(layer))
        return DistributedDataParallel(network, forward_sync_buffers=False)


@dataclass(frozen=True)
class Machine:
    """The device and the processes that a training computes on."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    world: World = field(default_factory=World)


def join() -> World:
    """Connect to the other processes that torchrun started; without torchrun, a world of this process alone.

    Raises:
        RunError: the processes cannot connect.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or not dist.is_available():
        return World()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    try:
        if not dist.is_initialized():
            if backend == "nccl":
                _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group(f"cpu:gloo,cuda:{backend}" if backend == "nccl" else backend)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the {size} processes of torchrun cannot connect: {error}") from error
    return World(dist.get_rank(), dist.get_world_size())


def _take_gpu(number: int) -> None:
    if number >= torch.cuda.device_count():
        raise RunError(
            f"{os.environ.get('LOCAL_WORLD_SIZE')} processes were started for {torch.cuda.device_count()} GPUs; "
            "start at most one for each"
        )
    torch.cuda.set_device(number)


def leave() -> None:
    """Disconnect from the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def connected(advice: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Hand over an error, and disconnect at the end. A connection that another process closed is a LostProcess.

    Args:
        advice: what to do, for the message.
    """
    try:
        with _lost_processes(advice):
            yield
    except TrainingError as error:
        hand_over(error)  # before the others notice the end of this process, and are ended
        raise
    finally:
        leave()


@contextmanager
def _lost_processes(advice: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not (dist.is_initialized() and any(sign in str(error) for sign in _LOST)):
            raise
        lost = find_lost()
        raise LostProcess(" ".join(part for part in (lost_message(lost), advice()) if part), lost) from error


def hand_over(error: TrainingError) -> None:
    """Write an error to where `launch`, or the report of torchrun, reads it from; without them, do nothing."""
    path = os.environ.get(_ERROR_FILE)
    if path:
        # The others lose their connection to the process that failed first, and fail after it.
        timestamp = int(time.time()) + (3600 if isinstance(error, LostProcess) else 0)
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump({"message": str(error), "timestamp": timestamp}, file)


def find_lost() -> list[int]:
    """The ranks of the processes that ended: those that do not report themselves to torchrun's store in `REPORT_S`.

    The store is in torchrun's process of the first machine; if it cannot be reached, that machine is gone, and with it
    at least rank 0. Empty if all report, or without torchrun's store.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return []
    prefix = f"convoke/survivors/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    limit = timedelta(seconds=REPORT_S)
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*address, is_master=False, timeout=limit, wait_for_workers=False)
        store.set(f"{prefix}/{dist.get_rank()}", "")
        time.sleep(REPORT_S)
        return [rank for rank in range(dist.get_world_size()) if not store.check([f"{prefix}/{rank}"])]
    except (RuntimeError, KeyError, ValueError):
        return [0] if dist.get_rank() else []


def lost_message(lost: Sequence[int]) -> str:
    """What happened, with the ranks of the processes that ended."""
    if not lost:
        which = "another process of this training"
    elif len(lost) == 1:
        which = f"process {lost[0]} of {dist.get_world_size()} (its rank, from 0)"
    else:
        which = f"processes {', '.join(map(str, lost))} of {dist.get_world_size()} (their ranks, from 0)"
    return f"{which} ended, so that this one cannot go on; what was printed on that machine says why."


class _WholeBatchNorm(nn.Module):
    """Batch norm over the examples of all processes, on any device; torch's SyncBatchNorm needs a GPU.

    It shares the parameters and the running statistics of `norm`, under the same names.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum or 0.1
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, norm.get_buffer(name))

    def forward(self, values: Tensor) -> Tensor:
        shape = [1, -1, *[1] * (values.ndim - 2)]
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        if self.training:
            axes = [0, *range(2, values.ndim)]
            exact = values.float()
            count = _sum(exact.new_tensor(exact[:, 0].numel()))
            mean = _sum(exact.sum(axes)) / count
            centred = exact - mean.view(shape)  # more exact than the mean of squares minus the squared mean
            var = _sum(centred.square().sum(axes)) / count
            with torch.no_grad():
                self.get_buffer("num_batches_tracked").add_(1)
                self.get_buffer("running_mean").lerp_(mean.detach(), self.momentum)
                self.get_buffer("running_var").lerp_(var.detach() * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (values * scale.view(shape) + (self.bias - mean * scale).view(shape)).to(values.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, slope: Tensor) -> Tensor:
        total = slope.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total
