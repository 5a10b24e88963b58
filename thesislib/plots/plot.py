"""The recurring figures: results or tables in, a matplotlib Figure out, which `tl.save` writes. `tl.plot` is this."""

from thesislib.plots.animation import trajectory
from thesislib.plots.curves import against, curves, distances, lengths, members, steps
from thesislib.plots.panels import cost, endpoints, forest, heatmaps, plane, points, scatter

__all__ = [
    "against", "cost", "curves", "distances", "endpoints", "forest", "heatmaps", "lengths", "members", "plane",
    "points", "scatter", "steps", "trajectory",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
