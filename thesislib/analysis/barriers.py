"""Does the walk follow valleys or jump, and are its minima different networks? Section 6, measured on finished runs.

Everything is computed once and kept beside the runs (`cache`); loss is cross-entropy in nats. Between two minima:
the *barrier* of the straight line, and the *rise* of the loss along the walk itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from thesislib.analysis import alignment, landscape
from thesislib.analysis.ensembles import grouped, members
from thesislib.analysis.evaluator import Probe
from thesislib.analysis.verdicts import FEWEST, interval
from thesislib.config import Run
from thesislib.models import network
from thesislib.runs import cache
from thesislib.runs.cache import Arrays
from thesislib.runs.results import Result, Results
from thesislib.system import machine
from thesislib.system.errors import UserError

#: Nats by which the loss must rise between two minima to count as a jump out of one valley into another: a
#: twentieth of what knowing nothing costs, ln 10.
JUMP = 0.05 * np.log(10)


def lines(results: Results, images: int | None = 2000, points: int = 11) -> pd.DataFrame:
    """Loss and accuracy on the straight lines between consecutive members of every ensemble (see `ensembles`).

    One row a point: label, model, seed, pair, t, and the fields of probe.Point.
    """

    return _table(results, "lines", _lines, version=2, images=images, points=points)


def _lines(run: Run, thetas: Tensor, images: int | None, points: int) -> Arrays:
    probe = Probe(run, images, machine.device())
    pairs = enumerate(zip(thetas[:-1], thetas[1:], strict=True))
    return _arrays(pd.concat([landscape.line(probe, a, b, points).assign(pair=k) for k, (a, b) in pairs]))


def barriers(results: Results, along: pd.DataFrame) -> pd.DataFrame:
    """Means over the pairs of `lines`: label, model, seed, barrier, barrier_test, and rise along the walk.

    Independent networks have no walk between them: their rise is NaN.
    """
    rows = []
    walks = {(label, runs[0].run.model, runs[0].run.seed): runs for label, runs in grouped(results)}
    for key, table in along.groupby(["label", "model", "seed"], sort=False):
        pairs = [pair for _, pair in table.groupby("pair")]
        row = dict(zip(("label", "model", "seed"), key, strict=True))
        row["barrier"] = np.mean([landscape.barrier(pair) for pair in pairs])
        row["barrier_test"] = np.mean([landscape.barrier(pair, "test_loss") for pair in pairs])
        rows.append(row | {"rise": rise(walks[key][0]) if len(walks[key]) == 1 else np.nan})
    return pd.DataFrame(rows)


def rise(result: Result) -> float:
    """Mean over consecutive minima of how far an epoch's training loss rises above the line between theirs."""
    loss = result.history["train_loss"].to_numpy()
    epochs = [epoch for epoch in result.minimum_epochs if epoch]  # the start has no epoch, so no loss
    rises = []
    for first, last in zip(epochs[:-1], epochs[1:], strict=True):
        between = loss[first - 1 : last]
        rises.append((between - np.linspace(between[0], between[-1], len(between))).max())
    return float(np.mean(rises)) if rises else np.nan


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Valley or jump, a label and network: mean and 95 % interval of barrier and rise, and what they say.

    "jump" if a loss rises by more than JUMP, "valley" if by less, "undecided" if the interval does not carry it or
    there are less than FEWEST seeds.
    """

    def outcome(values: np.ndarray) -> str:
        low, high = interval(values)
        if len(values) < FEWEST:
            return "undecided"
        return "jump" if low > JUMP else "valley" if high < JUMP else "undecided"

    rows = []
    for (label, model), some in table.groupby(["label", "model"], sort=False):
        row: dict[str, object] = {"label": label, "network": model, "n": len(some)}
        for name in ("barrier", "rise"):
            values = some.loc[np.isfinite(some[name]), name].to_numpy()
            low, high = interval(values)
            row |= {name: values.mean() if len(values) else np.nan, f"{name}_low": low, f"{name}_high": high}
            row[f"{name}_says"] = outcome(values) if len(values) else "-"
        rows.append(row)
    return pd.DataFrame(rows)


def bent(results: Results, images: int | None = 2000, epochs: int = 5, points: int = 21) -> pd.DataFrame:
    """The line and a trained quadratic Bezier curve between the first two members of each label's first ensemble.

    One row a point: label, model, seed, t, and the training loss on both, `line` and `curve`.
    """
    first: dict[tuple[str, str], list[Result]] = {}
    for label, runs in grouped(results):
        first.setdefault((label, runs[0].run.model), runs)
    chosen = Results({label: [] for label, _ in first})
    for (label, _), runs in first.items():
        chosen[label] += runs
    return _table(chosen, "bent", _bent, version=3, images=images, epochs=epochs, points=points)


def _bent(run: Run, thetas: Tensor, images: int | None, epochs: int, points: int) -> Arrays:
    probe, (a, b) = Probe(run, images, machine.device()), thetas[:2]
    middle = landscape.connect(probe, a, b, epochs, run.seed, run.lr)
    line, curve = landscape.line(probe, a, b, points), landscape.curve(probe, [a, middle, b], points)
    return _arrays(line[["t"]].assign(line=line["train_loss"], curve=curve["train_loss"]))


def disguises(results: Results, images: int | None = 2000) -> pd.DataFrame:
    """The first and the last member of every ensemble, as they are and aligned (`alignment`).

    One row an ensemble: label, model, seed, d and d_aligned (squared distances), barrier and barrier_aligned.
    """
    return _table(results, "disguises", _disguises, version=2, images=images)


def _disguises(run: Run, thetas: Tensor, images: int | None) -> Arrays:
    probe, first, last = Probe(run, images, machine.device()), thetas[0], thetas[-1]

    def between(theta: Tensor) -> tuple[float, float]:
        return (theta - first).square().sum().item(), landscape.barrier(landscape.line(probe, first, theta, 11))

    aligned = torch.from_numpy(alignment.align(last.numpy(), first.numpy(), network(run, 0)))
    names = ("d", "barrier", "d_aligned", "barrier_aligned")
    return {name: np.array([v]) for name, v in zip(names, (*between(last), *between(aligned)), strict=True)}


def _table(
    results: Results, name: str, compute: Callable[..., Arrays], version: int, **parameters: object
) -> pd.DataFrame:
    """`compute(run, thetas, **parameters)` of every ensemble, its members [K, P], as rows behind label, model and seed.

    Ensembles of which less than two members are left have no rows. Raise `version` when what is computed changes.
    """
    labels, groups = zip(*grouped(results), strict=True)
    of_members = partial(_of_members, compute, parameters)
    tables = []
    found = cache.many(name, groups, of_members, version=version, **parameters)
    for label, runs, arrays in zip(labels, groups, found, strict=True):
        table = pd.DataFrame(arrays)
        front = {"label": label, "model": runs[0].run.model, "seed": runs[0].run.seed}
        tables.append(pd.DataFrame(front, index=table.index).join(table))
    if all(table.empty for table in tables):
        raise UserError("no run has two minima to look between")
    return pd.concat([table for table in tables if not table.empty], ignore_index=True)


def _of_members(compute: Callable[..., Arrays], parameters: dict[str, object], runs: list[Result]) -> Arrays:
    """`compute` of one ensemble, without members that diverged; nothing if less than two are left."""
    machine.make_repeatable()
    finished = [run for run in runs if not run.diverged]
    if len(runs) > 1 and len(finished) < 2:
        return {}
    thetas = members(finished if len(runs) > 1 else runs, what="theta")
    return compute(runs[0].run, torch.from_numpy(thetas), **parameters) if len(thetas) > 1 else {}


def _arrays(table: pd.DataFrame) -> Arrays:
    return {str(name): np.ascontiguousarray(column) for name, column in table.items()}
