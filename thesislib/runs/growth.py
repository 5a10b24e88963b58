"""Has a hill been left? How far the distance term alone carries a network away from a minimum."""

from __future__ import annotations

from thesislib import schedules
from thesislib.config import KERNELS, Run
from thesislib.datasets import facts

#: From this N on a hill is left (w d of 2.7 and more); below 2 the distance hardly changes.
LEFT, BEGUN = 20.0, 2.0


def growth(run: Run) -> float:
    """N: by how much log d grows over a run near the top of its hills, from SGD's steps after the first minimum.

    Just outside a minimum the term pushes with 2 s w (theta - theta_c), so that momentum mu and learning rate lr make
    log d grow by 4 s w lr / (1 - mu) a step; n hills share s. 0 without a hill, NaN where this does not hold: for
    another optimiser than SGD, whose steps do not follow the size of the gradient, for a kernel of one's own, and for a
    hill that is elsewhere, does not push outwards, or is no hill in weight space.
    """
    elsewhere = run.hill_at in ("random", "origin") or run.distance != "weights"
    if run.optimizer != "sgd" or run.push == "random" or elsewhere or run.kernel not in KERNELS:
        return float("nan")
    hills = run.minimum_epochs[:1]
    with_hill = range(hills[0], run.epochs) if hills else range(0)
    steps = min(run.train_size or facts(run.data).train, facts(run.data).train) // run.batch_size
    rate = sum(schedules.strength(run, epoch) * schedules.learning_rate(run, epoch) for epoch in with_hill)
    return 4 * run.width * rate * steps / (1 - run.momentum)


def says(n: float) -> str:
    """What N says in words."""
    if n != n:
        return "N is known for SGD on its own hills only, of kernels rbf and tanh"
    word = "left" if n >= LEFT else "on the way" if n >= BEGUN else "not left: the term had no time to act"
    return f"N = {n:.3g}: hill {word}"
