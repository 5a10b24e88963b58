"""One look for all figures: sizes, colours, names of columns, grids of panels and their legend."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: \textwidth of the thesis in inches (A4 article at 11 pt with 2.5 cm margins); .pgf files scale with theirs.
TEXTWIDTH = 6.3

#: One look for all figures; sizes are those of the LaTeX text around them.
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
plt.rcParams.update(STYLE)

#: Logarithmic panels end here: a network that blew up is not worth twenty empty decades.
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
    "nll": "NLL",
    "accuracy_mean": "mean accuracy of the members",
    "disagreement": "disagreement of two members",
    "t": "position $t$ between minima",
    "test_accuracy": "test accuracy",
    "line": "training loss, line",
    "curve": "training loss, curve",
    "step": "step after the minimum",
    "term_cosine": "cosine, term and CE",
}


def grid(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure as wide as the text with panels [rows, columns], each row `height` inches."""
    return plt.subplots(rows, columns, figsize=(TEXTWIDTH, height * rows), squeeze=False)


def palette_of(labels: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """A colour a label: grey for what has no term, the colour-blind palette (without its yellow) for the rest."""
    plain = [label for label in labels if label.startswith(("no term", "constant"))]
    greys = dict(zip(plain, sns.color_palette("Greys_r", len(plain) + 2), strict=False))
    others = [label for label in labels if label not in plain]
    colours = [c for k, c in enumerate(sns.color_palette("colorblind", 10)) if k not in (7, 8)]
    if len(others) > len(colours):
        colours = sns.color_palette("husl", len(others))
    return greys | dict(zip(others, colours, strict=False))


def legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend for the whole figure, below the panels, with the entries of some of them."""
    entries = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels, handles = list(entries), list(entries.values())
    longest = max((len(label) for label in labels), default=1)
    columns = int(np.clip(100 // (longest + 5), 1, max(1, len(labels))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
