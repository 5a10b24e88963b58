"""Weights up to the length of each filter, which a BatchNorm behind it makes irrelevant.

As in the filter normalisation of Li et al. (2018): each filter of a convolution has length 1, all other weights are as
they are. Squared distances between such vectors do not grow because filters grow; and what pushes along them is at
right angles to each filter, so that it turns it and leaves its length alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thesislib.system.errors import UserError
from thesislib.system.vectors import add_differences


class UnitFilters:
    """Vectors [P] of a network's weights with every filter at length 1; `pieces` are views into one, a parameter each.

    A convolution's weights are the parameters with four axes, [filters, channels, H, W].

    >>> import torch
    >>> filters = UnitFilters(lambda vector: [vector[:8].view(2, 1, 2, 2), vector[8:]])
    >>> filters.of(torch.tensor([3.0, 4.0, 0, 0, 0, 0, 2.0, 0, 7.0]))
    tensor([0.6000, 0.8000, 0.0000, 0.0000, 0.0000, 0.0000, 1.0000, 0.0000, 7.0000])
    """

    def __init__(self, pieces: Callable[[Tensor], list[Tensor]]) -> None:
        self._pieces = pieces

    def of(self, theta: Tensor) -> Tensor:
        """theta [P] with filters at length 1; one that is 0 stays so."""
        found = theta.clone()
        for rows in self._filters(found):
            rows.div_(_lengths(rows))
        return found

    def back(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The gradient [P] with respect to theta, given that with respect to `of(theta)`."""
        found = gradient.clone()
        for rows, own in zip(self._filters(found), self._filters(theta), strict=True):
            lengths = _lengths(own)
            along = own / lengths
            rows.sub_(along * (along * rows).sum(1, keepdim=True)).div_(lengths)
            rows[~own.any(1)] = 0  # a filter of zeros has no direction
        return found

    def add_differences(self, outs: Sequence[Tensor], theta: Tensor, rows: Sequence[Tensor], factors: Tensor) -> None:
        """Add the gradient of sum_c factors_c ||of(theta) - row_c||^2 / 2 in place, as `vectors.add_differences`."""
        push = torch.zeros_like(theta)
        add_differences([push], self.of(theta), rows, factors)
        for out, part in zip(outs, self.back(theta, push).split([out.numel() for out in outs]), strict=True):
            out.add_(part.view_as(out))

    def _filters(self, vector: Tensor) -> list[Tensor]:
        """The filters of each convolution as rows [filters, numbers], views into the vector."""
        return [piece.flatten(1) for piece in self._pieces(vector) if piece.ndim == 4]


def find(distance: str, pieces: Callable[[Tensor], list[Tensor]], theta: Tensor) -> UnitFilters | None:
    """Of the network whose weights are theta [P]; None where the distance is that of the weights themselves.

    Raises UserError for another distance, and for a network without a convolution.
    """
    if distance not in ("weights", "filters"):
        raise UserError(f"distance must be weights or filters, not {distance!r}")
    if distance == "weights":
        return None
    if not any(piece.ndim == 4 for piece in pieces(theta)):
        raise UserError("distance filters is for networks with convolutions, and this one has none")
    return UnitFilters(pieces)


def _lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
