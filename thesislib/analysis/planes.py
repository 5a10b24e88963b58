"""The plane through the minima of the trajectory with the highest hills, its path, and the hills. Section 6."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import torch

from thesislib.analysis import landscape
from thesislib.analysis.barriers import images_of
from thesislib.analysis.ensembles import Which, keyed, members
from thesislib.analysis.evaluator import Evaluator, statistics_version
from thesislib.analysis.landscape import Plane
from thesislib.experiments.scales import SCALES
from thesislib.runs import cache, trajectory
from thesislib.runs.cache import Arrays
from thesislib.runs.finished import Result
from thesislib.runs.results import Results, only_run
from thesislib.system import machine
from thesislib.system.errors import UserError


def strongest(results: Results) -> Results:
    """The first run with three minima, its start not among them, of those whose hills are highest and can be drawn.

    Raises UserError if there is none.
    """
    rows = [row for row in results if len(row.result.minimum_epochs) >= 3 and not row.run.minimum_at_start]
    rows = [row for row in rows if row.run.hill_at != "random" and row.run.distance == "weights"]
    if not rows:
        raise UserError("no run has three minima, which a plane takes")
    return results.of([max(rows, key=lambda row: row.run.strength)])


def plane(
    results: Results,
    images: int | None = None,
    points: int | None = None,
    margin: float = 0.25,
    which: Which = "live",
) -> Arrays:
    """The plane through the first three minima of the one run in `results`, with its trajectory projected onto it.

    Or through its first three mean members (see `ensembles`); the trajectory is that of the live weights all the same.

    xs [X], ys [Y]; train_loss, test_loss and the distance term on the way to the third minimum, `hills`, [Y, X];
    minima [3, 2]; path [E, 3]: x, y and the distance from the plane after each epoch (`trajectory`). The path is empty
    if training once more takes too long, or here leads elsewhere. `images` and `points` to a side: the scale's own if
    None. Raises UserError for other than one run, less than three members or
    three on a line, and hills at random places, which are not stored.
    """
    row = only_run(results)
    images = images_of(results, images)
    points = points or (SCALES[results.scale].plane_points if results.scale in SCALES else 21)
    compute = partial(_plane, row.result, images, points, margin, which)
    how = {"images": images, "points": points, "margin": margin} | keyed(which)
    return cache.arrays("plane", [row.result], compute, version=statistics_version(results, 3), **how)


@machine.repeatable()
def _plane(result: Result, images: int | None, points: int, margin: float, which: Which) -> Arrays:
    three = torch.from_numpy(members([result], what="theta", which=which)[:3])
    if len(three) < 3:
        raise UserError(f"run {result.id} has {len(three)} {which} members: a plane takes three")
    through = Plane(*three)
    minima = np.array([through.coordinates(theta) for theta in three])
    low, high = minima.min(0), minima.max(0)
    room = margin * (high - low).max()
    ends = [*result.minimum_epochs, result.summary["epochs"]] if which == "live" else result.member_ends
    end = ends[2]
    thetas = trajectory.weights(result, end)
    path = np.array([[*through.coordinates(theta), through.distance(theta)] for theta in thetas]).reshape(-1, 3)
    visited = {epoch: result.arrays(k, "theta")["theta"] for k, epoch in enumerate(result.minimum_epochs)}
    passed = {epoch: through.coordinates(torch.from_numpy(x)) for epoch, x in visited.items() if 0 < epoch <= end}
    if len(path) and not np.allclose(path[np.array([*passed], int) - 1, :2], [*passed.values()], atol=room / 25):
        path = path[:0]
    xs, ys = (_grid(low[k] - room, high[k] + room, points, minima[k + 1, k]) for k in (0, 1))
    evaluator = Evaluator(result.run, images, machine.device())
    table = pd.DataFrame([evaluator.at(through.at(x, y)) for y in ys for x in xs])
    grids = {name: table[name].to_numpy().reshape(len(ys), len(xs)) for name in ("train_loss", "test_loss")}
    hills = landscape.hills(through, _places(result)[:2], xs, ys, result.run)
    return {"xs": xs, "ys": ys, "minima": minima, "path": path, "hills": hills} | grids


def _places(result: Result) -> list[torch.Tensor]:
    """Where the hills of a run are, [P] each."""
    if result.run.hill_at == "random":
        raise UserError(f"run {result.id} has its hills at random places, which are not stored")
    ends = result.member_ends
    at_mean = result.run.hill_at == "mean"
    names = [f"member-{ends.index(e)}" if at_mean else k for k, e in enumerate(result.minimum_epochs)]
    places = [torch.from_numpy(result.arrays(name, "theta")["theta"]) for name in names]
    return [torch.zeros_like(place) for place in places] if result.run.hill_at == "origin" else places


def _grid(low: float, high: float, points: int, through: float) -> np.ndarray:
    """About so many evenly spaced numbers from `low` to `high` that meet 0 and `through`, where minima are."""
    steps = round(through * (points - 1) / (high - low))
    if steps < 1:  # too near to 0: a grid that meets both would be many times as fine
        return np.linspace(low, high, points)
    step = through / steps
    return step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
