"""All trainable parameters of a network as one vector, and their gradients as another."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlatParameters:
    """Lays a network's trainable parameters end to end in one fp32 vector `theta` of P numbers.

    The network's parameters become views into `theta` and their gradients views into `grad`, so that the
    optimiser, the distance term and a minimum each are one operation on one vector. Buffers (BatchNorm
    statistics) are no parameters and stay outside.

    Two gradient vectors take turns: after `turn()`, `grad` is the zeroed other one and `last` is the
    gradient of the step before, which the angle between two steps needs, without copying it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the network has no trainable parameters")
        sizes = [p.numel() for p in self.parameters]
        first = self.parameters[0]
        # One leaf tensor for the optimiser: a list of one parameter is one fused update.
        self.theta = nn.Parameter(torch.empty(sum(sizes), dtype=first.dtype, device=first.device))
        self._grads = [torch.zeros_like(self.theta.data) for _ in range(2)]
        self._views = [
            [piece.view_as(p) for piece, p in zip(grad.split(sizes), self.parameters, strict=True)]
            for grad in self._grads
        ]
        with torch.no_grad():
            for piece, p in zip(self.theta.data.split(sizes), self.parameters, strict=True):
                piece.copy_(p.detach().flatten())
                p.data = piece.view_as(p)
        self._now = 0
        self.turn()

    @property
    def grad(self) -> Tensor:
        """Gradient being accumulated, [P]."""
        return self._grads[self._now]

    @property
    def last(self) -> Tensor:
        """Gradient of the step before, [P]."""
        return self._grads[1 - self._now]

    def turn(self) -> None:
        """Swap the two gradients and zero the one that autograd will now accumulate into."""
        self._now = 1 - self._now
        self.grad.zero_()
        self.theta.grad = self.grad
        for p, view in zip(self.parameters, self._views[self._now], strict=True):
            p.grad = view
