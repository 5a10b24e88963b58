"""The thesis' claims C1 to C14 as functions of the results: verdict, effect, interval.

An effect is one number a seed, paired: both sides of a comparison start from the same weights and see the same
batches. Distances are compared as log ratios (shown as factors), accuracies in percentage points. A claim with
several parts is reproduced if all parts are, and not reproduced if one is contradicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy import stats

from thesislib.analysis import ensembles
from thesislib.analysis.verdicts import Part, margins, rounding, row
from thesislib.datasets import test_images
from thesislib.experiments import sections
from thesislib.runs.results import Result, Results


def table(results: Results, cycle: int) -> pd.DataFrame:
    """One row a part and network, with the columns of `verdicts.row`; what counts as the same is the network's own.

    `results` are those of section 9_claims; `cycle` is the scale's, in epochs.
    """
    networks = dict.fromkeys(result.run.model for group in results.values() for result in group)
    tables = []
    for network in networks:
        own = {label: [r for r in group if r.run.model == network] for label, group in results.items()}
        book = Book(Results(own), cycle)
        margin = margins(100 - book.accuracy("1_baseline: no term").mean())
        noise = rounding(test_images(book.results["1_baseline: no term"][0].run))
        parts = [row(part, margin, noise) for part in _parts(book)]
        tables.append(pd.DataFrame(parts).assign(network=network))
    return pd.concat(tables, ignore_index=True)


class Book:
    """The results of the whole chapter, asked by section and label; answers are arrays over runs [n]."""

    def __init__(self, results: Results, cycle: int) -> None:
        self.results, self.cycle = results, cycle

    @property
    def first(self) -> float:
        """Cycles before the first minimum of section 2's runs."""
        return self.results["2-2_strength: no term"][0].run.minimum_epochs[0] / self.cycle

    def each(self, name: str, read: Callable[[Result], float]) -> np.ndarray:
        """`read` of every run labelled `name` ("section: label")."""
        return np.array([read(result) for result in self.results[name]], dtype=float)

    def distance(self, name: str, cycles: float | None = None) -> np.ndarray:
        """Log squared distance to the first minimum after so many cycles, or at the end."""

        def read(result: Result) -> float:
            d = self._at(result, "d_0", cycles)
            return np.log(d) if d > 0 else np.nan

        return self.each(name, read)

    def accuracy(self, name: str, cycles: float | None = None) -> np.ndarray:
        """Test accuracy in percent, mean over the last quarter of a cycle before that time, or the end."""
        last = max(1, self.cycle // 4)
        return self.each(name, lambda r: 100 * self._at(r, "accuracy", cycles, last))

    def cycle_ends(self, name: str) -> np.ndarray:
        """Accuracy in percent at the ends of the cycles that began with a hill, mean over them."""
        times = range(2 * self.cycle, 4 * self.cycle + 1, self.cycle)
        return np.mean(
            [self.each(name, lambda r, t=t: 100 * self._at(r, "accuracy", t / self.cycle)) for t in times], 0
        )

    def drop(self, name: str) -> np.ndarray:
        """Percentage points of accuracy lost at worst within a third of a cycle after the first minimum."""

        def read(result: Result) -> float:
            first = result.run.minimum_epochs[0]
            after = result.history["accuracy"][first : first + max(1, self.cycle // 3)]
            return 100 * (result.history["accuracy"][first - 1] - after.min()) if len(after) else np.nan

        return self.each(name, read)

    def _at(self, result: Result, column: str, cycles: float | None, last: int = 1) -> float:
        epoch = result.run.epochs if cycles is None else round(cycles * self.cycle)
        rows = result.history[column][max(0, epoch - last) : epoch]
        # A diverged run has no rows left at that time: its accuracy stays what it was, its distance is unknown.
        if len(rows) == 0:
            return result.history[column].iloc[-1] if column == "accuracy" else np.nan
        return rows.mean()


def _parts(book: Book) -> Iterator[Part]:
    d, a = book.distance, book.accuracy
    section = "2-1_width: "
    base, width, strength = "1_baseline: ", section + "w = ", "2-2_strength: s = "
    many, warm, rate = "4-1_multiple_minima: ", "5_warm_restarts: ", "3-1_learning_rate: lr = "
    none, term = base + "no term", base + "term"

    yield Part("C1", "the term ends farther from the minimum", "more", "factor", d(term) - d(none))
    yield Part("C2", "without it distance still grows in the second half", "more", "factor", d(none) - d(none, 2))
    yield Part("C2", "while accuracy has converged", "same", "points", a(none) - a(none, 2))
    yield Part("C3", "accuracy with the term is the baseline's", "same", "points", a(term) - a(none))

    low, high = (strength + f"{sections.digits(s)}" for s in _ends(book, "2-2_strength", "strength"))
    yield Part("C4", "higher strength ends farther", "more", "factor", d(high) - d(low))
    yield Part("C4", "and drops lower just after the minimum", "more", "points", book.drop(high) - book.drop(low))
    yield Part("C4", "but recovers", "same", "points", a(high) - a(none))

    widths = sorted(_fields(book, "2-1_width", "width"))
    *grid, narrow = [width + f"{sections.digits(w)}" for w in widths]
    for wide, less_wide in zip(grid[:-1], grid[1:], strict=True):
        says = f"w {wide.split()[-1]} ends farther than w {less_wide.split()[-1]}"
        yield Part("C5", says, "more", "factor", d(wide) - d(less_wide))
    early = book.first + 1 / 3
    yield Part("C5", "the widest hill starts slowest", "less", "factor", d(grid[0], early) - d(grid[-1], early))
    yield Part("C5", f"w = {narrow.split()[-1]} is too narrow to matter", "same", "factor", d(narrow) - d(none))
    for w in grid:
        yield Part("C6", f"{w.removeprefix(section)}: accuracy is the baseline's", "same", "points", a(w) - a(none))

    for s in _fields(book, "4-1_multiple_minima", "strength"):
        name = f"{many}s = {sections.digits(s)}"
        # After the third minimum: by then the walk from the first had the most time to settle.
        says = f"s = {sections.digits(s)}: after a further minimum d to the first falls"
        yield Part("C7", says, "less", "factor", d(name) - d(name, 3))
        name += ", no L2"
        yield Part("C7", f"s = {sections.digits(s)}: without L2 it grows", "more", "factor", d(name) - d(name, 3))

    step, constant = warm + "step", warm + "constant"
    yield Part("C8", "step decay ends more accurate", "more", "points", a(step) - a(constant))
    # In the second cycle, the first with a hill.
    decayed = step + ", term"
    lr_step = book.results[decayed][0].run.lr_step
    first, second = (1 + k * lr_step / book.cycle for k in (1, 2))
    says = "after the first drop of lr the distance falls"
    yield Part("C8", says, "less", "factor", d(decayed, second) - d(decayed, first))
    if second < 2:  # the rate falls twice within a cycle: there is a plateau to converge on
        yield Part("C8", "then converges", "same", "factor", d(decayed, 2) - d(decayed, second))

    ends = book.cycle_ends
    yield Part(
        "C9",
        "with cosine the term costs accuracy",
        "less",
        "points",
        ends(warm + "cosine, multiple") - ends(warm + "cosine"),
    )
    rates = _fields(book, "3-1_learning_rate", "lr")
    usual = 0.01 if 0.01 in rates else rates[0]
    good, high = (f"{rate}{sections.digits(lr)}" for lr in (usual, 10 * usual))
    yield Part(
        "C10",
        f"lr = {10 * usual:g} loses accuracy against {usual:g}",
        "less",
        "points",
        a(high) - a(good),
        premise=True,
    )
    yield Part("C10", "and the term keeps it up", "more", "points", a(high + ", term") - a(high))
    yield from _ensemble_parts(book)
    yield _cost_part(book)


def _ensemble_parts(book: Book) -> Iterator[Part]:
    section = "7_ensembles: "
    scores = ensembles.table(Results({k: v for k, v in book.results.items() if k.startswith(section)}), last=5)
    by = {
        label.removeprefix(section): 100 * rows
        for label, rows in scores.set_index("label").drop(columns="model").groupby(level=0)
    }
    plain, cosine = by["constant"], by["cosine"]

    def gain(x: pd.DataFrame, y: pd.DataFrame, column: str = "accuracy_ensemble") -> np.ndarray:
        return x[column].to_numpy() - y[column].to_numpy()

    single = plain["accuracy_ensemble"] - plain["accuracy_last"]
    yield Part("C11", "the ensemble beats its last member", "more", "points", single.to_numpy())
    walks = {label: rows for label, rows in by.items() if label.startswith("s =")}
    for label, rows in walks.items():
        yield Part("C12", f"{label} is no better an ensemble than plain", "not more", "points", gain(rows, plain))
    best = max([plain, *walks.values()], key=lambda rows: rows["accuracy_ensemble"].mean())
    yield Part("C12", "cosine's is better than the best other", "more", "points", gain(cosine, best))
    for label, rows in walks.items():
        less_agreement = -gain(rows, plain, "agreement")
        yield Part("C13", f"{label} disagrees no more than plain", "not more", "points", less_agreement)
    yield Part("C13", "cosine agrees more than plain", "more", "points", gain(cosine, plain, "agreement"))


def _cost_part(book: Book) -> Part:
    section = "8_cost: "
    runs = {label.removeprefix(section): group for label, group in book.results.items() if label.startswith(section)}
    costs = cost_per_minimum(Results(runs)).groupby("label")["percent"]
    hills, none = (costs.get_group(label).to_numpy() for label in ("s = 1", "no term"))
    return Part("C14", "each hill costs a share of an epoch", "more", "percent", hills - none)


def cost_per_minimum(results: Results) -> pd.DataFrame:
    """Slope of training seconds an epoch over the number of hills, one row a run: label, model, seed, seconds, percent.

    The percentage is of the median epoch of the run without hills (strength 0) with the same seed.
    """

    def seconds(result: Result) -> np.ndarray:
        return result.history["train_seconds"].to_numpy()[1:]  # the first epoch warms up caches and allocators

    every = [(label, result) for label, group in results.items() for result in group]
    without = {(r.run.model, r.run.seed): np.median(seconds(r)) for _, r in every if not r.run.strength}
    rows = []
    for label, result in every:
        epochs = seconds(result)
        hills = np.arange(1, len(epochs) + 1) // result.run.minima_every
        # Theil-Sen: the median of all slopes, deaf to an epoch that the machine disturbed.
        slope = stats.theilslopes(epochs, hills).slope
        which = {"label": label, "model": result.run.model, "seed": result.run.seed}
        percent = 100 * slope / without[result.run.model, result.run.seed]
        rows.append(which | {"seconds": slope, "percent": percent})
    return pd.DataFrame(rows)


def _fields(book: Book, section: str, field: str) -> list[float]:
    """Distinct values of a run field in a section, rising, where the strength is not 0."""
    front = section + ": "
    labels = [n for n in book.results if n.startswith(front) and not n.startswith(front + sections.PUBLISHED)]
    runs = [book.results[name][0].run for name in labels if book.results[name][0].run.strength]
    return sorted({getattr(run, field) for run in runs})


def _ends(book: Book, section: str, field: str) -> tuple[float, float]:
    values = _fields(book, section, field)
    return values[0], values[-1]
