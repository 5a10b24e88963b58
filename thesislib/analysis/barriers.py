"""Does the trajectory follow a valley or jump, and are its minima different networks? Section 6, on finished runs.

Everything is computed once and kept beside the runs (`cache`); loss is cross-entropy in nats. Between two minima:
the *barrier* of the straight line (Frankle et al. 2020), and the *rise* of the loss along the trajectory itself. All
functions that take `images` measure on that many of each split; None is the scale's own number, for runs of one's own
all images. Those that take `which` look between live or mean members (see `ensembles`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from thesislib import models
from thesislib.analysis import alignment, landscape
from thesislib.analysis.ensembles import Which, keyed, members
from thesislib.analysis.evaluator import Evaluator, statistics_version
from thesislib.analysis.intervals import over_seeds
from thesislib.config import Run
from thesislib.experiments.scales import SCALES
from thesislib.experiments.statements import FEWEST
from thesislib.runs.cache import Computed
from thesislib.runs.finished import Result, WithoutWeights
from thesislib.runs.results import Results
from thesislib.runs.spreads import need_once
from thesislib.system import machine
from thesislib.system.errors import UserError

#: Nats by which the loss must rise between two minima to count as a jump out of one valley into another: a
#: twentieth of what knowing nothing costs, ln 10.
JUMP = 0.05 * np.log(10)
#: Steps whose loss is averaged where the rise along a trajectory is sought.
SMOOTHED = 20


def lines(
    results: Results,
    images: int | None = None,
    points: int = 11,
    which: Which = "live",
    last: int | None = None,
    leave_out: bool = False,
) -> pd.DataFrame:
    """Loss and accuracy on the straight lines between consecutive members of every ensemble (see `ensembles`).

    Of a run between its `last` snapshots (None: all). One row a point: label, network, seed, pair, t, and the fields of
    evaluator.Point. `leave_out` archived runs of which this was not computed (`Results.map`).
    """
    how = keyed(which) | ({} if last is None else {"last": last})
    return _map(results, _lines, "lines", version=2, images=images, leave_out=leave_out, points=points, **how)


def _lines(run: Run, thetas: Tensor, images: int | None, points: int) -> pd.DataFrame:
    evaluator = Evaluator(run, images, machine.device())
    pairs = enumerate(zip(thetas[:-1], thetas[1:], strict=True))
    return pd.concat([landscape.line(evaluator, a, b, points).assign(pair=k) for k, (a, b) in pairs])


def bezier_curves(
    results: Results, images: int | None = None, epochs: int = 5, points: int = 21, which: Which = "live"
) -> pd.DataFrame:
    """The line and a trained quadratic Bezier curve between the first two members of each label's first ensemble.

    Garipov et al. (2018). One row a point: label, network, seed, t, and the training loss on both, `line` and `curve`.
    """
    first = {(rows[0].label, rows[0].network): rows for rows in reversed(results.ensembles)}
    chosen = [row for row in results if row in first[row.label, row.network]]
    # "bent": the name of its files, as archives have them.
    few = results.of(chosen)
    how = {"epochs": epochs, "points": points} | keyed(which)
    return _map(few, _bezier_curve, "bent", version=3, images=images, **how)


def _bezier_curve(run: Run, thetas: Tensor, images: int | None, epochs: int, points: int) -> pd.DataFrame:
    evaluator, (a, b) = Evaluator(run, images, machine.device()), thetas[:2]
    middle = landscape.connect(evaluator, a, b, epochs, run.seed, run.lr)
    line, curve = landscape.line(evaluator, a, b, points), landscape.curve(evaluator, [a, middle, b], points)
    return line[["t"]].assign(line=line["train_loss"], curve=curve["train_loss"])


def aligned(results: Results, images: int | None = None, which: Which = "live") -> pd.DataFrame:
    """The first and the last member of every ensemble, as they are and with hidden units aligned (`alignment`).

    One row an ensemble: label, network, seed, d and d_aligned (squared distances), barrier and barrier_aligned, and
    from how many starts the nearest alignment was taken. Runs that are archived without weights may have but one.
    """
    try:
        # "disguises": the name of its files, as archives have them.
        return _map(results, _aligned, "disguises", 3, images, **keyed(which)).assign(starts=alignment.STARTS)
    except WithoutWeights:
        return _map(results, _aligned_once, "disguises", 2, images, **keyed(which)).assign(starts=1)


def _aligned_once(run: Run, thetas: Tensor, images: int | None) -> pd.DataFrame:
    return _aligned(run, thetas, images, starts=1)


def _aligned(run: Run, thetas: Tensor, images: int | None, starts: int = alignment.STARTS) -> pd.DataFrame:
    evaluator, first, last = Evaluator(run, images, machine.device()), thetas[0], thetas[-1]
    moved = torch.from_numpy(alignment.align(last.numpy(), first.numpy(), models.network(run, 0), starts))
    row = {}
    for name, theta in (("", last), ("_aligned", moved)):
        row[f"d{name}"] = (theta - first).square().sum().item()
        row[f"barrier{name}"] = landscape.barrier(landscape.line(evaluator, first, theta, 11))
    return pd.DataFrame([row])


def _map(
    results: Results,
    measure: Callable[..., pd.DataFrame],
    name: str,
    version: int,
    images: int | None,
    leave_out: bool = False,
    **parameters: object,
) -> pd.DataFrame:
    """`measure(run, thetas, images, **parameters)` of every ensemble's members [K, P], as rows behind its label.

    Ensembles of which less than two members are left have no rows. Raises UserError if all are such.
    """
    images = images_of(results, images)
    number = statistics_version(results, version)
    found = results.map(partial(_of_members, measure), name, number, leave_out, images=images, **parameters)
    if found.empty:
        raise UserError("no run has two minima to look between")
    return found


def images_of(results: Results, images: int | None) -> int | None:
    """Number of images of each split to measure on: `images`, else the scale's own, else all (None)."""
    return SCALES[results.scale].landscape_images if images is None and results.scale in SCALES else images


@machine.repeatable()
def _of_members(
    measure: Callable[..., pd.DataFrame],
    runs: list[Result],
    which: Which = "live",
    last: int | None = None,
    **parameters: object,
) -> Computed:
    """`measure` of one ensemble, without members that diverged; nothing if less than two are left."""
    finished = [run for run in runs if not run.diverged]
    if len(runs) > 1 and len(finished) < 2:
        return {}
    thetas = members(finished if len(runs) > 1 else runs, last, "theta", which)
    if len(thetas) < 2:
        return {}
    table = measure(runs[0].run, torch.from_numpy(thetas), **parameters)
    return {str(name): np.ascontiguousarray(column) for name, column in table.items()}


def barriers(results: Results, along: pd.DataFrame) -> pd.DataFrame:
    """Means over the pairs of `lines`, of the same results: label, network, seed, barrier, barrier_test, rise.

    The rise is along the trajectory. Where there are several roles or sections, they stand in front.

    Independent networks have no trajectory between them: their rise is NaN. The rise is that of the live weights, from
    minimum to minimum, also where `along` lies between mean members.
    """
    rows, keys = [], [*results.keys, "seed"]
    ensembles = {tuple(getattr(group[0], key) for key in keys): group for group in results.ensembles}
    for key, table in along.groupby(keys, sort=False):
        pairs = [pair for _, pair in table.groupby("pair")]
        row = dict(zip(keys, key, strict=True))
        row["barrier"] = np.mean([landscape.barrier(pair) for pair in pairs])
        row["barrier_test"] = np.mean([landscape.barrier(pair, "test_loss") for pair in pairs])
        first, *others = ensembles[key]
        rows.append(row | {"rise": np.nan if others else rise(first.result)})
    return pd.DataFrame(rows)


def rise(result: Result) -> float:
    """Mean over consecutive minima of how far the training loss rises above the line between theirs, in nats.

    Of a run that kept the loss of every step (`step_losses`) the highest mean of SMOOTHED steps, else the highest
    epoch: an epoch's mean hides a bump that is over sooner.
    """
    if result.run.step_losses:
        steps = result.step_losses
        a_epoch = steps.shape[1]
        loss = pd.Series(steps.ravel()).rolling(min(SMOOTHED, a_epoch)).mean().to_numpy()
    else:
        loss, a_epoch = result.history["train_loss"].to_numpy(), 1
    epochs = [epoch for epoch in result.minimum_epochs if epoch]  # the start has no epoch, so no loss
    rises = []
    for first, last in zip(epochs[:-1], epochs[1:], strict=True):
        between = loss[first * a_epoch - 1 : last * a_epoch]
        rises.append((between - np.linspace(between[0], between[-1], len(between))).max())
    return float(np.mean(rises)) if rises else np.nan


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Valley or jump, a label and network: mean and 95 % interval of barrier and rise, and what they say.

    "jump" if a loss rises by more than JUMP, "valley" if by less, "undecided" if the interval does not carry it or
    there are less than FEWEST seeds. `..._half` and `..._double` are what it would be at half and at twice that height:
    JUMP is a convention. Raises UserError for two rows of one label, network and seed.
    """
    need_once(table, ["label", "network", "seed"])

    def outcome(values: np.ndarray, height: float) -> str:
        if not len(values):
            return "-"
        low, high = over_seeds(values).interval()
        if len(values) < FEWEST:
            return "undecided"
        return "jump" if low > height else "valley" if high < height else "undecided"

    rows = []
    for (label, network), some in table.groupby(["label", "network"], sort=False):
        row: dict[str, object] = {"label": label, "network": network, "n": len(some)}
        for name in ("barrier", "rise"):
            values = some.loc[np.isfinite(some[name]), name].to_numpy()
            low, high = over_seeds(values).interval()
            row |= {name: values.mean() if len(values) else np.nan, f"{name}_low": low, f"{name}_high": high}
            for suffix, factor in (("", 1), ("_half", 0.5), ("_double", 2)):
                row[f"{name}_says{suffix}"] = outcome(values, factor * JUMP)
        rows.append(row)
    return pd.DataFrame(rows)
