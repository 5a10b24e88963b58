"""Weights up to the length of each filter, which a BatchNorm behind it makes irrelevant.

As in the filter normalisation of Li et al. (2018): each filter of a convolution has length 1, all other weights are as
they are. Squared distances between such vectors do not grow because filters grow; and what pushes along them is at
right angles to each filter, so that it turns it and leaves its length alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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

    def _filters(self, vector: Tensor) -> list[Tensor]:
        """The filters of each convolution as rows [filters, numbers], views into the vector."""
        return [piece.flatten(1) for piece in self._pieces(vector) if piece.ndim == 4]


def _lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
