"""A figure with sliders: it is drawn anew for whatever they are set to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from thesislib.runs.progress import is_live


def sliders(draw: Callable[..., Any], **values: Sequence[float]) -> Any:
    """A slider for each of some arguments of `draw`, over the values that it may take, above the figure it returns.

    They begin with the arguments' defaults, which must be among the values. Executed in batch, where nobody can move
    anything, only the figure of the defaults is drawn, which the notebook shows below the cell.
    """
    if not is_live():
        draw()
        return None
    import ipywidgets as w

    begin = inspect.signature(draw).parameters
    made = {
        name: w.SelectionSlider(
            options=[(f"{v:g}", v) for v in some], value=begin[name].default, continuous_update=False
        )
        for name, some in values.items()
    }
    return w.interactive(draw, **made)
