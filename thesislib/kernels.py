"""The shapes of a hill: value k(d) and slope k'(d) as functions of the squared distance d >= 0.

`width` w is an inverse squared length (the thesis plots sigma^2 = 1 / w). Both kernels have k(0) = 1 and fall
to 0; both accept and return tensors of any shape and dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thesislib.system import own
from thesislib.system.errors import UserError

#: d [C] and w -> k [C] and k' [C].
Kernel = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def rbf(d: Tensor, width: Tensor | float) -> tuple[Tensor, Tensor]:
    """k = exp(-w d), k' = -w exp(-w d)."""
    value = torch.exp(-width * d)
    return value, -width * value


def tanh(d: Tensor, width: Tensor | float) -> tuple[Tensor, Tensor]:
    """k = 1 - tanh(w d), k' = -w (1 - tanh(w d)^2) = -w k (2 - k)."""
    # 1 - tanh(x) = 2 sigmoid(-2 x), without the cancellation that empties the tail.
    value = 2 * torch.sigmoid(-2 * width * d)
    return value, -width * value * (2 - value)


KERNELS: dict[str, Kernel] = {"rbf": rbf, "tanh": tanh}


def find(kernel: str | Callable[[Tensor, float], Tensor]) -> Kernel:
    """One of KERNELS by name, or one's own: a function k(d, w), or "module:name" of one.

    Its slope is autograd's, on as many numbers as there are hills. Raises UserError for what is no kernel.
    """
    if isinstance(kernel, str) and not own.is_own(kernel):
        if kernel not in KERNELS:
            raise UserError(f"unknown kernel {kernel!r}: choose from {', '.join(KERNELS)}, or module:name")
        return KERNELS[kernel]
    return own.kernel(kernel)
