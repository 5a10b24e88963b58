"""Networks in fp32 or bf16, and BatchNorm's statistics at given weights."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from thesislib.system import draws
from thesislib.system.vectors import fast


def _products(device: str, precision: Literal["fp32", "bf16"]) -> AbstractContextManager:
    """Where products and convolutions are of numbers in this precision."""
    if precision == "fp32":
        return nullcontext()
    return fast.autocast() if fast and device == "cpu" else torch.autocast(device, torch.bfloat16)


def predict(model: nn.Module, images: Tensor, precision: Literal["fp32", "bf16"]) -> Tensor:
    """Logits [B, C] in fp32 of images [B, C, H, W], products and convolutions in the precision."""
    if precision == "fp32":
        return model(images)
    # Convolutions in bf16 are fastest with the channels innermost; the weights stay as theta has them.
    images = images.contiguous(memory_format=torch.channels_last)
    with _products(images.device.type, precision):
        return model(images).float()


def estimate_statistics(model: nn.Module, batches: Iterable[Tensor], precision: Literal["fp32", "bf16"]) -> None:
    """Collect BatchNorm's statistics anew at the network's weights: plain means over `batches` of images [B, C, H, W].

    Running ones belong to weights of some time ago (Izmailov et al. 2018). Nothing happens without a BatchNorm, and
    what else a network remembers stays.
    """
    kept = {name: buffer.clone() for name, buffer in other_buffers(model).items()}
    with _products(next(model.parameters()).device.type, precision), draws.drawn_by("statistics"):
        update_bn(batches, model)
    for name, buffer in other_buffers(model).items():
        buffer.copy_(kept[name])


def other_buffers(model: nn.Module) -> dict[str, Tensor]:
    """A network's buffers by name, but for BatchNorm's statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    statistics = {id(buffer) for module in norms for buffer in module.buffers()}
    return {name: buffer for name, buffer in model.named_buffers() if id(buffer) not in statistics}
