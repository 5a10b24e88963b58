"""The learning rate of each ensemble, chosen on training images that were held back; ensembles at their rates.

Section 7-1_rates tries them, `Scale.opponent_rates` keeps what was chosen, section 7 has ensembles at these rates.
Section 10-3_rates does the same for hills and means without them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from thesislib.analysis import ensembles
from thesislib.analysis.ensembles import Which
from thesislib.experiments import sections
from thesislib.experiments.scales import SCALES
from thesislib.runs.results import Results
from thesislib.runs.spreads import spread

SCORE = "nll_ensemble_scaled"


def tried(results: Results, which: Which = "live") -> pd.DataFrame:
    """`ensembles.table` of section 7-1_rates, with the learning rate and its factor of the network's own at the scale.

    Members are live ones or means. All scores are on the images that the runs were evaluated on, which were held back
    from training.
    """
    own = {run.model: run.lr for run in sections.scale_of(results.scale).runs()}
    table = ensembles.table(results, last=5, which=which).drop(columns="role", errors="ignore")
    runs = [first.run for first, *_ in results.ensembles]
    table.insert(1, "lr", [run.lr for run in runs])
    table.insert(2, "factor", [float(f"{run.lr / own[run.model]:.6g}") for run in runs])
    return table


def chosen(tried: pd.DataFrame) -> dict[str, float]:
    """Of each label the factor with the lowest mean scaled NLL over seeds and networks; of equal ones the nearest to 1.

    A factor with which a network diverged is out, and so is a label of which each one is.
    """
    found = {}
    for label, rows in tried.groupby("label", sort=False):
        means = rows.groupby("factor")[SCORE].agg(lambda values: values.mean(skipna=False)).dropna()
        if best := [*means.index[means == means.min()]]:
            found[label] = float(min(best, key=lambda factor: abs(np.log(factor))))
    return found


def summary(tried: pd.DataFrame) -> pd.DataFrame:
    """Scaled NLL as "mean ± std" over seeds (and networks), a row a label, a column a factor, and the chosen factor.

    That is NaN where each one is out.
    """
    best, rows = chosen(tried), []
    for label, some in tried.groupby("label", sort=False):
        cells = {f"rate times {factor:g}": spread(v) for factor, v in some.groupby("factor")[SCORE]}
        rows.append({"label": label, **cells, "chosen": best.get(label, np.nan), "n": some["seed"].nunique()})
    return pd.DataFrame(rows)


def at_chosen(results: Results) -> Results:
    """Section 7's ensembles, each once, at the rate that was chosen for it, under its label at the scale's rate.

    Five full networks, which are beyond the budget, keep their role "full".
    """
    factors = SCALES[results.scale].opponent_rates if results.scale in SCALES else {}
    plain = {f"{label}, rate chosen": label for label in factors}
    rows = []
    for row in results.where(role=["curve", "chosen", "full"]):
        if row.role == "chosen":
            rows.append(replace(row, label=plain[row.label], role="curve"))
        elif row.role == "full" or factors.get(row.label, 1) == 1:
            rows.append(row)
    order = results.labels
    return results.of(sorted(rows, key=lambda row: order.index(row.label)))
