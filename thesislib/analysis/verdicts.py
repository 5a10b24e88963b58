"""From effects over seeds to a verdict: reproduced, not reproduced, undecided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

Kind = Literal["more", "less", "same", "not more"]
#: What counts as "the same" where nothing else is said: one percentage point of accuracy (the thesis' noise), 10 % of a
#: distance.
MARGINS = {"points": 1.0, "factor": np.log(1.1), "percent": 1.0}
#: Fewer seeds than this carry no verdict.
FEWEST = 3


class Statement(NamedTuple):
    """One testable statement of a claim: effects [n] over seeds, in `unit`, expected to be `kind`.

    If a premise does not hold, its claim cannot be tested.
    """

    claim: str
    says: str
    kind: Kind
    unit: Literal["points", "factor", "percent"]
    effects: np.ndarray
    premise: bool = False


def interval(effects: np.ndarray, rounding: float = 0.0) -> tuple[float, float]:
    """95 % interval of the mean, [low, high]: the wider of the percentile bootstrap's and Student's.

    With three seeds the bootstrap's is little more than their range and far too sure of itself; Student's is
    honest about n. `rounding` is the least standard deviation. Fewer than two finite effects: (-inf, inf).
    """
    x = effects[np.isfinite(effects)]
    if len(x) < 2:
        return -np.inf, np.inf
    half = stats.t.ppf(0.975, len(x) - 1) * max(x.std(ddof=1), rounding) / np.sqrt(len(x))
    if np.ptp(x) == 0:
        return float(x[0] - half), float(x[0] + half)
    boot = stats.bootstrap((x,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    return float(min(boot.low, x.mean() - half)), float(max(boot.high, x.mean() + half))


def rounding(images: int) -> float:
    """Standard deviation in points that rounding alone gives an accuracy on so many images.

    On 1,000 images accuracies come in steps of 0.1 points: seeds that agree exactly still have that much noise.
    """
    return 100 / images / np.sqrt(12)


def margins(error: float) -> dict[str, float]:
    """What counts as "the same" for networks with this error in percent: in accuracy at most a quarter of it.

    A point is half the errors of a network that makes 2 %, and would hide whatever happens to it.
    """
    return MARGINS | {"points": min(MARGINS["points"], error / 4)}


def verdict(statement: Statement, margins: Mapping[str, float] = MARGINS, rounding: float = 0.0) -> str:
    """ "reproduced", "not reproduced" or "undecided", from where the interval lies; of < FEWEST seeds undecided.

    `rounding` is that of accuracies.
    """
    if np.isfinite(statement.effects).sum() < FEWEST:
        return "undecided"
    low, high = _interval(statement, rounding)
    margin = margins[statement.unit]
    holds, fails = {
        "more": (low > 0, high <= 0),
        "less": (high < 0, low >= 0),
        "same": (low >= -margin and high <= margin, low > margin or high < -margin),
        "not more": (high <= margin, low > margin),
    }[statement.kind]
    return "reproduced" if holds else "not reproduced" if fails else "undecided"


def _interval(statement: Statement, rounding: float) -> tuple[float, float]:
    return interval(statement.effects, rounding if statement.unit == "points" else 0.0)


def statement_row(
    statement: Statement, margins: Mapping[str, float] = MARGINS, rounding: float = 0.0
) -> dict[str, object]:
    """A row of the claims table. Factors are shown as such (1 is no effect), with their interval and margin."""
    finite = statement.effects[np.isfinite(statement.effects)]
    mean = finite.mean() if len(finite) else np.nan
    values = np.array([mean, *_interval(statement, rounding), margins[statement.unit]])
    effect, low, high, margin = np.exp(values) if statement.unit == "factor" else values
    return {
        "claim": statement.claim, "says": statement.says, "expected": statement.kind, "premise": statement.premise,
        "verdict": verdict(statement, margins, rounding), "effect": effect, "low": low, "high": high, "margin": margin,
        "unit": statement.unit, "n": len(finite),
    }  # fmt: skip


def summary(statements: pd.DataFrame) -> pd.DataFrame:
    """One row a claim and network: verdict, number of statements, how many of them are reproduced, n.

    A claim is not reproduced if a statement is contradicted, reproduced if all statements are, and undecided otherwise,
    or if a premise is not met.
    """

    def claim(rows: pd.DataFrame) -> pd.Series:
        verdicts = rows["verdict"]
        if (verdicts[rows["premise"]] != "reproduced").any():
            outcome = "undecided"
        elif (verdicts == "not reproduced").any():
            outcome = "not reproduced"
        else:
            outcome = "reproduced" if (verdicts == "reproduced").all() else "undecided"
        reproduced = (verdicts == "reproduced").sum()
        return pd.Series({"verdict": outcome, "statements": len(rows), "reproduced": reproduced, "n": rows["n"].min()})

    return statements.groupby(["network", "claim"], sort=False).apply(claim).reset_index()
