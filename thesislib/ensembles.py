"""Several networks as one predictor: the snapshots of a run, or independent runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from thesislib import metrics
from thesislib.config import UserError
from thesislib.results import Result, Results
from thesislib.verdicts import interval

Average = Literal["probabilities", "logits", "votes"]

#: Under one label, runs whose seeds are equal modulo this are the members of one ensemble of independent networks.
MEMBER = 1000

SCORES = {"accuracy": metrics.accuracy, "nll": metrics.nll, "brier": metrics.brier, "ece": metrics.ece}


def snapshots(result: Result) -> np.ndarray:
    """Test logits [K, N, C] of a run's minima, and of its end if no minimum was stored there."""
    epochs = result.minimum_epochs
    stored = [result.arrays(k, "logits")["logits"] for k in range(len(epochs))]
    at_end = bool(epochs) and epochs[-1] == result.summary["epochs"]
    if not stored or not (at_end or result.diverged):  # a diverged end predicts nothing
        stored.append(result.arrays("final", "logits")["logits"])
    return np.stack(stored)


def members(group: list[Result], last: int | None = None) -> Iterator[tuple[Result, np.ndarray]]:
    """Each ensemble of a label, as its first run and its members' test logits [K, N, C]; only the `last` snapshots."""
    ensembles: dict[int, list[Result]] = {}
    for result in group:
        ensembles.setdefault(result.run.seed % MEMBER, []).append(result)
    for runs in ensembles.values():
        independent = [snapshots(run)[-1] for run in runs]
        yield runs[0], np.stack(independent) if len(runs) > 1 else snapshots(runs[0])[-last if last else None :]


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
    but accuracy also after temperature scaling (`..._scaled`); the members' number K and three measures of diversity.
    """
    each, whole = metrics.log_softmax(logits), combine(logits, average)
    out = {"members": float(len(logits))}
    for name, score in SCORES.items():
        of_each = [score(member, labels) for member in each]
        out |= {f"{name}_last": of_each[-1], f"{name}_mean": float(np.mean(of_each))}
        out[f"{name}_ensemble"] = score(whole, labels)
        if name != "accuracy":
            out[f"{name}_mean_scaled"] = float(np.mean([metrics.scaled(score, member, labels) for member in each]))
            out[f"{name}_ensemble_scaled"] = metrics.scaled(score, whole, labels)
    classes = each.argmax(-1)
    return out | {
        "agreement": metrics.agreement(classes),
        "disagreement": metrics.disagreement(classes),
        "mutual_information": metrics.mutual_information(each),
    }


def table(results: Results, average: Average = "probabilities", last: int | None = None) -> pd.DataFrame:
    """`scores` of every ensemble, one row each, with label, model and seed."""
    return pd.DataFrame(
        [
            {"label": label, "model": first.run.model, "seed": first.run.seed} | scores(logits, _labels(first), average)
            for label, group in results.items()
            for first, logits in members(group, last)
        ]
    )


def growth(results: Results, average: Average = "probabilities", last: int | None = None) -> pd.DataFrame:
    """Ensemble accuracy and NLL after each further member, one row an ensemble and number of members."""
    rows = []
    for label, group in results.items():
        for first, logits in members(group, last):
            labels = _labels(first)
            for k in range(1, len(logits) + 1):
                whole = combine(logits[:k], average)
                row = {"label": label, "model": first.run.model, "seed": first.run.seed, "members": k}
                row |= {"accuracy": metrics.accuracy(whole, labels), "nll": metrics.nll(whole, labels)}
                rows.append(row)
    return pd.DataFrame(rows)


def compared(table: pd.DataFrame, reference: str, column: str = "accuracy_ensemble") -> pd.DataFrame:
    """Each label against a reference one, paired by seed: mean difference, 95 % interval (Student), n, verdict.

    The verdict is wins, loses (the interval excludes 0; a lower NLL, Brier score or ECE is better) or ties.
    """
    wide = table.pivot(index="seed", columns="label", values=column)
    better = 1 if column.startswith("accuracy") else -1
    rows = []
    for label in dict.fromkeys(table["label"]):
        if label == reference:
            continue
        difference = (wide[label] - wide[reference]).dropna().to_numpy()
        low, high = interval(difference)
        verdict = "wins" if better * (low if better > 0 else high) > 0 else "ties"
        verdict = "loses" if better * (high if better > 0 else low) < 0 else verdict
        row = {"label": label, "against": reference, "score": column, "difference": difference.mean()}
        rows.append(row | {"low": low, "high": high, "n": len(difference), "verdict": verdict})
    return pd.DataFrame(rows)


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
