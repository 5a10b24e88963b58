"""The style of all figures: sizes, colours, names of columns, grids of panels and their legend."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, StrMethodFormatter

from thesislib.runs.results import Results
from thesislib.system.errors import UserError

#: \textwidth of the thesis in inches (A4 article at 11 pt with 2.5 cm margins); .pgf files scale with theirs.
TEXTWIDTH = 6.3
#: Widths by name, in inches: all of the text, a column of two, and half of the text.
WIDTHS = {"text": TEXTWIDTH, "column": 3.3, "half": 3.0}
#: The variable that has the width of all figures that are saved without one.
WIDTH = "THESIS_WIDTH"
#: Panels narrower than this, in inches, go below each other, as long as the figure is not higher than that.
_NARROW, _COLUMN_HIGHEST = 2.05, 8.5
#: Inches that a row takes whose name stands above it, and the size of that name in points.
_NAMED_ROW, _NAMED_SIZE = 0.18, 6.5
#: Inches that a row of a legend takes, and what is around all of them.
_LEGEND_ROW, _LEGEND_RIM = 0.17, 0.1
#: The narrowest \textwidth that legends are laid out for, in points: LaTeX's own, at 10 pt.
NARROWEST = 345
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
    "train_seconds": "seconds of training an epoch",
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
            if side is axis.xaxis and subs == (1,) and len(decades) > _IN_NARROW and _columns(axis) > 2:
                side.set_major_locator(FixedLocator(decades[::2]))
                side.set_minor_locator(FixedLocator(decades[1::2]))
            side.set_major_formatter(StrMethodFormatter("{x:g}"))
        side.set_minor_formatter(NullFormatter())


def _columns(axis: Axes) -> int:
    """How many panels stand side by side."""
    return spec.get_gridspec().ncols if (spec := axis.get_subplotspec()) is not None else 1


#: Numbers below a panel of three in a row: of more, 1000 and 10000 run together.
_IN_NARROW = 3
#: Up to such a ratio of its ends a logarithmic axis has these digits at its ticks.
_SUBS: dict[float, tuple[int, ...]] = {
    3: (1, 2, 3, 4, 5, 6, 7, 8, 9), 8: (1, 2, 3, 5, 7), 30: (1, 2, 5), 200: (1, 3)
}  # fmt: skip

#: Small print below everything else, at the right, the inches that it takes, and its size in points.
_NOTE, _NOTE_HIGH, _NOTE_SIZE = "note", 0.14, 6


def note(figure: Figure, *texts: str) -> None:
    """Add to the small print of a figure, at its lower right. What stands there stays, and nothing stands twice."""
    there = _note(figure)
    if there is None:
        figure.set_figheight(figure.get_figheight() + _NOTE_HIGH)
        there = figure.text(0.995, 0, "", ha="right", va="bottom", color="0.4", gid=_NOTE)
    said = there.get_text().split("; ") if there.get_text() else []
    there.set_text("; ".join(dict.fromkeys([*said, *texts])))
    _make_room(figure)


def _note(figure: Figure) -> Text | None:
    return next((text for text in figure.texts if text.get_gid() == _NOTE), None)


def _make_room(figure: Figure) -> None:
    """Leave a line below panels and legend for the small print, if there is any; it is smaller where it would not fit.

    Whoever changes the figure's size or its legend calls this.
    """
    if (text := _note(figure)) is None:
        return
    a_letter = 0.51  # of the size, on average
    text.set_fontsize(min(_NOTE_SIZE, 72 * 0.98 * figure.get_figwidth() / (a_letter * len(text.get_text()))))
    room = _NOTE_HIGH / figure.get_figheight()
    legends = [legend for legend in figure.legends if legend._outside_loc == "lower"]
    for legend in legends:
        legend.set_bbox_to_anchor((0, room, 1, 1 - room), figure.transFigure)
    # The layout leaves room for legends outside of panels, but not for those that are anchored.
    below = room + sum(_legend_height(legend) + _LEGEND_RIM for legend in legends) / figure.get_figheight()
    if isinstance(layout := figure.get_layout_engine(), ConstrainedLayoutEngine):
        layout.set(rect=(0, below, 1, 1 - below))


def note_seeds(figure: Figure, table: pd.DataFrame, spread: str = "", columns: Sequence[str] = ()) -> None:
    """Say of how many seeds a figure is, and what shows how they differ, if there are several.

    `table` has columns label and network. Seeds count where they have a value: in each of the `columns`, if some are
    given. Nothing is said of one without seeds.
    """
    if table.empty or "seed" not in table:
        return
    there = [table.dropna(subset=[column]) for column in columns] or [table]
    n = pd.concat([some.groupby(["label", "network"])["seed"].nunique() for some in there])
    if n.empty:
        return
    logs = any(axis.get_yscale() == "log" for axis in figure.axes)
    spread += ", on log axes of the log" if logs and "SD" in spread else ""
    note(figure, count(n), *([spread] if spread and n.max() > 1 else []))


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


def line_styles(labels: Sequence[str]) -> dict[str, LineStyle]:
    """How to draw these labels: one colour and marker for what stands before the last comma, dashes for what follows.

    "cosine" and "cosine, term" are one colour, the first solid; from the fifth on another marker as well. Settings that
    are not known get the colours that are left, in their order; more than there are, a palette of their own.
    """
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
        again, dash = divmod(before, len(_DASHES))
        every = [*_MARKERS.values()]
        marker = every[(every.index(marker) + again) % len(every)]
        styles[label] = LineStyle(colours[name], _DASHES[dash], marker)
    return styles


def curve_style(styles: dict[str, LineStyle], label: str, points: int) -> dict[str, Any]:
    """A label's style for a curve of so many points: a few have markers, each label's at places of their own."""
    every = max(1, points // _MARKED)
    first = every * list(styles).index(label) // len(styles)
    return styles[label]._asdict() | {"label": label, "markevery": (first, every), "markeredgewidth": 0}


@styled()
def legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend for the whole figure, below the panels, with the entries of some of them.

    From its third row on the figure grows with it: panels keep room for their names.
    """
    entries = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend = _legend(figure, list(entries), list(entries.values()))
    figure.set_figheight(figure.get_figheight() + max(0.0, _legend_height(legend) - 2 * _LEGEND_ROW))
    _make_room(figure)


def _legend(figure: Figure, labels: list[str], handles: list[Any]) -> Legend:
    room = min(NARROWEST, 65 * figure.get_figwidth())  # a column may be a tenth narrower than ours
    fits = [n for n in range(len(labels), 0, -1) if _legend_width(labels, n) < room]
    return figure.legend(handles, labels, loc="outside lower center", ncols=(fits or [1])[0])


def is_cut(legend: Legend) -> bool:
    """Whether a legend, as it was last drawn, is wider than its figure."""
    return legend.get_window_extent().width > legend.figure.bbox.width


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Width in points that a legend takes in a document, where its small print is about 4.2 points a letter."""
    return sum(32 + 4.2 * max(map(len, some)) for some in np.array_split(labels, columns))


def width_of(width: str | float) -> tuple[float, str, str]:
    r"""A width in inches, what it adds to a file's name, and what it is in LaTeX.

    `width` is a name in WIDTHS or a number of inches. Raises UserError for anything else.

    >>> width_of("column")
    (3.3, '-column', '\\linewidth')
    """
    if width in WIDTHS:
        is_text = width == "text"
        return WIDTHS[width], "" if is_text else f"-{width}", r"\textwidth" if is_text else r"\linewidth"
    with contextlib.suppress(ValueError, TypeError):
        if 1.5 <= (inches := float(width)) <= 20:
            return inches, f"-{inches:g}in", f"{inches:g}in"
    raise UserError(f"width {width!r} of figures: write {', '.join(WIDTHS)}, or inches from 1.5 to 20")


@contextmanager
def laid_out(figure: Figure, inches: float) -> Iterator[None]:
    """For a while the figure is so wide, laid out anew: texts keep their size.

    Where panels would be too narrow they stand below each other, and the legend has the columns that fit.
    """
    with ExitStack() as back:
        if inches != figure.get_figwidth():
            _lay_out(figure, inches, back)
        yield


@contextmanager
def spaced(figure: Figure) -> Iterator[None]:
    """For a while a figure that nobody has laid out has room for its texts.

    Not one with a colour bar, which was made for another layout.
    """
    places = ("left", "right", "bottom", "top", "wspace", "hspace")
    given = any(getattr(figure.subplotpars, name) != plt.rcParams[f"figure.subplot.{name}"] for name in places)
    if given or figure.get_layout_engine() is not None or any(hasattr(axis, "_colorbar") for axis in figure.axes):
        yield
        return
    figure.set_layout_engine("constrained")
    try:
        yield
    finally:
        figure.set_layout_engine(None)  # as the style, while a figure is saved, has it: none
        figure.subplots_adjust()  # as they were


@contextmanager
def ticks_kept(figure: Figure) -> Iterator[None]:
    """For a while the ticks are where they were last drawn, however the figure is laid out.

    How many ticks an axis has depends on its length, and its length on their texts: two layouts, for a screen and for
    LaTeX, may not come to the same.
    """
    with ExitStack() as back:
        for axis in [side for panel in figure.axes for side in (panel.xaxis, panel.yaxis)]:
            for ticker, places in ((axis.major, axis.get_majorticklocs()), (axis.minor, axis.get_minorticklocs())):
                back.callback(setattr, ticker, "locator", ticker.locator)
                ticker.locator = FixedLocator(places)
                ticker.locator.set_axis(axis)
        yield


def _lay_out(figure: Figure, inches: float, back: ExitStack) -> None:
    back.callback(_make_room, figure)  # last of all
    back.callback(figure.set_size_inches, *figure.get_size_inches())
    legends = [legend for legend in figure.legends if legend._outside_loc]
    height = figure.get_figheight() - sum(_legend_height(legend) for legend in legends)
    figure.set_figwidth(inches)
    back.callback(setattr, figure, "legends", [*figure.legends])
    for old in legends:
        handles = {label: h for axis in figure.axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        labels = [text.get_text() for text in old.get_texts()]
        drawn = [handles.get(label, handle) for label, handle in zip(labels, old.legend_handles, strict=True)]
        new = _legend(figure, labels, drawn)
        figure.legends = [new if legend is old else legend for legend in figure.legends if legend is not new]
    height = _stack(figure, inches, height, back)
    if long := [axis for axis in figure.axes if _has_long_names(axis, inches)]:
        for axis in long:
            _names_above(axis, back)
        rows = sum(len(axis.get_yticks()) for axis in long)
        height = min(_COLUMN_HIGHEST, max(height, _NAMED_ROW * rows + 0.5 * len(long)))
    figure.set_figheight(height + sum(map(_legend_height, figure.legends)))
    _make_room(figure)


def _legend_height(legend: Legend) -> float:
    return _LEGEND_ROW * -(-len(legend.get_texts()) // legend._ncols)


def _stack(figure: Figure, inches: float, height: float, back: ExitStack) -> float:
    """Put panels below each other where they are too narrow; the height that they take then."""
    panels = [axis for axis in figure.axes if axis.get_subplotspec() is not None]
    grids = {axis.get_subplotspec().get_gridspec() for axis in panels}
    spans = [axis.get_subplotspec() for axis in panels]
    if len(grids) != 1 or any(spec.num1 != spec.num2 for spec in spans):  # somebody's own layout
        return height
    columns = (old := grids.pop()).ncols
    ratios = np.asarray(old.get_height_ratios(), dtype=float)
    places = sorted({spec.num1 for spec in spans})
    high = [height * ratios[place // columns] / ratios.sum() for place in places]  # of each panel
    for count in range(min(columns, max(1, int(inches // _NARROW))), columns + 1):
        below = [min(max(some), 0.8 * inches / count) for some in _in_rows(high, count)]
        if sum(below) <= _COLUMN_HIGHEST:
            break
    if count == columns:
        return height
    below = np.array(below) * min(1.0, _COLUMN_HIGHEST / sum(below))
    new = figure.add_gridspec(len(below), count, height_ratios=below)
    for axis, spec in zip(panels, spans, strict=True):
        row, column = divmod(places.index(spec.num1), count)
        back.callback(axis.set_subplotspec, spec)
        axis.set_subplotspec(new[row, column])
        _name_ticks(
            axis, [p for p, s in zip(panels, spans, strict=True) if s.num1 // columns == spec.num1 // columns], back
        )
    return float(below.sum())


def _in_rows(values: list[float], columns: int) -> list[list[float]]:
    return [values[k : k + columns] for k in range(0, len(values), columns)]


def _name_ticks(axis: Axes, beside: list[Axes], back: ExitStack) -> None:
    """A panel that relied on the names left of it gets them."""
    own, names = ([text.get_text() for text in a.get_yticklabels()] for a in (axis, beside[0]))
    if own and len(own) == len(names) and not "".join(own).strip():
        back.callback(axis.set_yticklabels, own)
        axis.set_yticklabels(names)


def _has_long_names(axis: Axes, inches: float) -> bool:
    """Whether the names of a panel's rows, beside it, would take half of such a width."""
    longest = max((len(text.get_text()) * text.get_fontsize() for text in axis.get_yticklabels()), default=0)
    return 0.5 * longest > 0.5 * 72 * inches


def _names_above(axis: Axes, back: ExitStack) -> None:
    """Write the name of each row above what it shows, from the panel's left edge on."""
    named = [(place, text.get_text()) for place, text in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)]
    back.callback(axis.set_yticklabels, [name for _, name in named])
    axis.set_yticklabels([""] * len(named))
    for place, name in named:
        text = axis.annotate(
            name, (0, place), (3, 2), xycoords=axis.get_yaxis_transform(), textcoords="offset points",
            va="bottom", fontsize=_NAMED_SIZE, annotation_clip=False,
        )  # fmt: skip
        back.callback(text.remove)


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
