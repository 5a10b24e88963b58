"""All trainable parameters of a network as one vector."""

from __future__ import annotations

import copy

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

    def network_at(self, model: nn.Module, vector: Tensor) -> nn.Module:
        """A copy of the network whose parameters are views into `vector` [P]; its buffers are its own."""
        twin = copy.deepcopy(model)
        for piece, p in zip(self.pieces(vector), (p for p in twin.parameters() if p.requires_grad), strict=True):
            p.data, p.grad = piece, None
        return twin

    def radial_and_angular(self, a: Tensor, b: Tensor) -> tuple[float, float]:
        """How far the filters of a [P] and b [P] differ in length, and in direction: parts of ||a - b||^2.

        Sums over filters of (|a| - |b|)^2 and of the rest of ||a - b||^2, 2 |a| |b| (1 - cos). A BatchNorm undoes the
        first. What is no convolution's weight has a part in neither.
        """
        radial = angular = 0.0
        for x, y in zip(self.pieces(a), self.pieces(b), strict=True):
            if x.ndim != 4:
                continue
            x, y = x.double().flatten(1), y.double().flatten(1)
            # |x| - |y| without the cancellation of two nearly equal lengths.
            lengths = ((x - y) * (x + y)).sum(1) / (x.norm(dim=1) + y.norm(dim=1)).clamp_min(1e-30)
            radial += lengths.square().sum().item()
            angular += ((x - y).square().sum(1) - lengths.square()).clamp_min(0).sum().item()
        return radial, angular

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


class MeanWeights:
    """The running mean `theta` [P] of weights along the way, and the network at it, `model`."""

    def __init__(self, flat: FlatParameters, model: nn.Module) -> None:
        self.theta, self.count = flat.theta.clone(), 0
        self.model = flat.network_at(model, self.theta)

    def add(self, theta: Tensor) -> None:
        """Take further weights [P] into the mean."""
        self.count += 1
        self.theta.lerp_(theta, 1 / self.count)

    def begin_anew(self) -> None:
        """Forget all weights so far."""
        self.count = 0
