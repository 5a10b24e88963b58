"""Beyond the thesis, section 10: ensembles whose members are means of weights, with hills between them.

Variants on images that were held back, the chosen one against all that an equal budget buys, and each at its own rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from thesislib.experiments.scales import CHOOSING, FRESHER, Scale
from thesislib.experiments.sections import Labels, Rates, Strengths, digits, labelled, section
from thesislib.experiments.thesis import equal_budget, every_cycle, has_means, held_back, independent, named
from thesislib.runs.results import Row
from thesislib.system.errors import UserError

#: Members of section 10's ensembles, a cycle each.
MEMBERS = 5
#: Strengths of section 10.1, and the one around which it varies the rest.
VARIED = (1.0, 3.0, 10.0, 30.0)
AROUND = 10.0
#: In function space: strengths, and a width between what two plain minima differ by (d = 0.01 on training images, scale
#: laptop, seeds 0 to 4) and two with hills in weight space (0.2).
IN_FUNCTION_SPACE, FUNCTION_WIDTH = (0.1, 1.0), 10.0


@section("10-1_variants")
def variants(scale: Scale, strengths: Strengths = None) -> Iterable[Row]:
    """10.1: which hills make the best ensemble of means? On training images that were held back, as in section 7.1.

    The role says what a member is: "live" weights at a cycle's end, or their "mean" over the end of the cycle.
    """
    for row in _variants(scale, scale.seeds, strengths):
        yield replace(row, run=held_back(row.run).replace(**scale.better_fields))


def _variants(
    scale: Scale, seeds: tuple[int, ...], strengths: Strengths = None, cycles: int = MEMBERS
) -> Iterable[Row]:
    """A few strengths; around one of them shorter and longer means, other schedules, hills at the means; other hills.

    Those do not see how long filters are, where there are some, or are in function space. The latter have cycles of
    four fifths: all cost the same.
    """

    def means(label: str, share: float = 0.5, role: str = "mean", **fields: Any) -> list[Row]:
        fields = {"cycles": cycles, "seeds": seeds, "member_epochs": scale.of(share)} | fields
        return labelled(label, every_cycle(scale, **fields), role)

    yield from means("no term", strength=0)
    yield from means("no term, cosine", strength=0, lr_schedule="cosine")
    for s in strengths or VARIED:
        yield from means(named(s), strength=s)
    around = {"strength": AROUND}
    name = named(AROUND)
    yield from means(f"{name}, live", role="live", **around)
    yield from means(f"{name}, mean of 1/4", 0.25, **around)
    yield from means(f"{name}, mean of 3/4", 0.75, **around)
    yield from means(f"{name}, hill at mean", hill_at="mean", **around)
    yield from means(f"{name}, first half", strength_schedule="first-half", **around)
    yield from means(f"{name}, cosine", lr_schedule="cosine", **around)
    if scale.runs()[0].convolutional:
        yield from means(f"{name}, filters", distance="filters", **around)
    short = scale.of(0.8)  # of each batch of 160 images 32 are the probe's
    length = {"cycle": short, "minima_every": short, "epochs": cycles * short, "member_epochs": max(1, short // 2)}
    for s in IN_FUNCTION_SPACE:
        yield from means(f"{named(s)}, function", strength=s, distance="function", width=FUNCTION_WIDTH, **length)


@section("10_better_ensembles")
def better(scale: Scale, opponents: Labels = None) -> Iterable[Row]:
    """10: the variant that was chosen, on fresh seeds and test images, against all that five cycles buy without hills.

    Or against these `opponents` alone, given by their labels, and plain snapshots, which shifts are measured by. Every
    opponent has the scale's learning rate, and is there a second time where section 7.1 chose another one; SWA's also
    for its relative of several runs (MultiSWA, Wilson and Izmailov 2020). The role says what a member is, as in section
    10.1. Where all runs store means SWA is the last mean of `plain means`.
    """
    rows = list(_hills_and_opponents(scale, scale.fresh_seeds()))
    known = dict.fromkeys(row.label for row in rows if row.label != scale.better)
    if unknown := [label for label in opponents or () if label not in known]:
        raise UserError(f"no opponent is {unknown[0]!r}: choose from {', '.join(known)}")
    for row in rows:
        if row.label in (scale.better, "plain snapshots", *(opponents or known)):
            yield replace(row, run=row.run.replace(**scale.better_fields))


def _hills_and_opponents(scale: Scale, seeds: tuple[int, ...]) -> Iterable[Row]:
    tried = list(_variants(scale, seeds))
    yield from (row for row in tried if row.label == scale.better)
    for row in tried:
        if row.label == "no term":  # SWA likes higher rates than snapshots: means may, too
            yield replace(row, label="plain means")
            yield replace(row, label="plain means, twice the rate", run=row.run.replace(lr=2 * row.run.lr))
            yield replace(row, label="plain snapshots", role="live")
            if has_means(scale):
                yield replace(row, label="SWA", role="last mean")
    opponents = [row for row in equal_budget(scale, seeds, [AROUND]) if not row.run.strength]
    several = scale.runs(cycles=2.5, seeds=seeds, strength=0, swa_from=scale.of(1.5) + 1)
    for row in [*opponents, *independent("MultiSWA", several, 2)]:
        factor = scale.opponent_rates.get("SWA" if row.label == "MultiSWA" else row.label, 1)
        row = replace(row, label="cosine snapshots" if row.label == "cosine" else row.label, role="live")
        if row.label != "constant":  # these are the plain snapshots
            yield row
        if factor != 1:
            label = f"{row.label.replace('constant', 'plain snapshots')}, rate chosen"
            yield replace(row, label=label, run=row.run.replace(lr=factor * row.run.lr))


@section("10-2_ten_members")
def ten_members(scale: Scale) -> Iterable[Row]:
    """10.2: twice as long, so ten members. Do hills gain more with each, and which hills? On section 10's seeds."""
    chosen = ("no term", scale.better, *map(named, VARIED))
    for row in _variants(scale, scale.fresh_seeds(), cycles=2 * MEMBERS):
        row = replace(row, run=row.run.replace(**scale.better_fields))
        if row.label in chosen:
            yield replace(row, label="plain means") if row.label == "no term" else row
        if row.label == "no term":
            yield replace(row, label="plain snapshots", role="live")
    short = scale.runs(cycles=1, seeds=scale.fresh_seeds(), strength=0, lr_schedule="cosine")
    for row in independent("independent", short, 2 * MEMBERS):
        yield replace(row, run=row.run.replace(**scale.better_fields))


@section("10-3_rates")
def better_rates(scale: Scale, factors: Rates = None) -> Iterable[Row]:
    """10.3: do hills add to means whose rate suits them? Both at several rates, on held-back images as in section 7.1.

    There the role says by what the scale's rate is multiplied. Then each at the rate that was chosen for it, on test
    images and on seeds that section 10 has not seen either.
    """
    for seeds, choosing in ((scale.seeds[:CHOOSING], True), (scale.fresh_seeds(FRESHER), False)):
        for row in _variants(scale, seeds):
            label = "plain means" if row.label == "no term" else row.label
            if label not in ("plain means", scale.better):
                continue
            chosen = [scale.better_rates.get(label, 1.0)]
            for factor in (factors or scale.tried_factors) if choosing else chosen:
                run = row.run.replace(lr=factor * row.run.lr, **scale.better_fields)
                if choosing:
                    yield replace(row, label=label, run=held_back(run), role=f"rate times {digits(factor)}")
                else:
                    yield replace(row, label=label, run=run)
