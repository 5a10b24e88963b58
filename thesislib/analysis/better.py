"""Do hills make better ensembles, once each member is a mean of weights? Sections 10 and 10.1 to 10.3.

Section 10-1_variants tries variants on training images that were held back, `Scale.better` keeps the one that was
chosen, section 10 tests it on fresh seeds and test images, section 10-2_ten_members takes twice as many members.
Section 10-3_rates chooses a learning rate for the hills and one for means without them, and tests these.
docs/RULES.md has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Literal

import numpy as np
import pandas as pd

from thesislib.analysis import comparisons, ensembles
from thesislib.analysis import scores as metrics
from thesislib.analysis.ensembles import Which
from thesislib.analysis.rates import SCORE
from thesislib.experiments import sections
from thesislib.experiments.beyond import MEMBERS
from thesislib.experiments.scales import SCALES
from thesislib.experiments.sections import Average
from thesislib.runs.cache import Computed
from thesislib.runs.finished import Result
from thesislib.runs.growth import growth as growth_of
from thesislib.runs.results import Results, Row
from thesislib.runs.spreads import need_once, spreads
from thesislib.system.errors import UserError

#: How the labels of runs without a hill begin.
_REFERENCE = "no term"

Verdict = Literal["holds", "does not hold", "undecided"]


def table(results: Results, average: Average = "probabilities", members: int = MEMBERS) -> pd.DataFrame:
    """`ensembles.table` whose members are what the rows' roles say, "live" or "mean", in the order of the labels.

    `members` is how many there are of each run, the last ones.
    """
    return of_members(results, lambda some, which: ensembles.table(some, average, members, which))


def of_members(results: Results, measure: Callable[[Results, Which], pd.DataFrame]) -> pd.DataFrame:
    """`measure` of the rows with live members and of those with mean ones, in the order of the labels."""
    found = pd.concat([measure(*part) for part in ensembles.by_kind(results)], ignore_index=True)
    place = results.labels.index
    return found.sort_values("label", key=lambda labels: labels.map(place), kind="stable", ignore_index=True)


def at_scales_rate(results: Results) -> Results:
    """The rows at the learning rate of the scale's networks: a figure has no room for both rates."""
    own = {run.model: run.lr for run in sections.scale_of(results.scale).runs()}
    return results.of(row for row in results if row.run.lr == own[row.network])


def by_count(results: Results, average: Average = "probabilities", members: int = MEMBERS) -> pd.DataFrame:
    """Accuracy and scaled NLL of every ensemble of `table` after each further member.

    One row an ensemble and number of members: label, network, seed, members, accuracy_ensemble, nll_ensemble_scaled.
    """
    how = {"average": average, "most": members}
    return ensembles.living(
        of_members(results, lambda some, which: some.map(_by_count, "one-by-one", version=1, which=which, **how))
    )


@np.errstate(invalid="ignore")  # of members that predict nothing
def _by_count(runs: list[Result], average: Average, most: int, which: Which) -> Computed:
    logits, labels = ensembles.members(runs, most, which=which)[:most], ensembles.labels_of(runs[0])
    whole = [ensembles.combine(logits[:k], average) for k in range(1, len(logits) + 1)]
    return {
        "members": np.arange(1, len(logits) + 1),
        "accuracy_ensemble": np.array([metrics.accuracy(x, labels) for x in whole]),
        SCORE: np.array([metrics.scaled(metrics.nll, x, labels) for x in whole]),
    }


def each_mean(results: Results) -> pd.DataFrame:
    """Accuracy and NLL, not scaled, of every mean member alone, as training logged them; live ones have no rows.

    One row a member: label, network, seed, member (1 is the first cycle's), accuracy, nll.
    """
    history = results.where(role="mean").history.dropna(subset="accuracy_mean")
    member = history.groupby(["label", "id"]).cumcount() + 1
    found = history.assign(member=member, accuracy=history["accuracy_mean"], nll=history["test_loss_mean"])
    return found[["label", "network", "seed", "member", "accuracy", "nll"]].reset_index(drop=True)


def gains(scores: pd.DataFrame, by: str, reference: str) -> pd.DataFrame:
    """By how much better than the `reference` label's every ensemble is, at the same seed and value of column `by`.

    Columns accuracy_gain, in points, and nll_gain, in nats; positive is better. The reference has no rows. Raises
    UserError if there are two rows of one label, network, seed and value.
    """
    keys = ["network", "seed", by]
    need_once(scores, ["label", *keys])
    base = scores[scores["label"] == reference].drop(columns="label")
    both = scores[scores["label"] != reference].merge(base, on=keys, suffixes=("", "_of_reference"))
    accuracy = both["accuracy_ensemble"] - both["accuracy_ensemble_of_reference"]
    nll = both[f"{SCORE}_of_reference"] - both[SCORE]
    return both[["label", *keys]].assign(accuracy_gain=100 * accuracy, nll_gain=nll)


def gains_by_count(gained: pd.DataFrame) -> pd.DataFrame:
    """The NLL of `gains`, in nats, as "mean ± std" over seeds: a row a label and network, a column a number."""
    found = spreads(gained, ["label", "network", "members"], {"nll_gain": "nll_gain"})
    wide = found.pivot(index=["label", "network"], columns="members", values="nll_gain")
    order = [key for key, _ in gained.groupby(["label", "network"], sort=False)]
    named = wide.loc[order].rename(columns=lambda k: f"{k} member" + "s" * (k > 1)).rename_axis(columns=None)
    return named.assign(n=found.groupby(["label", "network"])["n"].max()).reset_index()


def barriers_between(results: Results, images: int | None = None) -> pd.DataFrame:
    """`barriers.barriers` between members as in `table`, on so many `images` of each split (None: the scale's).

    Ensembles of one member have no rows, nor have archived runs of which this was not computed. Raises UserError if
    all are such.
    """
    from thesislib.analysis import barriers  # here: it needs torch, which takes a second

    several = [row for row in results if _has_several(row)]
    if not several:
        raise UserError("no ensemble has two members to look between")
    return of_members(
        results.of(several),
        lambda some, which: barriers.barriers(
            some, barriers.lines(some, images, which=which, last=MEMBERS, leave_out=True)
        ),
    )


def _has_several(row: Row) -> bool:
    """Whether the row's ensemble has more than one member."""
    of_run = {"mean": len(row.run.member_ends), "last mean": 1}
    return row.member is not None or of_run.get(row.role, len(row.run.minimum_epochs)) > 1


def chosen(tried: pd.DataFrame) -> str:
    """The variant with a hill whose scaled NLL is lowest, mean over seeds and networks; one that diverged is out.

    Raises UserError if there is none.
    """
    with_hill = tried[~tried["label"].str.startswith(_REFERENCE)]
    means = with_hill.groupby("label", sort=False)[SCORE].agg(lambda values: values.mean(skipna=False)).dropna()
    if means.empty:
        raise UserError("there is nothing to choose from: every variant with a hill diverged")
    return str(means.idxmin())


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, scaled NLL and Brier score as "mean ± std" over seeds, a row a label, the lowest NLL first."""
    shown = {"accuracy_ensemble": "accuracy", SCORE: "NLL", "brier_ensemble_scaled": "Brier score"}
    shown |= {"accuracy_mean": "mean of the members", "disagreement": "two disagree"}
    order = scores.groupby("label")[SCORE].mean().sort_values(na_position="last").index
    found = spreads(scores, ["label", "network"], shown)
    place = list(order).index
    return found.sort_values("label", key=lambda labels: labels.map(place), kind="stable", ignore_index=True)


def against_hills(results: Results, scores: pd.DataFrame, average: Average = "probabilities") -> pd.DataFrame:
    """Each opponent against the chosen variant (`comparisons.against`): an opponent that "loses" is beaten by it."""
    columns = ("accuracy_ensemble", SCORE, "brier_ensemble_scaled")
    hills = sections.scale_of(results.scale).better
    return comparisons.against(results, scores, hills, columns, last=MEMBERS, average=average)


def against_plain(results: Results, members: int = 2 * MEMBERS) -> pd.DataFrame:
    """Each label against plain means (`comparisons.against`), ensembles of so many members, and N of its hills."""
    scores = table(results, members=members)
    compared = comparisons.against(results, scores, "plain means", last=members)
    n = {row.label: growth_of(row.run) for row in results if row.run.strength}
    compared.insert(2, "N", compared["label"].map(n))
    return compared


def tried_and_tested(results: Results) -> tuple[Results, Results]:
    """The rows of section 10-3_rates by which a rate is chosen, on held-back images, and those that test it."""
    held_back, tested = ([row for row in results if row.run.validation is held] for held in (True, False))
    return results.of(held_back), results.of(tested)


def hills(scale: str) -> str:
    """Label of the variant that claim N1 is about at a scale."""
    return SCALES[scale].better


def opponents(scale: str) -> set[str]:
    """Labels of all that claim N1 is about at a scale."""
    return {row.label for row in sections.rows("10_better_ensembles", scale, 1)} - {SCALES[scale].better}


def verdict(compared: pd.DataFrame, among: Set[str] = frozenset()) -> Verdict:
    """Claims N1 and N2, from `against_hills`: the chosen variant has a lower scaled NLL than every opponent.

    "holds" if every one loses, "does not hold" if one wins or is equivalent, else "undecided". It cannot hold as long
    as one `among` the opponents was not compared.
    """
    found = compared[compared["score"] == SCORE]
    if set(found["verdict"]) & {"wins", "equivalent"}:
        return "does not hold"
    return "holds" if set(found["verdict"]) == {"loses"} and among <= set(found["label"]) else "undecided"
