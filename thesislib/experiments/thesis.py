"""The thesis' grids: for every section of the results chapter, the runs it needs at a given scale.

A section is written once, in cycles (the thesis: 150 epochs); a scale says how long a cycle is, on which data
and networks, and with how many seeds. Runs that two sections share are the same run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from thesislib.config import NonNegative, Positive, Run, Size
from thesislib.datasets import facts
from thesislib.experiments.scales import Scale
from thesislib.experiments.sections import Rates, Strengths, Widths, digits, labelled, section
from thesislib.runs.results import Row

#: Ensembles of section 7 that are no trajectory from minimum to minimum.
NO_TRAJECTORY = ("FGE", "SWA", "one cosine", "two of half")
#: Those of section 7 whose members are also there as means of the weights of a cycle's last half.
AVERAGED = ("constant", "s = 10", "s = 100")


def single(scale: Scale, **fields: Any) -> list[Run]:
    """Runs with one hill, at the minimum of epoch 100 of the thesis' first cycle of 150."""
    if scale.first == 1 and fields.get("strength") == 0:
        return every_cycle(scale, **fields)  # without a hill it is the same run, and other sections need it
    return scale.runs(**{"minima": "single", "minima_every": scale.of(scale.first)} | fields)


def every_cycle(scale: Scale, **fields: Any) -> list[Run]:
    """Runs with a minimum, and a hill if they have a term, at the end of each cycle."""
    return scale.runs(**{"minima": "multiple", "minima_every": scale.cycle} | fields)


def named(s: float) -> str:
    """The label of a strength."""
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
    yield from labelled("baseline", every_cycle(scale, strength=0))
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
    yield from labelled("no term", single(scale, strength=0))
    yield from labelled("term", single(scale, **fields))
    yield from labelled("term, tanh", single(scale, kernel="tanh", **fields))


@section("2-1_width")
def width(scale: Scale, widths: Widths = None, strength: NonNegative = 1.0) -> Iterable[Row]:
    """2.1: what does w do? Role "published": the settings whose end the thesis prints in numbers."""
    yield from labelled("no term", single(scale, strength=0))
    for w in widths or (scale.narrow, *scale.widths):
        yield from labelled(f"w = {digits(w)}", single(scale, strength=strength, width=w))
    for s, w in scale.published:
        runs = scale.runs(strength=s, width=w, cycles=2, minima="single", minima_every=scale.cycle)
        yield from labelled(f"w = {digits(w)}" if s else "no term", runs, "published")


@section("2-2_strength")
def strength(scale: Scale, strengths: Strengths = None, width: Positive | None = None) -> Iterable[Row]:
    """2.2: what does s do?"""
    yield from labelled("no term", single(scale, strength=0))
    for s in strengths or scale.strengths:
        yield from labelled(f"s = {digits(s)}", single(scale, strength=s, width=width or scale.width))


@section("2-3_interaction")
def interaction(scale: Scale, widths: Widths = None, strengths: Strengths = None) -> Iterable[Row]:
    """2.3: width x strength."""
    for s in strengths or scale.strengths:
        for w in widths or scale.widths:
            yield from labelled(f"s = {digits(s)}, w = {digits(w)}", single(scale, strength=s, width=w))


@section("3-1_learning_rate")
def learning_rate(scale: Scale, rates: Rates = None) -> Iterable[Row]:
    """3.1: does the term stabilise a wrong learning rate? Rates around the scale's own, cosine restarts.

    At the rate ten times too high, which claim C10 is about, also with a strength at which the hills are left.
    """
    for rate in rates or scale.rates:
        for s, term in ((0, ""), (1, ", term")):
            runs = every_cycle(scale, strength=s, lr=rate, lr_schedule="cosine")
            yield from labelled(f"lr = {digits(rate)}{term}", runs)
        if 10 in scale.rate_factors and rate == scale.rates[scale.rate_factors.index(10)] and scale.settled != 1:
            runs = every_cycle(scale, strength=scale.settled, lr=rate, lr_schedule="cosine")
            yield from labelled(f"lr = {digits(rate)}, term, {named(scale.settled)}", runs)


@section("3-2_epochs")
def epochs(scale: Scale) -> Iterable[Row]:
    """3.2: does longer training help? Runs of other sections, read at several lengths.

    All have their first minimum at the end of the first cycle, so that distances mean the same.
    """
    yield from labelled("no term", every_cycle(scale, strength=0))
    yield from labelled("term", every_cycle(scale))
    yield from labelled("cosine", every_cycle(scale, strength=0, lr_schedule="cosine"))
    yield from labelled("cosine, term", every_cycle(scale, lr_schedule="cosine"))


@section("4-1_multiple_minima")
def multiple(scale: Scale, strengths: Strengths = None) -> Iterable[Row]:
    """4.1: a minimum every cycle; also without L2, and hills of s = 10 each, which do not share it."""
    strengths = (0.0, *(strengths or scale.many_strengths))
    for s in strengths:
        yield from labelled(named(s), every_cycle(scale, strength=s))
    for s in strengths:
        yield from labelled(f"{named(s)}, no L2", every_cycle(scale, strength=s, weight_decay=0))
    # Sharing lowers the first hill at every further minimum: a cause of its own, apart from L2. Hills of s = 1 are left
    # too late to tell, and three of s = 100 each break every network of scale laptop.
    if 10.0 in strengths:
        yield from labelled("s = 10, not shared", every_cycle(scale, strength=10.0, share=False))


@section("4-2_merged_minima")
def merged(scale: Scale, strength: NonNegative | None = None, width: Positive | None = None) -> Iterable[Row]:
    """4.2: many minima merged into one hill, against as many hills."""
    fields = {"strength": scale.merged_strength if strength is None else strength, "width": width or scale.width}
    yield from labelled("no term", every_cycle(scale, strength=0))
    yield from labelled("multiple", every_cycle(scale, **fields))
    for how in ("recursive", "mean", "widen"):
        yield from labelled(how, every_cycle(scale, minima="merge", merge=how, **fields))


@section("5_warm_restarts")
def warm_restarts(scale: Scale, widths: Widths = None) -> Iterable[Row]:
    """5: schedules with and without the term, and the term as a warm restart.

    Every setting stores a minimum at the end of each cycle, "single" at the end of the first alone. Where the thesis'
    strength leaves no hill within the scale's cycles, also with one that does.
    """
    cosine = {"lr_schedule": "cosine"}
    yield from labelled("constant", every_cycle(scale, strength=0))
    yield from labelled("step", every_cycle(scale, strength=0, lr_schedule="step"))
    yield from labelled("step, term", every_cycle(scale, lr_schedule="step"))
    yield from labelled("cosine", every_cycle(scale, strength=0, **cosine))
    yield from labelled("cosine, single", every_cycle(scale, minima="single", **cosine))
    yield from labelled("cosine, multiple", every_cycle(scale, **cosine))
    for w in widths or scale.restart_widths:
        yield from labelled(f"cosine, multiple, w = {digits(w)}", every_cycle(scale, width=w, **cosine))
    if scale.settled != 1:
        settled, name = {"strength": scale.settled}, named(scale.settled)
        yield from labelled(f"step, term, {name}", every_cycle(scale, lr_schedule="step", **settled))
        yield from labelled(f"cosine, multiple, {name}", every_cycle(scale, **cosine, **settled))
    pulse = {"strength_schedule": "pulse", "pulse": scale.of(0.1)}
    yield from labelled("term as restart", every_cycle(scale, strength=100, **pulse))
    yield from labelled("strength on cosine", every_cycle(scale, strength=100, strength_schedule="cosine"))


@section("6_gradients_and_valleys")
def gradients(scale: Scale) -> Iterable[Row]:
    """6: size and direction of the gradient, on runs of other sections; step by step after minima; where minima lie.

    Role "steps": runs that log single steps; role "between": section 7's, between whose minima it looks.
    """
    yield from (row for row in baseline(scale) if row.label in ("no term", "term"))
    yield from (row for row in strength(scale) if row.label in ("s = 10", "s = 100"))
    yield from labelled("cosine", every_cycle(scale, strength=0, lr_schedule="cosine"))
    dense = {"cycles": 2, "dense_steps": scale.dense_steps}
    yield from labelled("no term", every_cycle(scale, strength=0, **dense), "steps")
    yield from labelled("cosine", every_cycle(scale, strength=0, lr_schedule="cosine", **dense), "steps")
    for s in scale.many_strengths:
        yield from labelled(f"s = {digits(s)}", every_cycle(scale, strength=s, **dense), "steps")
    at_scales_rate = (row for row in ensembles(scale) if row.role == "curve")
    yield from (replace(row, role="between") for row in at_scales_rate if row.label not in NO_TRAJECTORY)


@section("6-1_controls")
def controls(scale: Scale, strength: Positive | None = None) -> Iterable[Row]:
    """6.1: is it the hill? As strong a hill elsewhere, pushes as long in random directions, and L2 without a hill.

    `strength` is by default the scale's at which a hill is left. L2 of the runs without the term is a network's own.
    """
    hill = {"strength": scale.settled if strength is None else strength}
    yield from labelled("no term", single(scale, strength=0))
    yield from labelled("hill", single(scale, **hill))
    yield from labelled("random place", single(scale, hill_at="random", **hill))
    yield from labelled("hill at origin", single(scale, hill_at="origin", **hill))
    yield from labelled("random push", single(scale, push="random", **hill))
    for decay in (0.0, 1e-4, 1e-2):  # 1e-3 is "no term"
        name = f"L2 = {digits(decay)}" if decay else "no L2"
        yield from labelled(name, single(scale, strength=0, weight_decay=decay))


@section("7_ensembles")
def ensembles(scale: Scale, strengths: Strengths = None) -> Iterable[Row]:
    """7: snapshots as an ensemble, and what else five cycles buy.

    Role "chosen": those whose best learning rate on validation images is not the scale's, at that rate. Role "full":
    five networks of five cycles each, which is beyond the budget. Role "means": members whose SGD noise is averaged
    away.
    """
    rows = [*equal_budget(scale, scale.ensemble_seeds, strengths)]
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


def equal_budget(scale: Scale, seeds: tuple[int, ...] | None, strengths: Strengths = None) -> Iterable[Row]:
    """What five cycles buy: snapshots of one run, several shorter runs, or one network.

    SWA is the mean of the last cycle's weights. Where runs store the mean of each cycle's last weights anyway, their
    last one is that. FGE spends the last cycle on five short ones, where a cycle is long enough for that: a rate that
    is constant within an epoch needs four of them to fall.
    """
    runs = {"cycles": 5, "seeds": seeds, "strength": 0}
    cosine = runs | {"lr_schedule": "cosine"}
    yield from labelled("constant", every_cycle(scale, **runs))
    yield from labelled("cosine", every_cycle(scale, **cosine))
    if (short := scale.cycle // 5) >= 4:
        fge = {"cycle": short, "minima_every": short, "offset": scale.of(4)}
        yield from labelled("FGE", every_cycle(scale, **cosine, **fge))
    yield from labelled("one cosine", scale.runs(**cosine, cycle=scale.of(5)))
    yield from independent("two of half", scale.runs(**cosine | {"cycles": 2.5}, cycle=scale.of(2.5)), 2)
    if not has_means(scale):
        yield from labelled("SWA", scale.runs(**runs, swa_from=scale.of(4) + 1))
    yield from independent("independent", scale.runs(**cosine | {"cycles": 1}), 5)
    for s in strengths or scale.many_strengths:
        yield from labelled(f"s = {digits(s)}", every_cycle(scale, **runs | {"strength": s}))


def has_means(scale: Scale) -> bool:
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
        for row in equal_budget(scale, scale.seeds):
            run = held_back(row.run.replace(lr=factor * row.run.lr))
            yield replace(row, run=run, role=f"rate times {digits(factor)}")


def held_back(run: Run) -> Run:
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
        yield from labelled(named(s), every_cycle(scale, strength=s, **fields))
