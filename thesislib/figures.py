"""The recurring plots of the thesis: results or tables in, a matplotlib Figure out. `export.save` writes it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thesislib.config import UserError
from thesislib.results import Results
from thesislib.style import FARTHEST, LABELS, TEXTWIDTH, Look, grid, legend_below, looks_of
from thesislib.verdicts import MARGINS


def curves(
    results: Results,
    columns: Sequence[str] = ("accuracy", "d_0"),
    smoothing: int = 1,
    log: Sequence[str] = ("d_0",),
    height: float = 2.5,
) -> Figure:
    """Mean over seeds (line) and one standard deviation (band) of some columns over epochs, a panel each.

    `smoothing` averages over so many epochs; dotted lines mark the epochs of minima; one row a network. On a
    logarithmic axis mean and deviation are those of the logarithm, and the curve of a setting whose network explodes
    ends there.
    """
    history = _smooth(results.history, list(columns), smoothing)
    models = list(history["model"].unique())
    figure, axes = grid(len(models), len(columns), height)
    looks = looks_of(list(results))
    for (row, model), (column, name) in itertools.product(enumerate(models), enumerate(columns)):
        axis, shown = axes[row, column], history[history["model"] == model]
        axis.set(xlabel="epoch", ylabel=LABELS[name], yscale="log" if name in log else "linear")
        for label, rows in shown.groupby("label", sort=False):
            _mean_and_band(axis, _drawable(rows, "epoch", name, log), "epoch", name, label, looks[label])
        _mark_minima(axis, results)
        if name == "accuracy":
            _skip_beginning(axis, shown)
        if len(models) > 1 and column == 0:
            axis.set_title(model)
    legend_below(figure, axes[0, 0])
    return figure


def _drawable(rows: pd.DataFrame, x: str, name: str, log: Sequence[str]) -> pd.DataFrame:
    """Without what a logarithmic axis cannot show: 0, as at the minimum itself, and where a network has exploded."""
    if name not in log:
        return rows
    worst = rows.groupby(x)[name].transform("max")
    return rows[(rows[name] > 0) & (worst <= FARTHEST)]


def lines(
    table: pd.DataFrame,
    x: str,
    columns: Sequence[str],
    log: Sequence[str] = (),
    same_scale: bool = False,
    height: float = 2.5,
) -> Figure:
    """Mean (line) and standard deviation (band) of some columns against `x`, a panel each, a line a label.

    `log` names the axes, `x` among them, that are logarithmic; with `same_scale` all panels have one scale; one row a
    network.
    """
    models = list(table["model"].unique())
    figure, axes = grid(len(models), len(columns), height)
    looks = looks_of(list(table["label"].unique()))
    for (row, model), (column, name) in itertools.product(enumerate(models), enumerate(columns)):
        axis, shown = axes[row, column], table[table["model"] == model]
        # Before drawing: on a logarithmic axis means and deviations are the logarithm's.
        axis.set(**{"xscale" if key == x else "yscale": "log" for key in (x, name) if key in log})
        for label, rows in shown.groupby("label", sort=False):
            _mean_and_band(axis, _drawable(rows, x, name, log), x, name, label, looks[label])
        axis.set(xlabel=LABELS[x], ylabel=LABELS[name])
        if same_scale:
            values = table.loc[table[columns].gt(0).all(axis=1) if name in log else table.index, list(columns)]
            room = 1.1 if name in log else 1.0
            axis.set_ylim(values.min().min() / room, values.max().max() * room)
        if len(models) > 1 and column == 0:
            axis.set_title(model)
    legend_below(figure, axes[0, 0])
    return figure


def steps(results: Results, columns: Sequence[str], points: int = 60, height: float = 2.3) -> Figure:
    """Gradients step by step after a minimum, on a logarithmic axis: each point the mean of as many steps as it spans.

    `columns` are of store.STEPS; one row a network.
    """
    table = results.steps.assign(step=results.steps["step"] + 1)  # a logarithmic axis has no 0
    edges = np.unique(np.geomspace(1, table["step"].max() + 1, points).round())
    table = table.assign(bin=np.digitize(table["step"], edges))
    table = table.groupby(["label", "model", "seed", "bin"], sort=False)[["step", *columns]].mean().reset_index()
    return lines(table, "step", columns, log=["step"], height=height)


def _mean_and_band(axis: Axes, rows: pd.DataFrame, x: str, name: str, label: str, look: Look) -> None:
    rows, line = rows.dropna(subset=[name]), look._asdict() | {"label": label}
    if rows.empty:
        axis.plot([], [], **line)
    else:
        # A single seed has no deviation, and the empty band would trip matplot2tikz.
        band = "sd" if rows["seed"].nunique() > 1 else None
        sns.lineplot(rows, x=x, y=name, errorbar=band, ax=axis, legend=False, **line)


def _smooth(history: pd.DataFrame, columns: list[str], epochs: int) -> pd.DataFrame:
    if epochs < 1:
        raise UserError(f"smoothing must be 1 epoch (none) or more, not {epochs}")
    smooth = history.groupby(["label", "id"], sort=False)[columns].transform(
        lambda values: values.rolling(epochs, min_periods=1).mean().where(values.notna())
    )
    return history.assign(**smooth)


def _skip_beginning(axis: Axes, history: pd.DataFrame) -> None:
    """Let the first tenth of the epochs, and who never learns, leave the panel at the bottom: what matters is above."""
    late = history[history["epoch"] > history["epoch"].max() / 10]
    high = history["accuracy"].max()
    late = late[late.groupby("label")["accuracy"].transform("max") > high / 2].groupby(["label", "epoch"])["accuracy"]
    low = max(0.0, (late.mean() - late.std().fillna(0)).min())
    if low < high:
        axis.set_ylim(max(0.0, low - 0.05 * (high - low)), high + 0.05 * (high - low))


def _mark_minima(axis: Axes, results: Results) -> None:
    for epoch in sorted({e for group in results.values() for result in group for e in result.run.minimum_epochs}):
        axis.axvline(epoch, color="0.6", linewidth=0.6, linestyle=":", zorder=0)
    axis.set_xlim(0, 1.02 * max(result.run.epochs for group in results.values() for result in group))


def distances(results: Results, height: float = 2.0, columns: int = 2) -> Figure:
    """Squared distance to every minimum over epochs, mean over seeds, one panel a label."""
    history = results.history
    # A minimum stored at the very end has no distance yet.
    names = sorted((c for c in history if re.fullmatch(r"d_\d+", c) and history[c].max() > 0), key=lambda c: int(c[2:]))
    figure, axes = grid(-(-len(results) // columns), columns, height)
    looks = looks_of([_ordinal(name) for name in names])
    for axis, (label, rows) in itertools.zip_longest(
        axes.flat, history.groupby("label", sort=False), fillvalue=("", None)
    ):
        if rows is None:
            axis.remove()
            continue
        for name in names:
            _mean_and_band(axis, rows, "epoch", name, _ordinal(name), looks[_ordinal(name)])
        _mark_minima(axis, {label: results[label]})
        axis.set(title=label, xlabel="epoch", ylabel="squared distance")
    legend_below(figure, axes[0, 0])
    return figure


def _ordinal(column: str) -> str:
    return f"to minimum {int(column[2:]) + 1}"


def endpoints(results: Results, x: str, columns: Sequence[str] = ("accuracy", "d_0"), height: float = 2.3) -> Figure:
    """Final values (mean, standard deviation over seeds) against a run field; dashed: runs with strength 0."""
    final = _final(results)
    figure, axes = grid(1, len(columns), height)
    for axis, name in zip(axes.flat, columns, strict=True):
        for colour, (model, rows) in zip(sns.color_palette("colorblind"), final.groupby("model"), strict=False):
            term = rows[rows["strength"] > 0].groupby(x)[name].agg(["mean", "std"])
            axis.errorbar(term.index, term["mean"], term["std"], fmt="o-", color=colour, capsize=2, label=model)
            base = rows[rows["strength"] == 0][name].mean()
            axis.axhline(base, color=colour, linestyle="--", label=f"{model}, no term", linewidth=1)
        axis.set(xlabel=LABELS[x], ylabel=LABELS[name], xscale="log")
        if name.startswith("d_"):
            axis.set_yscale("log")
    legend_below(figure, axes[0, 0])
    return figure


def _final(results: Results) -> pd.DataFrame:
    """The last rows, with width and strength as the runs were asked for; a run that stands under two labels once."""
    runs = {result.id: result.run for group in results.values() for result in group}
    asked = pd.DataFrame([{"id": i, "width": run.width, "strength": run.strength} for i, run in runs.items()])
    return results.final.drop(columns="strength").drop_duplicates("id").merge(asked, on="id")


def heatmaps(results: Results, columns: Sequence[str] = ("accuracy", "d_0"), height: float = 2.4) -> Figure:
    """Final means over a grid of strengths (rows) and widths (columns), numbers written in; one row a network."""
    final = _final(results)
    models = list(final["model"].unique())
    figure, axes = grid(len(models), len(columns), height)
    for (row, model), (column, name) in itertools.product(enumerate(models), enumerate(columns)):
        axis, shown = axes[row, column], final[final["model"] == model]
        table = shown.pivot_table(index="strength", columns="width", values=name, sort=True)
        colour = np.log10(table) if name.startswith("d_") else table
        formats = ".0f" if name.startswith("d_") else ".3f"
        sns.heatmap(colour, annot=table, fmt=formats, cmap="viridis", cbar=False, ax=axis, annot_kws={"size": 8})
        title = LABELS[name] if len(models) == 1 else f"{LABELS[name]}, {model}"
        axis.set(title=title, xlabel=LABELS["width"], ylabel=LABELS["strength"])
        axis.set_xticklabels([f"{w:g}" for w in table.columns], rotation=0)
        axis.set_yticklabels([f"{s:g}" for s in table.index], rotation=0)
    return figure


def lengths(results: Results, cycle: int, columns: Sequence[str] = ("accuracy", "d_0"), height: float = 2.3) -> Figure:
    """Values at the end of each cycle of so many epochs: the same runs read at several lengths; distances logarithmic.

    Settings stand side by side, or their error bars would hide each other.
    """
    table, log = results.history, [name for name in columns if name.startswith("d_")]
    return _error_lines(table[table["epoch"] % cycle == 0], "epoch", columns, height, log, apart=0.04 * cycle)


def members(growth: pd.DataFrame, columns: Sequence[str] = ("accuracy", "nll"), height: float = 2.4) -> Figure:
    """Score of the ensemble of the first k snapshots over k (thesis, figures 4.11 and 4.12)."""
    return _error_lines(growth, "members", columns, height)


def _error_lines(
    table: pd.DataFrame, x: str, columns: Sequence[str], height: float, log: Sequence[str] = (), apart: float = 0.0
) -> Figure:
    """Mean and standard deviation over seeds against `x`, a line a label, `apart` from each other; a row a network."""
    models = list(table["model"].unique())
    figure, axes = grid(len(models), len(columns), height)
    looks = looks_of(list(table["label"].unique()))
    for (row, model), (column, name) in itertools.product(enumerate(models), enumerate(columns)):
        axis, shown = axes[row, column], table[table["model"] == model]
        axis.set_yscale("log" if name in log else "linear")
        for k, (label, rows) in enumerate(shown.groupby("label", sort=False)):
            at = _drawable(rows, x, name, log).groupby(x)[name].agg(["mean", "std"])
            where = at.index + apart * (k - (len(looks) - 1) / 2)
            axis.errorbar(where, at["mean"], at["std"], fmt="o", capsize=2, label=label, **looks[label]._asdict())
        axis.set(xlabel=LABELS[x], ylabel=LABELS[name], xticks=sorted(shown[x].unique()))
        if len(models) > 1 and column == 0:
            axis.set_title(model)
    legend_below(figure, axes[0, 0])
    return figure


def points(
    table: pd.DataFrame,
    columns: dict[str, str],
    alike: Sequence[Sequence[str]] = (),
    limits: dict[str, float] | None = None,
    height: float = 2.3,
) -> Figure:
    """One value a run as dots, their mean as a bar, by label and network; `columns` are the panels and their titles.

    Panels that are `alike` have the same axis; `limits` are drawn as dashed lines.
    """
    several = table["model"].nunique() > 1
    groups = list(table.groupby(["label", "model"], sort=False))
    figure, axes = grid(1, len(columns), max(height, 0.2 * len(groups) + 0.7))
    looks = looks_of(list(table["label"].unique()))
    names = [f"{label}, {model}" if several else label for (label, model), _ in groups]
    for axis, (name, title) in zip(axes.flat, columns.items(), strict=True):
        for place, ((label, _), rows) in enumerate(groups):
            values = rows[name].dropna()
            if values.empty:
                continue
            axis.plot(values, np.full(len(values), place), "o", color=looks[label].color, alpha=0.6)
            axis.plot(values.mean(), place, "|", color=looks[label].color, markersize=14, markeredgewidth=2)
        axis.set(xlabel=title, yticks=range(len(groups)), ylim=(len(groups) - 0.5, -0.5))
        axis.set_yticklabels(names if axis is axes[0, 0] else [" "] * len(groups))
        if limits and name in limits:
            axis.plot([limits[name]] * 2, [-0.5, len(groups) - 0.5], "--", color="0.5", linewidth=0.8)
    panels = dict(zip(columns, axes.flat, strict=True))
    for some in alike:
        ends = np.array([panels[name].get_xlim() for name in some])
        for name in some:
            panels[name].set_xlim(ends[:, 0].min(), ends[:, 1].max())
    return figure


def scatter(table: pd.DataFrame, x: str, y: str, height: float = 2.8) -> Figure:
    """A dot an ensemble, coloured by label; one row a network."""
    models = list(table["model"].unique())
    figure, axes = grid(len(models), 1, height)
    looks = looks_of(list(table["label"].unique()))
    for axis, model in zip(axes.flat, models, strict=True):
        for label, rows in table[table["model"] == model].groupby("label", sort=False):
            axis.plot(rows[x], rows[y], "o", color=looks[label].color, label=label, alpha=0.7)
        axis.set(xlabel=LABELS[x], ylabel=LABELS[y], title=model if len(models) > 1 else "")
    legend_below(figure, axes[0, 0])
    return figure


def plane(arrays: dict[str, np.ndarray], height: float = 2.9) -> Figure:
    """A plane through three minima (stars): training loss and distance term as shades, the projected walk as a line.

    `arrays` are those of `valleys.plane`; axes in units of weight space. The colours of the loss are logarithmic.
    """
    figure, axes = grid(1, 2, height)
    # Worse than knowing nothing, ln 10, is all alike: the walls around a valley are no news.
    loss = np.minimum(arrays["train_loss"], np.log(10))
    shades = {"training loss": np.log10(loss), "distance term": arrays["hills"]}
    for axis, (title, shade), value in zip(axes.flat, shades.items(), (loss, arrays["hills"]), strict=True):
        axis.pcolormesh(arrays["xs"], arrays["ys"], shade, cmap="viridis", shading="nearest")
        x, y, _ = arrays["path"].T
        axis.plot(x, y, "-", color="white", linewidth=0.8)
        axis.plot(*arrays["minima"].T, "*", color="C3", markersize=8)
        for number, place in enumerate(arrays["minima"], start=1):
            axis.annotate(str(number), place, xytext=(4, 4), textcoords="offset points", color="white")
        ends = [(values[0], values[-1]) for values in (arrays["xs"], arrays["ys"])]
        axis.set(xlim=ends[0], ylim=ends[1], title=f"{title}, {value.min():.2g} (dark) to {value.max():.2g}")
        axis.set(xlabel="along the line from 1 to 2", ylabel="away from it, towards 3")
    return figure


def cost(results: Results, bench: pd.DataFrame, height: float = 2.5) -> Figure:
    """Left: training time over the number of minima (median, middle half of epochs), relative to none; the thesis' too.

    Right: seconds of an epoch of full MNIST, written by hand and by thesislib, from `bench` (bench.csv).
    """
    figure, axes = grid(1, 2, height)
    own, measured = axes[0]
    looks = looks_of(list(results))
    every = next(iter(results.values()))[0].run.minima_every
    history = results.history[results.history["epoch"] > 1]
    history = history.assign(minima=(history["epoch"] - 1) // every)
    base = history[history["strength"] == 0].groupby("model")["train_seconds"].median()
    history = history.assign(cost=history["train_seconds"] / history["model"].map(base))
    for number, (model, some) in enumerate(history.groupby("model", sort=False)):
        for label, rows in some.groupby("label", sort=False):
            name = label if len(base) == 1 else f"{label}, {model}"
            sns.lineplot(
                rows, x="minima", y="cost", estimator="median", errorbar=("pi", 50), color=looks[label].color,
                linestyle="-:"[number % 2], label=name, ax=own, legend=False,
            )  # fmt: skip
    hills = np.array(sorted(history["minima"].unique()))
    for name, increase in (("thesis, MobileNetV2", 0.29), ("thesis, ResNet-32", 0.18)):
        own.plot(hills, 1 + increase * hills, linestyle="--", color="0.5" if "Res" in name else "0.2", label=name)
    own.set(xlabel="minima", ylabel="relative training time")
    for name, colour, kind in (("by hand, autograd", "C3", "a"), ("thesislib", "C0", "b")):
        rows = bench[bench["case"].str.fullmatch(rf"{kind}\d+")]
        measured.plot(rows["case"].str[1:].astype(int), rows["seconds"], "o-", color=colour, label=name)
    measured.set(xlabel="minima", ylabel="seconds an epoch")
    measured.set_ylim(bottom=0)
    legend_below(figure, own, measured)
    return figure


def forest(parts: pd.DataFrame) -> Figure:
    """Effects and intervals of the claims' parts, a panel a unit; the grey band is what counts as the same."""
    shown = {"reproduced": ("C0", "o"), "not reproduced": ("C3", "s"), "undecided": ("0.5", "x")}
    units = {
        "factor": "factor of squared distance",
        "points": "percentage points",
        "percent": "percent of an epoch",
    }
    counts = [max(1, (parts["unit"] == unit).sum()) for unit in units]
    figure, axes = plt.subplots(
        len(units), 1, figsize=(TEXTWIDTH, 0.19 * sum(counts) + 1.6), gridspec_kw={"height_ratios": counts}
    )
    for axis, (unit, title) in zip(axes, units.items(), strict=True):
        rows = parts[parts["unit"] == unit].reset_index(drop=True)
        for outcome, (colour, marker) in shown.items():
            some = rows[(rows["verdict"] == outcome) & np.isfinite(rows["effect"])]
            error = np.abs(some[["low", "high"]].sub(some["effect"], axis=0)).T.replace(np.inf, 0).to_numpy()
            axis.errorbar(some["effect"], some.index, xerr=error, fmt=marker, color=colour, label=outcome, markersize=4)
        margin = np.exp(MARGINS[unit]) if unit == "factor" else MARGINS[unit]
        # In data coordinates: matplot2tikz misplaces what axvspan draws.
        low = 1 / margin if unit == "factor" else -margin
        axis.fill_betweenx([-0.5, len(rows) - 0.5], low, margin, color="0.9", linewidth=0, zorder=0)
        axis.set(xlabel=title, ylim=(len(rows) - 0.5, -0.5), xscale="log" if unit == "factor" else "linear")
        axis.set_yticks(range(len(rows)), _statements(rows), fontsize=6)
    legend_below(figure, axes[0])
    return figure


def _statements(parts: pd.DataFrame) -> list[str]:
    several = parts["network"].nunique() > 1
    return [f"{r.claim} {r.says}{f' ({r.network})' if several else ''}" for r in parts.itertuples()]
