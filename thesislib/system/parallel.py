"""One run on several processes (torchrun), data parallel: every process holds the network and a share of each batch.

Batches, crops and flips are drawn as in one process, then shared out; gradients are averaged, BatchNorm sees the
whole batch, so that the number of processes changes nothing but the rounding. Only where BatchNorm's statistics are
estimated anew do some images more stay out, fewer than there are processes in a batch. With one process all of this is
free.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce
from torch.distributed.rendezvous import rendezvous

from thesislib.system.errors import UserError
from thesislib.system.machine import under_torchrun

#: Groups of this process so far; all processes of a group have had as many.
_groups = itertools.count()


@contextmanager
def together(device: str) -> Iterator[None]:
    """Meet the other processes that torchrun started, and part at the end; nothing in a process of its own."""
    if not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:  # broadcast_object_list takes the current device, which is the first GPU for every process
        torch.cuda.set_device(device)
    # Each group under names of its own: a process that trains twice would meet the addresses of the first time.
    store, place, processes = next(rendezvous("env://"))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=dist.PrefixStore(f"group-{next(_groups)}", store), rank=place,
        world_size=processes, device_id=torch.device(device) if on_gpu else None,
    )  # fmt: skip
    try:
        yield
    finally:
        dist.destroy_process_group()


def size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process among them; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(batch: int) -> slice:
    """This process' part of a batch. Raises UserError if it cannot be shared out evenly."""
    if batch % size():
        raise UserError(f"batch_size: {batch} cannot be shared out among {size()} processes")
    each = batch // size()
    return slice(rank() * each, (rank() + 1) * each)


def average(tensors: list[Tensor]) -> None:
    """Replace tensors by their means over all processes, in place, in one exchange."""
    if size() == 1:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    flat /= size()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def gather(rows: Tensor, count: int) -> Tensor:
    """The `count` rows [count, ...] of which process r has those numbered r, r + size, ... (padded alike)."""
    if size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(size())]
    dist.all_gather(parts, rows)
    return torch.stack(parts, 1).flatten(0, 1)[:count]


def from_first(value: Any) -> Any:
    """What process 0 has, everywhere."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def share_batch_statistics(model: nn.Module) -> None:
    """Make BatchNorm normalise by mean and variance over the whole batch, not over a process' share.

    Raises UserError for one without running statistics, which has none to be evaluated by.
    """
    if size() > 1:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats:
                raise UserError("a BatchNorm with track_running_stats=False is for one process: start without torchrun")
            module.__class__ = _SHARED.get(type(module), type(module))


class _Shared(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over all processes. torch's SyncBatchNorm does the same on GPUs, but only there."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> [B, C, ...]."""
        if not self.training:
            return super().forward(x)
        x = x if x.dtype == self.running_mean.dtype else x.to(self.running_mean.dtype)  # in fp32 under autocast
        over, channels = [0, *range(2, x.ndim)], [-1] + [1] * (x.ndim - 2)
        count = size() * x.numel() // x.shape[1]
        mean = all_reduce(x.sum(over)) / count
        centred = x - mean.view(channels)
        variance = all_reduce(centred.square().sum(over)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            # Without a momentum, a plain mean over batches: that is how swa_utils collects them anew.
            rate = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * count / (count - 1), rate)
        normal = centred * torch.rsqrt(variance + self.eps).view(channels)
        return normal * self.weight.view(channels) + self.bias.view(channels) if self.affine else normal


_SHARED: dict[type, type] = {
    kind: type(kind.__name__, (_Shared, kind), {}) for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
}
