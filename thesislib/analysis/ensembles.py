"""Several networks as one predictor: the snapshots of a run, or independent runs; and which of them is the better one.

Members are live networks, at the weights that were trained, or mean ones: at the mean of the weights over the last
epochs of each cycle, where the run stored these (`member_epochs`). A BatchNorm of a mean member has statistics that
were collected at its own weights.

Ensembles of equal budget are compared by scores after temperature scaling, and by the number of independent networks
that they are worth (Ashukha et al. 2020). Section 7.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from numbers import Integral
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from thesislib.analysis import scores
from thesislib.datasets import test_images
from thesislib.experiments.sections import Average
from thesislib.runs.cache import Computed
from thesislib.runs.finished import Result
from thesislib.runs.results import Results, Row
from thesislib.system.errors import UserError

What = Literal["logits", "theta"]
#: Live members, mean ones, or the last mean one alone, which is SWA.
Which = Literal["live", "mean", "last mean"]

SCORES = {"accuracy": scores.accuracy, "nll": scores.nll, "brier": scores.brier, "ece": scores.ece}
DIVERSITY = ("agreement", "disagreement", "mutual_information")


def snapshots(result: Result, what: What = "logits", which: Which = "live") -> np.ndarray:
    """Test logits [K, N, C] or weights [K, P] of a run's minima, and of its end if no minimum was stored there.

    Mean ones are the mean members of its cycles, "last mean" the last of these. Raises UserError if it has none of
    them, or for another `which`.
    """
    if which not in get_args(Which):
        raise UserError(f"which must be one of {', '.join(get_args(Which))}, not {which!r}")
    if which != "live":
        if not result.member_ends:
            raise UserError(f"run {result.id} has no mean members: train it with member_epochs, and a whole cycle")
        chosen = range(len(result.member_ends))[-1 if which == "last mean" else 0 :]
        return np.stack([result.arrays(f"member-{k}", what)[what] for k in chosen])
    epochs = result.minimum_epochs
    stored = [result.arrays(k, what)[what] for k in range(len(epochs))]
    at_end = bool(epochs) and epochs[-1] == result.summary["epochs"]
    if not stored or not (at_end or result.diverged):  # a diverged end predicts nothing
        stored.append(result.arrays("final", what)[what])
    return np.stack(stored)


def members(
    runs: Sequence[Result], last: int | None = None, what: What = "logits", which: Which = "live"
) -> np.ndarray:
    """Test logits [K, N, C] or weights [K, P] of the members: ends of several runs, or the `last` snapshots of one.

    Raises UserError if `last` is no number from 1.
    """
    if last is not None and (isinstance(last, bool) or not isinstance(last, Integral) or last < 1):
        raise UserError(f"last says how many members there are, 1 or more, not {last!r}")
    if len(runs) > 1:
        return np.stack([snapshots(run, what, which)[-1] for run in runs])
    return snapshots(runs[0], what, which)[None if last is None else -last :]


def by_kind(results: Results) -> list[tuple[Results, Which]]:
    """The rows whose members are live ones, and those whose role says another kind (section 10), if there are such."""
    parts: dict[Which, list[Row]] = {which: [] for which in get_args(Which)}
    for row in results:
        parts[row.role if row.role in parts else "live"].append(row)
    return [(results.of(rows), which) for which, rows in parts.items() if rows]


def keyed(which: Which) -> dict[str, Which]:
    """The parameter `which` of something computed, left out where it is "live": files of before keep their names."""
    return {} if which == "live" else {"which": which}


def labels_of(result: Result) -> np.ndarray:
    """True classes [N] of the test images that the run's logits are of."""
    return result.arrays("final", "labels")["labels"]


def combine(logits: np.ndarray, average: Average = "probabilities") -> np.ndarray:
    """Log-probabilities [N, C] of an ensemble of K members with logits [K, N, C].

    "votes" is the share of members that choose a class; the mean probability counts as one more voter, so that it
    breaks ties and nothing else. Raises UserError for another `average`.
    """
    if average not in get_args(Average):
        raise UserError(f"average must be one of {', '.join(get_args(Average))}, not {average!r}")
    # Thesis: averages logits, which lets one overconfident member outvote the others.
    if average == "logits":
        return scores.log_softmax(logits.astype(np.float64).mean(0))
    log_probabilities = scores.log_softmax(logits)
    mean = logsumexp(log_probabilities, axis=0) - np.log(len(logits))
    if average == "probabilities":
        return mean
    votes = (log_probabilities.argmax(-1)[..., None] == np.arange(logits.shape[-1])).sum(0)
    return np.log(np.maximum(votes + np.exp(mean), 1e-300) / (len(logits) + 1))


def score(logits: np.ndarray, labels: np.ndarray, average: Average = "probabilities") -> dict[str, float]:
    """Scores of an ensemble with logits [K, N, C] on labels [N].

    Each of SCORES for the last member, the members' mean and the ensemble (`accuracy_last`, ..., `nll_ensemble`), all
    but accuracy also after temperature scaling (`..._scaled`); the members' number K, and three measures of diversity
    (NaN if K is 1).
    """
    each, whole = scores.log_softmax(logits), combine(logits, average)
    out = {"members": float(len(logits))}
    # One fit of the temperatures serves all scores.
    each_scaled, whole_scaled = [scores.calibrated(x, labels) for x in each], scores.calibrated(whole, labels)
    for name, score_of in SCORES.items():
        of_each = [score_of(member, labels) for member in each]
        out |= {f"{name}_last": of_each[-1], f"{name}_mean": float(np.mean(of_each))}
        out[f"{name}_ensemble"] = score_of(whole, labels)
        if name != "accuracy":
            out[f"{name}_mean_scaled"] = float(np.mean([score_of(x, labels) for split in each_scaled for x in split]))
            out[f"{name}_ensemble_scaled"] = float(np.mean([score_of(x, labels) for x in whole_scaled]))
    classes = each.argmax(-1)
    diversity = {
        "agreement": scores.agreement(classes),
        "disagreement": scores.disagreement(classes),
        "mutual_information": scores.mutual_information(each),
    }
    return out | (diversity if len(logits) > 1 else dict.fromkeys(DIVERSITY, np.nan))


def table(
    results: Results, average: Average = "probabilities", last: int | None = None, which: Which = "live"
) -> pd.DataFrame:
    """`score` of every ensemble, one row each, behind label, network, seed and number of test images.

    The members are the `last` snapshots of a run (None: all), live or mean ones. With a member that predicts nothing,
    the end of a network that diverged, an ensemble has no scores: NaN. So has one of the snapshots of a run that
    diverged: it lacks members.
    """
    found = results.map(_score, "ensemble", version=2, average=average, last=last, **keyed(which))
    found = living(found, cut_short(results))
    images = [test_images(first.run) for first, *_ in results.ensembles]
    found.insert(found.columns.get_loc("seed") + 1, "images", images)
    return found


def live_and_mean(results: Results, average: Average = "probabilities", last: int | None = None) -> pd.DataFrame:
    """`table` of each ensemble twice: of its snapshots, and, under "..., mean", of the mean weights of their cycles.

    What differs less between the means is SGD's noise. Raises UserError for a run without mean members.
    """
    live, mean = (table(results, average, last, which) for which in ("live", "mean"))
    mean["label"] += ", mean"
    both = pd.concat([live, mean], ignore_index=True)
    order = [name for label in results.labels for name in (label, f"{label}, mean")]
    return both.sort_values("label", key=lambda labels: labels.map(order.index), kind="stable", ignore_index=True)


@np.errstate(invalid="ignore")  # of members that predict nothing (`living`)
def _score(runs: list[Result], average: Average, last: int | None, which: Which = "live") -> Computed:
    return score(members(runs, last, which=which), labels_of(runs[0]), average)


def each(results: Results, last: int | None = None, which: Which = "live") -> pd.DataFrame:
    """SCORES of every member of every ensemble, raw and temperature-scaled: label, network, seed, member, scores."""
    return living(results.map(_each, "each", version=1, last=last, **keyed(which)))


@np.errstate(invalid="ignore")
def _each(runs: list[Result], last: int | None, which: Which = "live") -> Computed:
    logits, labels = scores.log_softmax(members(runs, last, which=which)), labels_of(runs[0])
    found = {"member": np.arange(1, len(logits) + 1)}
    found |= {name: np.array([score_of(x, labels) for x in logits]) for name, score_of in SCORES.items()}
    calibrated = [scores.calibrated(x, labels) for x in logits]
    for name in ("nll", "brier", "ece"):
        scaled = [np.mean([SCORES[name](split, labels) for split in splits]) for splits in calibrated]
        found[f"{name}_scaled"] = np.array(scaled)
    return found


def by_count(
    results: Results, average: Average = "probabilities", last: int | None = None, which: Which = "live"
) -> pd.DataFrame:
    """Ensemble accuracy and NLL after each further member, one row an ensemble and number of members."""
    return living(results.map(_by_count, "growth", version=1, average=average, last=last, **keyed(which)))


def cut_short(results: Results) -> np.ndarray:
    """Which ensembles, [E], are snapshots of a run that diverged: some members were never trained."""
    return np.array([len(rows) == 1 and rows[0].result.diverged for rows in results.ensembles], dtype=bool)


def living(found: pd.DataFrame, but: np.ndarray | bool = False) -> pd.DataFrame:
    """Scores, NaN in rows whose predictions are no numbers: `argmax` sees class 0 there, an accuracy of nothing.

    One member of that kind is enough, whichever it is. Rows that `but` marks, [rows], have none either.
    """
    dead = but | ~np.isfinite(found.filter(regex="^nll").to_numpy(dtype=float)).all(axis=1)
    scored = found.columns.str.startswith((*SCORES, *DIVERSITY))
    return found.assign(**{column: found[column].mask(dead) for column in found.columns[scored]})


@np.errstate(invalid="ignore")
def _by_count(runs: list[Result], average: Average, last: int | None, which: Which = "live") -> Computed:
    logits, labels = members(runs, last, which=which), labels_of(runs[0])
    whole = [combine(logits[:k], average) for k in range(1, len(logits) + 1)]
    return {
        "members": np.arange(1, len(logits) + 1),
        "accuracy": np.array([scores.accuracy(x, labels) for x in whole]),
        "nll": np.array([scores.nll(x, labels) for x in whole]),
    }


def equivalents(table: pd.DataFrame, independent: Results, average: Average = "probabilities") -> pd.DataFrame:
    """`equivalent` of every ensemble in a `table`, against the independent networks of its seed.

    Both sides are combined by the same `average`. One row an ensemble: label, network, seed, equivalent. Raises
    UserError for a seed that has no independent networks, or several kinds of them.
    """
    how = {} if average == "probabilities" else {"average": average}
    found = independent.map(_subsets, "subsets", version=2, **how)
    if len(independent.labels) > 1:
        raise UserError(f"choose one label of independent networks, of {', '.join(independent.labels)}")
    curves = {key: curve.to_numpy() for key, curve in found.groupby(["network", "seed"])["nll_scaled"]}
    if lacking := [key for key in table[["network", "seed"]].itertuples(index=False, name=None) if key not in curves]:
        raise UserError("there are no independent networks, {}, of seed {}".format(*lacking[0]))
    rows = table[["label", "network", "seed"]].copy()
    rows["equivalent"] = [
        equivalent(row.nll_ensemble_scaled, curves[row.network, row.seed]) for row in table.itertuples()
    ]
    return rows


def _subsets(runs: list[Result], average: Average = "probabilities") -> Computed:
    """Scaled NLL of ensembles of 1 to K of these K runs, each the mean over all choices of them."""
    logits, labels = members(runs), labels_of(runs[0])

    def mean_nll(size: int) -> float:
        choices = itertools.combinations(range(len(logits)), size)
        return np.mean([scores.scaled(scores.nll, combine(logits[[*some]], average), labels) for some in choices])

    return {"nll_scaled": np.array([mean_nll(size) for size in range(1, len(logits) + 1)])}


def equivalent(nll: float, independent: np.ndarray) -> float:
    """Number of independent networks whose ensemble has this NLL, from the NLLs [K] of 1 to K of them.

    The deep-ensemble equivalent of Ashukha et al. (2020), on temperature-scaled NLLs, linear between whole numbers;
    1 if not even one is as bad, K (to be read as "K or more") if not even K are as good.
    """
    # NLL falls with the number of members; where noise makes it rise, the best so far counts.
    falling = np.minimum.accumulate(independent)
    return float(np.interp(-nll, -falling, np.arange(1, len(falling) + 1)))
