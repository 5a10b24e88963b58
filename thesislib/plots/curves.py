"""Curves: results or tables against epochs, steps or anything else, as lines with their spread over seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from types import MappingProxyType

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from thesislib import datasets
from thesislib.plots.layout import legend_below, note, note_seeds
from thesislib.plots.style import (
    FARTHEST,
    LABELS,
    LineStyle,
    count_of,
    curve_style,
    error_bars,
    grid,
    label_of,
    line_styles,
    log_ticks,
    say_split,
    styled,
)
from thesislib.runs.growth import LEFT, growth, left_after
from thesislib.runs.results import Results, need_results
from thesislib.runs.spreads import need, need_once, need_one_kind
from thesislib.system.errors import UserError

#: So many values of x have each a tick of their own.
_FEW = 6
#: With `near_best`, panels end at so many times the least mean.
_WORST = 1.6


@styled()
def curves(
    results: Results,
    columns: Sequence[str] | None = None,
    smoothing: int = 1,
    log: Sequence[str] = ("d_0",),
    stripes: bool = False,
    height: float = 2.5,
) -> Figure:
    """Mean over seeds (line) and one standard deviation (band) of some columns over epochs, a panel each.

    The columns are by default `accuracy`, and `d_0` where there are minima. `smoothing` averages over so many epochs;
    dotted lines mark where hills appear, or minima where there are none; one row a network. On a logarithmic axis mean
    and deviation are those of the logarithm, and the curve of a setting whose network explodes ends there. A setting
    most of whose networks are never a tenth better than guessing has no distances, which the small print says, as it
    does how many runs diverged and end before the others. With `stripes` each line is thinner than the one before, so
    that lines that coincide, as schedules do, all show. Raises UserError for a smoothing below 1, a column that is not
    there, and labels of several roles.
    """
    need_results(results)
    columns = [name for name in ("accuracy", "d_0") if name in results.history] if columns is None else columns
    need(results.history, columns, numbers=True)
    need_one_kind(results.history)
    need_once(results.history, ["label", "network", "seed", "member", "epoch"])
    learns = _learns(results)
    history = _smooth(_distances_of(learns, results.history), list(columns), smoothing)
    figure = _against(history, "epoch", columns, log, height=height)
    if not learns.all() and any(map(_is_distance, columns)):
        note(figure, "no distances where nothing is learned")
    if smoothing > 1:
        note(figure, f"means of {smoothing} epochs")
    if any((history[name] > FARTHEST).any() for name in columns if name in log):
        note(figure, f"curves end at $10^{np.log10(FARTHEST):.0f}$")
    if dead := _diverged(results, history):
        note(figure, f"{count_of(dead, 'run')} diverged and {'ends' if dead == 1 else 'end'} there")
    for axis in figure.axes if stripes else []:
        for width, line in enumerate(reversed(axis.lines), start=1):
            line.set_linewidth(0.8 * width)
    row: list[Axes] = []  # the panels of a network
    for axis, shown, name in _panels(history, columns, figure):
        row = [axis] if name == columns[0] else [*row, axis]
        if name == "accuracy":
            _skip_beginning(axis, shown)
        if len(row) == len(columns):
            panels = [panel for panel, column in zip(row, columns, strict=True) if column == "accuracy"]
            if hidden := sum(len(_names_seen(row) - _names_seen([panel])) for panel in panels):
                note(figure, f"{count_of(hidden, 'curve')} of accuracy out of sight")
    _name_lines(figure, _with_growth(results))
    say_split(figure, results)
    for axis in figure.axes:
        _mark_minima(axis, results)
    legend_below(figure, figure.axes[0])
    return figure


@styled()
def against(
    table: pd.DataFrame,
    x: str,
    columns: Sequence[str],
    log: Sequence[str] = (),
    same_scale: bool = False,
    near_best: bool = False,
    height: float = 2.5,
    names: Mapping[str, str] = MappingProxyType({}),
    banded: Sequence[str] = (),
) -> Figure:
    """Mean (line) and standard deviation (band) of some columns against `x`, a panel each, a line a label.

    `log` names the axes, `x` among them, that are logarithmic; with `same_scale` all panels have one scale; with
    `near_best` a panel ends at 1.6 times the least mean loss or error, and what is worse leaves it; one row a network.
    `names` are what labels are called in the legend. `banded` are the labels that have a band; all, if none are given.
    Raises UserError for a column that is not there, and labels of several roles.
    """
    figure = _against(table, x, columns, log, same_scale, near_best, height, banded)
    _name_lines(figure, names)
    legend_below(figure, figure.axes[0])
    return figure


def _against(
    table: pd.DataFrame,
    x: str,
    columns: Sequence[str],
    log: Sequence[str],
    same_scale: bool = False,
    near_best: bool = False,
    height: float = 2.5,
    banded: Sequence[str] = (),
) -> Figure:
    """`against` without its legend."""
    need(table, columns, numbers=True, front=("label", "network", "seed"))
    if x in columns:
        raise UserError(f"{x} is what the columns are drawn against: name others")
    need(table, [x])
    need_one_kind(table)
    columns = list(columns)  # a tuple is one key to pandas
    for name, value in (("log", log), ("banded", banded)):
        if isinstance(value, str):
            raise UserError(f"{name} is a list: [{value!r}], not {value!r}")
    if unknown := [name for name in log if name not in table and name not in LABELS]:
        raise UserError(f"log is a list of columns, of which {unknown[0]!r} is none: such as log=[{columns[0]!r}]")
    if unknown := [label for label in banded if label not in set(table["label"])]:
        raise UserError(f"banded is a list of labels, of which {unknown[0]!r} is none")
    figure, styles = _start(table, columns, height, has_lines=table[x].nunique() > 1)
    for axis, shown, name in _panels(table, columns, figure):
        # First: on a logarithmic axis means and deviations are the logarithm's, and seaborn looks for labels.
        axis.set(xlabel=LABELS[x], ylabel=label_of(name, table))
        axis.set(**{"xscale" if key == x else "yscale": "log" for key in (x, name) if key in log})
        if x == "epoch":
            axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        if x in log:  # below a decade matplotlib would write at every minor tick, on top of each other
            axis.xaxis.set_minor_formatter(NullFormatter())
            if len(values := sorted(shown[x].unique())) <= _FEW:  # settings that were tried, rather than a course
                axis.set_xticks(values, [f"{value:g}" for value in values])
                axis.xaxis.set_minor_locator(NullLocator())
        for label, rows in shown.groupby("label", sort=False):
            has_band = not banded or label in banded
            _mean_and_band(axis, _drawable(rows, x, name, log), x, name, label, styles, has_band)
        if near_best:
            means = shown.groupby(["label", x])[name].mean()
            is_accuracy = name.startswith("accuracy")
            best = 1 - means.max() if is_accuracy else means.min()
            ends = np.array([0.9, _WORST]) * best
            axis.set_ylim(sorted(1 - ends) if is_accuracy else ends)
        _finish(axis, name)
    if same_scale:
        ends = np.array([axis.get_ylim() for axis in figure.axes])
        for axis in figure.axes:
            axis.set_ylim(ends[:, 0].min(), ends[:, 1].max())
            log_ticks(axis)
    of = f" of {', '.join(banded)}" if banded else ""
    differ = table.groupby(["label", "network", x])[list(columns)].std().gt(0).any(axis=None)  # schedules never do
    note_seeds(figure, table, f"bands: ± 1 SD{of}" if differ else "", columns)
    return figure


def _finish(axis: Axes, column: str) -> None:
    """Ticks that can be read, and a line at 0 where that is "no better"."""
    log_ticks(axis)
    if column.endswith("_gain"):
        axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)


def _name_lines(figure: Figure, names: Mapping[str, str]) -> None:
    """Call lines what the legend calls their labels; that of a network that never learns, say, is in no panel."""
    lines = [line for axis in figure.axes for line in axis.lines]
    seen = _names_seen(figure.axes)
    for line in lines:
        label = str(line.get_label())
        line.set_label(names.get(label, label) if label in seen else f"{label} (not in sight)")


def _names_seen(axes: Iterable[Axes]) -> set[object]:
    """The labels of curves of which some point lies within one of these panels."""
    found = set()
    for axis in axes:
        low, high = axis.get_ylim()
        ys = [(line.get_label(), np.asarray(line.get_ydata(), dtype=float)) for line in axis.lines]
        found |= {label for label, y in ys if ((y >= low) & (y <= high)).any()}
    return found


def _diverged(results: Results, history: pd.DataFrame) -> int:
    """How many runs have fewer rows than epochs."""
    epochs: dict[tuple[str, str], int] = {}
    for row in results:
        key = (row.label, row.network)
        epochs[key] = min(row.run.epochs, epochs.get(key, row.run.epochs))
    last = history.groupby(["label", "network", "id"], sort=False)["epoch"].max()
    return sum(epoch < epochs.get((label, network), 0) for (label, network, _), epoch in last.items())


def _with_growth(results: Results) -> dict[str, str]:
    """Labels with N, where all runs of a label have the same and it says something (`growth`)."""
    found: dict[str, set[str]] = {}
    for row in results:
        n = growth(row.run) if row.run.strength else 0.0
        said = f"= {n:.{1 if n < 10 else 0}f}" if n < 1e4 else "> 9999"
        found.setdefault(row.label, set()).add(f" ($N {said}$)" if n > 0 else "")
    return {label: _before_formula(label) + min(s) for label, s in found.items() if len(s) == 1 and min(s)}


def _before_formula(label: str) -> str:
    """A label that a formula may follow: a single dollar in it would be its beginning."""
    return label if is_math_text(label) else re.sub(r"(?<!\\)\$", r"\\$", label)


def _start(
    table: pd.DataFrame, columns: Sequence[str], height: float, has_lines: bool = True
) -> tuple[Figure, dict[str, LineStyle]]:
    """A figure with one row of panels a network and one column of them a column, and the styles of the labels.

    Raises UserError for a table without rows.
    """
    if table.empty:
        raise UserError("there is nothing to draw: the table has no rows")
    figure, _ = grid(table["network"].nunique(), len(columns), height)
    return figure, line_styles(list(table["label"].unique()), has_lines)


def _panels(table: pd.DataFrame, columns: Sequence[str], figure: Figure) -> Iterator[tuple[Axes, pd.DataFrame, str]]:
    """Every panel of such a figure with the network's rows and its column; writes the networks' names above theirs."""
    networks = list(table["network"].unique())
    for axis, (network, name) in zip(figure.axes, itertools.product(networks, columns), strict=True):
        if len(networks) > 1 and name == columns[0]:
            axis.set_title(network)
        yield axis, table[table["network"] == network], name


@styled()
def steps(results: Results, columns: Sequence[str], points: int = 60, height: float = 2.3) -> Figure:
    """Gradients step by step after a minimum: each point the mean of as many steps as it spans, steps logarithmic.

    `columns` are of store.STEPS, losses and norms on logarithmic axes; one row a network. The legend says after which
    step a hill is left (`growth`).
    """
    need_results(results)
    if results.steps.empty:
        raise UserError("none of these runs logged the steps after a minimum: train them with dense_steps")
    need(results.steps, columns, numbers=True)
    need_one_kind(results.steps)
    table = results.steps.assign(step=results.steps["step"] + 1)  # a logarithmic axis has no 0
    table["term_cosine"] = table["term_cosine"].where(table["term_norm"] > 0)  # without a term there is no angle to it
    edges = np.unique(np.geomspace(1, table["step"].max() + 1, points).round())
    table = table.assign(bin=np.digitize(table["step"], edges))
    table = table.groupby(["label", "network", "seed", "bin"], sort=False)[["step", *columns]].mean().reset_index()
    left = {row.label: left_after(row.run) for row in results if np.isfinite(left_after(row.run))}
    names = {label: f"{_before_formula(label)} ($N = {LEFT:.0f}$ at step {step:.0f})" for label, step in left.items()}
    log = ["step", *(name for name in columns if not name.endswith("cosine"))]
    return against(table, "step", columns, log, height=height, names=names)


def _drawable(rows: pd.DataFrame, x: str, name: str, log: Sequence[str]) -> pd.DataFrame:
    """Without what a logarithmic axis cannot show: 0, as at the minimum itself, and where a network has exploded."""
    if name not in log:
        return rows
    worst = rows.groupby(x)[name].transform("max")
    return rows[(rows[name] > 0) & (worst <= FARTHEST)]


def _mean_and_band(
    axis: Axes,
    rows: pd.DataFrame,
    x: str,
    name: str,
    label: str,
    styles: dict[str, LineStyle],
    has_band: bool = True,
) -> None:
    rows = rows.dropna(subset=[name])
    line = curve_style(styles, label, rows[x].nunique())
    if rows.empty:  # for the legend alone; `plot` would set the limits of an axis that has none yet
        axis.add_line(Line2D([], [], **line))
    else:
        # A single seed has no deviation, and the empty band would trip matplot2tikz.
        band = "sd" if has_band and rows["seed"].nunique() > 1 else None
        sns.lineplot(rows, x=x, y=name, errorbar=band, ax=axis, legend=False, **line)


def _smooth(history: pd.DataFrame, columns: list[str], epochs: int) -> pd.DataFrame:
    if isinstance(epochs, bool) or not isinstance(epochs, Integral) or epochs < 1:
        raise UserError(f"smoothing must be 1 epoch (none) or more, not {epochs!r}")
    smooth = history.groupby(["label", "id"], sort=False)[columns].transform(
        lambda values: values.rolling(epochs, min_periods=1).mean().where(values.notna())
    )
    return history.assign(**smooth)


def _learns(results: Results) -> pd.Series:
    """Whether a row of the history is of a setting whose networks ever have a tenth fewer errors than guessing."""
    guessing = {row.label: 1 - 1 / datasets.facts(row.run.data).classes for row in results}
    history = results.history
    best = history.groupby(["label", "network", "id"])["accuracy"].max().groupby(["label", "network"]).median()
    errors = 1 - history.join(best.rename("best"), on=["label", "network"])["best"]
    return errors <= 0.9 * history["label"].map(guessing)


def _distances_of(learns: pd.Series, history: pd.DataFrame) -> pd.DataFrame:
    """The history, with distances only where something is learned."""
    return history.assign(**{name: history[name].where(learns) for name in filter(_is_distance, history)})


def _is_distance(column: str) -> bool:
    return column.startswith("d_")


def _skip_beginning(axis: Axes, history: pd.DataFrame) -> None:
    """Let the first tenth of the epochs, and who never learns, leave the panel at the bottom: what matters is above."""
    late = history[history["epoch"] > history["epoch"].max() / 10]
    high = history["accuracy"].max()
    late = late[late.groupby("label")["accuracy"].transform("max") > high / 2].groupby(["label", "epoch"])["accuracy"]
    low = max(0.0, (late.mean() - late.std().fillna(0)).min())
    if low < high:
        axis.set_ylim(max(0.0, low - 0.05 * (high - low)), high + 0.05 * (high - low))


def _mark_minima(axis: Axes, results: Results) -> None:
    runs = [row.run for row in results if row.run.strength] or [row.run for row in results]
    for epoch in sorted({epoch for run in runs for epoch in run.minimum_epochs if epoch < run.epochs}):
        axis.axvline(epoch, color="0.6", linewidth=0.6, linestyle=":", zorder=0)
    axis.set_xlim(0, 1.02 * max(row.run.epochs for row in results))


@styled()
def distances(results: Results, height: float = 2.0, columns: int = 2) -> Figure:
    """Squared distance to every minimum over epochs, mean over seeds; a panel a label and network, in `columns`."""
    need_results(results)
    if isinstance(columns, bool) or not isinstance(columns, Integral) or columns < 1:
        raise UserError(f"columns of panels must be 1 or more, not {columns!r}")
    history = results.history
    need_one_kind(history)
    need_once(history, ["label", "network", "seed", "member", "epoch"])
    # A minimum stored at the very end has no distance yet.
    names = sorted((c for c in history if re.fullmatch(r"d_\d+", c) and history[c].max() > 0), key=lambda c: int(c[2:]))
    styles = line_styles([_ordinal(name) for name in names])
    panels, several = list(history.groupby(["label", "network"], sort=False)), history["network"].nunique() > 1
    figure, axes = grid(-(-len(panels) // columns), columns, height)
    for axis, ((label, network), rows) in zip(axes.flat, panels, strict=False):
        for name in names:
            _mean_and_band(axis, rows, "epoch", name, _ordinal(name), styles)
        _mark_minima(axis, results.only(label))
        axis.set(title=f"{label}, {network}" if several else label, xlabel="epoch", ylabel="squared distance")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    note_seeds(figure, history, "bands: ± 1 SD")
    legend_below(figure, axes[0, 0])
    return figure


def _ordinal(column: str) -> str:
    return f"$d_{column[2:]}$, to minimum {int(column[2:]) + 1}"


@styled()
def lengths(
    results: Results,
    columns: Sequence[str] = ("accuracy", "d_0"),
    cycle: int | None = None,
    height: float = 2.3,
) -> Figure:
    """Values after each cycle of so many epochs: the same runs read at several lengths; distances logarithmic.

    The cycle is the first run's if none is given. Settings stand side by side, or their error bars would hide each
    other. Raises UserError if no run is as long as a cycle.
    """
    need_results(results)
    table = results.history
    if cycle is not None and (not isinstance(cycle, Integral) or cycle < 1):
        raise UserError(f"a cycle is a number of epochs, 1 or more, not {cycle!r}")
    cycle, log = cycle or results[0].run.cycle, [name for name in columns if name.startswith("d_")]
    if (longest := table["epoch"].max()) < cycle:
        raise UserError(
            f"no run is as long as a cycle: {longest:.0f} epochs of {cycle}; give cycle={longest:.0f} or less"
        )
    table = table.assign(cycles=table["epoch"] // cycle)[table["epoch"] % cycle == 0]
    figure = _error_lines(table, "cycles", columns, height, log, apart=0.04)
    say_split(figure, results)
    return figure


@styled()
def members(
    growth: pd.DataFrame,
    columns: Sequence[str] = ("accuracy", "nll"),
    x: str = "members",
    height: float = 2.4,
) -> Figure:
    """Score of the ensemble of the first k snapshots over k (thesis, figures 4.11 and 4.12).

    Or of each member alone, over its number, where `x` is "member".
    """
    return _error_lines(growth, x, columns, height)


def _error_lines(
    table: pd.DataFrame, x: str, columns: Sequence[str], height: float, log: Sequence[str] = (), apart: float = 0.0
) -> Figure:
    """Mean and standard deviation over seeds against `x`, a line a label, `apart` from each other; a row a network."""
    need(table, columns, numbers=True, front=("label", "network"))
    need(table, [x, *columns])
    need_one_kind(table)
    figure, styles = _start(table, columns, height)
    for axis, shown, name in _panels(table, columns, figure):
        axis.set_yscale("log" if name in log else "linear")
        for k, (label, rows) in enumerate(shown.groupby("label", sort=False)):
            values = _drawable(rows, x, name, log).set_index(x)[name].dropna()
            line = error_bars(axis, values, apart * (k - (len(styles) - 1) / 2), label=label, **styles[label]._asdict())
            line.set(markersize=5, markeredgewidth=0)  # an edge would make all shapes round
        axis.set(xlabel=LABELS[x], ylabel=label_of(name, table), xticks=sorted(shown[x].unique()))
        _finish(axis, name)
    note_seeds(figure, table, "bars: ± 1 SD", columns)
    legend_below(figure, figure.axes[0])
    return figure
