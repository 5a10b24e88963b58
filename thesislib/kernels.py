"""The shapes of a hill: value k(d) and slope k'(d) as functions of the squared distance d >= 0.

`width` w is an inverse squared length (the thesis plots sigma^2 = 1 / w). Both kernels have k(0) = 1 and fall
to 0; both accept and return tensors of any shape and dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def rbf(d: Tensor, width: Tensor | float) -> tuple[Tensor, Tensor]:
    """k = exp(-w d), k' = -w exp(-w d)."""
    value = torch.exp(-width * d)
    return value, -width * value


def tanh(d: Tensor, width: Tensor | float) -> tuple[Tensor, Tensor]:
    """k = 1 - tanh(w d), k' = -w (1 - tanh(w d)^2) = -w k (2 - k)."""
    # 1 - tanh(x) = 2 sigmoid(-2 x), without the cancellation that empties the tail.
    value = 2 * torch.sigmoid(-2 * width * d)
    return value, -width * value * (2 - value)


KERNELS: dict[str, Callable[[Tensor, Tensor | float], tuple[Tensor, Tensor]]] = {"rbf": rbf, "tanh": tanh}
