"""The shape of a hill, and where on it a network is."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thesislib.config import Run
from thesislib.plots.style import LABELS, grid, styled


@styled()
def hill(run: Run, distances: Sequence[float] = (), height: float = 2.2) -> Figure:
    """k(d) of a run's kernel and width on a logarithmic axis; a point for each squared distance d to the first minimum.

    There are no points where the hill is not that minimum: elsewhere, merged of several, or not in weight space.
    """
    import torch  # here: of the figures only this one computes a kernel

    from thesislib import kernels

    there = (run.distance, run.hill_at) == ("weights", "weights")
    there = there and (run.minima != "merge" or len(run.minimum_epochs) < 2)
    k, beside = kernels.find(run.kernel), [d for d in distances if d > 0 and there]
    low, high = min([0.01 / run.width, *beside]), max([10 / run.width, *beside])
    d = np.geomspace(low / 2, high * 2, 200)
    figure, axes = grid(1, 1, height)
    axis = axes[0, 0]
    figure.set_figwidth(figure.get_figwidth() / 2)
    axis.plot(d, k(torch.from_numpy(d), run.width)[0], color="0.35")
    axis.plot(beside, k(torch.tensor(beside, dtype=torch.float64), run.width)[0], "o", color="C3", label="now")
    axis.set(xscale="log", xlabel=LABELS["d_0"], ylabel="$k(d)$")
    return figure


@styled()
def picture(figure: Figure) -> bytes:
    """A figure as PNG; it is closed, so that a notebook does not show it a second time."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    closed(figure)
    return drawn.getvalue()


def closed(figure: Figure) -> Figure:
    """The same figure, which a notebook does not show below the cell by itself."""
    plt.close(figure)
    FigureCanvasAgg(figure)  # closing took its canvas, without which it is not laid out for `save`
    return figure
