"""Experiments of one's own: any settings side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thesislib.config import Run
from thesislib.experiments import sections
from thesislib.experiments.scales import SCALES
from thesislib.runs import launch, listing
from thesislib.runs.results import Results, Row, rows_of
from thesislib.system import files
from thesislib.system.errors import UserError
from thesislib.system.fields import no_such

if TYPE_CHECKING:
    import pandas as pd

Setting = Run | Iterable[Run] | Mapping[str, Any]


def train(
    runs: Iterable[Run] | Mapping[str, Setting] | pd.DataFrame,
    scale: str = "own",
    seeds: int | Sequence[int] | None = None,
) -> Results:
    """Train runs of one's own, side by side, and return their results; what is finished is only read.

    `runs` is a list, rows of `tl.runs()`, or has a run or a list under each label. A label may have fields of `tl.Run`
    instead: the other fields are the scale's, with a minimum every cycle, once for each of `seeds` (so many, from 0 on,
    or a list; None: the scale's). Figures of these results go into the folder of that scale. Raises UserError for what
    is none of these, or a value that does not fit, also if a run fails by it; RuntimeError if by an error of ours.

    >>> import thesislib as tl
    >>> tiny = tl.Run(model="mlp-tiny", train_size=512, test_size=250, epochs=4, minima_every=2)
    >>> runs = tl.train([tiny])
    >>> runs.labels, runs.scale
    (['run'], 'own')
    >>> runs = tl.train({"no term": {"strength": 0}, "s = 10": {"strength": 10}}, scale="smoke", seeds=[0, 1])
    >>> [(row.label, row.seed) for row in runs]
    [('no term', 0), ('no term', 1), ('s = 10', 0), ('s = 10', 1)]
    """
    files.check_name("scale", scale)
    if listed := hasattr(runs, "columns"):  # a table, without importing pandas to ask
        runs = listing.runs_of(runs)
    found = rows(runs, scale, seeds) if isinstance(runs, Mapping) else rows_of(_runs(runs))
    if not found:
        raise UserError("there is no run to train")
    if seeds is not None and not (isinstance(runs, Mapping) and any(isinstance(s, Mapping) for s in runs.values())):
        raise UserError("seeds are for labels that have fields: a run has its own, tl.Run(..., seed=3)")
    for row in [] if listed else found:
        if row.run.strength not in (0, Run.model_fields["strength"].default):  # which was given, so a hill is wanted
            sections.check_hill(row)
    return launch.results(found, scale=scale)


def rows(settings: Mapping[str, Setting], scale: str, seeds: int | Sequence[int] | None = None) -> list[Row]:
    """The labelled runs that `train` trains. Raises UserError for a value that does not fit."""
    found: list[Row] = []
    for label, setting in settings.items():
        if not isinstance(label, str) or not label.strip() or label.startswith("_"):
            raise UserError(f"a label must be a text that does not begin with _, not {label!r}")
        if not label.isprintable():
            raise UserError(f"a label must be one line of what can be printed, not {label!r}")
        if "$" in label:
            _check_formula(label)
        if isinstance(setting, Mapping):
            found += _of_scale(label, setting, scale, seeds)
        else:
            found += [Row(run, label) for run in _runs(setting)]
    return found


def _check_formula(label: str) -> None:
    """Raise UserError for a label with a formula that figures cannot have."""
    from matplotlib.cbook import is_math_text  # here: it takes half a second
    from matplotlib.mathtext import MathTextParser

    try:
        if is_math_text(label):
            MathTextParser("path").parse(label)
    except ValueError as error:
        why = str(error).strip().splitlines()[-1]
        raise UserError(f"the label {label!r} has a formula that matplotlib cannot write: {why}") from None


def _runs(given: object) -> list[Run]:
    """One run or several. Raises UserError for anything else."""
    found = [given] if isinstance(given, Run | str) or not isinstance(given, Iterable) else [*given]
    if wrong := [item for item in found if not isinstance(item, Run)]:
        raise UserError(f"{wrong[0]!r} is no tl.Run: give runs, or labels with runs or fields, {{'mine': {{...}}}}")
    return found


def _of_scale(label: str, fields: Mapping[str, Any], scale: str, seeds: int | Sequence[int] | None) -> list[Row]:
    if scale not in SCALES:
        raise UserError(
            f"{label!r} is completed by the fields of a scale, and {scale!r} is none: choose from {', '.join(SCALES)}"
        )
    if named := fields.keys() & {"seed", "seeds"}:
        raise UserError(f"{label}: {min(named)} is no field here: say which for all settings, as in seeds=[3]")
    if unknown := [name for name in fields if name not in Run.model_fields]:
        raise UserError(f"{label}: {no_such('field', str(unknown[0]), Run.model_fields)}")
    seeds = sections.seeds_of(seeds)
    every_cycle = {"minima": "multiple", "minima_every": SCALES[scale].cycle}
    own = SCALES[scale].with_seeds(seeds)
    try:
        rows = [Row(run, label) for run in own.runs(**every_cycle | dict(fields))]
    except UserError as error:
        raise UserError(f"{label}: {error}") from None
    for row in rows:
        sections.check_hill(row)
    return rows
