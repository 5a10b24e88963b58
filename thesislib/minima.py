"""The visited minima, and the distance term that makes hills of them.

    L(theta) = CE(theta) + sum_c (s / n) k(d_c),    d_c = ||theta - theta_c||^2          (thesis, "The idea")

Its gradient is closed form, sum_c (s / n) k'(d_c) 2 (theta - theta_c): no autograd, no copy of the network.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from thesislib.flat import add_differences, squared_distances
from thesislib.kernels import KERNELS


class Minima:
    """Records visited minima and computes the gradient of the hills they become.

    `visited` holds every recorded minimum, for distances and ensembles. `hills` holds what the loss feels:
    the visited rows themselves (`single`, `multiple`), or the one row they are merged into (`merge`).
    Rows are vectors of P numbers, never changed in place once they are in `visited`.
    """

    def __init__(
        self,
        kernel: Literal["rbf", "tanh"],
        width: float,
        mode: Literal["single", "multiple", "merge"],
        merge: Literal["recursive", "mean", "widen"] = "recursive",
        share: bool = True,
    ) -> None:
        self.kernel, self.width = KERNELS[kernel], width
        self.mode, self.merge, self.share = mode, merge, share
        self.visited: list[Tensor] = []
        self.hills: list[Tensor] = []
        self.hill_width = width

    def add(self, theta: Tensor) -> None:
        """Record `theta`, [P], as a minimum. With `single`, everything after the first is ignored."""
        if self.mode == "single" and self.visited:
            return
        self.visited.append(theta.detach().clone())
        self.hills = [self._merged()] if self.mode == "merge" else self.visited

    def _merged(self) -> Tensor:
        if len(self.visited) == 1:
            return self.visited[0]
        if self.merge == "recursive":
            # Thesis: 1/2 old + 1/2 new, so the k-th last minimum weighs 2^-k. "mean" weighs all the same.
            return torch.lerp(self.hills[0], self.visited[-1], 0.5)
        centre = torch.stack(self.visited).mean(0)
        if self.merge == "widen":
            # sigma^2 grows by the squared radius of the merged minima, so that none lies outside the hill.
            radius = squared_distances(centre, self.visited).max().item()
            self.hill_width = 1 / (1 / self.width + radius)
        return centre

    def distances(self, theta: Tensor) -> list[float]:
        """Squared distances from `theta`, [P], to each visited minimum, in the order of visiting."""
        return squared_distances(theta, self.visited).tolist()

    def factors(self, theta: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Value, [], of the distance term at `theta`, [P], and the factors, [C], of theta - theta_c in its gradient.

        With no hills the value is 0 and there are no factors.
        """
        k, slope = self.kernel(squared_distances(theta, self.hills), self.hill_width)
        height = strength / max(1, len(self.hills)) if self.share else strength
        return height * k.sum(), 2 * height * slope

    def add_gradient(self, theta: Tensor, factors: Tensor, gradients: list[Tensor]) -> None:
        """Add the gradient of the distance term at `theta`, [P], to `gradients`, by its `factors` there.

        `gradients` are contiguous tensors that, end to end, have P numbers in the order of `theta`.
        """
        add_differences(gradients, theta, self.hills, factors)

    def gradient(self, theta: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Value, [], and gradient, [P], of the distance term at `theta`, [P]; with no hills both are 0."""
        (value, factors), gradient = self.factors(theta, strength), torch.zeros_like(theta)
        self.add_gradient(theta, factors, [gradient])
        return value, gradient
