"""What each test image says about networks and ensembles: kept beside the runs, so that archived ones suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from thesislib.analysis import ensembles, scores
from thesislib.analysis.ensembles import Which
from thesislib.config import Run
from thesislib.runs import cache
from thesislib.runs.cache import Arrays, Computed
from thesislib.runs.finished import Result, WithoutWeights
from thesislib.runs.results import Results
from thesislib.system.errors import UserError


def hits(results: Results, epoch: int | None = None) -> np.ndarray | None:
    """Whether each run is right about each test image after an epoch (None: at its end), [runs, N].

    Known after the epochs of minima and at the end; a run that diverged before counts as it was. None if a run came
    without weights, and without this. Raises KeyError for another epoch, UserError for no runs.
    """
    if not len(results):
        raise UserError("there are no runs to read")
    found = _kept("hits", results, _hits)
    return None if found is None else np.stack([_at(arrays, epoch) for arrays in found])


def keep_hits(runs: Iterable[Run]) -> None:
    """Compute the `hits` of finished runs that have their weights: without these they are lost (`archive`)."""
    for run in runs:
        hits(Results([run]))


def _at(arrays: Arrays, epoch: int | None) -> np.ndarray:
    *_, last = arrays["epoch"]
    wanted = last if epoch is None or (epoch > last and arrays["diverged"].any()) else epoch
    places = np.flatnonzero(arrays["epoch"] == wanted)
    if len(places) == 0:
        raise KeyError(f"no network is stored after epoch {wanted}, only after {arrays['epoch'].tolist()}")
    return _unpacked(arrays["hits"][places[0]], arrays)


def _hits(runs: list[Result]) -> Computed:
    """Of one run: epochs [K], hits [K, N] as bits, the number of images, and whether it diverged."""
    (result,) = runs
    stored: dict[int, int | str] = {e: k for k, e in enumerate(result.minimum_epochs)}
    stored[result.summary["epochs"]] = "final"
    labels = ensembles.labels_of(result)
    right = [result.arrays(which, "logits")["logits"].argmax(-1) == labels for which in stored.values()]
    return {
        "epoch": np.array(list(stored)), "hits": np.packbits(np.stack(right), axis=-1), "images": np.array(len(labels)),
        "diverged": np.array(result.diverged),
    }  # fmt: skip


def of_ensembles(results: Results, what: str, last: int | None = None, which: Which = "live") -> np.ndarray | None:
    """One number of every ensemble about each test image, [ensembles, N]; members are the `last` snapshots of a run.

    `what` is "hits" (the ensemble is right), "agree" (all members predict the same class), "nll" or "nll_scaled" (after
    temperature scaling), in nats, or "brier_scaled". NaN for an ensemble that has no scores (`ensembles.table`). None
    if runs came without weights, and without this.
    """
    name, function = ("ensemble-brier", _brier) if what == "brier_scaled" else ("ensemble-images", _of_ensemble)
    found = _kept(name, results, function, last=last, **ensembles.keyed(which))
    if found is None:
        return None
    bits, number = what in ("hits", "agree"), "brier_scaled" if what == "brier_scaled" else "nll"
    of_each = np.stack([_unpacked(arrays[what], arrays) if bits else arrays[what] for arrays in found])
    predicts = np.array([np.isfinite(arrays[number]).all() for arrays in found])
    return np.where((predicts & ~ensembles.cut_short(results))[:, None], of_each.astype(np.float64), np.nan)


@np.errstate(invalid="ignore")  # of members that predict nothing
def _of_ensemble(runs: list[Result], last: int | None, which: Which = "live") -> Computed:
    logits, labels = ensembles.members(runs, last, which=which), ensembles.labels_of(runs[0])
    whole, classes = ensembles.combine(logits), logits.argmax(-1)
    scaled = scores.nll_of_each(scores.calibrated(whole, labels), labels).mean(0)
    return {
        "hits": np.packbits(whole.argmax(-1) == labels), "agree": np.packbits((classes == classes[0]).all(0)),
        "nll": _short(scores.nll_of_each(whole, labels)), "nll_scaled": _short(scaled),
        "images": np.array(len(labels)),
    }  # fmt: skip


def _short(numbers: np.ndarray) -> np.ndarray:
    """In half precision, if that has numbers so large."""
    fits = np.abs(numbers).max() <= np.finfo(np.float16).max
    return numbers.astype(np.float16 if fits else np.float32)


@np.errstate(invalid="ignore")
def _brier(runs: list[Result], last: int | None, which: Which = "live") -> Computed:
    """Apart from `_of_ensemble`, which archives had before."""
    logits, labels = ensembles.members(runs, last, which=which), ensembles.labels_of(runs[0])
    whole = scores.calibrated(ensembles.combine(logits), labels)
    return {"brier_scaled": scores.brier_of_each(whole, labels).mean(0).astype(np.float32)}


def _unpacked(bits: np.ndarray, arrays: Arrays) -> np.ndarray:
    return np.unpackbits(bits, count=int(arrays["images"].item())).astype(bool)


def _kept(
    name: str, results: Results, function: Callable[..., Computed], **parameters: object
) -> Sequence[Arrays] | None:
    groups = [[row.result for row in rows] for rows in results.ensembles]
    try:
        return cache.many(name, groups, function, parameters | {"version": 1})
    except WithoutWeights:  # archived before this was kept
        return None
