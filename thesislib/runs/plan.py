"""What a scale takes, before it is trained: epochs, disk, and hours by the measured time of a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from thesislib import datasets
from thesislib.config import Run
from thesislib.runs import launch, shared_prefix
from thesislib.system import machine

#: Steps that are timed, three times.
STEPS = 3


class Cost(NamedTuple):
    """What one epoch of a network and storing it once take on this machine's device."""

    step: float  # seconds
    epoch: float  # seconds, evaluation included
    network: int  # bytes


def table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a network and dataset: runs, missing, epochs, ms a step, hours one after another, GB on disk.

    Epochs are those left to train: what runs share is counted once, what others have left on disk not at all.
    """
    runs = list(dict.fromkeys(runs))
    todo = set(launch.missing(runs))
    kinds: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        kinds.setdefault((run.model, run.data, run.precision), []).append(run)
    rows = []
    for (model, data, precision), some in kinds.items():
        cost, group = measure(some[0]), set(some)
        epochs = shared_prefix.epochs(group & todo, launch.hardware())
        # The end of a run is stored as its minima and mean members are; a shared prefix is as large as three.
        networks = sum(len(run.minimum_epochs) + len(run.member_ends) + 1 for run in group)
        networks += 3 * shared_prefix.files(group)
        rows.append(
            {
                "network": model, "data": data, "precision": precision, "runs": len(group),
                "missing": len(group & todo), "epochs": epochs, "ms/step": 1000 * cost.step,
                "hours": epochs * cost.epoch / 3600, "GB": networks * cost.network / 1e9,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


@machine.repeatable()
def measure(run: Run) -> Cost:
    """Take a few real steps of the run's network on its data. Raises UserError if the data are missing."""
    from thesislib.trainer import Trainer

    train, test = run.train_size or datasets.facts(run.data).train, datasets.test_images(run)
    few_test = min(test, run.batch_size)
    fewer = {"train_size": STEPS * run.batch_size, "test_size": few_test, "start": None}
    if run.statistics_images:  # so that evaluating one image takes as long as in the run itself
        fewer["statistics_images"] = max(1, run.statistics_images * few_test // test)
    few = run.replace(**fewer)
    trainer = Trainer(few, machine.device())
    rows = [trainer.epoch() for _ in range(3)]
    step = float(np.median([row["train_seconds"] for row in rows])) / STEPS
    tested = float(np.median([row["seconds"] - row["train_seconds"] for row in rows])) / few.test_size
    numbers = trainer.flat.theta.numel() + test * datasets.facts(run.data).classes
    return Cost(step, step * (train // run.batch_size) + tested * test, 4 * numbers)
