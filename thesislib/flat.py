"""All trainable parameters of a network as one vector, and what is computed of such long vectors."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thesislib.system.errors import UserError

try:
    from thesislib.system import fast
except ImportError:  # torch's own operations give the same up to rounding
    fast = None


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
            raise UserError("the network has no trainable parameters")
        for what in ("device", "dtype"):
            if len(kinds := sorted({str(getattr(p, what)) for p in self.parameters})) > 1:
                raise UserError(
                    f"the network's parameters are of several {what}s: {', '.join(kinds)}; make them one first"
                )
        self.theta = torch.cat([p.detach().flatten() for p in self.parameters])
        for piece, p in zip(self.pieces(self.theta), self.parameters, strict=True):
            p.data = piece

    def check(self) -> None:
        """Raise UserError if the parameters are no longer views into theta: moved, cast, replaced or frozen since."""
        storage = self.theta.untyped_storage().data_ptr()
        for p in self.parameters:
            if not p.requires_grad or p.dtype != self.theta.dtype or p.untyped_storage().data_ptr() != storage:
                raise UserError(
                    "the network was moved, cast, frozen or given other tensors after DistanceTerm was made: "
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
            elif not p.grad.is_contiguous():
                p.grad = p.grad.contiguous()
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


def squared_distances(a: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """||a - row||^2, [C], of a vector [P] and C rows [P]."""
    if not rows:
        return a.new_zeros(0)
    if fast and fast.serves(a):
        return fast.squared_distances(a, rows)
    return torch.stack([torch.dot(a - row, a - row) for row in rows])


def add_differences(outs: Sequence[Tensor], a: Tensor, rows: Sequence[Tensor], factors: Tensor) -> None:
    """Add sum_c factors_c (a - row_c) in place to contiguous tensors that, end to end, are as long as a [P]."""
    flats = [out.view(-1) for out in outs]
    if rows and fast and fast.serves(a):
        fast.add_differences(flats, a, rows, factors)
        return
    # The difference is formed, not expanded into products: just after a minimum it is far smaller than a and row.
    for row, factor in zip(rows, factors, strict=True):
        for flat, piece in zip(flats, (a - row).split([flat.numel() for flat in flats]), strict=True):
            flat.addcmul_(piece, factor)


def inner_products(vectors: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products [K, K], float64, of K long vectors, each given as the same sequence of contiguous pieces."""
    pieces = [tuple(piece.view(-1) for piece in some) for some in zip(*vectors, strict=True)]
    if fast and fast.serves(pieces[0][0]):
        return fast.inner_products(pieces)
    return sum(torch.stack([torch.stack([torch.dot(x, y) for y in some]) for x in some]).double() for some in pieces)
