"""Several networks as one predictor: the snapshots of a run, or independent runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from thesislib.analysis import scores
from thesislib.datasets import test_images
from thesislib.experiments.sections import MEMBER
from thesislib.runs import cache
from thesislib.runs.results import Result, Results
from thesislib.system.errors import UserError

Average = Literal["probabilities", "logits", "votes"]

SCORES = {"accuracy": scores.accuracy, "nll": scores.nll, "brier": scores.brier, "ece": scores.ece}


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


def check(average: object) -> None:
    """Raise UserError unless it is one of the ways to combine members."""
    if average not in get_args(Average):
        raise UserError(f"average must be one of {', '.join(get_args(Average))}, not {average!r}")


def combine(logits: np.ndarray, average: Average = "probabilities") -> np.ndarray:
    """Log-probabilities [N, C] of an ensemble of K members with logits [K, N, C].

    "votes" is the share of members that choose a class; the mean probability counts as one more voter, so that it
    breaks ties and nothing else.
    """
    check(average)
    # Thesis: averages logits, which lets one overconfident member outvote the others.
    if average == "logits":
        return scores.log_softmax(logits.astype(np.float64).mean(0))
    log_probabilities = scores.log_softmax(logits)
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
    each, whole = scores.log_softmax(logits), combine(logits, average)
    out = {"members": float(len(logits))}
    # One fit of the temperatures serves all scores.
    each_scaled, whole_scaled = [scores.calibrated(x, labels) for x in each], scores.calibrated(whole, labels)
    for name, score in SCORES.items():
        of_each = [score(member, labels) for member in each]
        out |= {f"{name}_last": of_each[-1], f"{name}_mean": float(np.mean(of_each))}
        out[f"{name}_ensemble"] = score(whole, labels)
        if name != "accuracy":
            out[f"{name}_mean_scaled"] = float(np.mean([score(x, labels) for splits in each_scaled for x in splits]))
            out[f"{name}_ensemble_scaled"] = float(np.mean([score(x, labels) for x in whole_scaled]))
    classes = each.argmax(-1)
    diversity = {
        "agreement": scores.agreement(classes),
        "disagreement": scores.disagreement(classes),
        "mutual_information": scores.mutual_information(each),
    }
    return out | (diversity if len(logits) > 1 else dict.fromkeys(diversity, np.nan))


def table(
    results: Results, average: Average = "probabilities", last: int | None = None, live: bool = True
) -> pd.DataFrame:
    """`scores` of every ensemble, one row each, with label, model, seed and number of test images.

    The members are the `last` snapshots of a run (None: all), or of its minima alone if its end is no member (`live`).
    """
    how, rows = {"average": average, "last": last} | ({} if live else {"live": live}), []
    for label, runs in grouped(results):
        found = cache.numbers("ensemble", runs, partial(_scores, runs, **how), **how, version=2)
        front = {"label": label, "model": runs[0].run.model, "seed": runs[0].run.seed}
        rows.append(front | {"images": test_images(runs[0].run)} | found)
    return pd.DataFrame(rows)


def _scores(runs: list[Result], average: Average, last: int | None, live: bool = True) -> dict[str, float]:
    return scores(members(runs, last, live=live), labels_of(runs[0]), average)


def each(results: Results, last: int | None = None) -> pd.DataFrame:
    """SCORES of every member of every ensemble, raw and temperature-scaled: label, model, seed, member, scores."""
    tables = []
    for label, runs in grouped(results):
        found = pd.DataFrame(cache.arrays("each", runs, partial(_each, runs, last), last=last, version=1))
        front = {"label": label, "model": runs[0].run.model, "seed": runs[0].run.seed}
        tables.append(pd.DataFrame(front, index=found.index).join(found))
    return pd.concat(tables, ignore_index=True)


def _each(runs: list[Result], last: int | None) -> cache.Arrays:
    logits, labels = scores.log_softmax(members(runs, last)), labels_of(runs[0])
    found = {"member": np.arange(1, len(logits) + 1)}
    found |= {name: np.array([score(x, labels) for x in logits]) for name, score in SCORES.items()}
    calibrated = [scores.calibrated(x, labels) for x in logits]
    for name in ("nll", "brier", "ece"):
        scaled = [np.mean([SCORES[name](split, labels) for split in splits]) for splits in calibrated]
        found[f"{name}_scaled"] = np.array(scaled)
    return found


def growth(results: Results, average: Average = "probabilities", last: int | None = None) -> pd.DataFrame:
    """Ensemble accuracy and NLL after each further member, one row an ensemble and number of members."""
    tables = []
    for label, runs in grouped(results):
        compute = partial(_growth, runs, average, last)
        found = pd.DataFrame(cache.arrays("growth", runs, compute, average=average, last=last, version=1))
        tables.append(found.assign(label=label, model=runs[0].run.model, seed=runs[0].run.seed))
    return pd.concat(tables, ignore_index=True)


def _growth(runs: list[Result], average: Average, last: int | None) -> cache.Arrays:
    logits, labels = members(runs, last), labels_of(runs[0])
    whole = [combine(logits[:k], average) for k in range(1, len(logits) + 1)]
    return {
        "members": np.arange(1, len(logits) + 1),
        "accuracy": np.array([scores.accuracy(x, labels) for x in whole]),
        "nll": np.array([scores.nll(x, labels) for x in whole]),
    }


def labels_of(result: Result) -> np.ndarray:
    """True classes [N] of the test images that the run's logits are of."""
    return result.arrays("final", "labels")["labels"]
