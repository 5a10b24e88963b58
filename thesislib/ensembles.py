"""Snapshots of one run as one predictor."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from thesislib import metrics
from thesislib.config import UserError
from thesislib.results import Result, Results

Average = Literal["probabilities", "logits"]


def member_logits(result: Result) -> np.ndarray:
    """Test logits [K, N, C] of a run's minima, and of its end if no minimum was stored there."""
    epochs = result.minimum_epochs
    stored = [result.arrays(k, "logits")["logits"] for k in range(len(epochs))]
    at_end = bool(epochs) and epochs[-1] == result.summary["epochs"]
    if not stored or not (at_end or result.diverged):  # a diverged end predicts nothing
        stored.append(result.arrays("final", "logits")["logits"])
    return np.stack(stored)


def combine(logits: np.ndarray, average: Average = "probabilities") -> np.ndarray:
    """Log-probabilities [N, C] of an ensemble of K members with logits [K, N, C]."""
    if average not in get_args(Average):
        raise UserError(f"average must be one of {', '.join(get_args(Average))}, not {average!r}")
    # Thesis: averages logits, which lets one overconfident member outvote the others.
    if average == "logits":
        return metrics.log_softmax(logits.astype(np.float64).mean(0))
    return logsumexp(metrics.log_softmax(logits), axis=0) - np.log(len(logits))


def scores(result: Result, average: Average = "probabilities") -> dict[str, float]:
    """Accuracy and NLL of the last member, of the members' mean and of the ensemble; agreement; K."""
    logits, labels = member_logits(result), result.arrays("final", "labels")["labels"]
    each = metrics.log_softmax(logits)
    whole = combine(logits, average)
    return {
        "members": len(logits),
        "accuracy_last": metrics.accuracy(each[-1], labels),
        "accuracy_mean": float(np.mean([metrics.accuracy(m, labels) for m in each])),
        "accuracy_ensemble": metrics.accuracy(whole, labels),
        "nll_last": metrics.nll(each[-1], labels),
        "nll_mean": float(np.mean([metrics.nll(m, labels) for m in each])),
        "nll_ensemble": metrics.nll(whole, labels),
        "agreement": metrics.agreement(each.argmax(-1)),
    }


def table(results: Results, average: Average = "probabilities") -> pd.DataFrame:
    """`scores` of every run, one row a run, with label, model and seed."""
    return pd.DataFrame(
        [
            {"label": label, "model": result.run.model, "seed": result.run.seed} | scores(result, average)
            for label, group in results.items()
            for result in group
        ]
    )


def growth(results: Results, average: Average = "probabilities") -> pd.DataFrame:
    """Ensemble accuracy and NLL after each further member, one row a run and number of members."""
    rows = []
    for label, group in results.items():
        for result in group:
            logits, labels = member_logits(result), result.arrays("final", "labels")["labels"]
            for k in range(1, len(logits) + 1):
                whole = combine(logits[:k], average)
                row = {"label": label, "model": result.run.model, "seed": result.run.seed, "members": k}
                row |= {"accuracy": metrics.accuracy(whole, labels), "nll": metrics.nll(whole, labels)}
                rows.append(row)
    return pd.DataFrame(rows)
