"""How a trajectory moves through its plane (`planes`) while hills rise at its minima: frames of an animation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator, RectBivariateSpline

from thesislib.analysis import landscape
from thesislib.runs.cache import Arrays
from thesislib.runs.finished import Result
from thesislib.system.errors import UserError


class Frame(NamedTuple):
    """A moment: the time in epochs, the weights' place in the plane, and how many minima are hills.

    1.25 hills: the second one has risen by a quarter.
    """

    epoch: float
    x: float
    y: float
    hills: float


class Motion:
    """A run's way to its third minimum and the loss around it, from the `arrays` of `planes.plane`.

    `minima` [3, 2] lie in the plane, so that the distance term is exact there. The cross-entropy was measured on a
    grid; its logarithm is interpolated. Raises UserError for a run whose hills are not at its minima.
    """

    def __init__(self, arrays: Arrays, result: Result) -> None:
        if result.run.hill_at != "weights":
            raise UserError(f"hills rise at minima here, and those of run {result.id} are at its {result.run.hill_at}")
        self.run, self.minima, self.path = result.run, arrays["minima"], arrays["path"]
        self.epochs = result.minimum_epochs[:3]
        self.loss = result.history["train_loss"].to_numpy()[: self.epochs[-1]]
        self.xs, self.ys, logarithm = arrays["xs"], arrays["ys"], np.log(arrays["train_loss"])
        degree = min(3, *(size - 1 for size in logarithm.shape))
        self._spline = RectBivariateSpline(self.ys, self.xs, logarithm, kx=degree, ky=degree)
        self.lowest = float(arrays["train_loss"].min())

    def frames(self, between: int = 3, rising: int = 7) -> list[Frame]:
        """From the first epoch to the hill at the third minimum, `between` frames an epoch.

        At each minimum time stands still for as many frames as its hill needs to rise; in training it is there at once.
        Between the ends of epochs places are interpolated (monotone cubic). In a replay of the run of scale laptop no
        step was farther than 0.2 from that curve, which is 135 long. Without a path only the minima are shown.
        """
        shown: list[Frame] = []
        place = PchipInterpolator(np.arange(1, len(self.path) + 1), self.path[:, :2]) if len(self.path) else None
        for hills, (start, end) in enumerate(zip([1, *self.epochs], self.epochs, strict=False)):
            times = np.linspace(start, end, (end - start) * between + 1)[bool(hills) : -1].tolist() if place else []
            shown += [Frame(time, *place(time).tolist(), hills) for time in times]
            there = self.minima[hills].tolist()
            shown += [Frame(end, *there, hills + step / rising) for step in range(rising + 1)]
        return shown

    def total(self, hills: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Cross-entropy and distance term at places x, y of the plane, when so many minima are hills.

        Between two whole numbers the term moves evenly from the one to the other. The cross-entropy is nowhere lower
        than where it was measured.
        """
        before = int(hills)
        low, high = (self._term(self.minima[:count], x, y) for count in (before, before + 1))
        loss = np.maximum(np.exp(self._spline(y, x, grid=False)), self.lowest)
        return loss + low + (hills - before) * (high - low)

    def _term(self, places: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The package's own distance term with the plane's two coordinates for weights."""
        minima = landscape.merged(self.run, list(torch.from_numpy(places)))
        squared = [np.asarray((x - hill[0].item()) ** 2 + (y - hill[1].item()) ** 2) for hill in minima.hills]
        return landscape.term(minima, squared, self.run.strength)

    def distance(self, epoch: int) -> tuple[int, float, float] | None:
        """The last minimum before the end of an epoch (1, 2, ...), the squared distance d to it, and its part in the
        plane from 0 to 1. None before the first minimum, and without a path.
        """
        number = sum(minimum < epoch for minimum in self.epochs)
        if not number or not len(self.path):
            return None
        *place, off = self.path[epoch - 1]
        inside = float(((self.minima[number - 1] - place) ** 2).sum())
        return number, inside + off**2, inside / (inside + off**2)
