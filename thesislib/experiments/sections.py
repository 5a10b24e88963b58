"""The thesis' grids: for every section of the results chapter, the runs it needs at a given scale.

A section is written once, in cycles (the thesis: 150 epochs); a scale says how long a cycle is, on which data
and networks, and with how many seeds. Runs that two sections share are the same run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from thesislib.config import Run
from thesislib.experiments.scales import SCALES, Scale
from thesislib.runs.store import Groups
from thesislib.system.errors import UserError

#: In front of the labels of runs that are for a table of numbers, not for curves.
PUBLISHED = "published: "
#: In front of the labels of section 6's runs that log the first so many steps after each minimum ...
DENSE, DENSE_STEPS = "steps: ", 300
#: ... and of those between whose minima it looks.
BETWEEN = "between: "
#: Ensembles of section 7 that are no walks through minima.
NO_WALKS = ("FGE", "SWA", "one cosine", "two of half")
#: Under one label, runs whose seeds are equal modulo this are the members of one ensemble of independent networks.
MEMBER = 1000


def digits(value: float) -> str:
    """A number as labels show it: six digits if those are all, else every digit, so that no two are alike."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def _single(scale: Scale, **fields: Any) -> list[Run]:
    if scale.first == 1 and fields.get("strength") == 0:
        return _every_cycle(scale, **fields)  # without a hill it is the same run, and other sections need it
    return scale.runs(**{"minima": "single", "minima_every": scale.of(scale.first)} | fields)


def _every_cycle(scale: Scale, **fields: Any) -> list[Run]:
    return scale.runs(**{"minima": "multiple", "minima_every": scale.cycle} | fields)


def baseline(scale: Scale, strength: float = 1.0, width: float | None = None) -> Groups:
    """1: with and without the distance term, constant learning rate, both kernels."""
    fields = {"strength": strength, "width": width or scale.width}
    kernels = {"term": _single(scale, **fields), "term, tanh": _single(scale, kernel="tanh", **fields)}
    return {"no term": _single(scale, strength=0)} | kernels


def _rbf_baseline(scale: Scale) -> Groups:
    return {label: runs for label, runs in baseline(scale).items() if "tanh" not in label}


def width(scale: Scale, widths: Iterable[float] | None = None, strength: float = 1.0) -> Groups:
    """2.1: what does w do?"""
    groups = {"no term": _single(scale, strength=0)}
    for w in widths or (scale.narrow, *scale.widths):
        groups[f"w = {digits(w)}"] = _single(scale, strength=strength, width=w)
    return groups | _published(scale)


def _published(scale: Scale) -> Groups:
    """The settings whose end the thesis prints in numbers, under labels that begin with PUBLISHED."""
    every = {"cycles": 2, "minima": "single", "minima_every": scale.cycle}
    runs = {
        f"w = {digits(w)}" if s else "no term": scale.runs(strength=s, width=w, **every) for s, w in scale.published
    }
    return _prefixed(PUBLISHED, runs)


def strength(scale: Scale, strengths: Iterable[float] | None = None, width: float | None = None) -> Groups:
    """2.2: what does s do?"""
    groups = {"no term": _single(scale, strength=0)}
    for s in strengths or scale.strengths:
        groups[f"s = {digits(s)}"] = _single(scale, strength=s, width=width or scale.width)
    return groups


def interaction(
    scale: Scale, widths: Iterable[float] | None = None, strengths: Iterable[float] | None = None
) -> Groups:
    """2.3: width x strength."""
    return {
        f"s = {digits(s)}, w = {digits(w)}": _single(scale, strength=s, width=w)
        for s in strengths or scale.strengths
        for w in widths or scale.widths
    }


def learning_rate(scale: Scale, rates: Iterable[float] | None = None) -> Groups:
    """3.1: does the term stabilise a wrong learning rate? The thesis' rates, or the scale's own, cosine restarts."""
    return {
        f"lr = {digits(rate)}{', term' if s else ''}": _every_cycle(scale, strength=s, lr=rate, lr_schedule="cosine")
        for rate in rates or scale.rates
        for s in (0, 1)
    }


def epochs(scale: Scale) -> Groups:
    """3.2: does longer training help? Runs of other sections, read at several lengths.

    All have their first minimum at the end of the first cycle, so that distances mean the same.
    """
    cosine = {"lr_schedule": "cosine"}
    return {
        "no term": _every_cycle(scale, strength=0),
        "term": _every_cycle(scale),
        "cosine": _every_cycle(scale, strength=0, **cosine),
        "cosine, term": _every_cycle(scale, **cosine),
    }


def multiple(scale: Scale, strengths: Iterable[float] | None = None) -> Groups:
    """4.1: a minimum every cycle; also without L2."""
    strengths = (0.0, *(strengths or scale.many_strengths))
    with_l2 = {_name(s): _every_cycle(scale, strength=s) for s in strengths}
    return with_l2 | {f"{_name(s)}, no L2": _every_cycle(scale, strength=s, weight_decay=0) for s in strengths}


def _name(s: float) -> str:
    return f"s = {digits(s)}" if s else "no term"


def merged(scale: Scale, strength: float | None = None, width: float | None = None) -> Groups:
    """4.2: many minima merged into one hill, against as many hills."""
    fields = {"strength": scale.merged_strength if strength is None else strength, "width": width or scale.width}
    hills = {"no term": _every_cycle(scale, strength=0), "multiple": _every_cycle(scale, **fields)}
    return hills | {
        how: _every_cycle(scale, minima="merge", merge=how, **fields) for how in ("recursive", "mean", "widen")
    }


def warm_restarts(scale: Scale, widths: Iterable[float] | None = None) -> Groups:
    """5: schedules with and without the term, and the term as a warm restart.

    Every setting stores a minimum at the end of each cycle; with "single" only the first one is a hill.
    """
    cosine = {"lr_schedule": "cosine"}
    groups = {
        "constant": _every_cycle(scale, strength=0),
        "step": _every_cycle(scale, strength=0, lr_schedule="step"),
        "step, term": _every_cycle(scale, lr_schedule="step"),
        "cosine": _every_cycle(scale, strength=0, **cosine),
        "cosine, single": _every_cycle(scale, minima="single", **cosine),
        "cosine, multiple": _every_cycle(scale, **cosine),
    }
    for w in widths or scale.restart_widths:
        groups[f"cosine, multiple, w = {digits(w)}"] = _every_cycle(scale, width=w, **cosine)
    restart = {"strength": 100, "minima": "multiple"}
    return groups | {
        "term as restart": _every_cycle(scale, **restart, strength_schedule="pulse", pulse=scale.of(0.1)),
        "strength on cosine": _every_cycle(scale, **restart, strength_schedule="cosine"),
    }


def gradients(scale: Scale) -> Groups:
    """6: size and direction of the gradient, on runs of other sections; step by step after minima; where minima lie.

    Labels that begin with DENSE are of runs that log single steps, those with BETWEEN are section 7's.
    """
    by_epoch = _rbf_baseline(scale) | {
        label: runs for label, runs in strength(scale).items() if label in ("s = 10", "s = 100")
    } | {"cosine": _every_cycle(scale, strength=0, lr_schedule="cosine")}  # fmt: skip
    dense = {"cycles": 2, "dense_steps": DENSE_STEPS}
    by_step = {
        "no term": _every_cycle(scale, strength=0, **dense),
        "cosine": _every_cycle(scale, strength=0, lr_schedule="cosine", **dense),
    } | {f"s = {digits(s)}": _every_cycle(scale, strength=s, **dense) for s in scale.many_strengths}
    walks = {label: runs for label, runs in ensembles(scale).items() if label not in NO_WALKS}
    return by_epoch | _prefixed(DENSE, by_step) | _prefixed(BETWEEN, walks)


def _prefixed(prefix: str, groups: Groups) -> Groups:
    return {prefix + label: runs for label, runs in groups.items()}


def ensembles(scale: Scale, strengths: Iterable[float] | None = None) -> Groups:
    """7: five members for the price of five cycles: snapshots of one run, or five runs of one cycle each.

    SWA is one network, the mean of the last cycle's weights; FGE spends the last cycle on five short ones, where a
    cycle is long enough for that: a rate that is constant within an epoch needs four of them to fall. At a scale with
    `opponents` the same epochs also go into one long cosine and into two networks; SWA is then the last mean member.
    """
    runs = {"cycles": 5, "seeds": scale.ensemble_seeds, "strength": 0}
    cosine = {"lr_schedule": "cosine"}
    one_cycle = scale.runs(**runs | cosine | {"cycles": 1})
    groups = {"constant": _every_cycle(scale, **runs), "cosine": _every_cycle(scale, **runs | cosine)}
    if (short := scale.cycle // 5) >= 4:
        fge = {"cycle": short, "minima_every": short, "offset": scale.of(4)}
        groups["FGE"] = _every_cycle(scale, **runs | cosine, **fge)
    if scale.opponents:
        groups["one cosine"] = scale.runs(**runs | cosine, cycle=scale.of(5))
        half = scale.runs(**runs | cosine | {"cycles": 2.5}, cycle=scale.of(2.5))
        groups["two of half"] = _independent(half, 2)
    else:
        groups["SWA"] = scale.runs(**runs, swa_from=scale.of(4) + 1)
    groups["independent"] = _independent(one_cycle, 5)
    for s in strengths or scale.many_strengths:
        groups[f"s = {digits(s)}"] = _every_cycle(scale, **runs | {"strength": s})
    return groups


def _independent(runs: list[Run], members: int) -> list[Run]:
    """Each run so many times, from other initial weights: the members of one ensemble."""
    return [run.replace(seed=run.seed + MEMBER * m) for run in runs for m in range(members)]


def cost(scale: Scale, hills: int | None = None) -> Groups:
    """8: one more minimum after every second epoch: what each costs shows in the epochs after it.

    The first two epochs may be another run's (`shared_prefix`), and so are their seconds.
    """
    hills = hills or scale.hills
    fields = {"epochs": 2 * (hills + 1), "minima_every": 2}
    return {_name(s): _every_cycle(scale, strength=s, **fields) for s in (0.0, 1.0)}


def explore(scale: Scale, **fields: Any) -> Groups:
    """0: one run, free to change, beside the baseline. It starts where notebook 0 does, with runs of section 4.1."""
    changed = {"strength": 100, "minima": "multiple", "minima_every": scale.cycle} | fields
    return {"baseline": _every_cycle(scale, strength=0), "yours": scale.runs(**changed)}


def claims(scale: Scale) -> Groups:
    """9: every run of the sections that a claim is about; C1 to C14 look them up by section and label."""
    return {
        f"{name}: {label}": runs
        for name, section in SECTIONS.items()
        if section not in (claims, explore, interaction)
        for label, runs in section(scale).items()
    }


SECTIONS: dict[str, Callable[..., Groups]] = {
    "0_explore": explore,
    "1_baseline": baseline,
    "2-1_width": width,
    "2-2_strength": strength,
    "2-3_interaction": interaction,
    "3-1_learning_rate": learning_rate,
    "3-2_epochs": epochs,
    "4-1_multiple_minima": multiple,
    "4-2_merged_minima": merged,
    "5_warm_restarts": warm_restarts,
    "6_gradients_and_valleys": gradients,
    "7_ensembles": ensembles,
    "8_cost": cost,
    "9_claims": claims,
}


def groups(section: str, scale: str, **parameters: Any) -> Groups:
    """The labelled runs of a section. Parameters that are None keep the section's default.

    Raises UserError for an unknown section, scale or parameter, or a value that does not fit.
    """
    for name, kind, known in ((section, "section", SECTIONS), (scale, "scale", SCALES)):
        if name not in known:
            raise UserError(f"unknown {kind} {name!r}: choose from {', '.join(known)}")
    given = {name: value for name, value in parameters.items() if value is not None}
    unknown = given.keys() - parameter_names(section)
    if unknown:
        raise UserError(f"section {section} has no parameter {', '.join(sorted(unknown))}")
    for name, value in given.items():
        _check(name, value, inspect.signature(SECTIONS[section]).parameters.get(name))
    groups = SECTIONS[section](SCALES[scale], **given)
    for label, runs in groups.items():
        for run in runs:
            _check_hill(label, run)
    return groups


def _check_hill(label: str, run: Run) -> None:
    """Raise UserError if a run has a distance term but no hill within its epochs: it would be the baseline again."""
    if run.strength and not any(epoch < run.epochs for epoch in run.minimum_epochs):
        first = f"the first minimum comes after epoch {run.minima_every}" if run.minima_every else "no minimum comes"
        more = "give a smaller minima_every, more epochs, or strength 0"
        raise UserError(f"{label}: {first}, the run ends after {run.epochs}, so there is no hill: {more}")


def _check(name: str, value: Any, parameter: inspect.Parameter | None) -> None:
    """Raise UserError if a parameter that takes several numbers, or a count, is given anything else."""
    if parameter is not None and parameter.annotation == "int | None" and (type(value) is not int or value < 1):
        raise UserError(f"parameter {name} must be a whole number from 1, not {value!r}")
    if parameter is not None and "Iterable" in parameter.annotation:
        numbers = isinstance(value, list | tuple) and all(type(v) in (int, float) for v in value)
        if not numbers or not value:
            raise UserError(f"parameter {name} must be a list of numbers such as [1, 10], not {value!r}")


#: What to train first at a scale that takes days.
_FIRST = ("1_baseline", "2-1_width", "2-2_strength", "4-1_multiple_minima", "5_warm_restarts", "7_ensembles")


def in_order(groups: Mapping[str, Groups]) -> list[Run]:
    """The runs of some sections, each once, seed by seed: at any moment the first seeds are complete.

    Within a seed the sections of _FIRST come before the rest.
    """
    names = sorted(groups, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    runs = dict.fromkeys(run for name in names for group in groups[name].values() for run in group)
    return sorted(runs, key=lambda run: run.seed % MEMBER)


def parameter_names(section: str) -> set[str]:
    """Names of the parameters that change which runs a section asks for."""
    names = set(inspect.signature(SECTIONS[section]).parameters) - {"scale"}
    # Seeds are the scale's.
    return (names - {"fields"}) | set(Run.model_fields) - {"seed"} if "fields" in names else names
