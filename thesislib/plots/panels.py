"""The recurring plots that are no curves: results or tables in, a matplotlib Figure out. `save.save` writes it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thesislib.analysis import claims
from thesislib.config import Run
from thesislib.experiments.sections import digits
from thesislib.experiments.statements import LEVEL
from thesislib.plots.layout import legend_below, note, note_seeds
from thesislib.plots.style import (
    FARTHEST,
    IN_NARROW,
    LABELS,
    count,
    curve_style,
    error_bars,
    grid,
    hollow,
    label_of,
    line_styles,
    log_ticks,
    say_split,
    styled,
)
from thesislib.runs.results import Results, need_results
from thesislib.runs.spreads import need, need_once, need_one_kind
from thesislib.system.errors import UserError
from thesislib.system.files import ROOT

#: Distances of which one is so many times another have a logarithmic axis.
_FAR = 3


@styled()
def endpoints(results: Results, x: str, columns: Sequence[str] = ("accuracy", "d_0"), height: float = 2.3) -> Figure:
    """Final values (mean, standard deviation over seeds) against a run field; dashed: runs with strength 0.

    Those are one line across, or have a point at each value of the field where they differ in it. Distances that differ
    much have a logarithmic axis, and mean and deviation of their logarithm. Raises UserError for a field or a column
    that is not there or has no numbers, and for settings that differ in something else as well.
    """
    final = _final(results, x)
    need(final, columns, numbers=True)
    need(final, [x, *columns])
    if not pd.api.types.is_numeric_dtype(final[x]):
        raise UserError(f"{x} is no number in all of these runs: there is no axis for it")
    for rows in (final[final["strength"] > 0], final[final["strength"] == 0]):
        need_once(rows, ["network", x, "seed", "member"])
    figure, axes = grid(1, len(columns), height)
    several, parts = final["network"].nunique() > 1, dict[str, tuple[pd.DataFrame, pd.DataFrame]]()
    for network, rows in final.groupby("network"):
        parts[network] = rows[rows["strength"] > 0], rows[rows["strength"] == 0]
    # Without a hill there is one line, wherever that is; if it is at several places, or alone, it has a point at each.
    is_line = {network: len(term) and base[x].nunique() == 1 for network, (term, base) in parts.items()}
    at = pd.concat([rows[x] for network, some in parts.items() for rows in some[: 1 if is_line[network] else 2]])
    for axis, name in zip(axes.flat, columns, strict=True):
        axis.set(xlabel=LABELS[x], ylabel=LABELS[name], xscale="log" if (at > 0).all() else "linear")
        values = final.loc[final[name] > 0, name]
        if name.startswith("d_") and values.max() > _FAR * values.min():
            axis.set_yscale("log")
        looks = zip(cycle(sns.color_palette("colorblind")), cycle("os^D"), cycle(("--", ":", "-.", (0, (1, 3)))))
        for (colour, marker, dashes), network in zip(looks, parts, strict=False):
            term, base = (rows.set_index(x)[name].dropna() for rows in parts[network])
            if len(term):
                error_bars(axis, term, fmt=f"{marker}-", color=colour, label=network if several else "term")
            label, colour = (f"{network}, no term", colour) if several else ("no term", "0.35")
            if len(base) and is_line[network]:
                base = np.exp(np.log(base).mean()) if axis.get_yscale() == "log" else base.mean()
                axis.axhline(base, color=colour, linestyle=dashes, label=label, linewidth=1)
            elif len(base):
                error_bars(axis, base, linestyle=dashes, marker=marker, mfc="white", color=colour, label=label)
        log_ticks(axis)
    note_seeds(figure, final, "bars: ± 1 SD", columns)
    say_split(figure, results)
    legend_below(figure, *axes.flat)
    return figure


def _final(results: Results, *fields: str) -> pd.DataFrame:
    """The last rows, with width, strength and other fields as asked for; a run that stands under two labels once."""
    need_results(results)
    if unknown := [name for name in fields if name not in Run.model_fields]:
        raise UserError(f"a run has no field {unknown[0]}: choose from {', '.join(Run.model_fields)}")
    names = dict.fromkeys(("width", "strength", *fields))
    asked = pd.DataFrame([{"id": row.id} | {name: getattr(row.run, name) for name in names} for row in results])
    final = results.final.drop(columns=list(names), errors="ignore").drop_duplicates("id")
    return final.merge(asked.drop_duplicates("id"), on="id", how="left")


@styled()
def heatmaps(results: Results, columns: Sequence[str] = ("accuracy", "d_0"), height: float = 2.4) -> Figure:
    """Final means over a grid of strengths (rows) and widths (columns), numbers written in; one row a network.

    Raises UserError for a column that is not there or has no value, and for settings that differ in something else.
    """
    final = _final(results)
    need(final, columns, numbers=True)
    need(final, ["strength", "width", *columns])
    need_once(final, ["network", "strength", "width", "seed", "member"])
    if empty := [name for name in columns if final[name].isna().all()]:
        raise UserError(f"no run has a value of {empty[0]}")
    networks = list(final["network"].unique())
    figure, axes = grid(len(networks), len(columns), height)
    for axis, (network, name) in zip(axes.flat, itertools.product(networks, columns), strict=True):
        shown = final[final["network"] == network]
        table = shown.pivot_table(index="strength", columns="width", values=name, sort=True)[::-1]  # the tallest above
        colour, written = table, table.map("{:.3f}".format)
        if name.startswith("d_"):  # a network that exploded is as bright as FARTHEST, or all others would be alike
            colour = np.log10(table.clip(upper=FARTHEST))
            written = table.map(lambda d: f"{d:.0e}" if d >= FARTHEST else f"{d:.0f}" if d >= 10 else f"{d:.2g}")
        names = {"xticklabels": [*map(digits, table.columns)], "yticklabels": [*map(digits, table.index)]}
        sns.heatmap(colour, annot=written, fmt="", cmap="viridis", cbar=False, ax=axis, annot_kws={"size": 8}, **names)
        title = LABELS[name] if len(networks) == 1 else f"{LABELS[name]}, {network}"
        axis.set(title=title, xlabel=LABELS["width"], ylabel=LABELS["strength"])
        axis.tick_params("both", rotation=0)
    note_seeds(figure, final, columns=columns)
    say_split(figure, results)
    return figure


@styled()
def points(
    table: pd.DataFrame,
    columns: Mapping[str, str] | Sequence[str],
    alike: Sequence[Sequence[str]] = (),
    limits: dict[str, float] | None = None,
    reference: str = "",
    height: float = 2.3,
) -> Figure:
    """One value a run as dots, their mean as a bar, by label and network.

    Each of `columns` is a panel: give their names, or names and titles. Panels that are `alike` have the same axis;
    `limits` are drawn as dashed lines. The label `reference` has no dots: its mean is a dotted line behind the others
    of its network.
    """
    need(table, columns, numbers=True, front=("label", "network"))
    need_one_kind(table)
    columns = columns if isinstance(columns, Mapping) else {name: label_of(name, table) for name in columns}
    several = table["network"].nunique() > 1
    lines = table[table["label"] == reference].groupby("network")[list(columns)].mean()
    table = table[table["label"] != reference]
    groups = list(table.groupby(["label", "network"], sort=False))
    figure, axes = grid(1, len(columns), max(height, 0.2 * len(groups) + 0.7))
    styles = line_styles(list(table["label"].unique()))
    names = [f"{label}, {network}" if several else label for (label, network), _ in groups]
    for axis, (name, title) in zip(axes.flat, columns.items(), strict=True):
        for place, ((label, network), rows) in enumerate(groups):
            values = rows[name].dropna()
            if network in lines.index and np.isfinite(lines.loc[network, name]):
                axis.plot([lines.loc[network, name]] * 2, [place - 0.5, place + 0.5], ":", color="0.3", linewidth=0.8)
            if values.empty:
                continue
            axis.plot(values, np.full(len(values), place), "o", color=styles[label].color, alpha=0.6)
            axis.plot(values.mean(), place, "|", color=styles[label].color, markersize=14, markeredgewidth=2)
        axis.set(xlabel=title, yticks=range(len(groups)), ylim=(len(groups) - 0.5, -0.5))
        axis.set_yticklabels(names if axis is axes[0, 0] else [" "] * len(groups))
        if len(columns) > 2:  # labels such as 0.0225 are wider than matplotlib counts on
            axis.xaxis.set_major_locator(MaxNLocator(IN_NARROW, steps=[1, 2, 5, 10]))
        if limits and name in limits:
            axis.plot([limits[name]] * 2, [-0.5, len(groups) - 0.5], "--", color="0.5", linewidth=0.8)
    panels = dict(zip(columns, axes.flat, strict=True))
    if unknown := [name for some in alike for name in some if name not in panels]:
        raise UserError(f"there is no panel of {unknown[0]!r} to be alike: choose from {', '.join(panels)}")
    for some in alike:
        ends = np.array([panels[name].get_xlim() for name in some])
        low, high = ends[:, 0].min(), ends[:, 1].max()
        for name in some:  # with room for half a dot: the range of another panel may end where this one's last dot is
            panels[name].set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    for axis in axes.flat if len(columns) > 2 else []:
        low, high = axis.get_xlim()
        if len(ticks := [tick for tick in axis.get_xticks() if low <= tick <= high]) > IN_NARROW:
            axis.set_xticks(ticks[1::2])
    note_seeds(figure, table, columns=list(columns))
    return figure


@styled()
def scatter(table: pd.DataFrame, x: str, y: str, height: float = 2.8) -> Figure:
    """A mark an ensemble, its colour and shape the label's; one row a network."""
    need(table, [y], numbers=True, front=("label", "network"))
    need(table, [x, y])
    need_one_kind(table)
    networks = list(table["network"].unique())
    figure, axes = grid(len(networks), 1, height)
    styles = line_styles(list(table["label"].unique()), has_lines=False)
    for axis, network in zip(axes.flat, networks, strict=True):
        for label, rows in table[table["network"] == network].dropna(subset=[x, y]).groupby("label", sort=False):
            style = styles[label]
            axis.plot(rows[x], rows[y], style.marker, color=style.color, label=label, alpha=0.7, **hollow(style))
        axis.set(xlabel=LABELS[x], ylabel=LABELS[y], title=network if len(networks) > 1 else "")
    note_seeds(figure, table.dropna(subset=[x, y]))
    legend_below(figure, axes[0, 0])
    return figure


@styled()
def plane(arrays: dict[str, np.ndarray], height: float = 2.9, worst: float = float(np.log(10))) -> Figure:
    """A plane through three minima (stars): training loss and distance term as shades, the trajectory as a line.

    `arrays` are those of `planes.plane`; axes in units of weight space. The colours of the loss are logarithmic, and
    all alike from `worst` nats on: by default from ln 10, the loss of knowing nothing of ten classes.
    """
    figure, axes = grid(1, 2, height)
    # The walls around a valley are no news.
    loss = np.minimum(arrays["train_loss"], worst)
    cut = " and more" if (arrays["train_loss"] > worst).any() else ""
    shades = {"training loss": np.log10(loss), "distance term": arrays["hills"]}
    for axis, (title, shade), value in zip(axes.flat, shades.items(), (loss, arrays["hills"]), strict=True):
        axis.pcolormesh(arrays["xs"], arrays["ys"], shade, cmap="viridis", shading="gouraud", rasterized=True)
        x, y, _ = arrays["path"].T
        axis.plot(x, y, "-", color="0.2", linewidth=2)  # a rim, so that white is seen on yellow too
        axis.plot(x, y, "-", color="white", linewidth=1)
        axis.plot(*arrays["minima"].T, "*", color="C3", markersize=9, markeredgecolor="white", markeredgewidth=0.6)
        for number, place in enumerate(arrays["minima"], start=1):
            x, y = (np.abs(arrays[name] - at).argmin() for name, at in zip(("xs", "ys"), place, strict=True))
            colour = "black" if shade[y, x] > (shade.min() + shade.max()) / 2 else "white"
            axis.annotate(str(number), place, xytext=(4, 4), textcoords="offset points", color=colour)
        ends = [(values[0], values[-1]) for values in (arrays["xs"], arrays["ys"])]
        title = f"{title}, {value.min():.2g} (dark) to {value.max():.2g}" + (cut if value is loss else "")
        axis.set(xlim=ends[0], ylim=ends[1], title=title)
        axis.set(xlabel="along the line from 1 to 2", ylabel="away from it, towards 3")
    return figure


@styled()
def cost(results: Results, height: float = 2.5) -> Figure:
    """Left: training time over the number of minima (median, middle half of epochs), relative to none; the thesis' too.

    Right: seconds of an epoch of full MNIST, written by hand and by thesislib, as `make bench` has measured them.
    Raises UserError if its table is missing, and as `claims.times` does.
    """
    need_results(results)
    path = ROOT / "figures" / "reference" / "bench.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing: it is part of the repository (make bench writes it)")
    bench = pd.read_csv(path)
    figure, axes = grid(1, 2, height)
    own, measured = axes[0]
    styles, history = line_styles(results.labels), claims.times(results)
    history = history.assign(cost=history["train_seconds"] / history["without"])
    hills = np.array(sorted(history["hills"].unique()))
    for number, (network, some) in enumerate(history.groupby("network", sort=False)):
        for label, rows in some.groupby("label", sort=False):
            name = label if history["network"].nunique() == 1 else f"{label}, {network}"
            line = curve_style(styles, label, len(hills)) | {"linestyle": "-:"[number % 2], "label": name}
            sns.lineplot(
                rows, x="hills", y="cost", estimator="median", errorbar=("pi", 50), ax=own, legend=False, **line
            )
    for name, increase, colour, dashes in (
        ("thesis, MobileNetV2", 0.29, "0.2", "--"), ("thesis, ResNet-32", 0.18, "0.5", "-."),
    ):  # fmt: skip
        own.plot(hills, 1 + increase * hills, linestyle=dashes, color=colour, label=name)
    own.set(xlabel="minima", ylabel="relative training time")
    # Always the same ticks: labels that get wider after the layout was found push the axis label out of the figure.
    own.yaxis.set_major_locator(MaxNLocator(integer=True))
    own.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))  # no half minima
    for name, colour, marker, kind in (("by hand, autograd", "0.5", "v", "a"), ("thesislib", "0.1", "D", "b")):
        rows = bench[bench["case"].str.fullmatch(rf"{kind}\d+")]
        measured.plot(rows["case"].str[1:].astype(int), rows["seconds"], f"{marker}-", color=colour, label=name)
    measured.set(xlabel="minima", ylabel="epoch of MNIST [s]")
    measured.set_ylim(bottom=0)
    note_seeds(figure, history)
    note(figure, "left: medians of epochs, bands: their middle half")
    legend_below(figure, own, measured)
    return figure


@styled()
def forest(statements: pd.DataFrame) -> Figure:
    """Effects and intervals of statements, a row a unit, a column a network; grey is what counts as the same.

    Open circles: the hills of that statement are not left, or its networks do not learn, so that it is not tested.
    Premises are left out: theirs are effects of another size.
    """
    need(statements, ["claim", "says", "verdict", "premise", "effect", "low", "high", "margin", "unit", "network", "n"])
    statements = statements[~statements["premise"]]
    shown = {
        "reproduced": ("C0", "o"),
        "not reproduced": ("C3", "s"),
        "undecided": ("0.3", "x"),
        "not settled or not testable": ("0.6", "o"),
    }
    units = {
        "factor": "factor (of $d$, of errors)",  # longer, it would leave a page of 345 pt
        "points": "points of accuracy",
        "points of agreement": "points of agreement",
        "percent": "percent of an epoch",
    }
    verdicts = statements["verdict"].replace(["not settled", "not testable"], [*shown][-1])
    table = statements.assign(statement=statements["claim"] + " " + statements["says"], verdict=verdicts)
    networks = list(table["network"].unique())
    listed = {unit: list(table[table["unit"] == unit]["statement"].unique()) for unit in units}
    listed = {unit: some for unit, some in listed.items() if some}
    if not listed:
        raise UserError("there is no statement to show but premises")
    counts = [len(some) for some in listed.values()]
    height = (0.13 * sum(counts) + 0.55 * len(listed)) / len(listed)
    figure, axes = grid(len(listed), len(networks), height, gridspec_kw={"height_ratios": counts})
    for axis, (unit, network) in zip(axes.flat, itertools.product(listed, networks), strict=True):
        rows = table[(table["unit"] == unit) & (table["network"] == network)]
        rows = rows.assign(place=[listed[unit].index(statement) for statement in rows["statement"]])
        for outcome, (colour, marker) in shown.items():
            some = rows[(rows["verdict"] == outcome) & np.isfinite(rows["effect"])]
            error = np.abs(some[["low", "high"]].sub(some["effect"], axis=0)).to_numpy(float).T
            error = np.where(np.isinf(error).any(axis=0), 0, error)  # of one seed: a factor's interval is (0, inf) then
            face = "white" if outcome == [*shown][-1] else colour
            axis.errorbar(some["effect"], some["place"], xerr=error, fmt=marker, color=colour, mfc=face, label=outcome)
        end, nothing = len(listed[unit]) - 0.5, 1 if unit == "factor" else 0
        axis.plot([nothing] * 2, [-0.5, end], color="0.6", linewidth=0.6, zorder=0.5)
        # A band of its own a statement, in data coordinates: matplot2tikz misplaces what axvspan draws.
        band = rows.groupby("place")["margin"].max().repeat(2)
        edges = band.index + np.tile([-0.5, 0.5], len(band) // 2)
        axis.fill_betweenx(edges, 1 / band if unit == "factor" else -band, band, color="0.9", linewidth=0, zorder=0)
        axis.set(xlabel=units[unit], ylim=(end, -0.5), xscale="log" if unit == "factor" else "linear")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        log_ticks(axis)
        first = network == networks[0]
        axis.set_yticks(range(len(listed[unit])), listed[unit] if first else [" "] * len(listed[unit]))
        axis.tick_params(axis="y", labelsize=7)
        if len(networks) > 1 and unit == next(iter(listed)):
            axis.set_title(network)
    if len(n := statements.loc[np.isfinite(statements["effect"]), "n"]):
        note(figure, count(n), f"{100 * LEVEL:g} % intervals")
    legend_below(figure, axes[0, 0])
    return figure
