"""A figure with sliders: it is drawn anew for whatever they are set to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from thesislib.runs.progress import is_live
from thesislib.system.errors import UserError


def sliders(draw: Callable[..., Any], **values: Sequence[float]) -> Any:
    """A slider for each of some arguments of `draw`, over the values that it may take, above the figure it returns.

    They begin with the arguments' defaults, which must be among the values. Executed in batch, where nobody can move
    anything, only the figure of the defaults is drawn, which the notebook shows below the cell. Raises UserError for
    what is no argument of it, and values that are no list of numbers with its default.
    """
    begin = inspect.signature(draw).parameters
    for name, some in values.items():
        if name not in begin:
            raise UserError(f"there is no argument {name} to slide: choose from {', '.join(begin)}")
        if not isinstance(some, Sequence | np.ndarray) or not all(isinstance(value, Real) for value in some):
            raise UserError(f"{name} slides over a list of numbers, not {some!r}")
        if begin[name].default not in some:
            default = "none" if begin[name].default is inspect.Parameter.empty else begin[name].default
            raise UserError(f"{name} begins with its default, {default}, which is not among {[*some]}")
    if not is_live():
        draw()
        return None
    import ipywidgets as w

    made = {
        name: w.SelectionSlider(
            options=[(f"{v:g}", v) for v in some], value=begin[name].default, continuous_update=False
        )
        for name, some in values.items()
    }
    return w.interactive(draw, **made)
