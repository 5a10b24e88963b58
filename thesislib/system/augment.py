"""Random crops and flips of many images at once."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_crops(count: int, generator: torch.Generator, pad: int = 4) -> Tensor:
    """One of the (2 pad + 1)^2 shifts times two mirrorings for each of `count` images, all alike probable."""
    return torch.randint(0, (2 * pad + 1) ** 2 * 2, (count,), generator=generator)


def crop_and_flip(images: Tensor, crops: Tensor, pad: int = 4) -> Tensor:
    """Shift each image of [B, C, H, W] by its own -pad...pad pixels (black enters), mirror it or not, by `crops` [B].

    All images at once: an index for every row and column instead of a loop over the batch.
    """
    _, _, height, width = images.shape
    down, right, flip = crops // 2 // (2 * pad + 1), crops // 2 % (2 * pad + 1), crops % 2
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = right[:, None] + torch.where(flip[:, None] == 1, width - 1 - columns, columns)
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
