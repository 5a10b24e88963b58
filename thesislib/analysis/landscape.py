"""Between minima: straight lines and their barriers, trained curves, and planes through three of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from thesislib.analysis.evaluator import Evaluator
from thesislib.config import Run
from thesislib.minima import Minima
from thesislib.system import draws
from thesislib.system.errors import UserError
from thesislib.system.precision import predict


def line(evaluator: Evaluator, a: Tensor, b: Tensor, points: int = 21) -> pd.DataFrame:
    """Loss and accuracy along (1 - t) a + t b; one row a point: t and the fields of evaluator.Point."""
    return curve(evaluator, [a, b], points)


def curve(evaluator: Evaluator, control: Sequence[Tensor], points: int = 21) -> pd.DataFrame:
    """Loss and accuracy along the Bezier curve of 2 (a line) or 3 (a quadratic) control points."""
    times = np.linspace(0, 1, points)
    return pd.DataFrame([{"t": t} | evaluator.at(bezier(control, t))._asdict() for t in times])


def bezier(control: Sequence[Tensor], t: float) -> Tensor:
    """The Bezier curve at t: (1 - t) a + t b, or (1 - t)^2 a + 2 t (1 - t) m + t^2 b."""
    points = list(control)
    while len(points) > 1:  # de Casteljau
        points = [torch.lerp(p, q, t) for p, q in zip(points[:-1], points[1:], strict=True)]
    return points[0]


def barrier(along: pd.DataFrame, column: str = "train_loss") -> float:
    """Highest rise of a loss above the straight line between its values at both ends (Frankle et al. 2020)."""
    t, loss = along["t"].to_numpy(), along[column].to_numpy()
    return float((loss - ((1 - t) * loss[0] + t * loss[-1])).max())


@draws.drawing(lambda *_, **__: ("connect",))
def connect(evaluator: Evaluator, a: Tensor, b: Tensor, epochs: int, seed: int = 0, lr: float = 0.05) -> Tensor:
    """The middle control point [P] of a quadratic Bezier curve of low loss from a to b (Garipov et al. 2018).

    Trained by SGD on the loss at uniformly drawn t, one a step, from the middle of the straight line; the ends stay.
    """
    generator = torch.Generator().manual_seed(seed)
    a, b = a.to(evaluator.device), b.to(evaluator.device)
    middle = torch.lerp(a, b, 0.5)
    optimizer = torch.optim.SGD([middle], momentum=0.9)
    run = evaluator.run
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = lr * (1 - epoch / epochs)
        for images, labels in evaluator.train.shuffled(run.batch_size, generator, run.augment):
            t = torch.rand((), generator=generator).item()
            evaluator.flat.theta.copy_(bezier([a, middle, b], t))
            evaluator.model.train()
            evaluator.model.zero_grad()
            F.cross_entropy(predict(evaluator.model, images, run.precision), labels).backward()
            gradient = (
                torch.cat([g.flatten() for g in evaluator.flat.gradients]) + run.weight_decay * evaluator.flat.theta
            )
            middle.grad = gradient.mul_(2 * t * (1 - t))  # d theta / d middle
            optimizer.step()
    return middle.cpu()


class Plane:
    """The plane through three weights [P]: coordinates (x, y) in weight-space units, the first at (0, 0).

    x points to the second, the third has y >= 0 (Garipov et al. 2018, appendix). Raises UserError if they lie on a
    line.
    """

    def __init__(self, origin: Tensor, second: Tensor, third: Tensor) -> None:
        self.origin = origin.double()
        u = second.double() - self.origin
        v = third.double() - self.origin
        self.u = u / u.norm()
        v = v - (v @ self.u) * self.u
        if not v.norm() > 1e-5 * u.norm():  # what fp32 leaves of three weights on a line
            raise UserError("three weights on a line span no plane")
        self.v = v / v.norm()

    def coordinates(self, theta: Tensor) -> tuple[float, float]:
        """(x, y) of the projection of theta [P]."""
        offset = theta.double() - self.origin
        return (offset @ self.u).item(), (offset @ self.v).item()

    def distance(self, theta: Tensor) -> float:
        """Distance (not squared) of theta [P] from the plane."""
        x, y = self.coordinates(theta)
        return max(0.0, (theta.double() - self.origin).square().sum().item() - x * x - y * y) ** 0.5

    def at(self, x: float, y: float) -> Tensor:
        """The weights [P] at (x, y)."""
        return (self.origin + x * self.u + y * self.v).float()


def hills(plane: Plane, places: Sequence[Tensor], xs: np.ndarray, ys: np.ndarray, run: Run) -> np.ndarray:
    """The distance term [Y, X] of hills at these places on a grid of the plane, exact, as the run merges them.

    What lies off the plane adds its distance. Raises UserError for hills that are not in weight space.
    """
    in_plane = []
    minima = merged(run, places)
    for hill in minima.hills:
        x, y = plane.coordinates(hill)
        in_plane.append((xs[None] - x) ** 2 + (ys[:, None] - y) ** 2 + plane.distance(hill) ** 2)
    return term(minima, in_plane, run.strength)


def merged(run: Run, places: Sequence[Tensor]) -> Minima:
    """A run's hills at these places. Raises UserError if they are not in weight space."""
    if run.distance != "weights":
        raise UserError(f"hills can be drawn in weight space, not with distance {run.distance}")
    minima = Minima(run.kernel, run.width, run.minima, run.merge, run.share)
    for place in places:
        minima.add(place)
    return minima


def term(minima: Minima, squared: Sequence[np.ndarray], strength: float) -> np.ndarray | float:
    """The distance term where the squared distances to its hills are these arrays, all of one shape; 0 without any."""
    values = [
        minima.kernel(torch.from_numpy(d.ravel()), minima.hill_width)[0].numpy().reshape(d.shape) for d in squared
    ]
    return minima.height(strength) * sum(values)
