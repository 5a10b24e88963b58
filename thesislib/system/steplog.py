"""What is measured while an epoch trains: the loss of every step, gradients at some of them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from thesislib.system import parallel

#: Norms and angles of the gradient are measured at this many steps of an epoch, or up to twice as many, evenly spread,
#: or at every one of a shorter epoch: at each of MNIST's 468 steps they would cost 5 % of the training.
MEASURED_STEPS = 64
#: After a minimum so many steps are rows of their own, from there on one of two, from twice as many on one of three,
#: and so on: as dense as a logarithmic axis shows.
EVERY_STEP = 300


class StepLog:
    """The numbers of one epoch's steps, kept on the device until the epoch is over.

    `since` is how many steps ago the last minimum was when the epoch began (infinite before the first); the first
    `dense` steps after a minimum become rows of steps.csv (`is_dense`).
    """

    def __init__(self, steps: int, since: float = math.inf, dense: int = 0) -> None:
        self.every, self.since, self.dense = max(1, steps // MEASURED_STEPS), since, dense
        self._losses: list[Tensor] = []
        self._measured: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._dense_steps: list[float] = []

    def is_measured(self, step: int) -> bool:
        """Whether this step's gradients are part of the epoch's means."""
        return step % self.every == self.every - 1

    def is_dense(self, step: int) -> bool:
        """Whether this step is a row of its own."""
        since = self.since + step
        return since < self.dense and since % (since // EVERY_STEP + 1) == 0

    def looks_at(self, step: int) -> bool:
        """Whether this step's gradients are needed, for either of the two."""
        return self.is_measured(step) or self.is_dense(step)

    def add(self, step: int, loss: Tensor, term: Tensor, gradients: Tensor | None, distance: Tensor | None) -> None:
        """One step: cross-entropy, [], and distance term, []; `norms_and_cosines`, [4], where it is looked at; the
        squared distance to the last minimum, [1], where it is dense.
        """
        self._losses.append(torch.stack((loss, term)))
        if self.is_measured(step):
            self._measured.append(gradients)
        if self.is_dense(step):
            self._rows.append(torch.cat((self._losses[-1], gradients, distance)))
            self._dense_steps.append(self.since + step)

    def losses(self) -> np.ndarray:
        """Cross-entropy of every step, [steps], float32."""
        losses = torch.stack(self._losses)[:, 0]
        parallel.average([losses])
        return losses.cpu().numpy()

    def means(self) -> dict[str, float]:
        """The epoch's columns of metrics.csv: losses over all steps, gradients over those measured."""
        losses = torch.stack(self._losses).double().mean(0)
        parallel.average([losses])
        loss, term = losses.tolist()
        grad_norm, term_norm, _, cosine = torch.stack(self._measured).double().nanmean(0).tolist()
        return {
            "train_loss": loss, "term": term, "grad_norm": grad_norm, "term_norm": term_norm,
            "grad_cosine": cosine,
        }  # fmt: skip

    def rows(self, epoch: int, minimum: int) -> list[dict[str, float]]:
        """The dense steps as rows of steps.csv (store.STEPS)."""
        if self._rows:
            losses = torch.stack([row[0] for row in self._rows])
            parallel.average([losses])  # each process saw its share of the batch
            for row, loss in zip(self._rows, losses, strict=True):
                row[0] = loss
        names = ("loss", "term", "grad_norm", "term_norm", "term_cosine", "grad_cosine", "d")
        return [
            {"epoch": epoch, "minimum": minimum, "step": step} | dict(zip(names, row.tolist(), strict=True))
            for step, row in zip(self._dense_steps, self._rows, strict=True)
        ]
