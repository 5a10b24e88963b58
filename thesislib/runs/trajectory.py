"""The weights that a finished run went through between its minima, by training it once more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from thesislib.runs import launch
from thesislib.runs.finished import Result
from thesislib.system import machine

if TYPE_CHECKING:
    from torch import Tensor

#: Seconds that it may have taken to train a run which is trained once more.
LONGEST = 900.0


def weights(result: Result, epochs: int) -> Iterator[Tensor]:
    """The weights [P] after each of the first epochs, to the bit on the machine that trained the run.

    Other processors round differently and may lead elsewhere. Yields nothing if it takes longer than LONGEST.
    """
    from thesislib.trainer import Trainer

    if result.history["seconds"][:epochs].sum() > LONGEST:
        return
    trainer = Trainer(result.run, machine.device(), launch.start_arrays(result.run) if result.run.start else None)
    for _ in range(epochs):
        with machine.without_denormals():  # as it was trained
            trainer.epoch()
        yield trainer.flat.theta.cpu().clone()
