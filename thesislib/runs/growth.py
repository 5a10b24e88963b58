"""Has a hill been left? How far the distance term alone carries a network away from a minimum."""

from __future__ import annotations

import numpy as np

from thesislib import schedules
from thesislib.config import KERNELS, Run
from thesislib.datasets import facts

#: From this N on a hill is left (w d of 2.7 and more); below 2 the distance hardly changes.
LEFT, BEGUN = 20.0, 2.0


def growth(run: Run, until: int | None = None) -> float:
    """N: by how much log d grows near the top of a run's hills, from SGD's steps after the first minimum.

    Counted over all of the run, or `until` an epoch of it. Just outside a minimum the term pushes with
    2 s w (theta - theta_c), so that momentum mu and learning rate lr make log d grow by 4 s w lr / (1 - mu) a step.
    This is what all hills of a run do together, where n of them share s and where each one has the whole of it: the
    later ones are left later, or not at all. A hill at the mean of a cycle's weights counts as one at its end. 0
    without a hill, NaN where this does not hold: for another optimiser than SGD, whose steps do not follow the size of
    the gradient, for a kernel of one's own, and for a hill that is at a random place or the origin, does not push
    outwards, or is no hill in weight space.
    """
    steps, rates = _rates(run, until)
    return 4 * run.width * sum(rates) * steps / (1 - run.momentum)


def left_after(run: Run) -> float:
    """Steps after the first minimum until its hill is left, N >= 20; inf if that is not within the run, or unknown."""
    steps, rates = _rates(run)
    grown = 4 * run.width * np.cumsum([0.0, *rates]) * steps / (1 - run.momentum)
    return steps * float(np.interp(LEFT, grown, np.arange(len(grown)))) if grown[-1] >= LEFT else float("inf")


def _rates(run: Run, until: int | None = None) -> tuple[int, list[float]]:
    """Steps of an epoch, and s lr in each epoch after the first minimum, s of all hills; NaN where N is not known."""
    elsewhere = run.hill_at in ("random", "origin") or run.distance != "weights"
    if run.optimizer != "sgd" or run.push == "random" or elsewhere or run.kernel not in KERNELS:
        return 0, [float("nan")]
    steps = min(run.train_size or facts(run.data).train, facts(run.data).train) // run.batch_size
    with_hill = range(min(run.minimum_epochs, default=run.epochs), until or run.epochs)
    return steps, [
        _whole_hills(run, epoch) * schedules.strength(run, epoch) * schedules.learning_rate(run, epoch)
        for epoch in with_hill
    ]


def _whole_hills(run: Run, epoch: int) -> int:
    """How many times the strength all hills have together in an epoch, counted from 0."""
    if run.share or run.minima != "multiple":
        return 1
    return sum(minimum <= epoch for minimum in run.minimum_epochs)


def says(n: float) -> str:
    """What N says in words."""
    if n != n:
        return "N is known for SGD on its own hills only, of kernels rbf and tanh"
    word = "left" if n >= LEFT else "on the way" if n >= BEGUN else "not left: the term had no time to act"
    return f"N = {n:.3g}: hill {word}"
