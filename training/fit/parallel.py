"""Data-parallel training under torchrun: who this process is, and what it shares with the others.

    torchrun --nproc-per-node 2 -m training train lenet

Every process walks through the same batches in the same order, takes each `size`-th example of them, and averages
gradients, so that the batch, and what is learnt from it, is that of one process. Without torchrun there is one
process and nothing here does anything.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.errors import RunError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes that train together: how many, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks to people."""
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

    def share(self, text: str) -> str:
        """The leading process's text, on every process."""
        box = [text]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Go on once all processes are here."""
        if self.size > 1:
            dist.barrier()

    def in_turn(self, work: Callable[[], T]) -> T:
        """What `work` gives, done by the leading process first: the others find its downloads and caches."""
        if not self.leads:
            self.wait()
        found = work()
        if self.leads:
            self.wait()
        return found

    def wrap(self, network: nn.Sequential) -> nn.Module:
        """The network with gradients averaged over the processes, and batch norm over the whole batch."""
        if self.size == 1:
            return network
        for block in list(network.modules()):
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    setattr(block, name, _WholeBatchNorm(layer))
        return DistributedDataParallel(network, forward_sync_buffers=False)


@dataclass(frozen=True)
class Machine:
    """What a training computes on: a device, and the processes that share the work."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    world: World = field(default_factory=World)


def join() -> World:
    """Meet the other processes that torchrun started, if it did.

    Raises:
        RunError: they cannot be met.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or not dist.is_available():
        return World()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    try:
        if not dist.is_initialized():
            if backend == "nccl":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group(f"cpu:gloo,cuda:{backend}" if backend == "nccl" else backend)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the {size} processes of torchrun cannot meet: {error}") from error
    return World(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Part from the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class _WholeBatchNorm(nn.Module):
    """Batch norm over the examples of all processes, on any device (torch's SyncBatchNorm needs a GPU).

    Takes over a batch norm's parameters and running statistics, under the same names.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
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
            wide = values.float()
            count = _sum(wide.new_tensor(wide[:, 0].numel()))
            mean = _sum(wide.sum(axes)) / count
            centred = wide - mean.view(shape)  # the mean of squares less the square of the mean would cancel
            var = _sum(centred.square().sum(axes)) / count
            with torch.no_grad():
                self.get_buffer("num_batches_tracked").add_(1)
                self.get_buffer("running_mean").lerp_(mean.detach(), self.momentum)
                self.get_buffer("running_var").lerp_(var.detach() * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (values * scale.view(shape) + (self.bias - mean * scale).view(shape)).to(values.dtype)


class _Sum(torch.autograd.Function):
    """A tensor summed over all processes; its gradient is the sum of theirs."""

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
