"""Values of curves under the mouse: a figure as a widget of ipympl, where that is installed (`pip install ipympl`)."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thesislib.plots.style import styled

if TYPE_CHECKING:
    from ipympl.backend_nbagg import Canvas


def is_possible() -> bool:
    """Whether ipympl is installed."""
    return find_spec("ipympl") is not None


def canvas(figure: Figure) -> Canvas:
    """The figure as a widget, which says below it what `values` says of the place under the mouse."""
    from ipympl.backend_nbagg import Canvas, FigureManager

    class Styled(Canvas):
        draw = styled()(Canvas.draw)

    plt.close(figure)
    figure.set_dpi(110)
    shown = Styled(figure)
    FigureManager(shown, 0)
    shown.header_visible = shown.toolbar_visible = shown.resizable = False
    for axis in figure.axes:
        axis.format_coord = partial(values, axis)
    return shown


def values(axis: Axes, x: float, y: float) -> str:
    """What every curve of a panel is at its point next to x: "epoch 3: no term 0.951, s = 10 0.948".

    >>> import thesislib as tl
    >>> from thesislib.plots import hover
    >>> runs = tl.section("2-2_strength", scale="smoke", strengths=[10])
    >>> hover.values(tl.plot.curves(runs).axes[0], 3.2, 0).startswith("epoch 3: no term 0.")
    True
    """
    said, place = [], x
    for line in axis.lines:
        if (label := str(line.get_label())).startswith("_"):  # matplotlib's word for what has no name
            continue
        across, up = (np.asarray(data, dtype=float) for data in line.get_data())
        if not len(across):  # nothing yet
            continue
        nearest = np.abs(across - x).argmin()
        place = across[nearest]
        said.append(f"{label.partition(' ($N')[0]} {up[nearest]:.4g}")  # N stands in the legend
    return f"{axis.get_xlabel()} {place:g}: {', '.join(said)}"
