"""What the thesis claims, C1 to C14, as contrasts between settings: the rules that verdicts follow.

Written down before the last seeds of most of them were trained. docs/RULES.md shows them and says which seeds had been
seen, `digest` names them, and a test fails when they change. How an effect becomes a verdict stands in
`analysis.verdicts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from thesislib.config import Run
from thesislib.experiments import sections
from thesislib.experiments.scales import SCALES, Scale
from thesislib.experiments.sections import Labels, digits, section
from thesislib.runs.growth import LEFT, growth
from thesislib.runs.results import Row
from thesislib.system.errors import UserError

Kind = Literal["more", "less", "same", "not more", "not less"]
#: What is read of both sides. distance: log of the squared distance to the first minimum. accuracy: of the test images,
#: at the end. drop: log of the factor by which errors grow at worst within a third of a cycle after the first minimum.
#: agreement: share of the test images on which all members agree. cost: percent of an epoch for each further hill.
Quantity = Literal["distance", "accuracy", "drop", "agreement", "cost"]

#: The day on which the rules were frozen, and that of their correction (docs/RULES.md); a test pins them (`digest`).
FROZEN = "2026-11-25, corrected 2026-11-29"

#: How many seeds of a scale, from 0 on, had been seen on that day, of some section at least.
SEEN = {"laptop": 5, "mnist": 5}

#: What counts as the same, one band a quantity. All but the last two are a tenth of what is compared: of the network's
#: errors (the thesis calls differences of one point at ten percent of errors its noise), of the images on which the
#: members of plain snapshots do not agree (it calls 1.4 points of 23.5 the same), of a squared distance.
#: NLL: 2 %, about what the fifth network of a deep ensemble brings, whose gains fall as 1 / K (Ashukha et al. 2020).
#: cost: one percent of an epoch, far below the thesis' 15 to 29.
BANDS = {"accuracy": 0.1, "agreement": 0.1, "distance": 0.1, "drop": 0.1, "nll": 0.02, "cost": 1.0}
#: Percentage points: no band of an accuracy is wider than the thesis' noise.
WIDEST = 1.0

#: Where an interval lies in respect of the band [-b, b]: above it, below it, inside it, or none of these.
Outcome = Literal["more", "less", "same", "inconclusive"]
#: Fewer seeds than this carry no verdict.
FEWEST = 3
#: How sure an interval is, and by how much a claim may be contradicted by chance: half of the rest.
LEVEL = 0.95
#: Does a verdict hang on the N from which on a hill counts as left? It is made again with so many times that N.
OTHERS = (0.5, 2.0)
#: The sections whose runs the claims are about, and the settings that bands are shares of.
CLAIMED = (
    "1_baseline", "2-1_width", "2-2_strength", "2-3_interaction", "3-1_learning_rate", "3-2_epochs",
    "4-1_multiple_minima", "5_warm_restarts", "7_ensembles", "8_cost",
)  # fmt: skip
#: What is said of a statement, and of a claim.
HOLDS, FAILS, OPEN = "reproduced", "not reproduced", "undecided"
#: What each outcome says about a statement of each kind.
TABLE: Mapping[Kind, Mapping[Outcome, str]] = {
    "more": {"more": HOLDS, "same": FAILS, "less": FAILS, "inconclusive": OPEN},
    "less": {"more": FAILS, "same": FAILS, "less": HOLDS, "inconclusive": OPEN},
    "same": {"more": FAILS, "same": HOLDS, "less": FAILS, "inconclusive": OPEN},
    "not more": {"more": FAILS, "same": HOLDS, "less": HOLDS, "inconclusive": OPEN},
    "not less": {"more": HOLDS, "same": HOLDS, "less": FAILS, "inconclusive": OPEN},
}


@dataclass(frozen=True)
class Side:
    """One side of a contrast: a setting of a section, and when it is read.

    `cycles` are the times, in cycles, over which the mean is taken; none is the end of the run. `of` is what an
    accuracy is of: a network, or the ensemble of a run's last five snapshots.
    """

    section: str
    label: str
    cycles: tuple[float, ...] = ()
    of: Literal["network", "ensemble"] = "network"


#: The setting of whose errors the band of accuracies is a share; that of agreement is one of plain snapshots.
BASELINE, PLAIN = Side("1_baseline", "no term"), Side("7_ensembles", "constant", of="ensemble")


@dataclass(frozen=True)
class Statement:
    """A testable part of a claim: `left` minus `right` in a quantity is expected to be of a kind.

    If a premise does not hold, its claim cannot be tested. A statement about where a trajectory `settles` is tested
    only where its hills are left by the time it is read, N >= 20 (`growth`).
    """

    claim: str
    says: str
    expected: Kind
    quantity: Quantity
    left: Side
    right: Side
    premise: bool = False
    settles: bool = True


@cache
def _settings(scale: str) -> Mapping[tuple[str, str], list[Run]]:
    """By section and label, the runs of one seed."""
    found: dict[tuple[str, str], list[Run]] = {}
    for row in (row for name in CLAIMED for row in sections.rows(name, scale, seeds=1)):
        if row.role == "curve":
            found.setdefault((row.section, row.label), []).append(row.run)
    return found


def least_growth(statement: Statement, scale: str) -> float:
    """The smaller N of the two sides, by when each is read; inf where neither has a hill, NaN where it is not known."""

    def of(side: Side) -> float:
        until = round(max(side.cycles) * SCALES[scale].cycle) if side.cycles else None
        runs = _settings(scale)[side.section, side.label]
        return min(growth(run, until) if run.strength else float("inf") for run in runs)

    return min(of(statement.left), of(statement.right))


def is_settled(statement: Statement, scale: str, left: float = LEFT) -> bool:
    """Whether the statement can be tested: it does not speak of where a trajectory settles, or its hills are left.

    Hills are `left` from such an N on.
    """
    return not statement.settles or least_growth(statement, scale) >= left


@cache
def statements(scale: str, left: float = LEFT) -> tuple[Statement, ...]:
    """The statements at a scale, in the order of the claims.

    What the thesis says at strength 1 is tested there; where its hills are not left, also at the least strength of the
    scale at which they are. Hills are `left` from such an N on.
    """
    return tuple(_Statements(scale, left))


class _Statements:
    """The statements at one scale."""

    def __init__(self, name: str, left: float) -> None:
        self.name, self.scale, self.left = name, SCALES[name], left

    def __iter__(self) -> Iterator[Statement]:
        yield from self._distance_and_accuracy()
        yield from self._strength()
        yield from self._width()
        yield from self._minima()
        yield from self._schedules()
        yield from self._ensembles()
        hill, none = Side("8_cost", "s = 1"), Side("8_cost", "no term")
        yield Statement("C14", "each hill costs a share of an epoch", "more", "cost", hill, none, settles=False)

    def _settled(self, thesis: Statement, others: Iterable[Statement]) -> Iterator[Statement]:
        """The thesis' own statement and, where its hills are not left, the first other one whose hills are."""
        yield thesis
        if not is_settled(thesis, self.name, self.left):
            yield from [s for s in others if self._exists(s) and is_settled(s, self.name, self.left)][:1]

    def _exists(self, statement: Statement) -> bool:
        return all((side.section, side.label) in _settings(self.name) for side in (statement.left, statement.right))

    @property
    def _stronger(self) -> list[float]:
        return sorted(s for s in self.scale.strengths if s > 1)

    def _strong(self, s: float) -> Side:
        return Side("2-2_strength", f"s = {digits(s)}")

    def _wide(self, w: float, s: float = 1.0, cycles: tuple[float, ...] = ()) -> Side:
        if s == 1:
            return Side("2-1_width", f"w = {digits(w)}", cycles)
        return Side("2-3_interaction", f"s = {digits(s)}, w = {digits(w)}", cycles)

    def _distance_and_accuracy(self) -> Iterator[Statement]:
        none, term, drift = Side("1_baseline", "no term"), Side("1_baseline", "term"), Side("3-2_epochs", "no term")

        def farther(side: Side, at: str = "") -> Statement:
            return Statement("C1", f"the term ends farther from the minimum{at}", "more", "distance", side, none)

        def alike(side: Side, at: str = "") -> Statement:
            return Statement("C3", f"accuracy with the term is the baseline's{at}", "same", "accuracy", side, none)

        stronger = [(self._strong(s), f", s = {digits(s)}") for s in self._stronger]
        yield from self._settled(farther(term), (farther(*strong) for strong in stronger))
        half = Side(drift.section, drift.label, (2,))
        yield Statement("C2", "without it distance still grows in the second half", "more", "distance", drift, half)
        yield Statement("C2", "while accuracy has converged", "same", "accuracy", drift, half)
        yield from self._settled(alike(term), (alike(*strong) for strong in stronger))

    def _strength(self) -> Iterator[Statement]:
        strengths, none = sorted(self.scale.strengths), Side("2-2_strength", "no term")
        for low, high in zip(strengths[:-1], strengths[1:], strict=True):
            says = f"s = {digits(high)} ends farther than s = {digits(low)}"
            yield Statement("C4", says, "more", "distance", self._strong(high), self._strong(low))
        low, high = self._strong(strengths[0]), self._strong(strengths[-1])
        says = f"{high.label} loses more just after the minimum than {low.label}"
        yield Statement("C4", says, "more", "drop", high, low, settles=False)
        yield Statement("C4", f"{high.label} recovers", "same", "accuracy", high, none)

    def _width(self) -> Iterator[Statement]:
        widths, none = sorted(self.scale.widths), Side("2-1_width", "no term")

        def pair(wide: float, less: float, s: float) -> Statement:
            at = "" if s == 1 else f", s = {digits(s)}"
            says = f"w = {digits(wide)} ends farther than w = {digits(less)}{at}"
            return Statement("C5", says, "more", "distance", self._wide(wide, s), self._wide(less, s))

        for wide, less in zip(widths[:-1], widths[1:], strict=True):
            yield from self._settled(pair(wide, less, 1), (pair(wide, less, s) for s in self._stronger))
        first = self.scale.of(self.scale.first) / self.scale.cycle
        sides = (self._wide(w, cycles=(first + 1 / 3,)) for w in (widths[0], widths[-1]))
        says = "a third of a cycle on, the widest hill has moved it least"
        yield Statement("C5", says, "less", "distance", *sides, settles=False)
        narrow = self._wide(self.scale.narrow)
        says = f"w = {digits(self.scale.narrow)} is too narrow to matter"
        yield Statement("C5", says, "same", "distance", narrow, none, settles=False)

        def alike(w: float, s: float) -> Statement:
            at = "" if s == 1 else f", s = {digits(s)}"
            says = f"w = {digits(w)}: accuracy is the baseline's{at}"
            return Statement("C6", says, "same", "accuracy", self._wide(w, s), none)

        for w in widths:
            yield from self._settled(alike(w, 1), (alike(w, s) for s in self._stronger))

    def _minima(self) -> Iterator[Statement]:
        section = "4-1_multiple_minima"
        for s in (f"s = {digits(s)}" for s in self.scale.many_strengths):
            # After the third minimum: by then the trajectory from the first had the most time to settle.
            for label, says, expected in (
                (s, "after a further minimum d to the first falls", "less"),
                (f"{s}, no L2", "without L2 it grows", "more"),
            ):
                sides = Side(section, label), Side(section, label, (3,))
                yield Statement("C7", f"{s}: {says}", expected, "distance", *sides)

    def _schedules(self) -> Iterator[Statement]:
        section = "5_warm_restarts"
        constant, step, cosine = (Side(section, label) for label in ("constant", "step", "cosine"))
        yield Statement("C8", "step decay ends more accurate", "more", "accuracy", step, constant)
        # In the second cycle, the first with a hill.
        drop = (self.scale.lr_step or -(-self.scale.cycle // 3)) / self.scale.cycle
        settled = f"s = {digits(self.scale.settled)}"

        def read(label: str, first: float, last: float) -> tuple[Side, Side]:
            return Side(section, label, (last,)), Side(section, label, (first,))

        def falls(label: str, at: str = "") -> Statement:
            sides = read(label, 1 + drop, 1 + 2 * drop)
            return Statement("C8", f"after the first drop of lr the distance falls{at}", "less", "distance", *sides)

        def converges(label: str, at: str = "") -> Statement:
            sides = read(label, 1 + 2 * drop, 2)
            return Statement("C8", f"then converges{at}", "same", "distance", *sides)

        yield from self._settled(falls("step, term"), [falls(f"step, term, {settled}", f", {settled}")])
        if 1 + 2 * drop < 2:  # the rate falls twice within a cycle: there is a plateau to converge on
            yield from self._settled(converges("step, term"), [converges(f"step, term, {settled}", f", {settled}")])

        ends = (2, 3, 4)  # of the cycles that began with a hill

        def costs(label: str, at: str = "") -> Statement:
            sides = Side(section, label, ends), Side(section, cosine.label, ends)
            return Statement("C9", f"with cosine the term costs accuracy{at}", "less", "accuracy", *sides)

        label = f"cosine, multiple, {settled}"
        yield from self._settled(costs("cosine, multiple"), [costs(label, f", {settled}")])

        section, factors = "3-1_learning_rate", self.scale.rate_factors
        if 10 not in factors:
            return
        usual, high = (digits(self.scale.rates[factors.index(factor)]) for factor in (1, 10))
        good, wrong, kept = (Side(section, f"lr = {label}") for label in (usual, high, f"{high}, term"))
        says = f"lr = {high} loses accuracy against {usual}"
        yield Statement("C10", says, "less", "accuracy", wrong, good, premise=True)

        def keeps(side: Side, at: str = "") -> Statement:
            return Statement("C10", f"and the term keeps it up{at}", "more", "accuracy", side, wrong)

        strong = Side(section, f"{kept.label}, {settled}")
        yield from self._settled(keeps(kept), [keeps(strong, f", {settled}")])

    def _ensembles(self) -> Iterator[Statement]:
        plain, cosine, *term = (
            Side("7_ensembles", label, of="ensemble")
            for label in ("constant", "cosine", *(f"s = {digits(s)}" for s in self.scale.many_strengths))
        )
        last = Side(plain.section, plain.label)
        yield Statement("C11", "the ensemble beats its last member", "more", "accuracy", plain, last)
        for side in term:
            says = f"{side.label} is no better an ensemble than plain"
            yield Statement("C12", says, "not more", "accuracy", side, plain)
        # Cosine's is said to be the best: it has to be better than each of the others.
        for side in (plain, *term):
            name = "plain" if side is plain else side.label
            yield Statement("C12", f"cosine's is better than {name}", "more", "accuracy", cosine, side)
        for side in term:
            says = f"{side.label} agrees no less than plain"
            yield Statement("C13", says, "not less", "agreement", side, plain)
        yield Statement("C13", "cosine agrees more than plain", "more", "agreement", cosine, plain)


@section("9_claims")
def claims(scale: Scale, claims: Labels = None) -> Iterable[Row]:
    """9: the runs that the thesis' claims are about, in the sections where they stand; all of C1 to C14, or these.

    These are the runs of both sides of each statement, also of statements that take its place by another N (`OTHERS`),
    and the baseline's, of whose errors the band of accuracies is a share. Claims that need no further runs than the
    chosen ones are judged with them.
    """
    tested = {s for left in (1.0, *OTHERS) for s in statements(scale.name, left * LEFT)}
    known = sorted({s.claim for s in tested}, key=lambda claim: int(claim[1:]))
    if unknown := [claim for claim in claims or () if claim not in known]:
        raise UserError(f"no claim is {unknown[0]!r}: choose from {', '.join(known)}")
    sides = {(BASELINE.section, BASELINE.label)}
    for statement in tested:
        if statement.claim in (claims or known):
            sides |= {(side.section, side.label) for side in (statement.left, statement.right)}
    for name in CLAIMED:
        for row in sections.SECTIONS[name](scale):
            if row.role == "curve" and (name, row.label) in sides:
                yield replace(row, section=name)


def digest(scales: Iterable[str] = ("laptop", "mnist", "cifar", "thesis")) -> str:
    """Eight hex digits of SHA-256 over every statement at these scales, the bands, and what outcomes say."""
    numbers = (sorted(BANDS.items()), WIDEST, LEFT, "by the time it is read", FEWEST, LEVEL, TABLE)
    text = repr([statements(scale) for scale in scales]) + repr(numbers)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
