"""Learning rate and strength as pure functions of the epoch, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from thesislib.config import Run


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


def is_averaged(run: Run, epoch: int) -> bool:
    """Whether the weights of that epoch go into the mean of its cycle (`member_epochs`)."""
    last = run.member_epochs or 0
    return epoch >= run.offset and _since_restart(run, epoch) >= run.cycle - last


def _since_restart(run: Run, epoch: int) -> int:
    return max(0, epoch - run.offset) % run.cycle


def _cosine(t: int, cycle: int) -> float:
    return (1 + math.cos(math.pi * t / cycle)) / 2
