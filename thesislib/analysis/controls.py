"""Is it the hill? How far networks go from their first minimum, and what that changes: section 6.1."""

from __future__ import annotations

import numpy as np
import pandas as pd

from thesislib.analysis import scores
from thesislib.analysis.ensembles import labels_of
from thesislib.analysis.intervals import by_seed, over_seeds, rounding
from thesislib.datasets import test_images
from thesislib.experiments.statements import FEWEST
from thesislib.runs.cache import Computed
from thesislib.runs.finished import Result
from thesislib.runs.results import Results
from thesislib.runs.spreads import need
from thesislib.system.errors import UserError

#: The parts of the squared distance, of networks with filters.
PARTS = ("d_0_radial", "d_0_angular")


def since_minimum(results: Results) -> pd.DataFrame:
    """The end of every run against its first minimum, a row a run: label, network, seed, images, and these columns.

    `d_0`, the squared distance between the two, of networks with filters also its PARTS; `accuracy_minimum`, `lowest`
    (of the epochs after the minimum, but that in which it diverged) and `accuracy`; `disagreement`, the share of test
    images on which the two predict different classes. The end of a run that diverged predicts nothing: NaN. An archived
    run of which this was not computed has what it logged, so no disagreement. Raises UserError for a run without a
    minimum.
    """
    keys = [*results.keys, "seed"]
    logged = [{key: getattr(row, key) for key in keys} | _logged(row.result) for row in results]
    index = pd.DataFrame(logged).set_index(keys)
    whole = results.map(_since_minimum, "since-minimum", version=1, leave_out=True).set_index(keys)
    # Always as it was logged: files of before have it with the epoch in which a run diverged.
    found = whole.drop(columns="lowest").combine_first(index).reindex(index.index).reset_index()
    found.insert(len(keys), "images", [test_images(row.run) for row in results])
    return found.drop(columns=[part for part in PARTS if found[part].isna().all()])


def against_hill(since: pd.DataFrame) -> pd.DataFrame:
    """Each control against the label "hill" in a table of `since_minimum`, paired by seed.

    One row a label and network: n; of the squared distance the `factor`, of `accuracy` and `disagreement` the
    difference in points; each with its 95 % interval over seeds (..._low, ..._high; of fewer than FEWEST seeds NaN),
    and the number of seeds that have it (..._n). Raises UserError for a table without these columns, a network without
    a hill, and two rows of one label and seed.
    """
    need(since, ["d_0", "accuracy", "disagreement"], numbers=True, front=("label", "network", "seed"))
    rows, least = [], 100 * rounding(int(since["images"].iloc[0])) if "images" in since else 0.0
    for network, some in since.groupby("network", sort=False):
        if "hill" not in set(some["label"]):
            raise UserError(f'no runs of {network} are labelled "hill", with which controls are compared')
        for label in [name for name in dict.fromkeys(some["label"]) if name != "hill"]:
            row: dict[str, object] = {"label": label, "network": network}
            for column, name in (("d_0", "factor"), ("accuracy", "accuracy"), ("disagreement", "disagreement")):
                wide = by_seed(some, column)[[label, "hill"]]
                values = np.log(wide) if column == "d_0" else 100 * wide
                difference = (values[label] - values["hill"]).to_numpy()
                effect = over_seeds(difference, 0.0 if column == "d_0" else least)
                ends = effect.interval() if effect.n >= FEWEST else (np.nan, np.nan)
                found = np.array([effect.mean, *ends])
                with np.errstate(over="ignore"):
                    found = np.exp(found) if column == "d_0" else found
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
                row[f"{name}_n"] = effect.n
            rows.append(row | {"n": max(row[f"{name}_n"] for name in ("factor", "accuracy", "disagreement"))})
    return pd.DataFrame(rows)


def _since_minimum(runs: list[Result]) -> Computed:
    if len(runs) > 1:
        raise UserError("the end of one run is compared with its minimum: an ensemble of several networks has no end")
    (result,) = runs
    found = _logged(result)
    labels, start = labels_of(result), result.arrays(0, "logits")["logits"]
    found["accuracy_minimum"] = scores.accuracy(start, labels)
    if not result.diverged:
        end = result.arrays("final", "logits")["logits"]
        found["accuracy"] = scores.accuracy(end, labels)
        found["disagreement"] = scores.disagreement(np.stack((start, end)).argmax(-1))
    return found


def _logged(result: Result) -> dict[str, float]:
    """What a run's metrics say of it; raises UserError if it has no minimum."""
    if not result.minimum_epochs:
        raise UserError(f"run {result.id} has no minimum to compare its end with")
    history, last = result.history.set_index("epoch"), result.history.iloc[-1]
    predicted = history[:-1] if result.diverged else history
    first = result.minimum_epochs[0]
    found = {part: last.get(part, np.nan) for part in PARTS}
    found |= {"d_0": last["d_0"], "accuracy_minimum": history["accuracy"].get(first, np.nan)}
    found |= {"lowest": predicted.loc[predicted.index > first, "accuracy"].min(), "disagreement": np.nan}
    found["accuracy"] = np.nan if result.diverged else last["accuracy"]
    return {name: float(value) for name, value in found.items()}
