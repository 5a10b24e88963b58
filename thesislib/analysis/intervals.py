"""How sure an effect is: intervals over seeds and over test images, several comparisons at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from thesislib.system.errors import UserError


def by_seed(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of a table with a row a label and seed, [seeds, labels]. Raises UserError if there are two of one."""
    if len(twice := table[table.duplicated(["label", "seed"])]):
        first = twice.iloc[0]
        raise UserError(f"{first['label']!r} has two rows of seed {first['seed']}: what is paired by seeds has one")
    return table.pivot(index="seed", columns="label", values=column)


class Effect(NamedTuple):
    """A mean over seeds, its standard error and degrees of freedom; NaN and inf where fewer than two are known."""

    mean: float
    error: float
    freedom: float
    n: int
    images: int = 0  # over whose sampling the error runs as well; 0: over seeds alone

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval of the mean at a level, (low, high)."""
        if self.n < 2:
            return -np.inf, np.inf
        half = stats.t.ppf((1 + level) / 2, self.freedom) * self.error
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided p value of no effect; 1 where fewer than two seeds are known."""
        if self.n < 2:
            return 1.0
        if not self.error:
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom))

    def scaled(self, factor: float) -> Effect:
        """The effect in another unit."""
        return self._replace(mean=factor * self.mean, error=abs(factor) * self.error)


def over_seeds(effects: np.ndarray, least: float = 0.0) -> Effect:
    """The effect in `effects`, [n], one a seed; those that are not finite are left out.

    `least` is the least standard deviation that they can have (`rounding`).

    >>> low, high = over_seeds(np.array([1.0, 2.0, 4.0])).interval()
    >>> round(low, 2), round(high, 2)
    (-1.46, 6.13)
    """
    x = effects[np.isfinite(effects)]
    if len(x) < 2:
        return Effect(float(x[0]) if len(x) else np.nan, np.inf, 1, len(x))
    error = max(float(x.std(ddof=1)), least) / np.sqrt(len(x))
    return Effect(float(x.mean()), float(error), len(x) - 1, len(x))


def rounding(images: int) -> float:
    """Standard deviation that rounding alone gives a difference of two accuracies, each in steps of 1 / images."""
    return 1 / images / np.sqrt(6)


def over_seeds_and_images(effects: np.ndarray) -> Effect:
    """The effect in `effects`, [n, N], of n seeds on the same N test images: both are samples of what could have been.

    With seed effects of variance a, image effects of variance b and their interaction e, the mean over n seeds and N
    images has variance a / n + b / N + e / (n N). The mean squares of the two-way layout estimate it without bias: the
    variance of the seeds' means over n, and that of the images' means over N, count e once each. (The crossed
    bootstrap, which resamples seeds and images, counts it three times: Owen 2007, "The pigeonhole bootstrap".) Degrees
    of freedom after Satterthwaite (1946). Seeds of which something is not finite are left out.
    """
    x = np.asarray(effects, dtype=np.float64)
    x = x[np.isfinite(x).all(1)]
    n, images = x.shape
    if n < 2 or images < 2:
        return over_seeds(x.mean(1))._replace(images=images)
    by_seed, by_image, mean = x.mean(1), x.mean(0), x.mean()
    seeds, pictures = by_seed.var(ddof=1) / n, by_image.var(ddof=1) / images
    rest = ((x - by_seed[:, None] - by_image + mean) ** 2).sum() / ((n - 1) * (images - 1) * n * images)
    # Neither part alone can be more than the whole.
    variance = max(seeds + pictures - rest, seeds, pictures)
    squares = seeds**2 / (n - 1) + pictures**2 / (images - 1) + rest**2 / ((n - 1) * (images - 1))
    freedom = variance**2 / squares if squares else n - 1
    return Effect(float(mean), float(np.sqrt(variance)), float(freedom), n, images)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p values of a family of tests, [m], in their order.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p)[order] * (len(p) - np.arange(len(p)))))
    return adjusted
