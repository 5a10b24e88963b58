"""The thesis' claims tested on finished runs: effect, interval, verdict of each statement; and its printed numbers.

What is compared stands in `experiments.statements`. An effect is paired by seed: both sides start from the same weights
and see the same batches. Distances are compared as log ratios (shown as factors), accuracies in percentage points.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from thesislib import datasets
from thesislib.analysis import ensembles, predictions
from thesislib.analysis.intervals import Effect, over_seeds, over_seeds_and_images, rounding
from thesislib.analysis.verdicts import outcome, summary, verdict
from thesislib.config import Run
from thesislib.experiments import sections, statements
from thesislib.experiments.scales import SCALES
from thesislib.experiments.statements import BANDS, BASELINE, FROZEN, OTHERS, PLAIN, WIDEST, Quantity, Side, Statement
from thesislib.runs.finished import Result
from thesislib.runs.growth import LEFT
from thesislib.runs.results import Results
from thesislib.runs.spreads import spread
from thesislib.system.errors import UserError

#: Unit of the effects in a quantity.
UNITS: dict[Quantity, str] = {
    "distance": "factor", "drop": "factor", "accuracy": "points", "agreement": "points of agreement",
    "cost": "percent",
}  # fmt: skip
#: The snapshots of a run that are its ensemble.
LAST = 5


def table(results: Results) -> pd.DataFrame:
    """One row a statement and network: claim, says, expected, premise, verdict, outcome, effect, low, high, margin,
    unit, N, n, images, rules, frozen, network.

    `results` are those of section 9_claims. The interval is of 95 %, over seeds and, if `images` is not 0, over so many
    test images; margin is the band of what is the same; N says whether the hills are left (`growth`). Factors are shown
    as such (1 is no effect).
    """
    found, rules = [], statements.digest()
    for network in dict.fromkeys(row.network for row in results):
        rows = ChapterResults(results.where(network=network)).rows()
        found.append(rows.assign(rules=rules, frozen=FROZEN, network=network))
    return pd.concat(found, ignore_index=True)


def sensitivity(results: Results) -> pd.DataFrame:
    """The verdict on each claim as the rules are, and by other rules: one row a claim and network.

    Columns: claim, network, "rules", and the verdict with all bands halved or doubled, and with hills that count as
    left from half or twice that N on. Where there are some: with the seeds alone that nobody had seen when the rules
    were frozen, and with accuracies by BatchNorm's running statistics, which ensembles do not have.
    """
    found = []
    for network in dict.fromkeys(row.network for row in results):
        of_network = results.where(network=network)
        chapter = ChapterResults(of_network)
        tables = {"rules": chapter.rows(), "bands halved": chapter.rows(0.5), "bands doubled": chapter.rows(2.0)}
        tables |= {f"left from N = {by * LEFT:g}": chapter.rows(left=by * LEFT) for by in OTHERS}
        seeds, seen = sorted({row.seed for row in of_network}), statements.SEEN.get(results.scale, 0)
        later = [seed for seed in seeds if seed >= seen]
        if statements.FEWEST <= len(later) < len(seeds):
            alone = ChapterResults(of_network.where(seed=later))
            tables[f"seeds from {seen} on alone"] = alone.rows()
        if all(row.run.statistics_images for row in of_network):
            tables["running statistics"] = ChapterResults(of_network, "accuracy_running").rows()
        columns = {
            name: summary(rows.assign(network=network)).set_index(["claim", "network"])["verdict"]
            for name, rows in tables.items()
            if len(rows)
        }
        found.append(pd.DataFrame(columns).loc[columns["rules"].index].reset_index())
    return pd.concat(found, ignore_index=True).fillna("–")


class ChapterResults:
    """The results of the whole chapter for one network, or of some claims, and what they say about each statement.

    A claim is judged by all of its statements, or not at all. `accuracy` is the column of a network's accuracy in
    `results.history`; by another than the usual one claims about ensembles are not judged.
    """

    def __init__(self, results: Results, accuracy: str = "accuracy") -> None:
        self.results, self.cycle = results, sections.scale_of(results.scale).cycle
        self.accuracy = accuracy
        self._there = {(row.section, row.label) for row in results if row.role == "curve"}
        self._effects: dict[Statement, Effect] = {}

    def rows(self, bands: float = 1.0, left: float = LEFT) -> pd.DataFrame:
        """The claims' table: the verdicts with bands so many times those of the rules, and hills left from an N on."""
        every = statements.statements(self.results.scale, left)
        absent = {s.claim for s in every if not self._is_there(s)}
        chosen = [s for s in every if s.claim not in absent]
        settled = {s for s in chosen if statements.is_settled(s, self.results.scale, left)}
        among = pd.Series([s.claim for s in chosen if s in settled]).value_counts()
        return pd.DataFrame([self._row(s, s in settled, among.get(s.claim, 1), bands) for s in chosen])

    def _is_there(self, statement: Statement) -> bool:
        sides = (statement.left, statement.right)
        is_told = self.accuracy == "accuracy" or all(side.of == "network" for side in sides)
        return is_told and all((side.section, side.label) in self._there for side in sides)

    def _row(self, statement: Statement, settled: bool, among: int, bands: float) -> dict[str, object]:
        """Its row; it is one `among` so many statements of its claim that can be tested."""
        effect, band = self.effect(statement), bands * self.band(statement.quantity)
        if not settled:
            says = "not settled"
        elif self._dead(statement):
            says = "not testable"
        else:
            says = verdict(statement.expected, effect, band, among)
        values = np.array([effect.mean, *effect.interval(), band])
        mean, low, high, margin = np.exp(values) if UNITS[statement.quantity] == "factor" else values
        n = statements.least_growth(statement, self.results.scale)
        return {
            "claim": statement.claim, "says": statement.says, "expected": statement.expected,
            "premise": statement.premise, "verdict": says, "outcome": outcome(effect, band), "effect": mean,
            "low": low, "high": high, "margin": margin, "unit": UNITS[statement.quantity],
            "N": n if statement.settles and np.isfinite(n) else np.nan, "n": effect.n, "images": effect.images,
        }  # fmt: skip

    def band(self, quantity: Quantity) -> float:
        """Half the width of what counts as the same, in the unit of the effects (distances: of their logarithm)."""
        band = BANDS[quantity]
        if quantity == "accuracy":
            error = 100 - 100 * self._mean(BASELINE, quantity)
            return min(WIDEST, band * error)
        if quantity == "agreement":
            return band * (100 - 100 * self._mean(PLAIN, quantity))
        return band if quantity == "cost" else float(np.log1p(band))

    def effect(self, statement: Statement) -> Effect:
        """left - right, paired by seed: over test images too, where the runs have what each of them says."""
        if statement not in self._effects:
            self._effects[statement] = self._effect(statement)
        return self._effects[statement]

    def _effect(self, statement: Statement) -> Effect:
        left, right = (self._runs(side) for side in (statement.left, statement.right))
        seeds = {row.seed for row in left} & {row.seed for row in right}
        paired = [sorted(runs.where(seed=seeds), key=lambda row: row.seed) for runs in (left, right)]
        sides = [(side, left.of(rows)) for side, rows in zip((statement.left, statement.right), paired, strict=True)]
        if statement.quantity not in ("accuracy", "agreement"):
            first, second = (self._values(side, runs, statement.quantity) for side, runs in sides)
            return over_seeds(first - second)
        images = [self._of_images(side, runs, statement.quantity) for side, runs in sides]
        if all(side is not None for side in images):
            return over_seeds_and_images(images[0] - images[1]).scaled(100)
        first, second = (self._values(side, runs, statement.quantity) for side, runs in sides)
        return over_seeds(first - second, rounding(datasets.test_images(left[0].run))).scaled(100)

    def _dead(self, statement: Statement) -> bool:
        """Whether the networks of both sides have died: they are right about less than twice what guessing is."""
        if statement.quantity != "accuracy":
            return False
        guessing = 1 / datasets.facts(self.results[0].run.data).classes
        return all(self._mean(side, "accuracy") < 2 * guessing for side in (statement.left, statement.right))

    def _mean(self, side: Side, quantity: Quantity) -> float:
        values = self._values(side, self._runs(side), quantity)
        values = values[np.isfinite(values)]  # ensembles of runs that diverged have no scores
        return float(values.mean()) if len(values) else np.nan

    def _runs(self, side: Side) -> Results:
        return self.results.where(section=side.section, role="curve").only(side.label)

    def _epochs(self, side: Side) -> list[int] | list[None]:
        return [round(cycles * self.cycle) for cycles in side.cycles] or [None]

    def _of_images(self, side: Side, runs: Results, quantity: Quantity) -> np.ndarray | None:
        """A number of each run about each test image, [n, N]; None if the runs do not have it any more."""
        if side.of == "ensemble":
            return predictions.of_ensembles(runs, "hits" if quantity == "accuracy" else "agree", LAST)
        if self.accuracy != "accuracy":
            return None
        found = [predictions.hits(runs, epoch) for epoch in self._epochs(side)]
        return None if any(hits is None for hits in found) else np.mean(found, 0)

    def _values(self, side: Side, runs: Results, quantity: Quantity) -> np.ndarray:
        """The quantity of each run, [n]."""
        if quantity == "cost":
            seeds = [row.seed for row in runs]
            costs = cost_per_minimum(self.results.where(section=side.section, seed=seeds)).set_index(["label", "seed"])
            return costs.loc[[(side.label, seed) for seed in seeds], "percent"].to_numpy()
        if side.of == "ensemble":
            scores = ensembles.table(runs, last=LAST)
            return scores["accuracy_ensemble" if quantity == "accuracy" else "agreement"].to_numpy()
        if quantity == "drop":
            return np.array([self._drop(row.result) for row in runs])
        column = {"accuracy": self.accuracy, "distance": "d_0"}[quantity]
        found = [[self._at(row.result, column, epoch) for epoch in self._epochs(side)] for row in runs]
        values = np.array(found, dtype=float)
        if quantity == "distance":
            values = np.log(np.where(values > 0, values, np.nan))
        return values.mean(1)

    def _at(self, result: Result, column: str, epoch: int | None) -> float:
        rows = result.history[column]
        if epoch is None or epoch <= len(rows):
            return rows.iloc[-1 if epoch is None else epoch - 1]
        # A diverged run has no row at that time: its accuracy stays what it was, its distance is unknown.
        return rows.iloc[-1] if column == self.accuracy else np.nan

    def _drop(self, result: Result) -> float:
        """Log of the factor by which errors grow, at worst, within a third of a cycle after the first minimum."""
        first = result.run.minimum_epochs[0]
        error = 1 - result.history[self.accuracy].to_numpy()
        after = error[first : first + max(1, self.cycle // 3)]
        return np.log(after.max() / error[first - 1]) if len(after) else np.nan


def times(results: Results) -> pd.DataFrame:
    """The epochs of `results.history` but each run's first, which warms up caches and allocators.

    Two more columns: `hills`, how many there were, and `without`, the median of the seconds of training of the run with
    strength 0 and the same seed: seeds may have been trained on different machines. Raises UserError for runs without
    minima_every, and if none has its seed's run with strength 0.
    """
    runs = {row.id: row.run for row in results}
    if not all(run.minima_every for run in runs.values()):
        raise UserError("the cost of minima is that of runs with one after every so many epochs: minima_every")
    history = results.history[results.history["epoch"] > 1]
    pairs = zip(history["id"], history["epoch"], strict=True)
    history = history.assign(hills=[_hills(runs[name], epoch) for name, epoch in pairs])
    keys = ["network", "seed"]
    without = history["id"].map({name: not run.strength for name, run in runs.items()})
    base = history[without].groupby(keys)["train_seconds"].median().rename("without")
    if (history := history.merge(base, on=keys)).empty:
        raise UserError("the cost of minima is relative to runs with strength 0 of the same seeds: there are none")
    return history


def _hills(run: Run, epoch: int) -> int:
    """How many hills a run has during an epoch."""
    stored = sum(minimum < epoch for minimum in run.minimum_epochs)
    return min(stored, 1) if run.minima == "merge" else stored


def cost_per_minimum(results: Results) -> pd.DataFrame:
    """Slope of training seconds an epoch over the number of hills, one row a run.

    Columns label, network, seed, seconds, percent: of the median epoch without hills (`times`, which says what is
    raised).
    """

    def slope(epochs: pd.DataFrame) -> pd.Series:
        # Theil-Sen: the median of all slopes, deaf to an epoch that the machine disturbed.
        with np.errstate(invalid="ignore"):  # in its interval, which is not read: many epochs have as many hills
            seconds = stats.theilslopes(epochs["train_seconds"], epochs["hills"]).slope
        return pd.Series({"seconds": seconds, "percent": 100 * seconds / epochs["without"].iloc[0]})

    runs = times(results).groupby(["label", "network", "seed"], sort=False)
    return runs[["train_seconds", "hills", "without"]].apply(slope).reset_index()


def published_values(results: Results) -> pd.DataFrame:
    """One row a setting: squared distance and accuracy, thesis / ours (mean ± std over n seeds) / ratio.

    `results` are section 2-1's of role "published". Empty at scales whose setting the thesis has no numbers of. Raises
    UserError for other results.
    """
    rows, printed = [], SCALES[results.scale].published if results.scale in SCALES else {}
    if len(results.labels) != len(printed) and printed:
        raise UserError("the published settings are those of section 2-1_width with the role published")
    for label, (accuracy, distance) in zip(results.labels, printed.values(), strict=True):
        ours = results.only(label).final
        rows.append(
            {
                "setting": label, "d, thesis": distance, "d, ours": spread(ours["d_0"]),
                "ratio": round(ours["d_0"].mean() / distance, 3), "accuracy, thesis": accuracy,
                "accuracy, ours": spread(ours["accuracy"]), "n": len(ours),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
