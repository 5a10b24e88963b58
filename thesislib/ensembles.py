"""Several networks as one predictor: the snapshots of a run, or independent runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from thesislib import derived, metrics
from thesislib.config import UserError
from thesislib.results import Result, Results
from thesislib.sections import MEMBER
from thesislib.verdicts import FEWEST, ROUNDING, interval

Average = Literal["probabilities", "logits", "votes"]

SCORES = {"accuracy": metrics.accuracy, "nll": metrics.nll, "brier": metrics.brier, "ece": metrics.ece}


def snapshots(result: Result, what: Literal["logits", "theta"] = "logits", live: bool = True) -> np.ndarray:
    """Test logits [K, N, C] or weights [K, P] of a run's minima, and of its end if no minimum was stored there.

    Without `live` of the minima alone, unless there is none.
    """
    epochs = result.minimum_epochs
    stored = [result.arrays(k, what)[what] for k in range(len(epochs))]
    at_end = bool(epochs) and epochs[-1] == result.summary["epochs"]
    if not stored or (live and not (at_end or result.diverged)):  # a diverged end predicts nothing
        stored.append(result.arrays("final", what)[what])
    return np.stack(stored)


def grouped(results: Results) -> Iterator[tuple[str, list[Result]]]:
    """Every ensemble with its label: a run whose snapshots are the members, or one run a member (MEMBER)."""
    for label, group in results.items():
        ensembles: dict[tuple[str, int], list[Result]] = {}
        for result in group:
            ensembles.setdefault((result.run.model, result.run.seed % MEMBER), []).append(result)
        for runs in ensembles.values():
            yield label, runs


def members(
    runs: list[Result], last: int | None = None, what: Literal["logits", "theta"] = "logits", live: bool = True
) -> np.ndarray:
    """Test logits [K, N, C] or weights [K, P] of the members: ends of several runs, or the `last` snapshots of one."""
    if len(runs) > 1:
        return np.stack([snapshots(run, what)[-1] for run in runs])
    return snapshots(runs[0], what, live)[-last if last else None :]


def combine(logits: np.ndarray, average: Average = "probabilities") -> np.ndarray:
    """Log-probabilities [N, C] of an ensemble of K members with logits [K, N, C].

    "votes" is the share of members that choose a class; the mean probability counts as one more voter, so that it
    breaks ties and nothing else.
    """
    if average not in get_args(Average):
        raise UserError(f"average must be one of {', '.join(get_args(Average))}, not {average!r}")
    # Thesis: averages logits, which lets one overconfident member outvote the others.
    if average == "logits":
        return metrics.log_softmax(logits.astype(np.float64).mean(0))
    log_probabilities = metrics.log_softmax(logits)
    mean = logsumexp(log_probabilities, axis=0) - np.log(len(logits))
    if average == "probabilities":
        return mean
    votes = (log_probabilities.argmax(-1)[..., None] == np.arange(logits.shape[-1])).sum(0)
    return np.log(np.maximum(votes + np.exp(mean), 1e-300) / (len(logits) + 1))


def scores(logits: np.ndarray, labels: np.ndarray, average: Average = "probabilities") -> dict[str, float]:
    """Scores of an ensemble with logits [K, N, C] on labels [N].

    Each of SCORES for the last member, the members' mean and the ensemble (`accuracy_last`, ..., `nll_ensemble`), all
    but accuracy also after temperature scaling (`..._scaled`); the members' number K, and three measures of diversity
    (NaN if K is 1).
    """
    each, whole = metrics.log_softmax(logits), combine(logits, average)
    out = {"members": float(len(logits))}
    # One fit of the temperatures serves all scores.
    each_scaled, whole_scaled = [metrics.calibrated(x, labels) for x in each], metrics.calibrated(whole, labels)
    for name, score in SCORES.items():
        of_each = [score(member, labels) for member in each]
        out |= {f"{name}_last": of_each[-1], f"{name}_mean": float(np.mean(of_each))}
        out[f"{name}_ensemble"] = score(whole, labels)
        if name != "accuracy":
            out[f"{name}_mean_scaled"] = float(np.mean([score(x, labels) for splits in each_scaled for x in splits]))
            out[f"{name}_ensemble_scaled"] = float(np.mean([score(x, labels) for x in whole_scaled]))
    classes = each.argmax(-1)
    diversity = {
        "agreement": metrics.agreement(classes),
        "disagreement": metrics.disagreement(classes),
        "mutual_information": metrics.mutual_information(each),
    }
    return out | (diversity if len(logits) > 1 else dict.fromkeys(diversity, np.nan))


def table(
    results: Results, average: Average = "probabilities", last: int | None = None, live: bool = True
) -> pd.DataFrame:
    """`scores` of every ensemble, one row each, with label, model and seed.

    The members are the `last` snapshots of a run (None: all), or of its minima alone if its end is no member (`live`).
    """
    how, rows = {"average": average, "last": last} | ({} if live else {"live": live}), []
    for label, runs in grouped(results):
        found = derived.numbers("ensemble", runs, partial(_scores, runs, **how), **how, version=2)
        rows.append({"label": label, "model": runs[0].run.model, "seed": runs[0].run.seed} | found)
    return pd.DataFrame(rows)


def _scores(runs: list[Result], average: Average, last: int | None, live: bool = True) -> dict[str, float]:
    return scores(members(runs, last, live=live), _labels(runs[0]), average)


def each(results: Results, last: int | None = None) -> pd.DataFrame:
    """SCORES of every member of every ensemble, raw and temperature-scaled: label, model, seed, member, scores."""
    tables = []
    for label, runs in grouped(results):
        found = pd.DataFrame(derived.arrays("each", runs, partial(_each, runs, last), last=last, version=1))
        front = {"label": label, "model": runs[0].run.model, "seed": runs[0].run.seed}
        tables.append(pd.DataFrame(front, index=found.index).join(found))
    return pd.concat(tables, ignore_index=True)


def _each(runs: list[Result], last: int | None) -> derived.Arrays:
    logits, labels = metrics.log_softmax(members(runs, last)), _labels(runs[0])
    found = {"member": np.arange(1, len(logits) + 1)}
    found |= {name: np.array([score(x, labels) for x in logits]) for name, score in SCORES.items()}
    calibrated = [metrics.calibrated(x, labels) for x in logits]
    for name in ("nll", "brier", "ece"):
        scaled = [np.mean([SCORES[name](split, labels) for split in splits]) for splits in calibrated]
        found[f"{name}_scaled"] = np.array(scaled)
    return found


def growth(results: Results, average: Average = "probabilities", last: int | None = None) -> pd.DataFrame:
    """Ensemble accuracy and NLL after each further member, one row an ensemble and number of members."""
    tables = []
    for label, runs in grouped(results):
        compute = partial(_growth, runs, average, last)
        found = pd.DataFrame(derived.arrays("growth", runs, compute, average=average, last=last, version=1))
        tables.append(found.assign(label=label, model=runs[0].run.model, seed=runs[0].run.seed))
    return pd.concat(tables, ignore_index=True)


def _growth(runs: list[Result], average: Average, last: int | None) -> derived.Arrays:
    logits, labels = members(runs, last), _labels(runs[0])
    whole = [combine(logits[:k], average) for k in range(1, len(logits) + 1)]
    return {
        "members": np.arange(1, len(logits) + 1),
        "accuracy": np.array([metrics.accuracy(x, labels) for x in whole]),
        "nll": np.array([metrics.nll(x, labels) for x in whole]),
    }


#: What the table of ensembles shows, and its headings.
SHOWN = {
    "accuracy_last": "last member", "accuracy_ensemble": "ensemble", "nll_ensemble_scaled": "NLL",
    "brier_ensemble_scaled": "Brier", "ece_ensemble_scaled": "ECE", "agreement": "all agree",
    "disagreement": "two disagree", "mutual_information": "mutual information", "equivalent": "equivalent",
}  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The columns SHOWN as "mean ± std" over seeds, one row a label (and network), with the number of ensembles n."""
    groups = table.groupby(["label", "model"], sort=False)

    def text(v: pd.Series) -> str:
        return "" if v.isna().all() else f"{v.mean():.4f} ± {v.std(ddof=1):.4f}"

    shown = {title: groups[c].agg(text) for c, title in SHOWN.items()}
    return pd.DataFrame({**shown, "n": groups.size()}).reset_index()


def compared(
    table: pd.DataFrame, reference: str, columns: Iterable[str] = ("accuracy_ensemble", "nll_ensemble_scaled")
) -> pd.DataFrame:
    """Each label against a reference one in some scores, paired by seed: mean difference, 95 % interval, n, verdict.

    The verdict is wins, loses (the interval excludes 0; a lower NLL, Brier score or ECE is better), ties, or, with
    fewer than FEWEST seeds, undecided. One row a score, label and network.
    """
    rows = []
    for column in columns:
        sign = 1 if column.startswith("accuracy") else -1
        wide = table.pivot(index=["model", "seed"], columns="label", values=column)
        for label in dict.fromkeys(table["label"]):
            differences = (wide[label] - wide[reference]).dropna()
            for model, values in differences.groupby(level="model") if label != reference else ():
                low, high = interval(values.to_numpy(), ROUNDING["points"] / 100 if sign > 0 else 0.0)
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
        found = derived.arrays("subsets", runs, partial(_subsets, runs, average), version=2, **how)
        curves[runs[0].run.model, runs[0].run.seed] = found["nll_scaled"]
    rows = table[["label", "model", "seed"]].copy()
    rows["equivalent"] = [
        equivalent(row.nll_ensemble_scaled, curves[row.model, row.seed]) for row in table.itertuples()
    ]
    return rows


def _subsets(runs: list[Result], average: Average) -> derived.Arrays:
    """Scaled NLL of ensembles of 1 to K of these K runs, each the mean over all choices of them."""
    logits, labels = members(runs), _labels(runs[0])
    return {
        "nll_scaled": np.array(
            [
                np.mean([metrics.scaled(metrics.nll, combine(logits[[*some]], average), labels) for some in choices])
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


def _labels(result: Result) -> np.ndarray:
    return result.arrays("final", "labels")["labels"]
