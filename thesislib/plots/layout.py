"""How figures are laid out: widths, the legend and the small print below their panels."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from thesislib.plots.style import TEXTWIDTH, count, styled
from thesislib.system.errors import UserError

#: Widths by name, in inches: all of the text, a column of two, and half of the text.
WIDTHS = {"text": TEXTWIDTH, "column": 3.3, "half": 3.0}
#: The variable that has the width of all figures that are saved without one.
WIDTH = "THESIS_WIDTH"
#: Panels narrower than this, in inches, go below each other, as long as the figure is not higher than that.
_NARROW, _COLUMN_HIGHEST = 2.05, 8.5
#: Inches that a row takes whose name stands above it, and what is around a panel of them; the largest size of such a
#: name in points, and the share of its row that it takes: the rest is the mark's.
_NAMED_ROW, _AROUND_ROWS, _NAMED_SIZE, _NAMED_SHARE = 0.18, 0.62, 6.5, 0.62
#: Inches that a row of a legend takes, and what is around all of them.
_LEGEND_ROW, _LEGEND_RIM = 0.17, 0.1
#: The narrowest \textwidth that legends are laid out for, in points: LaTeX's own, at 10 pt.
NARROWEST = 345

#: Small print below everything else, at the right, the inches that a line of it takes, and its size in points.
_NOTE, _NOTE_HIGH, _NOTE_SIZE = "note", 0.14, 6
#: Points that a letter of it takes in a document, on average.
_NOTE_LETTER = 0.56 * _NOTE_SIZE


def note(figure: Figure, *texts: str) -> None:
    """Add to the small print of a figure, at its lower right. What stands there stays, and nothing stands twice."""
    there = _note(figure)
    if there is None:
        figure.set_figheight(figure.get_figheight() + _NOTE_HIGH)
        style = {"ha": "right", "va": "bottom", "color": "0.4", "fontsize": _NOTE_SIZE}
        there = figure.text(0.995, 0, "", gid=_NOTE, **style)
    said = there.get_text().replace("\n", " ").split("; ") if there.get_text() else []
    there.set_text("; ".join(dict.fromkeys([*said, *texts])))
    _make_room(figure)


def _note(figure: Figure) -> Text | None:
    return next((text for text in figure.texts if text.get_gid() == _NOTE), None)


def _make_room(figure: Figure) -> None:
    """Leave room below panels and legend for the small print, if there is any, in as many lines as it takes.

    Whoever changes the figure's size or its legend calls this.
    """
    if (text := _note(figure)) is None:
        return
    before = text.get_text()
    # No formula is broken: its blanks are another sign for a while.
    whole = re.sub(r"\$[^$]*\$", lambda formula: formula[0].replace(" ", "\0"), before.replace("\n", " "))
    letters = int(_room(figure) / _NOTE_LETTER)
    lines = textwrap.wrap(whole, letters, break_long_words=False, break_on_hyphens=False) or [""]
    text.set_text("\n".join(lines).replace("\0", " "))
    figure.set_figheight(figure.get_figheight() + _NOTE_HIGH * (len(lines) - len(before.split("\n"))))
    room = _NOTE_HIGH * len(lines) / figure.get_figheight()
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
    fits = [n for n in range(len(labels), 0, -1) if _legend_width(labels, n) < _room(figure)]
    return figure.legend(handles, labels, loc="outside lower center", ncols=(fits or [1])[0])


def _room(figure: Figure) -> float:
    """Points that the narrowest figure is wide that a document makes of this one: a column may be a tenth narrower."""
    return min(NARROWEST, 65 * figure.get_figwidth())


def is_cut(legend: Legend) -> bool:
    """Whether a legend, as it was last drawn, is wider than its figure."""
    return legend.get_window_extent().width > legend.figure.bbox.width


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Width in points that a legend takes in a document, where its small print is about 4.2 points a letter."""
    return sum(32 + 4.2 * max(map(len, some)) for some in np.array_split(labels, columns))


def width_of(width: str | float) -> tuple[float, str, str]:
    r"""A width in inches, what it adds to a file's name, and what it is in LaTeX.

    `width` is a name in WIDTHS, a number of inches or one of centimetres, "12cm". Raises UserError for anything else.

    >>> width_of("column")
    (3.3, '-column', '\\linewidth')
    """
    if width in WIDTHS:
        is_text = width == "text"
        return WIDTHS[width], "" if is_text else f"-{width}", r"\textwidth" if is_text else r"\linewidth"
    number, unit, per_inch = str(width).removesuffix("in"), "in", 1.0
    if number.endswith("cm"):
        number, unit, per_inch = number.removesuffix("cm"), "cm", 2.54
    with contextlib.suppress(ValueError):
        if 1.5 <= (inches := float(number) / per_inch) <= 20:
            return inches, f"-{float(number):g}{unit}", f"{float(number):g}{unit}"
    raise UserError(f"width {width!r} of figures: write {', '.join(WIDTHS)}, inches from 1.5 to 20, or 12cm")


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
    noted = 0.0  # inches of small print
    if (small_print := _note(figure)) is not None:
        back.callback(small_print.set_text, small_print.get_text())
        noted = _NOTE_HIGH * len(small_print.get_text().split("\n"))
    legends = [legend for legend in figure.legends if legend._outside_loc]
    height = figure.get_figheight() - noted - sum(_legend_height(legend) for legend in legends)
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
        rows = sum(len(axis.get_yticks()) for axis in long)
        height = min(_COLUMN_HIGHEST, max(height, _NAMED_ROW * rows + _AROUND_ROWS * len(long)))
        row = 72 * (height - _AROUND_ROWS * len(long)) / rows
        for axis in long:
            _names_above(axis, min(_NAMED_SIZE, _NAMED_SHARE * row), back)
    figure.set_figheight(height + noted + sum(map(_legend_height, figure.legends)))
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
    for across in range(min(columns, max(1, int(inches // _NARROW))), columns + 1):
        below = [min(max(some), 0.8 * inches / across) for some in _in_rows(high, across)]
        if sum(below) <= _COLUMN_HIGHEST:
            break
    if across == columns:
        return height
    below = np.array(below) * min(1.0, _COLUMN_HIGHEST / sum(below))
    new = figure.add_gridspec(len(below), across, height_ratios=below)
    for axis, spec in zip(panels, spans, strict=True):
        row, column = divmod(places.index(spec.num1), across)
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


def _names_above(axis: Axes, size: float, back: ExitStack) -> None:
    """Write the name of each row, in letters of so many points, above what it shows, from the panel's left edge on."""
    named = [(place, text.get_text()) for place, text in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)]
    back.callback(axis.set_yticklabels, [name for _, name in named])
    axis.set_yticklabels([""] * len(named))
    for place, name in named:
        text = axis.annotate(
            name, (0, place), (3, 1.5), xycoords=axis.get_yaxis_transform(), textcoords="offset points",
            va="bottom", fontsize=size, annotation_clip=False,
        )  # fmt: skip
        back.callback(text.remove)
