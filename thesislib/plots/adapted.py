"""A panel as matplot2tikz understands it: artists that it does not know as others that look the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import (
    Collection,
    FillBetweenPolyCollection,
    LineCollection,
    PathCollection,
    PolyCollection,
)
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon, Rectangle
from matplotlib.text import Text

from thesislib.plots.thinning import NO_MARKER, thinned_band, written

_OF_PATHS = (PolyCollection, FillBetweenPolyCollection, LineCollection)


def as_marks(dots: PathCollection) -> Line2D:
    """A scatter whose dots look alike as a line of marks."""
    colours = dots.get_facecolor(), dots.get_edgecolor()
    face, edge = (tuple(some[0]) if len(some) else "none" for some in colours)
    path, size = dots.get_paths()[0], np.sqrt(dots.get_sizes()[0])
    return Line2D(
        *np.reshape(np.ma.filled(dots.get_offsets(), np.nan), (-1, 2)).T, linestyle="none", marker=path,
        markersize=2 * np.abs(path.vertices).max() * size,  # of a mark the largest extent is 1 wide
        markerfacecolor=face, markeredgecolor=edge, color=face if edge == "none" else edge,
        markeredgewidth=(*dots.get_linewidth(), 0)[0], alpha=dots.get_alpha(), zorder=dots.get_zorder(),
    )  # fmt: skip


def _is_empty(child: Artist) -> bool:
    """Whether it is a scatter, a band or lines of no point at all, at which matplot2tikz stumbles."""
    if isinstance(child, PathCollection):
        return not len(child.get_offsets())
    return type(child) in _OF_PATHS and not any(len(path.vertices) for path in child.get_paths())


def _simpler(child: Artist, axis: Axes) -> Artist:
    """A scatter as a line of marks; a rectangle that is given in parts of its panel, as axvspan's, where it lies."""
    if isinstance(child, PathCollection):
        line = as_marks(child)
        line.set(visible=child.get_visible(), transform=axis.transData)
        line.axes, line.figure = axis, axis.figure
        return line
    if not isinstance(child, Rectangle) or child.get_data_transform() == axis.transData:
        return child
    return _in_data(child, axis)


def _in_data(patch: Rectangle, axis: Axes) -> Polygon:
    path = patch.get_path().transformed(patch.get_transform() - axis.transData)
    return Polygon(
        path.vertices[:4], closed=True, facecolor=patch.get_facecolor(), edgecolor=patch.get_edgecolor(),
        linewidth=patch.get_linewidth(), zorder=patch.get_zorder(), transform=axis.transData,
    )  # fmt: skip


@contextmanager
def as_matplot2tikz_wants(axis: Axes) -> Iterator[None]:
    """For a while, only this panel is there, without what is written elsewhere, and with widths as it scales them."""
    figure = axis.figure
    with ExitStack() as back:

        def put(artist: Artist, what: str, value: Any) -> None:
            back.callback(getattr(artist, f"set_{what}"), getattr(artist, f"get_{what}")())
            getattr(artist, f"set_{what}")(value)

        for other in [*figure.axes, *figure.texts, *figure.legends, *figure.lines, *figure.patches]:
            if other is not axis:
                put(other, "visible", False)
        back.callback(setattr, axis, "legend_", axis.legend_)
        axis.legend_ = None
        for sign in vars(axis).keys() & {"_colorbar", "_colorbar_info"}:  # a colour bar is a panel like any other
            back.callback(setattr, axis, sign, getattr(axis, sign))
            delattr(axis, sign)
        back.callback(setattr, axis, "_children", axis._children)
        axis._children = [_simpler(child, axis) for child in axis._children if not _is_empty(child)]
        for line in axis.lines:
            if line.get_marker() not in NO_MARKER:  # it knows few, and what it says of them is not used
                put(line, "marker", "o")
            there = written(line)[0]
            put(line, "markevery", None)  # it knows few of these too
            if len(there) < len(points := np.asarray(line.get_xydata(), dtype=float)):
                back.callback(line.set_data, *line.get_data())
                line.set_data(*points[there].T)
        for band in (child for child in axis.collections if isinstance(child, PolyCollection)):
            back.callback(setattr, band, "_paths", band.get_paths())
            band._paths = [thinned_band(path) for path in band.get_paths()]
        for child in axis.get_children():
            if isinstance(child, Text):
                put(child, "text", "")  # arrows stay
            elif isinstance(child, Collection | Patch):
                put(child, "linewidth", 2.5 * np.asarray(child.get_linewidth()))
                if not np.any(child.get_linewidth()):  # to TeX the thinnest line there is
                    put(child, "edgecolor", "none")
        yield
