"""The thesis' grids: for every section of the results chapter, the runs it needs at a given scale.

A section is written once, in cycles (the thesis: 150 epochs); a scale says how long a cycle is, on which data
and networks, and with how many seeds. Runs that two sections share are the same run.

An experiment of one's own is one function here and one notebook of the same name: the function takes a scale and
whatever it lets one change, and yields labelled runs (`Row`); its annotations say which values are allowed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, validate_call

from thesislib.config import NonNegative, Positive, Run, Seed, Size
from thesislib.datasets import facts
from thesislib.experiments.scales import CHOOSING, FRESHER, SCALES, Scale
from thesislib.runs import launch
from thesislib.runs.results import Results, Row
from thesislib.system.errors import UserError

#: Ensembles of section 7 that are no trajectory from minimum to minimum.
NO_TRAJECTORY = ("FGE", "SWA", "one cosine", "two of half")
#: Those of section 7 whose members are also there as means of the weights of a cycle's last half.
AVERAGED = ("constant", "s = 10", "s = 100")
#: Roles in section 7 that no claim of the thesis is about.
BEYOND_THESIS = ("chosen", "full", "means")
#: Members of section 10's ensembles, a cycle each.
MEMBERS = 5
#: Strengths of section 10.1, and the one around which it varies the rest.
VARIED = (1.0, 3.0, 10.0, 30.0)
AROUND = 10.0
#: In function space: strengths, and a width between what two plain minima differ by (d = 0.01 on training images, scale
#: laptop, seeds 0 to 4) and two with hills in weight space (0.2).
IN_FUNCTION_SPACE, FUNCTION_WIDTH = (0.1, 1.0), 10.0
#: What is tried first at a scale that takes days.
FIRST = ("1_baseline", "2-1_width", "2-2_strength", "4-1_multiple_minima", "5_warm_restarts", "7_ensembles")

Section = Callable[..., Iterable[Row]]
SECTIONS: dict[str, Section] = {}

Widths = Annotated[list[Positive], Field(min_length=1, strict=False)] | None
Strengths = Annotated[list[NonNegative], Field(min_length=1, strict=False)] | None
Rates = Widths
Labels = Annotated[list[str], Field(min_length=1, strict=False)] | None
Average = Literal["probabilities", "logits", "votes"]


class Drawing(BaseModel):
    """Parameters of notebooks that change what is drawn, not which runs it takes."""

    model_config = ConfigDict(strict=True)

    smoothing: Size = 1
    images: Size | None = None
    average: Average = "probabilities"


#: Members of ensembles have the seeds s, s + 1000, s + 2000, ..., and fresh ones are a few more.
_Seed = Annotated[Seed, Field(lt=900)]
_Number = Annotated[Size, Field(le=900)]
_Chosen = Annotated[list[_Seed] | tuple[_Seed, ...], Field(min_length=1)]


class Seeds(BaseModel):
    """How many seeds, from 0 on, or which; None: the scale's own."""

    model_config = ConfigDict(strict=True)

    seeds: _Number | _Chosen | None = None


def section(name: str) -> Callable[[Section], Section]:
    """Make a function the section of that name; its arguments are checked against its annotations."""

    def add(function: Section) -> Section:
        SECTIONS[name] = validate_call(config=ConfigDict(strict=True))(function)
        return SECTIONS[name]

    return add


def digits(value: float) -> str:
    """A number as labels show it: six digits if those are all, else every digit, so that no two are alike."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def labelled(label: str, runs: Iterable[Run], role: str = "curve") -> list[Row]:
    """Runs under one label."""
    return [Row(run, label, role) for run in runs]


def _single(scale: Scale, **fields: Any) -> list[Run]:
    if scale.first == 1 and fields.get("strength") == 0:
        return _every_cycle(scale, **fields)  # without a hill it is the same run, and other sections need it
    return scale.runs(**{"minima": "single", "minima_every": scale.of(scale.first)} | fields)


def _every_cycle(scale: Scale, **fields: Any) -> list[Run]:
    return scale.runs(**{"minima": "multiple", "minima_every": scale.cycle} | fields)


def _name(s: float) -> str:
    return f"s = {digits(s)}" if s else "no term"


@section("0_explore")
def explore(
    scale: Scale,
    strength: NonNegative = 100.0,
    width: Positive | None = None,
    kernel: str = "rbf",
    minima: str = "multiple",
    minima_every: Size | None = None,
    share: bool = True,
    lr_schedule: str = "constant",
    strength_schedule: str = "constant",
    weight_decay: NonNegative = 1e-3,
    epochs: Size | None = None,
    start: str | None = None,
    **fields: Any,
) -> Iterable[Row]:
    """0: one run, free to change (any field of a Run), beside the baseline. It starts as a run of section 4.1."""
    yield from labelled("baseline", _every_cycle(scale, strength=0))
    fields |= {
        "strength": strength, "kernel": kernel, "minima": minima, "minima_every": minima_every or scale.cycle,
        "share": share, "lr_schedule": lr_schedule, "strength_schedule": strength_schedule,
        "weight_decay": weight_decay, "start": start,
    }  # fmt: skip
    fields |= {name: value for name, value in (("width", width), ("epochs", epochs)) if value is not None}
    yield from labelled("yours", scale.runs(**fields))


@section("1_baseline")
def baseline(scale: Scale, strength: NonNegative = 1.0, width: Positive | None = None) -> Iterable[Row]:
    """1: with and without the distance term, constant learning rate, both kernels."""
    fields = {"strength": strength, "width": width or scale.width}
    yield from labelled("no term", _single(scale, strength=0))
    yield from labelled("term", _single(scale, **fields))
    yield from labelled("term, tanh", _single(scale, kernel="tanh", **fields))


@section("2-1_width")
def width(scale: Scale, widths: Widths = None, strength: NonNegative = 1.0) -> Iterable[Row]:
    """2.1: what does w do? Role "published": the settings whose end the thesis prints in numbers."""
    yield from labelled("no term", _single(scale, strength=0))
    for w in widths or (scale.narrow, *scale.widths):
        yield from labelled(f"w = {digits(w)}", _single(scale, strength=strength, width=w))
    for s, w in scale.published:
        runs = scale.runs(strength=s, width=w, cycles=2, minima="single", minima_every=scale.cycle)
        yield from labelled(f"w = {digits(w)}" if s else "no term", runs, "published")


@section("2-2_strength")
def strength(scale: Scale, strengths: Strengths = None, width: Positive | None = None) -> Iterable[Row]:
    """2.2: what does s do?"""
    yield from labelled("no term", _single(scale, strength=0))
    for s in strengths or scale.strengths:
        yield from labelled(f"s = {digits(s)}", _single(scale, strength=s, width=width or scale.width))


@section("2-3_interaction")
def interaction(scale: Scale, widths: Widths = None, strengths: Strengths = None) -> Iterable[Row]:
    """2.3: width x strength."""
    for s in strengths or scale.strengths:
        for w in widths or scale.widths:
            yield from labelled(f"s = {digits(s)}, w = {digits(w)}", _single(scale, strength=s, width=w))


@section("3-1_learning_rate")
def learning_rate(scale: Scale, rates: Rates = None) -> Iterable[Row]:
    """3.1: does the term stabilise a wrong learning rate? Rates around the scale's own, cosine restarts.

    At the rate ten times too high, which claim C10 is about, also with a strength at which the hills are left.
    """
    for rate in rates or scale.rates:
        for s, term in ((0, ""), (1, ", term")):
            runs = _every_cycle(scale, strength=s, lr=rate, lr_schedule="cosine")
            yield from labelled(f"lr = {digits(rate)}{term}", runs)
        if 10 in scale.rate_factors and rate == scale.rates[scale.rate_factors.index(10)] and scale.settled != 1:
            runs = _every_cycle(scale, strength=scale.settled, lr=rate, lr_schedule="cosine")
            yield from labelled(f"lr = {digits(rate)}, term, {_name(scale.settled)}", runs)


@section("3-2_epochs")
def epochs(scale: Scale) -> Iterable[Row]:
    """3.2: does longer training help? Runs of other sections, read at several lengths.

    All have their first minimum at the end of the first cycle, so that distances mean the same.
    """
    yield from labelled("no term", _every_cycle(scale, strength=0))
    yield from labelled("term", _every_cycle(scale))
    yield from labelled("cosine", _every_cycle(scale, strength=0, lr_schedule="cosine"))
    yield from labelled("cosine, term", _every_cycle(scale, lr_schedule="cosine"))


@section("4-1_multiple_minima")
def multiple(scale: Scale, strengths: Strengths = None) -> Iterable[Row]:
    """4.1: a minimum every cycle; also without L2."""
    strengths = (0.0, *(strengths or scale.many_strengths))
    for s in strengths:
        yield from labelled(_name(s), _every_cycle(scale, strength=s))
    for s in strengths:
        yield from labelled(f"{_name(s)}, no L2", _every_cycle(scale, strength=s, weight_decay=0))


@section("4-2_merged_minima")
def merged(scale: Scale, strength: NonNegative | None = None, width: Positive | None = None) -> Iterable[Row]:
    """4.2: many minima merged into one hill, against as many hills."""
    fields = {"strength": scale.merged_strength if strength is None else strength, "width": width or scale.width}
    yield from labelled("no term", _every_cycle(scale, strength=0))
    yield from labelled("multiple", _every_cycle(scale, **fields))
    for how in ("recursive", "mean", "widen"):
        yield from labelled(how, _every_cycle(scale, minima="merge", merge=how, **fields))


@section("5_warm_restarts")
def warm_restarts(scale: Scale, widths: Widths = None) -> Iterable[Row]:
    """5: schedules with and without the term, and the term as a warm restart.

    Every setting stores a minimum at the end of each cycle, "single" at the end of the first alone. Where the thesis'
    strength leaves no hill within the scale's cycles, also with one that does.
    """
    cosine = {"lr_schedule": "cosine"}
    yield from labelled("constant", _every_cycle(scale, strength=0))
    yield from labelled("step", _every_cycle(scale, strength=0, lr_schedule="step"))
    yield from labelled("step, term", _every_cycle(scale, lr_schedule="step"))
    yield from labelled("cosine", _every_cycle(scale, strength=0, **cosine))
    yield from labelled("cosine, single", _every_cycle(scale, minima="single", **cosine))
    yield from labelled("cosine, multiple", _every_cycle(scale, **cosine))
    for w in widths or scale.restart_widths:
        yield from labelled(f"cosine, multiple, w = {digits(w)}", _every_cycle(scale, width=w, **cosine))
    if scale.settled != 1:
        settled, name = {"strength": scale.settled}, _name(scale.settled)
        yield from labelled(f"step, term, {name}", _every_cycle(scale, lr_schedule="step", **settled))
        yield from labelled(f"cosine, multiple, {name}", _every_cycle(scale, **cosine, **settled))
    pulse = {"strength_schedule": "pulse", "pulse": scale.of(0.1)}
    yield from labelled("term as restart", _every_cycle(scale, strength=100, **pulse))
    yield from labelled("strength on cosine", _every_cycle(scale, strength=100, strength_schedule="cosine"))


@section("6_gradients_and_valleys")
def gradients(scale: Scale) -> Iterable[Row]:
    """6: size and direction of the gradient, on runs of other sections; step by step after minima; where minima lie.

    Role "steps": runs that log single steps; role "between": section 7's, between whose minima it looks.
    """
    yield from (row for row in baseline(scale) if row.label in ("no term", "term"))
    yield from (row for row in strength(scale) if row.label in ("s = 10", "s = 100"))
    yield from labelled("cosine", _every_cycle(scale, strength=0, lr_schedule="cosine"))
    dense = {"cycles": 2, "dense_steps": scale.dense_steps}
    yield from labelled("no term", _every_cycle(scale, strength=0, **dense), "steps")
    yield from labelled("cosine", _every_cycle(scale, strength=0, lr_schedule="cosine", **dense), "steps")
    for s in scale.many_strengths:
        yield from labelled(f"s = {digits(s)}", _every_cycle(scale, strength=s, **dense), "steps")
    at_scales_rate = (row for row in ensembles(scale) if row.role == "curve")
    yield from (replace(row, role="between") for row in at_scales_rate if row.label not in NO_TRAJECTORY)


@section("6-1_controls")
def controls(scale: Scale, strength: Positive | None = None) -> Iterable[Row]:
    """6.1: is it the hill? As strong a hill elsewhere, pushes as long in random directions, and L2 without a hill.

    `strength` is by default the scale's at which a hill is left. L2 of the runs without the term is a network's own.
    """
    hill = {"strength": scale.settled if strength is None else strength}
    yield from labelled("no term", _single(scale, strength=0))
    yield from labelled("hill", _single(scale, **hill))
    yield from labelled("random place", _single(scale, hill_at="random", **hill))
    yield from labelled("hill at origin", _single(scale, hill_at="origin", **hill))
    yield from labelled("random push", _single(scale, push="random", **hill))
    for decay in (0.0, 1e-4, 1e-2):  # 1e-3 is "no term"
        name = f"L2 = {digits(decay)}" if decay else "no L2"
        yield from labelled(name, _single(scale, strength=0, weight_decay=decay))


@section("7_ensembles")
def ensembles(scale: Scale, strengths: Strengths = None) -> Iterable[Row]:
    """7: snapshots as an ensemble, and what else five cycles buy.

    Role "chosen": those whose best learning rate on validation images is not the scale's, at that rate. Role "full":
    five networks of five cycles each, which is beyond the budget. Role "means": members whose SGD noise is averaged
    away.
    """
    rows = [*_equal_budget(scale, scale.ensemble_seeds, strengths)]
    yield from rows
    for row in rows:
        if (factor := scale.opponent_rates.get(row.label, 1)) != 1:
            run = row.run.replace(lr=factor * row.run.lr)
            yield replace(row, run=run, label=f"{row.label}, rate chosen", role="chosen")
    cosine = {"lr_schedule": "cosine", "cycle": scale.of(5)}
    full = scale.runs(cycles=5, seeds=scale.ensemble_seeds, strength=0, **cosine)
    for row in independent("five full", full, 5):  # each is one more network like "one cosine"
        run = row.run.replace(lr=scale.opponent_rates.get("one cosine", 1) * row.run.lr)
        yield replace(row, run=run, role="full")
    for row in rows:
        if row.label in AVERAGED:
            yield replace(row, run=row.run.replace(member_epochs=scale.of(0.5)), role="means")


def _equal_budget(scale: Scale, seeds: tuple[int, ...] | None, strengths: Strengths = None) -> Iterable[Row]:
    """What five cycles buy: snapshots of one run, several shorter runs, or one network.

    SWA is the mean of the last cycle's weights. Where runs store the mean of each cycle's last weights anyway, their
    last one is that. FGE spends the last cycle on five short ones, where a cycle is long enough for that: a rate that
    is constant within an epoch needs four of them to fall.
    """
    runs = {"cycles": 5, "seeds": seeds, "strength": 0}
    cosine = runs | {"lr_schedule": "cosine"}
    yield from labelled("constant", _every_cycle(scale, **runs))
    yield from labelled("cosine", _every_cycle(scale, **cosine))
    if (short := scale.cycle // 5) >= 4:
        fge = {"cycle": short, "minima_every": short, "offset": scale.of(4)}
        yield from labelled("FGE", _every_cycle(scale, **cosine, **fge))
    yield from labelled("one cosine", scale.runs(**cosine, cycle=scale.of(5)))
    yield from independent("two of half", scale.runs(**cosine | {"cycles": 2.5}, cycle=scale.of(2.5)), 2)
    if not _has_means(scale):
        yield from labelled("SWA", scale.runs(**runs, swa_from=scale.of(4) + 1))
    yield from independent("independent", scale.runs(**cosine | {"cycles": 1}), 5)
    for s in strengths or scale.many_strengths:
        yield from labelled(f"s = {digits(s)}", _every_cycle(scale, **runs | {"strength": s}))


def _has_means(scale: Scale) -> bool:
    """Whether all runs store the mean of each cycle's last weights."""
    return any(network.get("member_epochs") for network in scale.networks)


def independent(label: str, runs: list[Run], members: int) -> Iterable[Row]:
    """Each run so many times, from other initial weights: the members of one ensemble."""
    for run in runs:
        for m in range(members):
            own = run.replace(seed=run.seed + 1000 * m)
            yield Row(own, label, member=m + 1, ensemble_seed=run.seed)


@section("7-1_rates")
def rates(scale: Scale, factors: Rates = None) -> Iterable[Row]:
    """7.1: section 7's ensembles at several learning rates, scored on training images that were held back.

    They train on the first three quarters of the scale's training images, so test images have no part in the choice.
    The role says by what the scale's rate is multiplied.
    """
    for factor in factors or scale.tried_factors:
        for row in _equal_budget(scale, scale.seeds):
            run = _held_back(row.run.replace(lr=factor * row.run.lr))
            yield replace(row, run=run, role=f"rate times {digits(factor)}")


def _held_back(run: Run) -> Run:
    """The same on the first three quarters of its training images, and evaluated on the last one."""
    images = run.train_size or facts(run.data).train
    return run.replace(train_size=3 * images // 4, validation=True)


@section("8_cost")
def cost(scale: Scale, hills: Size | None = None) -> Iterable[Row]:
    """8: one more minimum after every second epoch: what each costs shows in the epochs after it.

    The first two epochs may be another run's (`shared_prefix`), and so are their seconds.
    """
    fields = {"epochs": 2 * ((hills or scale.hills) + 1), "minima_every": 2}
    for s in (0.0, 1.0):
        yield from labelled(_name(s), _every_cycle(scale, strength=s, **fields))


#: The sections whose runs the chapter's last one reads.
CLAIMED = (
    "1_baseline", "2-1_width", "2-2_strength", "2-3_interaction", "3-1_learning_rate", "3-2_epochs",
    "4-1_multiple_minima", "4-2_merged_minima", "5_warm_restarts", "6_gradients_and_valleys", "7_ensembles", "8_cost",
)  # fmt: skip


@section("9_claims")
def claims(scale: Scale) -> Iterable[Row]:
    """9: every run of the sections that a claim is about; C1 to C14 look them up by section and label."""
    for name in CLAIMED:
        yield from (replace(row, section=name) for row in SECTIONS[name](scale) if row.role not in BEYOND_THESIS)


@section("10-1_variants")
def variants(scale: Scale, strengths: Strengths = None) -> Iterable[Row]:
    """10.1: which hills make the best ensemble of means? On training images that were held back, as in section 7.1.

    The role says what a member is: "live" weights at a cycle's end, or their "mean" over the end of the cycle.
    """
    for row in _variants(scale, scale.seeds, strengths):
        yield replace(row, run=_held_back(row.run).replace(**scale.better_fields))


def _variants(
    scale: Scale, seeds: tuple[int, ...], strengths: Strengths = None, cycles: int = MEMBERS
) -> Iterable[Row]:
    """A few strengths; around one of them shorter and longer means, other schedules, hills at the means; other hills.

    Those do not see how long filters are, where there are some, or are in function space. The latter have cycles of
    four fifths: all cost the same.
    """

    def means(label: str, share: float = 0.5, role: str = "mean", **fields: Any) -> list[Row]:
        fields = {"cycles": cycles, "seeds": seeds, "member_epochs": scale.of(share)} | fields
        return labelled(label, _every_cycle(scale, **fields), role)

    yield from means("no term", strength=0)
    yield from means("no term, cosine", strength=0, lr_schedule="cosine")
    for s in strengths or VARIED:
        yield from means(_name(s), strength=s)
    around = {"strength": AROUND}
    name = _name(AROUND)
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
        yield from means(f"{_name(s)}, function", strength=s, distance="function", width=FUNCTION_WIDTH, **length)


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
            if _has_means(scale):
                yield replace(row, label="SWA", role="last mean")
    opponents = [row for row in _equal_budget(scale, seeds, [AROUND]) if not row.run.strength]
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
    chosen = ("no term", scale.better, *map(_name, VARIED))
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
    for seeds, held_back in ((scale.seeds[:CHOOSING], True), (scale.fresh_seeds(FRESHER), False)):
        for row in _variants(scale, seeds):
            label = "plain means" if row.label == "no term" else row.label
            if label not in ("plain means", scale.better):
                continue
            chosen = [scale.better_rates.get(label, 1.0)]
            for factor in (factors or scale.tried_factors) if held_back else chosen:
                run = row.run.replace(lr=factor * row.run.lr, **scale.better_fields)
                if held_back:
                    yield replace(row, label=label, run=_held_back(run), role=f"rate times {digits(factor)}")
                else:
                    yield replace(row, label=label, run=run)


def usual(scale: str) -> list[str]:
    """The sections that are made when none is named. Raises UserError for an unknown scale."""
    return [name for name in SECTIONS if name not in _scale(scale).on_demand]


def _scale(name: str) -> Scale:
    if name not in SCALES:
        raise UserError(f"unknown scale {name!r}: choose from {', '.join(SCALES)}")
    return SCALES[name]


def rows(section: str, scale: str, seeds: int | Sequence[int] | None = None, **parameters: Any) -> list[Row]:
    """The labelled runs of a section, each once. Parameters that are None keep the section's default.

    `seeds` is how many, from 0 on, or which; None: the scale's own. Raises UserError for an unknown section, scale or
    parameter, or a value that does not fit.
    """
    known, size = _names(section), _scale(scale)
    seeds = seeds_of(seeds)
    given = {name: value for name, value in parameters.items() if value is not None}
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"section {section} has no parameter {', '.join(unknown)}")
    found = _checked(SECTIONS[section], size.with_seeds(seeds), **given)
    found = list(dict.fromkeys(row if row.section else replace(row, section=section) for row in found))
    for row in found:
        check_hill(row)
    return found


def results(
    section: str, scale: str = "laptop", seeds: int | Sequence[int] | None = None, **parameters: Any
) -> Results:
    """Train what a section of the thesis needs at a scale, unless it is finished, and return its results.

    `seeds` is how many, from 0 on, or a list; None: the scale's. `parameters` are those of the section's notebook; None
    keeps the section's default. Raises UserError for an unknown section, scale or parameter, or a value that does not
    fit, also if a run fails by it; RuntimeError if one fails by an error of ours.

    >>> import thesislib as tl
    >>> runs = tl.section("2-2_strength", scale="smoke", strengths=[10])
    >>> runs.labels
    ['no term', 's = 10']
    """
    return launch.results(rows(section, scale, seeds, **parameters), scale=scale, section=section)


def parameters(section: str) -> dict[str, Any]:
    """Names and defaults of the parameters of a section's notebook: `seeds`, and those of the section's function."""
    return {"seeds": None} | {name: p.default for name, p in _signature(section).items() if p.kind is not p.VAR_KEYWORD}


def check(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a notebook's values that decide which runs it asks for, to be given to `rows`.

    Raises UserError, one line, if one of these, or of `Drawing`, does not fit. Other names are the notebook's own.
    """
    _checked(Drawing, **{name: value for name, value in values.items() if name in Drawing.model_fields})
    deciding = {name: value for name, value in values.items() if name in _names(section)}
    seeds_of(values.get("seeds"))
    own = {name: value for name, value in deciding.items() if name != "seeds"}
    _checked(SECTIONS[section], next(iter(SCALES.values())), **own)
    return deciding


def seeds_of(seeds: int | Iterable[int] | None) -> int | Sequence[int] | None:
    """Seeds as scales take them: how many, from 0 on, or which, a range or an array too; None are the scale's own.

    Raises UserError if they are none, or one of them is given twice.
    """
    try:
        seeds = list(seeds) if isinstance(seeds, range) else seeds.tolist() if hasattr(seeds, "tolist") else seeds
        found = Seeds(seeds=seeds).seeds
    except ValidationError:
        why = "write how many, such as 3, or which, such as [3, 4], all below 900"
        raise UserError(f"seeds: {why}, not {seeds!r}") from None
    if isinstance(found, Sequence) and (twice := [seed for k, seed in enumerate(found) if seed in found[:k]]):
        raise UserError(f"seeds: {twice[0]} is given twice, in {list(found)}")
    return found


def _signature(section: str) -> dict[str, inspect.Parameter]:
    if section not in SECTIONS:
        raise UserError(f"unknown section {section!r}: choose from {', '.join(SECTIONS)}")
    _, *parameters = inspect.signature(SECTIONS[section]).parameters.items()  # the first is the scale
    return dict(parameters)


def _names(section: str) -> set[str]:
    """Names of all parameters that change which runs a section asks for: further ones (**) are fields of a Run."""
    takes_fields = any(p.kind is p.VAR_KEYWORD for p in _signature(section).values())
    return {*parameters(section)} | (Run.model_fields.keys() - {"seed"} if takes_fields else set())


def _checked(function: Callable[..., Any], *scale: Scale, **values: Any) -> Any:
    """`function(*scale, **values)`; UserError, one line, for the first value that does not fit its annotation."""
    try:
        return function(*scale, **values)
    except ValidationError as error:
        first = error.errors()[0]
    reason = first["msg"][0].lower() + first["msg"][1:]
    raise UserError(f"parameter {first['loc'][0]}: {reason}, not {first['input']!r}")


def check_hill(row: Row) -> None:
    """Raise UserError if a run has a distance term but no hill within its epochs: it would be the baseline again."""
    run = row.run
    if run.strength and not any(epoch < run.epochs for epoch in run.minimum_epochs):
        first, more = "no minimum comes", "minima_every"
        if every := run.minima_every:
            first, more = f"the first minimum comes after epoch {every}", "a smaller minima_every, more epochs"
        why = f"{first}, the run ends after {run.epochs}, so there is no hill"
        raise UserError(f"{row.label}: {why}: give {more}, or strength 0")


def in_order(rows: Iterable[Row]) -> list[Run]:
    """The runs of some sections, each once, seed by seed: at any moment the first seeds are complete.

    Within a seed the sections of FIRST come before the rest. What is beyond the ensembles' budget comes last of all.
    """
    places: dict[Run, tuple[bool, int]] = {}
    for row in sorted(rows, key=lambda row: FIRST.index(row.section) if row.section in FIRST else len(FIRST)):
        place = (row.role == "full", row.seed)
        places[row.run] = min(place, places.get(row.run, place))
    return sorted(places, key=places.__getitem__)
