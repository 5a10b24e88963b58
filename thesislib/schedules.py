"""Learning rate and strength as pure functions of the epoch, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from thesislib.config import Run

#: A mean member is of the weights after this many steps of an epoch, or up to twice as many, evenly spread, or after
#: every one of a shorter epoch. Part of what a run is: another number is another REVISION.
AVERAGED_STEPS = 64


def learning_rate(run: Run, epoch: int) -> float:
    """Learning rate of the epoch that begins after `epoch` finished ones (0 is the first).

    step:   lr * gamma^floor(t / lr_step), cosine: lr * (1 + cos(pi t / cycle)) / 2 (Loshchilov & Hutter 2017,
    eta_min = 0), with t the epochs since the last restart. See section 5 of the thesis.
    """
    t = _since_restart(run, epoch)
    if run.lr_schedule == "step":
        return run.lr * run.lr_gamma ** (t // run.lr_step)
    return run.lr * _cosine(t, run.cycle) if run.lr_schedule == "cosine" else run.lr


def strength(run: Run, epoch: int) -> float:
    """Strength s of that epoch: constant, along the cosine, or only after each restart.

    "pulse" is on for `pulse` epochs, "first-half" for half a cycle. The first restart is when the schedules begin,
    after `offset` epochs.
    """
    t = _since_restart(run, epoch)
    if run.strength_schedule in ("pulse", "first-half"):
        lasts = run.pulse if run.strength_schedule == "pulse" else run.cycle / 2
        return run.strength if epoch >= run.offset and t < lasts else 0.0
    return run.strength * _cosine(t, run.cycle) if run.strength_schedule == "cosine" else run.strength


def averaged_steps(run: Run, epoch: int, steps: int) -> range:
    """The steps of that epoch, of `steps`, after which the weights go into the mean of its cycle (`member_epochs`).

    >>> averaged_steps(Run(member_epochs=1), epoch=9, steps=468)[:3]
    range(6, 27, 7)
    """
    is_late = epoch >= run.offset and _since_restart(run, epoch) >= run.cycle - (run.member_epochs or 0)
    every = max(1, steps // AVERAGED_STEPS)
    return range(every - 1, steps, every) if is_late else range(0)


def _since_restart(run: Run, epoch: int) -> int:
    return max(0, epoch - run.offset) % run.cycle


def _cosine(t: int, cycle: int) -> float:
    return (1 + math.cos(math.pi * t / cycle)) / 2
