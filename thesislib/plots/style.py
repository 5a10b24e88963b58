"""The style of all figures: fonts, colours, names of columns, ticks, grids of panels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, StrMethodFormatter

from thesislib.runs.results import Results
from thesislib.system.errors import UserError

#: \textwidth of the thesis in inches (A4 article at 11 pt with 2.5 cm margins); .pgf files scale with theirs.
TEXTWIDTH = 6.3
#: TeX's points.
POINTS_PER_INCH = 72.27
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


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's own defaults and STYLE for a while, whatever the user's matplotlibrc or seaborn theme say.

    Also a decorator. All that makes or saves a figure here is in it; nothing outside changes.
    """
    with plt.style.context(["default", STYLE]):
        yield
        # A notebook's backend makes matplotlib interactive with the first figure: set back, no later one would show.
        interactive = plt.isinteractive()
    matplotlib.interactive(interactive)


#: Curves in logarithmic panels end here: a network that blew up is not worth twenty empty decades.
FARTHEST = 1e6


class _Labels(dict[str, str]):
    """What columns are called on axes; one that is not known by its own name."""

    def __missing__(self, column: str) -> str:
        return column


LABELS = _Labels({
    "epoch": "epoch",
    "accuracy": "test accuracy",
    "test_loss": "test loss",
    "train_loss": "training loss",
    "term": "distance term",
    "d_0": "squared distance $d$",
    "d_init": "squared distance to start",
    "lr": "learning rate",
    "strength": "strength $s$",
    "width": "width $w$ (larger: narrower)",
    "grad_norm": "CE gradient norm",
    "term_norm": "term gradient norm",
    "grad_cosine": "cosine to last step",
    "train_seconds": "training time [s]",
    "members": "members",
    "nll": "NLL, not scaled",
    "nll_ensemble_scaled": "NLL, scaled",
    "accuracy_ensemble": "accuracy",
    "severity": "severity of the shift",
    "accuracy_gain": "accuracy, points better",
    "nll_gain": "NLL, nats better",
    "factor": "learning rate, times the scale's",
    "accuracy_mean": "mean accuracy of the members",
    "disagreement": "two members disagree",
    "t": "position $t$ between minima",
    "test_accuracy": "test accuracy",
    "line": "training loss, line",
    "curve": "training loss, curve",
    "step": "step after minimum",
    "loss": "training loss of a step",
    "term_cosine": "cosine, term and CE",
})  # fmt: skip


@styled()
def grid(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure as wide as the text with panels [rows, columns], each row `height` inches if that fits a page.

    Raises UserError for a height that is none.
    """
    if isinstance(height, bool) or not isinstance(height, int | float) or not height > 0:
        raise UserError(f"the height of a row must be inches, more than 0, not {height!r}")
    size = (TEXTWIDTH, min(height * rows, HIGHEST))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for axis in axes.flat:  # else matplotlib asks when it draws, outside of the style, how many labels have room
        axis.tick_params(labelsize=STYLE["xtick.labelsize"])
    return figure, axes


def error_bars(axis: Axes, values: pd.Series, apart: float = 0.0, **style: Any) -> Line2D:
    """Means of `values` [their index is x] with one standard deviation to either side, `apart` from their x.

    On a logarithmic axis both are those of the logarithm. A single seed has no deviation. Returns the line of means.
    """
    is_log = axis.get_yscale() == "log"
    groups = (np.log(values[values > 0]) if is_log else values).groupby(level=0)
    mean, deviation = groups.mean(), groups.std()
    middle, low, high = map(np.exp if is_log else np.asarray, (mean, mean - deviation, mean + deviation))
    bars = [middle - low, high - middle] if deviation.notna().any() else None
    return axis.errorbar(mean.index + apart, middle, bars, capsize=2, **style).lines[0]


def log_ticks(axis: Axes) -> None:
    """Numbers that are read at once on logarithmic axes: 20, 50, 100 where they span few decades, else powers of ten.

    Call it when the limits are what they will be. Ticks that were given one by one stay.
    """
    for side in (axis.xaxis, axis.yaxis):
        if side.get_scale() != "log" or isinstance(side.get_major_locator(), FixedLocator):
            continue
        low, high = sorted(side.get_view_interval())
        span = high / low
        if low >= 1e-3 and high <= 2e4:
            subs = next((subs for most, subs in _SUBS.items() if span <= most), (1,))
            side.set_major_locator(LogLocator(subs=subs))
            decades = 10.0 ** np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1)
            if side is axis.xaxis and subs == (1,) and len(decades) > IN_NARROW and _columns(axis) > 2:
                side.set_major_locator(FixedLocator(decades[::2]))
                side.set_minor_locator(FixedLocator(decades[1::2]))
            side.set_major_formatter(StrMethodFormatter("{x:g}"))
        side.set_minor_formatter(NullFormatter())


def _columns(axis: Axes) -> int:
    """How many panels stand side by side."""
    return spec.get_gridspec().ncols if (spec := axis.get_subplotspec()) is not None else 1


#: Numbers that have room below a panel of three in a row: of more, 1000 and 10000 run together.
IN_NARROW = 3
#: Up to such a ratio of its ends a logarithmic axis has these digits at its ticks.
_SUBS: dict[float, tuple[int, ...]] = {
    3: (1, 2, 3, 4, 5, 6, 7, 8, 9), 8: (1, 2, 3, 5, 7), 30: (1, 2, 5), 200: (1, 3)
}  # fmt: skip


def label_of(column: str, table: pd.DataFrame) -> str:
    """What a column of a table is called on an axis."""
    # In a run's metrics it is the accuracy of the mean weights, of an ensemble the mean of its members' accuracies.
    return "accuracy of the mean weights" if column == "accuracy_mean" and "epoch" in table else LABELS[column]


def say_split(figure: Figure, results: Results) -> None:
    """Say in a figure's axes that runs were evaluated on held-back training images, where all or some of them were."""
    held_back = {row.run.validation for row in results}
    word = {frozenset([True]): "validation ", frozenset([True, False]): ""}.get(frozenset(held_back), "test ")
    for axis in figure.axes:
        for text in (axis.xaxis.label, axis.yaxis.label, axis.title):
            text.set_text(re.sub("^test ", word, text.get_text()))


def count_of(number: int, what: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number} {what}{'s' * (number != 1)}"


def count(n: pd.Series) -> str:
    """ "n = 5", "n = 3 to 5" where numbers of seeds differ."""
    return f"n = {n.min()} to {n.max()}" if n.min() < n.max() else f"n = {n.min()}"


class LineStyle(NamedTuple):
    """How a label is drawn, in every figure alike; the fields are named as matplotlib's arguments."""

    color: str | tuple[float, float, float]
    linestyle: str
    marker: str


_COLOURS = sns.color_palette("colorblind", 10)
_OLIVE, _PURPLE, _BROWN = "#6b6b00", "#56307d", "#7f2704"
#: A setting keeps its colour in all figures; s = 1 is "term".
_FIXED = {
    **dict.fromkeys(("no term", "constant", "baseline", "plain snapshots"), "0.35"),
    "independent": "0.55", "plain means": "0.05",
    **dict.fromkeys(("s = 1", "term", "w = 0.001", "cosine, multiple"), _COLOURS[0]),
    **dict.fromkeys(("s = 10", "multiple", "strength on cosine", "w = 100"), _COLOURS[1]),
    **dict.fromkeys(("cosine", "cosine snapshots", "w = 0.1"), _COLOURS[2]),
    **dict.fromkeys(("s = 100", "yours", "term as restart", "MultiSWA", "w = 0.01"), _COLOURS[3]),
    **dict.fromkeys(("FGE", "w = 0.0001", "step, term"), _COLOURS[4]),
    **dict.fromkeys(("step", "two of half", "w = 0.03"), _COLOURS[5]), "one cosine": _OLIVE,
    **dict.fromkeys(("s = 0.1", "SWA"), _COLOURS[9]), "s = 3": _PURPLE, "s = 30": _BROWN,
}  # fmt: skip
#: For what is not fixed, in this order; the palette's yellow and grey are left out.
_FURTHER = [*(_COLOURS[place] for place in (0, 1, 2, 3, 4, 5, 9)), _OLIVE, _PURPLE, _BROWN]
_DASHES = ("-", "--", ":", "-.")
#: Each colour has a marker, for those who print in grey.
_MARKERS = dict(zip(("0.35", "0.55", "0.05", *_FURTHER), "o*ds^DvpXPh<>", strict=True))
#: Markers that a curve has: few enough to see the curve.
_MARKED = 5


def line_styles(labels: Sequence[str], has_lines: bool = True) -> dict[str, LineStyle]:
    """How to draw these labels: one colour and marker for what stands before the last comma, dashes for what follows.

    "cosine" and "cosine, term" are one colour, the first solid; from the fifth on another marker as well. Without lines
    a mark is full or `hollow`, and another one from the third on. Settings that are not known get the colours that are
    left, in their order; more than there are, a palette of their own.
    """
    dashes = _DASHES if has_lines else _DASHES[:2]
    family = {label: label.rsplit(", ", 1)[0] for label in labels}
    colours = {name: _FIXED[name] for name in family.values() if name in _FIXED}
    unknown = [name for name in dict.fromkeys(family.values()) if name not in colours]
    free = [colour for colour in _FURTHER if colour not in colours.values()]
    colours |= zip(unknown, free if len(unknown) <= len(free) else sns.husl_palette(len(unknown)), strict=False)
    taken = {_MARKERS[colour] for colour in colours.values() if colour in _MARKERS}
    left = [marker for marker in _MARKERS.values() if marker not in taken] or [*_MARKERS.values()]
    styles: dict[str, LineStyle] = {}
    for label, name in family.items():
        before, marker = sum(family[other] == name for other in styles), _MARKERS.get(colours[name])
        if marker is None:  # of the palette of its own: another dash when the markers begin anew
            again, place = divmod(unknown.index(name), len(left))
            before, marker = before + again, left[place]
        again, dash = divmod(before, len(dashes))
        every = [*_MARKERS.values()]
        marker = every[(every.index(marker) + again) % len(every)]
        styles[label] = LineStyle(colours[name], dashes[dash], marker)
    return styles


def hollow(style: LineStyle) -> dict[str, Any]:
    """What a mark without a line has instead of dashes, as matplotlib's arguments."""
    return {} if style.linestyle == _DASHES[0] else {"markerfacecolor": "white", "markeredgewidth": 1.0}


def curve_style(styles: dict[str, LineStyle], label: str, points: int) -> dict[str, Any]:
    """A label's style for a curve of so many points: a few have markers, each label's at places of their own."""
    every = max(1, points // _MARKED)
    first = every * list(styles).index(label) // len(styles)
    line = styles[label]._asdict() | {"label": label, "markevery": (first, every), "markeredgewidth": 0}
    return line | hollow(styles[label]) if points == 1 else line


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
