"""Ensembles on test images that are unlike the training images: rotated digits, spoilt photographs. Section 10.

Diversity should pay where members are wrong in different ways (Ovadia et al. 2019). Photographs are spoilt as in
Hendrycks and Dietterich (2019), by noise, blur and less contrast, here in five steps of our own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from thesislib.analysis import better, comparisons, ensembles, rates, scores
from thesislib.analysis.ensembles import Which
from thesislib.analysis.evaluator import Evaluator, statistics_version
from thesislib.analysis.intervals import by_seed, holm, over_seeds, rounding
from thesislib.datasets import facts, test_images
from thesislib.experiments.beyond import MEMBERS
from thesislib.experiments.sections import Average
from thesislib.runs.cache import Computed
from thesislib.runs.finished import Result
from thesislib.runs.results import Results
from thesislib.system import machine

#: Images uint8 [N, C, H, W] and a severity from 1 to 5 to images like them.
Shift = Callable[[Tensor, int], Tensor]
SEVERITIES = range(1, 6)


def rotated(images: Tensor, severity: int) -> Tensor:
    """By 15 degrees a step, to the left; corners are black.

    >>> from thesislib.analysis.shift import rotated
    >>> import torch
    >>> rotated(torch.full((1, 1, 28, 28), 7, dtype=torch.uint8), 1).shape
    torch.Size([1, 1, 28, 28])
    """
    from torchvision.transforms import InterpolationMode, v2  # here and below: what is cached need not wait for it

    return v2.functional.rotate(images, 15.0 * severity, InterpolationMode.BILINEAR)


def noisy(images: Tensor, severity: int) -> Tensor:
    """White noise, always the same, with a deviation of 0.04 of the whole range a step."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(severity)).to(images.device)
    return (images + 255 * 0.04 * severity * noise).round().clamp(0, 255).to(torch.uint8)


def blurred(images: Tensor, severity: int) -> Tensor:
    """By a Gaussian with a deviation of 0.4 pixels a step."""
    from torchvision.transforms import v2

    return v2.functional.gaussian_blur(images, [9, 9], [0.4 * severity] * 2)


def faded(images: Tensor, severity: int) -> Tensor:
    """Contrast less by 0.18 of what it was a step: a tenth is left at the end."""
    from torchvision.transforms import v2

    return v2.functional.adjust_contrast(images, 1 - 0.18 * severity)


def shifts(data: str) -> dict[str, Shift]:
    """What is done to the images of a dataset, by name: gray ones are rotated, the others spoilt."""
    if facts(data).shape[0] == 1:
        return {"rotation": rotated}
    return {"noise": noisy, "blur": blurred, "contrast": faded}


def table(results: Results, average: Average = "probabilities") -> pd.DataFrame:
    """Accuracy and NLL of every ensemble on shifted test images, mean over the kinds of shift.

    One row an ensemble and severity, 0 for the test images as they are: label, network, seed, severity, images,
    accuracy_ensemble, nll_ensemble_scaled; of an ensemble with a member that predicts nothing the scores are NaN.
    BatchNorm's statistics are collected anew, also where the run was evaluated with running ones. Members are what the
    rows' roles say (`better.table`). The NLL is after temperature scaling by the temperature that suits the images as
    they are: nobody has others to fit it on. Archived runs of which this was not computed have no rows.
    """
    number = statistics_version(results, 1)
    found = better.of_members(
        results, lambda some, which: some.map(_shifted, "shift", number, leave_out=True, average=average, which=which)
    )
    found.insert(found.columns.get_loc("severity") + 1, "images", test_images(results[0].run))
    return ensembles.living(found)


def against(shifted: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Each label of a `table` against a `reference` one on shifted images, paired by seed.

    One row a score, label, network and severity: difference, 95 % interval over seeds (low, high), p (no difference;
    Holm over all rows), n, verdict. "wins" and "loses": p < 0.05 (a lower NLL is better); else, and with fewer than
    FEWEST seeds, "undecided". Raises UserError for a network without the reference.

    >>> found = pd.DataFrame({"label": ["a", "b"] * 3, "network": "mlp", "seed": [0, 0, 1, 1, 2, 2], "severity": 1})
    >>> found["accuracy_ensemble"], found["nll_ensemble_scaled"] = [0.8, 0.7] * 3, [0.5, 0.6] * 3
    >>> against(found, "b")[["score", "label", "severity", "n"]].values.tolist()
    [['accuracy_ensemble', 'a', 1, 3], ['nll_ensemble_scaled', 'a', 1, 3]]
    """
    rows, effects = [], []
    comparisons.need_reference(shifted, reference)
    least = rounding(int(shifted["images"].iloc[0])) if "images" in shifted else 0.0
    of_each = shifted[shifted["severity"] > 0].sort_values("severity", kind="stable").groupby(["network", "severity"])
    for column in ("accuracy_ensemble", rates.SCORE):
        for (network, severity), some in of_each:
            wide = by_seed(some, column)
            for label in [label for label in dict.fromkeys(some["label"]) if label != reference]:
                difference = (wide[label] - wide[reference]).to_numpy()
                effects.append(over_seeds(difference, least if column == "accuracy_ensemble" else 0.0))
                rows.append({"score": column, "label": label, "network": network, "severity": severity})
    adjusted = holm(np.array([effect.p for effect in effects]))
    for row, effect, p in zip(rows, effects, adjusted, strict=True):
        low, high = effect.interval()
        row |= {"against": reference, "difference": effect.mean, "low": low, "high": high, "p": p, "n": effect.n}
        row["verdict"] = comparisons.sure(row["score"], effect, p)
    return pd.DataFrame(rows)


@machine.repeatable()
@np.errstate(invalid="ignore")  # of members that predict nothing
def _shifted(runs: list[Result], average: Average, which: Which) -> Computed:
    run, thetas = runs[0].run, ensembles.members(runs, MEMBERS, "theta", which)
    evaluator = Evaluator(run, device=machine.device())
    images, labels = evaluator.test.images, evaluator.test.labels.cpu().numpy()
    kinds = shifts(run.data).values()
    # BatchNorm's statistics are of the training images: estimated once a member, whatever the test images are.
    versions = [images, *(shift(images, severity) for severity in SEVERITIES for shift in kinds)]
    logits = np.stack([evaluator.logits_of(theta, versions) for theta in thetas], axis=1)  # [V, M, N, C]
    plain, *shifted = (ensembles.combine(of_members, average) for of_members in logits)
    temperature = scores.temperature(plain, labels)

    def scored(log_probabilities: np.ndarray) -> tuple[float, float]:
        scaled = scores.log_softmax(log_probabilities / temperature)
        return scores.accuracy(scaled, labels), scores.nll(scaled, labels)

    of_kinds = np.array([scored(found) for found in shifted]).reshape(len(SEVERITIES), len(kinds), 2)
    accuracy, nll = np.vstack([scored(plain), of_kinds.mean(1)]).T
    return {"severity": np.array([0, *SEVERITIES]), "accuracy_ensemble": accuracy, rates.SCORE: nll}
