"""The style of all figures: sizes, colours, names of columns, grids of panels and their legend."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

#: \textwidth of the thesis in inches (A4 article at 11 pt with 2.5 cm margins); .pgf files scale with theirs.
TEXTWIDTH = 6.3
#: The narrowest \textwidth that legends are laid out for, in points: LaTeX's own, at 10 pt.
NARROWEST = 345
#: No figure is higher, in inches: with its caption it fits a page.
HIGHEST = 7.0

#: Of all figures; sizes are those of the LaTeX text around them.
STYLE = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "figure.dpi": 110,
}


def styled() -> AbstractContextManager[None]:
    """matplotlib's own defaults and STYLE for a while, whatever the user's matplotlibrc or seaborn theme say.

    Also a decorator. All that makes or saves a figure here is in it; nothing outside changes.
    """
    return plt.style.context(["default", STYLE])


#: Curves in logarithmic panels end here: a network that blew up is not worth twenty empty decades.
FARTHEST = 1e6

LABELS = {
    "epoch": "epoch",
    "accuracy": "test accuracy",
    "test_loss": "test loss",
    "train_loss": "training loss",
    "term": "distance term",
    "d_0": "squared distance $d$",
    "d_init": "squared distance to start",
    "lr": "learning rate",
    "strength": "strength $s$",
    "width": "width $w$",
    "grad_norm": "CE gradient norm",
    "term_norm": "term gradient norm",
    "grad_cosine": "cosine to last gradient",
    "train_seconds": "seconds of training an epoch",
    "members": "members",
    "nll": "NLL, not scaled",
    "accuracy_mean": "mean accuracy of the members",
    "disagreement": "disagreement of two members",
    "t": "position $t$ between minima",
    "test_accuracy": "test accuracy",
    "line": "training loss, line",
    "curve": "training loss, curve",
    "step": "step after minimum",
    "loss": "training loss of a step",
    "term_cosine": "cosine, term and CE",
}


@styled()
def grid(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure as wide as the text with panels [rows, columns], each row `height` inches if that fits a page."""
    size = (TEXTWIDTH, min(height * rows, HIGHEST))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for axis in axes.flat:  # else matplotlib asks when it draws, outside of the style, how many labels have room
        axis.tick_params(labelsize=STYLE["xtick.labelsize"])
    return figure, axes


def error_bars(axis: Axes, x: Any, mean: pd.Series, std: pd.Series, **style: Any) -> None:
    """Means with one standard deviation to either side, if there is any: a single seed has none."""
    axis.errorbar(x, mean, std if std.notna().any() else None, capsize=2, **style)


class LineStyle(NamedTuple):
    """How a label is drawn, in every figure alike; the fields are named as matplotlib's arguments."""

    color: str | tuple[float, float, float]
    linestyle: str


_COLOURS = sns.color_palette("colorblind", 10)
#: A setting keeps its colour in all figures; s = 1 is "term".
_FIXED = {
    **dict.fromkeys(("no term", "constant", "baseline"), "0.35"), "independent": "0.65",
    **dict.fromkeys(("s = 1", "term", "w = 0.001", "cosine, multiple"), _COLOURS[0]),
    **dict.fromkeys(("s = 10", "multiple", "strength on cosine"), _COLOURS[1]), "cosine": _COLOURS[2],
    **dict.fromkeys(("s = 100", "yours", "term as restart"), _COLOURS[3]), "FGE": _COLOURS[4], "step": _COLOURS[5],
    **dict.fromkeys(("s = 0.1", "SWA"), _COLOURS[9]),
}  # fmt: skip
#: For what is not fixed, in this order; the palette's yellow and grey are left out.
_FURTHER = [_COLOURS[place] for place in (0, 1, 2, 3, 4, 5, 9, 6)]
_DASHES = ("-", "--", ":", "-.")


def line_styles(labels: Sequence[str]) -> dict[str, LineStyle]:
    """How to draw these labels: one colour for what stands before the last comma, dashes for what follows it.

    "cosine" and "cosine, term" are one colour, the first solid. Settings that are not known get the colours that
    are left, in their order; more than there are, a palette of their own.
    """
    family = {label: label.rsplit(", ", 1)[0] for label in labels}
    colours = {name: _FIXED[name] for name in family.values() if name in _FIXED}
    unknown = [name for name in dict.fromkeys(family.values()) if name not in colours]
    free = [colour for colour in _FURTHER if colour not in colours.values()]
    colours |= zip(unknown, free if len(unknown) <= len(free) else sns.husl_palette(len(unknown)), strict=False)
    styles: dict[str, LineStyle] = {}
    for label, name in family.items():
        before = sum(family[other] == name for other in styles)
        styles[label] = LineStyle(colours[name], _DASHES[before % len(_DASHES)])
    return styles


@styled()
def legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend for the whole figure, below the panels, with the entries of some of them."""
    entries = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels, handles = list(entries), list(entries.values())
    fits = [n for n in range(len(labels), 0, -1) if _legend_width(labels, n) < NARROWEST]
    figure.legend(handles, labels, loc="outside lower center", ncols=(fits or [1])[0])


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Width in points that a legend takes in a document, where its small print is about 4.2 points a letter."""
    return sum(32 + 4.2 * max(map(len, some)) for some in np.array_split(labels, columns))


def clip_error_bars(figure: Figure) -> None:
    """Let error bars that reach 0 or less on a logarithmic axis end, with their cap, where the axis does.

    matplotlib takes such an end out of sight, and pgfplots leaves out the bar's whole half.
    """
    for axis in figure.axes:
        log = np.array([axis.get_xscale(), axis.get_yscale()]) == "log"
        low = np.array([min(axis.get_xlim()), min(axis.get_ylim())])

        def clipped(points: np.ndarray, log: np.ndarray = log, low: np.ndarray = low) -> np.ndarray:
            return np.where(log & (points <= 0), low, points)  # [n, 2]

        for _, caps, lines in (bar for bar in axis.containers if isinstance(bar, ErrorbarContainer)):
            for line in lines:
                line.set_segments([clipped(path.vertices) for path in line.get_paths()])
            for cap in caps:
                cap.set_data(*clipped(cap.get_xydata()).T)
