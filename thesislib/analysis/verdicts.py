"""From an effect to one of four outcomes, and from outcomes to verdicts on statements and claims (docs/RULES.md)."""

from __future__ import annotations

import pandas as pd

from thesislib.analysis.intervals import Effect
from thesislib.experiments.statements import FAILS, FEWEST, HOLDS, LEVEL, OPEN, TABLE, Kind, Outcome


def outcome(effect: Effect, band: float, level: float = LEVEL) -> Outcome:
    """Where the effect's interval lies: wholly above the band [-band, band], below it, inside it, or none of these.

    No two of them hold at once, so no data can support two statements that contradict each other. A true effect inside
    the band is called more (or less) with a probability of at most (1 - level) / 2, one outside the band the same
    with no more than that. The rule is that of three-sided testing (Goeman, Solari & Stijnen 2010).

    >>> outcome(Effect(mean=3.0, error=0.5, freedom=9, n=10), band=1.0)
    'more'
    """
    if effect.n < FEWEST:
        return "inconclusive"
    low, high = effect.interval(level)
    if low > band:
        return "more"
    if high < -band:
        return "less"
    return "same" if low >= -band and high <= band else "inconclusive"


def verdict(expected: Kind, effect: Effect, band: float, among: int = 1) -> str:
    """ "reproduced", "not reproduced" or "undecided", for one `among` so many statements of a claim.

    A claim is contradicted by any one of its statements, "same" on either side: each must do so at a level that is
    stricter by the number of ways (Bonferroni, the first step of Holm's), so that chance contradicts a true claim with
    a probability of 2.5 % or less. It is reproduced only by all of them, which needs no correction.
    """
    says, ways = TABLE[expected][outcome(effect, band)], among * (2 if expected == "same" else 1)
    return TABLE[expected][outcome(effect, band, 1 - (1 - LEVEL) / ways)] if says == FAILS else says


def summary(statements: pd.DataFrame) -> pd.DataFrame:
    """One row a claim and network: verdict, number of statements, how many of them are reproduced, n.

    A claim is not reproduced if a statement is contradicted, and reproduced if all are reproduced of those whose hills
    are left; not settled if there are none, not testable if its premise fails or the networks die on both sides, and
    undecided otherwise.
    """

    def claim(rows: pd.DataFrame) -> pd.Series:
        premises, verdicts = set(rows["verdict"][rows["premise"]]), set(rows["verdict"]) - {"not settled"}
        if "not testable" in verdicts or FAILS in premises:
            result = "not testable"
        elif premises - {HOLDS}:
            result = OPEN
        elif FAILS in verdicts:
            result = FAILS
        elif not verdicts:
            result = "not settled"
        else:
            result = HOLDS if verdicts == {HOLDS} else OPEN
        reproduced = (rows["verdict"] == HOLDS).sum()
        return pd.Series({"verdict": result, "statements": len(rows), "reproduced": reproduced, "n": rows["n"].min()})

    return statements.groupby(["network", "claim"], sort=False).apply(claim).reset_index()
