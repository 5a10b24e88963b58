"""Which of several ensembles is the better one: each against a reference, over seeds and test images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from thesislib.analysis import predictions
from thesislib.analysis.ensembles import SCORES, by_kind
from thesislib.analysis.intervals import Effect, by_seed, holm, over_seeds, over_seeds_and_images, rounding
from thesislib.analysis.verdicts import outcome
from thesislib.experiments.sections import Average
from thesislib.experiments.statements import BANDS, FEWEST, LEVEL, WIDEST
from thesislib.runs.results import Results
from thesislib.runs.spreads import need
from thesislib.system.errors import UserError

#: What `predictions.of_ensembles` has of each image for a score.
_IMAGES = {
    "accuracy_ensemble": "hits", "nll_ensemble": "nll", "nll_ensemble_scaled": "nll_scaled",
    "brier_ensemble_scaled": "brier_scaled",
}  # fmt: skip


def against(
    results: Results,
    scores: pd.DataFrame,
    reference: str,
    columns: Iterable[str] = ("accuracy_ensemble", "nll_ensemble_scaled"),
    last: int | None = None,
    average: Average = "probabilities",
) -> pd.DataFrame:
    """Each label against a `reference` one, paired by seed; `scores` are `ensembles.table(results, average, last)`.

    One row a score, label and network: difference, 95 % interval (low, high), p (no difference; Holm over all rows),
    margin, n, images, verdict. The interval and p are over seeds and, if `images` is not 0, over so many test
    images. "wins" and "loses": p < 0.05 (a lower NLL is better); "equivalent": the interval lies within the margin,
    which is that of `experiments.statements`; else, and with fewer than FEWEST seeds, "undecided". Raises
    UserError for a column that is not there or is no accuracy, NLL, Brier score or ECE, a network without the
    reference, two rows of one label and seed, and `scores` that are of other ensembles than `results`.
    """
    need(scores, columns := list(columns), numbers=True, front=("label", "network", "seed"))
    if unknown := [name for name in columns if not name.startswith((*SCORES,))]:
        raise UserError(
            f"which {unknown[0]} is the better one is not known: choose columns that begin with " + ", ".join(SCORES)
        )
    need_reference(scores, reference)
    family = []
    for network, of_network in scores.groupby("network", sort=False):
        for column in columns:
            for label in dict.fromkeys(of_network["label"]):
                if label != reference:
                    some = results.where(network=network)
                    how = last if average == "probabilities" else None
                    effect = _effect(some, of_network, (label, reference), column, how, average == "probabilities")
                    family.append((column, label, network, effect, _margin(of_network, reference, column)))
    rows = []
    adjusted = holm(np.array([effect.p for *_, effect, _ in family]))
    for (column, label, network, effect, margin), p in zip(family, adjusted, strict=True):
        low, high = effect.interval()
        row = {"score": column, "label": label, "network": network, "against": reference}
        row |= {"difference": effect.mean, "low": low, "high": high, "p": p, "margin": margin}
        row |= {"n": effect.n, "images": effect.images, "verdict": _verdict(column, effect, margin, p)}
        rows.append(row)
    return pd.DataFrame(rows)


def need_reference(scores: pd.DataFrame, reference: str) -> None:
    """Raise UserError if a network has no ensemble of this label."""
    for network, some in scores.groupby("network", sort=False):
        if reference not in set(some["label"]):
            known = ", ".join(dict.fromkeys(some["label"]))
            raise UserError(f"no ensemble {reference!r}: choose from {known}, of {network}")


def _effect(
    results: Results, scores: pd.DataFrame, labels: tuple[str, str], column: str, last: int | None, has_images: bool
) -> Effect:
    wide = by_seed(scores, column)[[*labels]].dropna()
    if len(wide) and has_images and column in _IMAGES and all(label in results.labels for label in labels):
        some = [results.only(label).where(seed=list(wide.index)) for label in labels]
        images = [
            predictions.of_ensembles(runs, _IMAGES[column], last, which)
            for side in some
            for runs, which in by_kind(side)  # of one label: one part
        ]
        if all(side is not None and np.isfinite(side).all() for side in images):
            first, second = (_in_order(runs, side) for runs, side in zip(some, images, strict=True))
            for label, side in zip(labels, (first, second), strict=True):
                _check_same(label, column, side.mean(1), wide[label].to_numpy())
            return over_seeds_and_images(first - second)
    least = rounding(int(scores["images"].iloc[0])) if column.startswith("accuracy") else 0.0
    return over_seeds((wide[labels[0]] - wide[labels[1]]).to_numpy(), least)


def _check_same(label: str, column: str, of_images: np.ndarray, of_table: np.ndarray) -> None:
    """Raise UserError if the scores of a label, [n] each, are others by its images than in the table given."""
    # Numbers of images are kept in half precision: to a thousandth, and to its least number.
    least = float(np.finfo(np.float16).smallest_subnormal)
    if len(of_images) != len(of_table) or not np.allclose(of_images, of_table, rtol=2e-3, atol=least):
        raise UserError(
            f"{column} of {label!r} is not that of these results: give the results, last and average that the scores "
            "are of, without rows of other roles"
        )


def _in_order(runs: Results, images: np.ndarray) -> np.ndarray:
    """Rows in the order of seeds."""
    return images[np.argsort([first.seed for first, *_ in runs.ensembles])]


def _margin(scores: pd.DataFrame, reference: str, column: str) -> float:
    """Half the width of what counts as the same, from the reference's own error or score."""
    of_reference = scores[scores["label"] == reference]
    if column.startswith("accuracy"):
        return min(WIDEST / 100, BANDS["accuracy"] * (1 - of_reference["accuracy_mean"].mean()))
    return BANDS["nll"] * of_reference[column].mean()


def _verdict(column: str, effect: Effect, margin: float, p: float) -> str:
    if effect.n < FEWEST:
        return "undecided"
    if outcome(effect, margin) == "same":
        return "equivalent"
    return sure(column, effect, p)


def sure(column: str, effect: Effect, p: float) -> str:
    """ "wins" or "loses" if p < 0.05 of FEWEST seeds or more (a lower NLL is better), else "undecided"."""
    if effect.n < FEWEST or not p < 1 - LEVEL:  # nor a number at all
        return "undecided"
    return "wins" if (effect.mean > 0) == column.startswith("accuracy") else "loses"
