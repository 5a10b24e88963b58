"""Sections by name: the runs that each needs at a scale, its parameters, and the checks of their values.

The sections themselves stand in `thesis`, `statements` (section 9) and `beyond`. One more is one more function there,
and a notebook of the same name: it takes a scale and whatever it lets one change, and yields labelled runs (`Row`); its
annotations say which values are allowed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, validate_call

from thesislib.config import NonNegative, Positive, Run, Seed, Size
from thesislib.experiments.scales import SCALES, Scale
from thesislib.runs import launch
from thesislib.runs.results import Results, Row
from thesislib.system.errors import UserError

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


def usual(scale: str) -> list[str]:
    """The sections that are made when none is named. Raises UserError for an unknown scale."""
    return [name for name in SECTIONS if name not in scale_of(scale).on_demand]


def scale_of(name: str) -> Scale:
    """A scale by its name. Raises UserError for an unknown one, as that of runs of one's own."""
    if name not in SCALES:
        raise UserError(f"unknown scale {name!r}: choose from {', '.join(SCALES)}")
    return replace(SCALES[name], name=name)


def rows(section: str, scale: str, seeds: int | Sequence[int] | None = None, **parameters: Any) -> list[Row]:
    """The labelled runs of a section, each once. Parameters that are None keep the section's default.

    `seeds` is how many, from 0 on, or which; None: the scale's own. Raises UserError for an unknown section, scale or
    parameter, or a value that does not fit.
    """
    known, size = _names(section), scale_of(scale)
    seeds = seeds_of(seeds)
    given = {name: value for name, value in parameters.items() if value is not None}
    if unknown := [name for name in given if name not in known]:
        choice = ", ".join(sorted(known)) or "none"
        raise UserError(f"section {section} has no parameter {', '.join(unknown)}: choose from {choice}")
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
