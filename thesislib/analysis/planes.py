"""The plane through the minima of the strongest walk, with its path and the hills that push it on. Section 6."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from thesislib.analysis import landscape
from thesislib.analysis.ensembles import members
from thesislib.analysis.evaluator import Probe
from thesislib.analysis.landscape import Plane
from thesislib.runs import cache, launch
from thesislib.runs.cache import Arrays
from thesislib.runs.results import Result, Results
from thesislib.system import machine
from thesislib.system.errors import UserError
from thesislib.train import Trainer

#: Seconds that it may have taken to train a run which is trained once more for its path.
LONGEST_WALK = 900.0


def strongest(results: Results) -> Results:
    """The first run with three minima, its start not among them, of those whose hills are highest.

    Raises UserError if there is none.
    """
    walks = [
        (label, run)
        for label, group in results.items()
        for run in group
        if len(run.minimum_epochs) >= 3 and not run.run.minimum_at_start
    ]
    if not walks:
        raise UserError("no run has three minima, which a plane takes")
    label, run = max(walks, key=lambda walk: walk[1].run.strength)
    return Results({label: [run]})


def plane(results: Results, images: int | None = 2000, points: int = 21, margin: float = 0.25) -> Arrays:
    """The plane through the first three minima of the one run in `results`, with the walk projected onto it.

    xs [X], ys [Y]; train_loss, test_loss and the distance term on the way to the third minimum, `hills`, [Y, X];
    minima [3, 2]; path [E, 3]: x, y and the distance from the plane after each epoch, from training the run once more.
    The path is empty if that takes longer than LONGEST_WALK, or here leads elsewhere: other processors round
    differently.
    """
    ((result,),) = results.values()
    compute = partial(_plane, result, images, points, margin)
    return cache.arrays("plane", [result], compute, images=images, points=points, margin=margin, version=3)


def _plane(result: Result, images: int | None, points: int, margin: float) -> Arrays:
    machine.make_repeatable()
    three = torch.from_numpy(members([result], what="theta")[:3])
    through = Plane(*three)
    minima = np.array([through.coordinates(theta) for theta in three])
    low, high = minima.min(0), minima.max(0)
    path = np.array([[*through.coordinates(theta), through.distance(theta)] for theta in _walk(result)]).reshape(-1, 3)
    room = margin * (high - low).max()
    if len(path) and not np.allclose(path[np.array(result.minimum_epochs[:3]) - 1, :2], minima, atol=room / 25):
        path = path[:0]
    xs, ys = (_grid(low[k] - room, high[k] + room, points, minima[k + 1, k]) for k in (0, 1))
    table = landscape.surface(Probe(result.run, images, machine.device()), through, xs, ys)
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


def _walk(result: Result) -> Iterator[Tensor]:
    """The weights [P] after each epoch up to the third minimum, trained once more: to the bit on the same machine."""
    last = result.minimum_epochs[2]
    if result.history["seconds"][:last].sum() > LONGEST_WALK:
        return
    start = launch.start_arrays(result.run) if result.run.start else None
    trainer = Trainer(result.run, machine.device(), start)
    for _ in range(last):
        with machine.without_denormals():  # as it was trained
            trainer.epoch()
        yield trainer.flat.theta.cpu().clone()
