"""All trainable parameters of a network as one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlatParameters:
    """Lays a network's trainable parameters end to end in one fp32 vector `theta` of P numbers.

    The network's parameters become views into `theta`, so that a distance, a minimum and a checkpoint each are
    one operation on one vector. Buffers (BatchNorm statistics) are no parameters and stay outside.

    Gradients stay the tensors that autograd makes: gathering them into a vector of their own would cost a pass
    over P numbers at every step, and only the distance term, a vector already, has to be added to them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the network has no trainable parameters")
        self.theta = torch.cat([p.detach().flatten() for p in self.parameters])
        for piece, p in zip(self.pieces(self.theta), self.parameters, strict=True):
            p.data = piece

    def pieces(self, vector: Tensor) -> list[Tensor]:
        """Views into a vector [P], shaped as the parameters."""
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def clear_gradients(self) -> None:
        """Forget the gradients, so that autograd's next ones are kept as they are instead of added up."""
        for p in self.parameters:
            p.grad = None

    @property
    def gradients(self) -> list[Tensor]:
        """One gradient per parameter; zeros where nothing was differentiated yet."""
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        return [p.grad for p in self.parameters]
