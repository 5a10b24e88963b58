"""All trainable parameters of a network as one vector."""

from __future__ import annotations

import copy
import operator

import torch
from torch import Tensor, nn

from thesislib.system import vectors
from thesislib.system.errors import UserError


class FlatParameters:
    """Lays a network's trainable parameters end to end in one vector `theta` of P numbers.

    The network's parameters become views into `theta`, so that a distance, a minimum and a checkpoint each are
    one operation on one vector. Buffers (BatchNorm statistics) are no parameters and stay outside.

    Gradients stay the tensors that autograd makes: gathering them into a vector of their own would cost a pass
    over P numbers at every step, and only the distance term, a vector already, has to be added to them.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise UserError(f"an nn.Module is needed, not {type(model).__name__}")
        self._model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if why := vectors.no_vector(self.parameters):
            raise UserError(f"the network has {why}")
        self.theta = torch.cat([p.detach().flatten() for p in self.parameters])
        for piece, p in zip(self.pieces(self.theta), self.parameters, strict=True):
            p.data = piece

    def check(self) -> None:
        """Raise UserError if the network's trainable parameters are no longer these, or no longer views into theta."""
        storage, now = self.theta.untyped_storage().data_ptr(), [p for p in self._model.parameters() if p.requires_grad]
        same = len(now) == len(self.parameters) and all(map(operator.is_, now, self.parameters))
        if not same or any(p.dtype != self.theta.dtype or p.untyped_storage().data_ptr() != storage for p in now):
            raise UserError(
                "the network was moved, cast, frozen, unfrozen, given other tensors or a second DistanceTerm since: "
                "make it anew, after model.to(...), and visit() again"
            )

    def pieces(self, vector: Tensor) -> list[Tensor]:
        """Views into a vector [P], shaped as the parameters."""
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def network_at(self, model: nn.Module, vector: Tensor) -> nn.Module:
        """A copy of the network whose parameters are views into `vector` [P]; its buffers are its own."""
        twin = copy.deepcopy(model)
        for piece, p in zip(self.pieces(vector), (p for p in twin.parameters() if p.requires_grad), strict=True):
            p.data, p.grad = piece, None
        return twin

    @property
    def gradients(self) -> list[Tensor]:
        """One gradient per parameter, to add to; zeros where nothing was differentiated yet."""
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            elif p.grad.is_sparse or not p.grad.is_contiguous():
                p.grad = p.grad.to_dense().contiguous()
        return [p.grad.detach() if p.grad.requires_grad else p.grad for p in self.parameters]  # create_graph=True
