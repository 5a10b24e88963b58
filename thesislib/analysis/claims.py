"""The thesis' claims C1 to C14 as functions of the results: verdict, effect, interval; and its printed numbers.

An effect is one number a seed, paired: both sides of a comparison start from the same weights and see the same
batches. Distances are compared as log ratios (shown as factors), accuracies in percentage points. A claim with
several statements is reproduced if all are, and not reproduced if one is contradicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
from scipy import stats

from thesislib.analysis import ensembles
from thesislib.analysis.verdicts import Statement, margins, rounding, statement_row
from thesislib.datasets import test_images
from thesislib.experiments.scales import SCALES
from thesislib.experiments.sections import digits
from thesislib.runs.results import Result, Results, Row, spread


def table(results: Results) -> pd.DataFrame:
    """One row a statement and network, with the columns of `verdicts.statement_row`.

    `results` are those of section 9_claims. What counts as the same is the network's own.
    """
    tables = []
    for network in dict.fromkeys(row.network for row in results):
        chapter = ChapterResults(results.where(network=network), SCALES[results.scale].cycle)
        none = chapter.of("1_baseline", "no term")
        margin, noise = margins(100 - chapter.accuracy(none).mean()), rounding(test_images(none[0].run))
        rows = [statement_row(statement, margin, noise) for statement in _statements(chapter)]
        tables.append(pd.DataFrame(rows).assign(network=network))
    return pd.concat(tables, ignore_index=True)


class ChapterResults:
    """The results of the whole chapter for one network; answers are arrays over the runs of a setting, [n]."""

    def __init__(self, results: Results, cycle: int) -> None:
        self.results, self.cycle = results, cycle

    def of(self, section: str, label: str) -> Results:
        """The runs of one setting."""
        return self.results.where(section=section, role="curve").only(label)

    def values(self, section: str, field: str) -> list[float]:
        """Distinct values of a run field in a section, rising, where the strength is not 0."""
        rows = self.results.where(section=section, role="curve")
        return sorted({getattr(row.run, field) for row in rows if row.run.strength})

    def each(self, runs: Results, read: Callable[[Result], float]) -> np.ndarray:
        """`read` of every run."""
        return np.array([read(row.result) for row in runs], dtype=float)

    def distance(self, runs: Results, cycles: float | None = None) -> np.ndarray:
        """Log squared distance to the first minimum after so many cycles, or at the end."""

        def read(result: Result) -> float:
            d = self._at(result, "d_0", cycles)
            return np.log(d) if d > 0 else np.nan

        return self.each(runs, read)

    def accuracy(self, runs: Results, cycles: float | None = None) -> np.ndarray:
        """Test accuracy in percent, mean over the last quarter of a cycle before that time, or the end."""
        last = max(1, self.cycle // 4)
        return self.each(runs, lambda result: 100 * self._at(result, "accuracy", cycles, last))

    def cycle_ends(self, runs: Results) -> np.ndarray:
        """Accuracy in percent at the ends of the cycles that began with a hill, mean over them."""
        ends = [self.each(runs, lambda result, k=k: 100 * self._at(result, "accuracy", k)) for k in (2, 3, 4)]
        return np.mean(ends, 0)

    def drop(self, runs: Results) -> np.ndarray:
        """Percentage points of accuracy lost at worst within a third of a cycle after the first minimum."""

        def read(result: Result) -> float:
            first = result.run.minimum_epochs[0]
            after = result.history["accuracy"][first : first + max(1, self.cycle // 3)]
            return 100 * (result.history["accuracy"][first - 1] - after.min()) if len(after) else np.nan

        return self.each(runs, read)

    def _at(self, result: Result, column: str, cycles: float | None, last: int = 1) -> float:
        epoch = result.run.epochs if cycles is None else round(cycles * self.cycle)
        rows = result.history[column][max(0, epoch - last) : epoch]
        # A diverged run has no rows left at that time: its accuracy stays what it was, its distance is unknown.
        if len(rows) == 0:
            return result.history[column].iloc[-1] if column == "accuracy" else np.nan
        return rows.mean()


def _statements(chapter: ChapterResults) -> Iterator[Statement]:
    of, d, a = chapter.of, chapter.distance, chapter.accuracy
    none, term = of("1_baseline", "no term"), of("1_baseline", "term")

    yield Statement("C1", "the term ends farther from the minimum", "more", "factor", d(term) - d(none))
    yield Statement("C2", "without it distance still grows in the second half", "more", "factor", d(none) - d(none, 2))
    yield Statement("C2", "while accuracy has converged", "same", "points", a(none) - a(none, 2))
    yield Statement("C3", "accuracy with the term is the baseline's", "same", "points", a(term) - a(none))

    strengths = chapter.values("2-2_strength", "strength")
    low, high = (of("2-2_strength", f"s = {digits(s)}") for s in (strengths[0], strengths[-1]))
    yield Statement("C4", "higher strength ends farther", "more", "factor", d(high) - d(low))
    drops = chapter.drop(high) - chapter.drop(low)
    yield Statement("C4", "and drops lower just after the minimum", "more", "points", drops)
    yield Statement("C4", "but recovers", "same", "points", a(high) - a(none))

    widths = {digits(w): of("2-1_width", f"w = {digits(w)}") for w in chapter.values("2-1_width", "width")}
    *grid, narrow = widths
    for wide, less_wide in zip(grid[:-1], grid[1:], strict=True):
        farther = d(widths[wide]) - d(widths[less_wide])
        yield Statement("C5", f"w {wide} ends farther than w {less_wide}", "more", "factor", farther)
    # A third of a cycle after the first minimum.
    early = of("2-2_strength", "no term")[0].run.minimum_epochs[0] / chapter.cycle + 1 / 3
    slower = d(widths[grid[0]], early) - d(widths[grid[-1]], early)
    yield Statement("C5", "the widest hill starts slowest", "less", "factor", slower)
    yield Statement("C5", f"w = {narrow} is too narrow to matter", "same", "factor", d(widths[narrow]) - d(none))
    for w in grid:
        yield Statement("C6", f"w = {w}: accuracy is the baseline's", "same", "points", a(widths[w]) - a(none))

    for s in (f"s = {digits(s)}" for s in chapter.values("4-1_multiple_minima", "strength")):
        many, free = of("4-1_multiple_minima", s), of("4-1_multiple_minima", f"{s}, no L2")
        # After the third minimum: by then the trajectory from the first had the most time to settle.
        falls = d(many) - d(many, 3)
        yield Statement("C7", f"{s}: after a further minimum d to the first falls", "less", "factor", falls)
        yield Statement("C7", f"{s}: without L2 it grows", "more", "factor", d(free) - d(free, 3))

    constant, step, decayed = (of("5_warm_restarts", label) for label in ("constant", "step", "step, term"))
    yield Statement("C8", "step decay ends more accurate", "more", "points", a(step) - a(constant))
    # In the second cycle, the first with a hill.
    first, second = (1 + k * decayed[0].run.lr_step / chapter.cycle for k in (1, 2))
    falls = d(decayed, second) - d(decayed, first)
    yield Statement("C8", "after the first drop of lr the distance falls", "less", "factor", falls)
    if second < 2:  # the rate falls twice within a cycle: there is a plateau to converge on
        yield Statement("C8", "then converges", "same", "factor", d(decayed, 2) - d(decayed, second))

    cosine, hills = (of("5_warm_restarts", label) for label in ("cosine", "cosine, multiple"))
    costs = chapter.cycle_ends(hills) - chapter.cycle_ends(cosine)
    yield Statement("C9", "with cosine the term costs accuracy", "less", "points", costs)

    rates = chapter.values("3-1_learning_rate", "lr")
    usual = 0.01 if 0.01 in rates else rates[0]
    good, high, kept = (
        of("3-1_learning_rate", f"lr = {digits(lr)}{term}")
        for lr, term in ((usual, ""), (10 * usual, ""), (10 * usual, ", term"))
    )
    says = f"lr = {10 * usual:g} loses accuracy against {usual:g}"
    yield Statement("C10", says, "less", "points", a(high) - a(good), premise=True)
    yield Statement("C10", "and the term keeps it up", "more", "points", a(kept) - a(high))

    yield from _ensemble_statements(chapter.results.where(section="7_ensembles"))

    costs = cost_per_minimum(chapter.results.where(section="8_cost")).groupby("label")["percent"]
    hills, none = (costs.get_group(label).to_numpy() for label in ("s = 1", "no term"))
    yield Statement("C14", "each hill costs a share of an epoch", "more", "percent", hills - none)


def _ensemble_statements(results: Results) -> Iterator[Statement]:
    scores = ensembles.table(results, last=5)
    by = {label: 100 * rows for label, rows in scores.set_index("label").drop(columns="network").groupby(level=0)}
    plain, cosine = by["constant"], by["cosine"]

    def gain(x: pd.DataFrame, y: pd.DataFrame, column: str = "accuracy_ensemble") -> np.ndarray:
        return x[column].to_numpy() - y[column].to_numpy()

    single = plain["accuracy_ensemble"] - plain["accuracy_last"]
    yield Statement("C11", "the ensemble beats its last member", "more", "points", single.to_numpy())
    with_term = {label: rows for label, rows in by.items() if label.startswith("s =")}
    for label, rows in with_term.items():
        says = f"{label} is no better an ensemble than plain"
        yield Statement("C12", says, "not more", "points", gain(rows, plain))
    best = max([plain, *with_term.values()], key=lambda rows: rows["accuracy_ensemble"].mean())
    yield Statement("C12", "cosine's is better than the best other", "more", "points", gain(cosine, best))
    for label, rows in with_term.items():
        less_agreement = -gain(rows, plain, "agreement")
        yield Statement("C13", f"{label} disagrees no more than plain", "not more", "points", less_agreement)
    yield Statement("C13", "cosine agrees more than plain", "more", "points", gain(cosine, plain, "agreement"))


def cost_per_minimum(results: Iterable[Row]) -> pd.DataFrame:
    """Slope of training seconds an epoch over the number of hills, one row a run.

    Columns label, network, seed, seconds, percent: of the median epoch of the run without hills (strength 0) with the
    same seed.
    """

    def seconds(row: Row) -> np.ndarray:
        return row.result.history["train_seconds"].to_numpy()[1:]  # the first epoch warms up caches and allocators

    without = {(row.network, row.seed): np.median(seconds(row)) for row in results if not row.run.strength}
    rows = []
    for row in results:
        epochs = seconds(row)
        hills = np.arange(1, len(epochs) + 1) // row.run.minima_every
        # Theil-Sen: the median of all slopes, deaf to an epoch that the machine disturbed.
        slope = stats.theilslopes(epochs, hills).slope
        which = {"label": row.label, "network": row.network, "seed": row.seed}
        rows.append(which | {"seconds": slope, "percent": 100 * slope / without[row.network, row.seed]})
    return pd.DataFrame(rows)


def published_values(results: Results) -> pd.DataFrame:
    """One row a setting: squared distance and accuracy, thesis / ours (mean ± std over n seeds) / ratio.

    `results` are section 2-1's of role "published". Empty at scales whose setting the thesis has no numbers of.
    """
    rows, printed = [], SCALES[results.scale].published if results.scale in SCALES else {}
    for label, (accuracy, distance) in zip(results.labels, printed.values(), strict=True):
        ours = results.only(label).final
        rows.append(
            {
                "setting": label, "d, thesis": distance, "d, ours": spread(ours["d_0"], ".1f", ".1f"),
                "ratio": round(ours["d_0"].mean() / distance, 3), "accuracy, thesis": accuracy,
                "accuracy, ours": spread(ours["accuracy"], ".4f", ".4f"), "n": len(ours),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
