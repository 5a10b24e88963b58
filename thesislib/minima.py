"""The visited minima, and the distance term that makes hills of them.

    L(theta) = CE(theta) + sum_c (s / n) k(d_c),    d_c = ||theta - theta_c||^2          (thesis, "The idea")

Its gradient is closed form, sum_c (s / n) k'(d_c) 2 (theta - theta_c): no autograd, no copy of the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

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
        self._offset: Tensor | None = None  # theta - theta_c, [P]

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
            radius = max(squared_distance(row, centre).item() for row in self.visited)
            self.hill_width = 1 / (1 / self.width + radius)
        return centre

    def distances(self, theta: Tensor) -> list[float]:
        """Squared distances from `theta`, [P], to each visited minimum, in the order of visiting."""
        return [squared_distance(theta, row).item() for row in self.visited]

    @torch.no_grad()
    def pushes(self, theta: Tensor, strength: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each hill its value [], theta - theta_c [P], and the factor [] that makes a gradient of that.

        The difference is a buffer that the next hill overwrites.
        """
        if self._offset is None:
            self._offset = torch.empty_like(theta)
        height = strength / len(self.hills) if self.share and self.hills else strength
        for row in self.hills:
            # theta - theta_c is formed, not expanded into dot products: just after a minimum d is far smaller
            # than ||theta||^2, and the expansion would lose it to rounding.
            torch.sub(theta, row, out=self._offset)
            k, slope = self.kernel(torch.dot(self._offset, self._offset), self.hill_width)
            yield height * k, self._offset, 2 * height * slope

    def gradient(self, theta: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Value, [], and gradient, [P], of the distance term at `theta`, [P]; with no hills both are 0."""
        total, gradient = theta.new_zeros(()), torch.zeros_like(theta)
        for value, offset, factor in self.pushes(theta, strength):
            total += value
            gradient.addcmul_(offset, factor)
        return total, gradient


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """||a - b||^2 of two vectors [P], as a tensor []."""
    difference = a - b
    return torch.dot(difference, difference)
