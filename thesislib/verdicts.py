"""From effects over seeds to a verdict: reproduced, not reproduced, undecided."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

Kind = Literal["more", "less", "same", "not more"]
#: What counts as "the same": one percentage point of accuracy (the thesis' noise), or 10 % of a distance.
MARGINS = {"points": 1.0, "factor": np.log(1.1), "percent": 1.0}


class Part(NamedTuple):
    """One testable statement: effects [n] over seeds, in `unit`, expected to be `kind`."""

    claim: str
    says: str
    kind: Kind
    unit: Literal["points", "factor", "percent"]
    effects: np.ndarray


def interval(effects: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean, [low, high]: the wider of the percentile bootstrap's and Student's.

    With three seeds the bootstrap's is little more than their range and far too sure of itself; Student's is
    honest about n. Fewer than two finite effects: (-inf, inf).
    """
    x = effects[np.isfinite(effects)]
    if len(x) < 2:
        return -np.inf, np.inf
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    boot = stats.bootstrap((x,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    student = stats.t.interval(0.95, len(x) - 1, x.mean(), stats.sem(x))
    return min(boot.low, student[0]), max(boot.high, student[1])


def verdict(part: Part) -> str:
    """ "reproduced", "not reproduced" or "undecided", from where the interval lies. n < 3 is undecided."""
    if np.isfinite(part.effects).sum() < 3:
        return "undecided"
    low, high = interval(part.effects)
    margin = MARGINS[part.unit]
    holds, fails = {
        "more": (low > 0, high <= 0),
        "less": (high < 0, low >= 0),
        "same": (low >= -margin and high <= margin, low > margin or high < -margin),
        "not more": (high <= margin, low > margin),
    }[part.kind]
    return "reproduced" if holds else "not reproduced" if fails else "undecided"


def summary(parts: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: the conjunction of its parts' verdicts."""

    def all_of(verdicts: pd.Series) -> str:
        if (verdicts == "not reproduced").any():
            return "not reproduced"
        return "reproduced" if (verdicts == "reproduced").all() else "undecided"

    return parts.groupby("claim", sort=False).agg(
        verdict=("verdict", all_of), parts=("says", "size"), n=("n", "min")
    ).reset_index()  # fmt: skip
