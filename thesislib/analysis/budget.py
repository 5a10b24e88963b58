"""Ensembles of equal budget side by side: against plain snapshots, and in independent networks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd

from thesislib.analysis import scores
from thesislib.analysis.ensembles import Average, combine, grouped, labels_of, members
from thesislib.analysis.verdicts import FEWEST, interval, rounding
from thesislib.runs import cache
from thesislib.runs.results import Result, Results, spread

#: What the table of ensembles shows, and its headings.
SHOWN = {
    "accuracy_last": "last member", "accuracy_ensemble": "ensemble", "nll_ensemble_scaled": "NLL",
    "brier_ensemble_scaled": "Brier", "ece_ensemble_scaled": "ECE", "agreement": "all agree",
    "disagreement": "two disagree", "mutual_information": "mutual information", "equivalent": "equivalent",
}  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The columns SHOWN as "mean ± std" over seeds, one row a label (and network), with the number of ensembles n."""
    groups = table.groupby(["label", "model"], sort=False)
    shown = {title: groups[c].agg(lambda v: spread(v, ".4f", ".4f")) for c, title in SHOWN.items()}
    return pd.DataFrame({**shown, "n": groups.size()}).reset_index()


def compared(
    table: pd.DataFrame, reference: str, columns: Iterable[str] = ("accuracy_ensemble", "nll_ensemble_scaled")
) -> pd.DataFrame:
    """Each label against a reference one in some scores, paired by seed: mean difference, 95 % interval, n, verdict.

    The verdict is wins, loses (the interval excludes 0; a lower NLL, Brier score or ECE is better), ties, or, with
    fewer than FEWEST seeds, undecided. One row a score, label and network.
    """
    rows, noise = [], table.groupby("model")["images"].first().map(rounding) / 100
    for column in columns:
        sign = 1 if column.startswith("accuracy") else -1
        wide = table.pivot(index=["model", "seed"], columns="label", values=column)
        for label in dict.fromkeys(table["label"]):
            differences = (wide[label] - wide[reference]).dropna()
            for model, values in differences.groupby(level="model") if label != reference else ():
                low, high = interval(values.to_numpy(), noise[model] if sign > 0 else 0.0)
                least, most = sorted((sign * low, sign * high))
                verdict = "wins" if least > 0 else "loses" if most < 0 else "ties"
                if len(values) < FEWEST:
                    verdict = "undecided"
                row = {"score": column, "label": label, "model": model, "against": reference}
                row |= {"difference": values.mean(), "low": low, "high": high, "n": len(values)}
                rows.append(row | {"verdict": verdict})
    return pd.DataFrame(rows)


def equivalents(table: pd.DataFrame, independent: list[Result], average: Average = "probabilities") -> pd.DataFrame:
    """`equivalent` of every ensemble in a `table`, against the independent networks of its seed.

    Both sides are combined by the same `average`. One row an ensemble: label, model, seed, equivalent.
    """
    curves = {}
    for _, runs in grouped(Results({"independent": independent})):
        how = {} if average == "probabilities" else {"average": average}
        found = cache.arrays("subsets", runs, partial(_subsets, runs, average), version=2, **how)
        curves[runs[0].run.model, runs[0].run.seed] = found["nll_scaled"]
    rows = table[["label", "model", "seed"]].copy()
    rows["equivalent"] = [
        equivalent(row.nll_ensemble_scaled, curves[row.model, row.seed]) for row in table.itertuples()
    ]
    return rows


def _subsets(runs: list[Result], average: Average) -> cache.Arrays:
    """Scaled NLL of ensembles of 1 to K of these K runs, each the mean over all choices of them."""
    logits, labels = members(runs), labels_of(runs[0])
    return {
        "nll_scaled": np.array(
            [
                np.mean([scores.scaled(scores.nll, combine(logits[[*some]], average), labels) for some in choices])
                for choices in (itertools.combinations(range(len(logits)), k + 1) for k in range(len(logits)))
            ]
        )
    }


def equivalent(nll: float, independent: np.ndarray) -> float:
    """Number of independent networks whose ensemble has this NLL, from the NLLs [K] of 1 to K of them.

    The deep-ensemble equivalent of Ashukha et al. (2020), on temperature-scaled NLLs, linear between whole numbers;
    1 if not even one is as bad, K (to be read as "K or more") if not even K are as good.
    """
    # NLL falls with the number of members; where noise makes it rise, the best so far counts.
    falling = np.minimum.accumulate(independent)
    return float(np.interp(-nll, -falling, np.arange(1, len(falling) + 1)))
