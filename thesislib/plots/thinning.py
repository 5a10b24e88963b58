"""Curves of no more points than the eye sees, for TeX takes its time for each."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.path import Path as Outline

#: More points than these are more than the eye sees of a curve in half a page, and TeX takes half a millisecond each.
POINTS = 160
NO_MARKER = (None, "None", "none", " ", "")


def thinned(points: np.ndarray, most: int = POINTS) -> np.ndarray:
    """At most so many of a curve's points [n, 2], in their order: of each of equally many neighbours the extremes.

    Of a curve whose x rises these are the lowest and the highest point, of any other those along x as well. A gap
    (nan) stays a gap; both ends stay. What is short enough is returned as it is.
    """
    return points[_kept(points, most)] if len(points) > most else points


def _kept(points: np.ndarray, most: int) -> list[int]:
    """Which points `thinned` leaves."""
    rises = bool((np.diff(points[:, 0]) >= 0).all())
    kept = {0, len(points) - 1}
    each = 2 * (1 if rises else 2) + int(not np.isfinite(points).all())
    for place in np.array_split(np.arange(len(points)), (most - 2) // each):
        there = place[np.isfinite(points[place]).all(axis=1)]
        kept |= {int(place[~np.isin(place, there)][0])} if len(there) < len(place) else set()
        for column in (1,) if rises else (0, 1):
            values = points[there, column]
            kept |= {int(there[values.argmin()]), int(there[values.argmax()])} if len(there) else set()
    return sorted(kept)


def written(line: Line2D) -> tuple[list[int], list[int] | None]:
    """Which points of a line are written, and which of these have a mark; None if all of them do.

    Of a `markevery` that says where points have marks: a step, a first and a step, a slice, indices, one bool a point.
    """
    points = np.asarray(line.get_xydata(), dtype=float)
    every = [*range(len(points))]
    has_marks = line.get_marker() not in NO_MARKER
    match line.get_markevery():
        case None:
            return (every if has_marks or len(points) <= POINTS else _kept(points, POINTS)), None
        case Integral() as step:
            marked = every[::step]
        case tuple((Integral() as first, Integral() as step)):
            marked = every[first::step]
        case slice() as some:
            marked = every[some]
        case some:
            marked = sorted({int(k) for k in np.asarray(every)[np.asarray(some)]})
    there = every if len(points) <= POINTS else sorted({*_kept(points, POINTS), *(marked if has_marks else ())})
    return there, [there.index(k) for k in marked] if has_marks else None


def thinned_band(path: Outline) -> Outline:
    """A polygon between two curves with both of them thinned."""
    half = len(path.vertices) // 2
    if half <= POINTS:
        return path
    low, high = (thinned(some, POINTS // 2) for some in (path.vertices[:half], path.vertices[half:][::-1]))
    vertices = np.vstack([low, high[::-1]])
    return Outline(vertices, closed=True)
