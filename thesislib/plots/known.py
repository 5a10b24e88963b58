"""What of a figure can be written as pgfplots code."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import (
    Collection,
    FillBetweenPolyCollection,
    LineCollection,
    PathCollection,
    PolyCollection,
    QuadMesh,
)
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon, Rectangle
from matplotlib.spines import Spine
from matplotlib.text import Annotation, Text


def beyond(figure: Figure) -> str:
    """What pgfplots code cannot show of a figure, the first such thing in words; empty if it can show all."""
    ours = {figure.patch, *figure.axes, *figure.texts, *figure.legends}
    found: list[Artist] = [child for child in figure.get_children() if child not in ours]
    panels = [axis for axis in figure.axes if axis.get_visible()]
    if len({tuple(axis.get_position().bounds) for axis in panels}) < len(panels):
        return "two axes in one place"
    for axis in panels:
        if axis.name != "rectilinear":
            return f"{axis.name} axes"
        if other := {axis.get_xscale(), axis.get_yscale()} - {"linear", "log"}:
            return f"a {min(other)} axis"
        found += [child for child in axis.get_children() if not _is_known(child, axis)]
    for legend in [*figure.legends, *(axis.get_legend() for axis in figure.axes)]:
        if legend is not None and legend.get_visible():
            if legend.get_title().get_text():
                return "a title in a legend"
            found += [handle for handle in handles(legend) if not isinstance(handle, _SAMPLES)]
    seen = [artist for artist in found if not isinstance(artist, Artist) or artist.get_visible()]
    return f"{type(seen[0]).__name__}: {seen[0]}" if seen else ""


_SAMPLES = (Line2D, Patch, Collection, ErrorbarContainer, BarContainer)


def _is_known(child: Artist, axis: Axes) -> bool:
    """Whether a panel's artist is written as it is drawn."""
    if isinstance(child, Line2D) and _hangs_on_size(child.get_markevery()):
        return False
    if child is axis.patch or isinstance(child, Line2D | QuadMesh | AxesImage | Spine | Axis | Legend):
        return True
    if isinstance(child, Annotation) and child.arrow_patch is not None:
        return False
    if isinstance(child, Text):
        return child.get_bbox_patch() is None
    if not isinstance(child, Collection | Patch) or child.get_hatch():
        return False
    if isinstance(child, Patch):
        return type(child) in (Rectangle, Polygon) and child.get_fill()
    if type(child) in (PolyCollection, FillBetweenPolyCollection):
        return not np.any(child.get_offsets())  # else one shape at many places
    return type(child) is LineCollection or (type(child) is PathCollection and _is_uniform(child))


def _hangs_on_size(markevery: Any) -> bool:
    """Whether marks are a share of the panel apart, so that where they are depends on its size."""
    numbers = [some for some in (markevery if isinstance(markevery, tuple) else [markevery]) if isinstance(some, Real)]
    return any(not isinstance(some, Integral) for some in numbers)


def _is_uniform(dots: PathCollection) -> bool:
    """Whether all of a scatter's dots look alike: then it is a line of marks."""
    several = (dots.get_paths(), dots.get_sizes(), dots.get_facecolor(), dots.get_edgecolor(), dots.get_linewidth())
    return dots.get_array() is None and all(len(some) <= 1 for some in several) and np.ndim(dots.get_alpha()) == 0


def handles(legend: Legend) -> list[Any]:
    """What a legend's entries stand for, as it was drawn; what is in no panel, as the legend shows it."""
    axes = [legend.axes] if legend.axes is not None else legend.figure.axes
    drawn = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    texts = [text.get_text() for text in legend.get_texts()]
    return [drawn.get(text, handle) for text, handle in zip(texts, legend.legend_handles, strict=True)]
