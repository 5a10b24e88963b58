"""The visited minima, and the distance term that makes hills of them.

    L(theta) = CE(theta) + sum_c (s / n) k(d_c),    d_c = ||theta - theta_c||^2          (thesis, "The idea")

Its gradient is closed form, sum_c (s / n) k'(d_c) 2 (theta - theta_c): no autograd, no copy of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from thesislib import kernels
from thesislib.config import Run
from thesislib.flat import FlatParameters
from thesislib.system import filters, vectors
from thesislib.system.errors import UserError
from thesislib.system.fields import SMALLEST


class Minima:
    """Records visited minima and computes the gradient of the hills they become.

    `visited` holds every recorded minimum, for distances and ensembles, `places` where its hill is put: there, or
    elsewhere. `hills` holds what the loss feels: the places (`single`, `multiple`), or the one row they are merged
    into (`merge`). With `units` (`system.filters`) the lengths of filters do not count.
    Rows are vectors of P numbers, never changed in place once they are in `visited`.
    """

    def __init__(
        self,
        kernel: str | Callable[[Tensor, float], Tensor],
        width: float,
        mode: Literal["single", "multiple", "merge"] = "multiple",
        merge: Literal["recursive", "mean", "widen"] = "recursive",
        share: bool = True,
        units: filters.UnitFilters | None = None,
    ) -> None:
        self.kernel, self.width = kernels.find(kernel), width
        self.mode, self.merge, self.share, self.units = mode, merge, share, units
        self.forget()

    def forget(self) -> None:
        """Begin anew, without a minimum."""
        self.visited: list[Tensor] = []
        self.places: list[Tensor] = []
        self.hills: list[Tensor] = []
        self.hill_width = self.width

    def add(self, theta: Tensor, place: Tensor | None = None) -> None:
        """Record `theta`, [P], as a minimum; its hill is at another `place`, [P], if one is given.

        With `single`, everything after the first is ignored.
        """
        if self.mode == "single" and self.visited:
            return
        self.visited.append(theta.detach().clone())
        place = self.visited[-1] if place is None else place.detach().clone()
        self.places.append(self.units.of(place) if self.units else place)
        self.hills = [self._merged()] if self.mode == "merge" else self.places

    def _merged(self) -> Tensor:
        if len(self.places) == 1:
            return self.places[0]
        if self.merge == "recursive":
            # Thesis: 1/2 old + 1/2 new, so the k-th last minimum weighs 2^-k. "mean" weighs all the same.
            return torch.lerp(self.hills[0], self.places[-1], 0.5)
        centre = torch.stack(self.places).mean(0)
        if self.merge == "widen":
            # sigma^2 grows by the squared radius of the merged minima, so that none lies outside the hill.
            radius = vectors.squared_distances(centre, self.places).max().item()
            self.hill_width = 1 / (1 / self.width + radius)
        return centre

    def distances(self, theta: Tensor) -> list[float]:
        """Squared distances from `theta`, [P], to each visited minimum, in the order of visiting."""
        return vectors.squared_distances(theta, self.visited).tolist()

    def factors(self, theta: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Value, [], of the distance term at `theta`, [P], and the factors, [C], of theta - theta_c in its gradient.

        With no hills the value is 0 and there are no factors.
        """
        theta = self.units.of(theta) if self.units else theta
        k, slope = self.kernel(vectors.squared_distances(theta, self.hills), self.hill_width)
        height = self.height(strength)
        return height * k.sum(), 2 * height * slope

    def height(self, strength: float) -> float:
        """Of each hill."""
        return strength / max(1, len(self.hills)) if self.share else strength

    def add_gradient(self, theta: Tensor, factors: Tensor, gradients: list[Tensor]) -> None:
        """Add the gradient of the distance term at `theta`, [P], to `gradients`, by its `factors` there.

        `gradients` are contiguous tensors that, end to end, have P numbers in the order of `theta`.
        """
        add = self.units.add_differences if self.units else vectors.add_differences
        add(gradients, theta, self.hills, factors)


class DistanceTerm:
    """The distance term in any training loop: the weights of a network that were visited become hills.

    Make it once the network is on its device: its trainable parameters are laid into one vector (`flat`). `kernel` is
    "rbf", "tanh", a function k(d, w) of the squared distance, or "module:name" of one. `strength` s, the height of the
    hills, may be changed at any time; with `share` they share it. `minima` says which become hills: the first one,
    "multiple", or one in place of all, made as `merge` says ("recursive", "mean", "widen": section 4.2). `width` w is
    an inverse squared length (thesis, "The idea"). With `distance` "filters" each filter of a convolution counts as if
    its length were 1, for networks with a BatchNorm behind each. Raises UserError for what does not fit, parameters of
    several devices or types, and none.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> term = DistanceTerm(model, kernel="rbf", strength=10, width=0.1)
    >>> term.visit()
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(1, 3)).square().sum().backward()
    ...     value = term.add_gradient()
    ...     optimizer.step()
    >>> term.distances()[0] > 0
    True
    """

    def __init__(
        self,
        model: nn.Module,
        kernel: str | Callable[[Tensor, float], Tensor] = "rbf",
        strength: float = 1.0,
        width: float = 1e-3,
        minima: Literal["single", "multiple", "merge"] = "multiple",
        merge: Literal["recursive", "mean", "widen"] = "recursive",
        share: bool = True,
        distance: Literal["weights", "filters"] = "weights",
    ) -> None:
        run = Run(strength=strength, width=width, minima=minima, merge=merge, share=share)
        self.flat, self._strength = FlatParameters(model), run.strength
        units = filters.find(distance, self.flat.pieces, self.flat.theta)
        self.minima = Minima(kernel, run.width, run.minima, run.merge, run.share, units)

    @property
    def strength(self) -> float:
        """Height s of the hills; below SMALLEST it is 0. Raises UserError if it is set to what is no such number."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        faded = isinstance(value, float) and 0 < value < SMALLEST  # by a schedule
        self._strength = Run(strength=0 if faded else value, width=self.minima.width).strength

    def visit(self) -> None:
        """Make a hill of the present weights. Raises UserError if the network was moved, cast or frozen since."""
        self.flat.check()
        self.minima.add(self.flat.theta)

    def state_dict(self) -> dict[str, Any]:
        """The weights visited and the strength, for `torch.save`; the network has a state of its own."""
        return {"strength": self.strength, "visited": list(self.minima.visited)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a term with these settings. Raises UserError for another network's, and none."""
        if not isinstance(state, Mapping) or state.keys() != {"strength", "visited"}:
            found = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise UserError(f"a DistanceTerm's state has strength and visited, not {found or 'nothing'}")
        visited = [*state["visited"]] if hasattr(state["visited"], "__iter__") else [None]
        if any(getattr(theta, "shape", None) != self.flat.theta.shape for theta in visited):
            raise UserError(f"these hills are of another network: this one has {len(self.flat.theta)} weights")
        self.strength = state["strength"]
        self.minima.forget()
        for theta in visited:
            self.minima.add(torch.as_tensor(theta).to(self.flat.theta))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise UserError("a copy of a DistanceTerm would push copies of the weights: store its state_dict()")

    def distances(self) -> list[float]:
        """Squared distances of the present weights to those visited, in the order of visiting."""
        self.flat.check()
        return self.minima.distances(self.flat.theta)

    @property
    def acts(self) -> bool:
        """Whether there is anything to add: a hill, and a strength."""
        return self.strength > 0 and len(self.minima.hills) > 0

    def add_gradient(self) -> Tensor:
        """Add the term's gradient to the parameters', after `loss.backward()`; its value, []. Raises as `visit`."""
        self.flat.check()
        if not self.acts:  # parameters that have no gradient keep none: optimisers leave them alone
            return self.flat.theta.new_zeros(())
        value, factors = self.minima.factors(self.flat.theta, self.strength)
        self.add_by(factors)
        return value

    def add_by(self, factors: Tensor) -> None:
        """The same by the `factors` of `Minima.factors`, for a loop that needs them."""
        self.minima.add_gradient(self.flat.theta, factors, self.flat.gradients)

    def gradient(self, factors: Tensor) -> Tensor:
        """The term's gradient alone, [P], by its `factors`."""
        push = torch.zeros_like(self.flat.theta)
        self.minima.add_gradient(self.flat.theta, factors, [push])
        return push
