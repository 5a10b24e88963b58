"""The plane through the minima of the trajectory with the highest hills, its path, and the hills. Section 6."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from thesislib.analysis import landscape
from thesislib.analysis.barriers import images_of
from thesislib.analysis.ensembles import members
from thesislib.analysis.evaluator import Evaluator
from thesislib.analysis.landscape import Plane
from thesislib.experiments.scales import SCALES
from thesislib.runs import cache, trajectory
from thesislib.runs.cache import Arrays
from thesislib.runs.results import Result, Results
from thesislib.system import machine
from thesislib.system.errors import UserError


def strongest(results: Results) -> Results:
    """The first run with three minima, its start not among them, of those whose hills are highest.

    Raises UserError if there is none.
    """
    rows = [row for row in results if len(row.result.minimum_epochs) >= 3 and not row.run.minimum_at_start]
    if not rows:
        raise UserError("no run has three minima, which a plane takes")
    return Results([max(rows, key=lambda row: row.run.strength)], results.scale, results.section)


def plane(results: Results, images: int | None = None, points: int | None = None, margin: float = 0.25) -> Arrays:
    """The plane through the first three minima of the one run in `results`, with its trajectory projected onto it.

    xs [X], ys [Y]; train_loss, test_loss and the distance term on the way to the third minimum, `hills`, [Y, X];
    minima [3, 2]; path [E, 3]: x, y and the distance from the plane after each epoch (`trajectory`). The path is empty
    if training once more takes too long, or here leads elsewhere. `images` and `points` to a side: the scale's own if
    None.
    """
    (row,) = results
    images = images_of(results, images)
    points = points or (SCALES[results.scale].plane_points if results.scale in SCALES else 21)
    compute = partial(_plane, row.result, images, points, margin)
    return cache.arrays("plane", [row.result], compute, images=images, points=points, margin=margin, version=3)


def _plane(result: Result, images: int | None, points: int, margin: float) -> Arrays:
    machine.make_repeatable()
    three = torch.from_numpy(members([result], what="theta")[:3])
    through = Plane(*three)
    minima = np.array([through.coordinates(theta) for theta in three])
    low, high = minima.min(0), minima.max(0)
    room = margin * (high - low).max()
    epochs = result.minimum_epochs[:3]
    thetas = trajectory.weights(result, epochs[2])
    path = np.array([[*through.coordinates(theta), through.distance(theta)] for theta in thetas]).reshape(-1, 3)
    if len(path) and not np.allclose(path[np.array(epochs) - 1, :2], minima, atol=room / 25):
        path = path[:0]
    xs, ys = (_grid(low[k] - room, high[k] + room, points, minima[k + 1, k]) for k in (0, 1))
    table = landscape.surface(Evaluator(result.run, images, machine.device()), through, xs, ys)
    grids = {name: table[name].to_numpy().reshape(len(ys), len(xs)) for name in ("train_loss", "test_loss")}
    hills = landscape.hills(through, list(three[:2]), xs, ys, result.run)
    return {"xs": xs, "ys": ys, "minima": minima, "path": path, "hills": hills} | grids


def _grid(low: float, high: float, points: int, through: float) -> np.ndarray:
    """About so many evenly spaced numbers from `low` to `high` that meet 0 and `through`, where minima are."""
    steps = round(through * (points - 1) / (high - low))
    if steps < 1:  # too near to 0: a grid that meets both would be many times as fine
        return np.linspace(low, high, points)
    step = through / steps
    return step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
