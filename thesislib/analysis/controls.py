"""Is it the hill? How far networks go from their first minimum, and what that changes: section 6.1."""

from __future__ import annotations

import numpy as np
import pandas as pd

from thesislib.analysis import scores
from thesislib.analysis.ensembles import labels_of
from thesislib.runs.cache import Computed
from thesislib.runs.results import Result, Results
from thesislib.system.errors import UserError

#: The parts of the squared distance, of networks with filters.
PARTS = ("d_0_radial", "d_0_angular")


def since_minimum(results: Results) -> pd.DataFrame:
    """The end of every run against its first minimum, one row a run: label, network, seed, and these columns.

    `d_0`, the squared distance between the two, of networks with filters also its PARTS; `accuracy_minimum`, `lowest`
    (of the epochs after the minimum) and `accuracy`; `disagreement`, the share of test images on which the two predict
    different classes. The end of a run that diverged predicts nothing: NaN. Raises UserError for a run without a
    minimum.
    """
    found = results.map(_since_minimum, "since-minimum", version=1)
    return found.drop(columns=[part for part in PARTS if found[part].isna().all()])


def _since_minimum(runs: list[Result]) -> Computed:
    (result,) = runs
    if not result.minimum_epochs:
        raise UserError(f"run {result.id} has no minimum to compare its end with")
    history, last = result.history, result.history.iloc[-1]
    labels, start = labels_of(result), result.arrays(0, "logits")["logits"]
    after = history.loc[history["epoch"] > result.minimum_epochs[0], "accuracy"]
    found = {part: last.get(part, np.nan) for part in PARTS}
    found |= {"d_0": last["d_0"], "accuracy_minimum": scores.accuracy(start, labels), "lowest": after.min()}
    found |= {"accuracy": np.nan, "disagreement": np.nan}
    if not result.diverged:
        end = result.arrays("final", "logits")["logits"]
        found["accuracy"] = scores.accuracy(end, labels)
        found["disagreement"] = scores.disagreement(np.stack((start, end)).argmax(-1))
    return {name: float(value) for name, value in found.items()}
