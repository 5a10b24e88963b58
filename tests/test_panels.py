import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import PATIENCE, TINY, trained
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from PIL import Image

from thesislib import datasets
from thesislib.config import Run
from thesislib.plots import curves, layout, panels, save, style
from thesislib.plots.tables import readable
from thesislib.plots.tex import PREAMBLE
from thesislib.runs import copies
from thesislib.runs.finished import Result
from thesislib.runs.results import Results, Row
from thesislib.system.errors import UserError

needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two settings with two seeds; trained once, in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THESIS_RUNS", str(tmp_path_factory.mktemp("runs")))
        found = trained(
            {"no term": [TINY.replace(strength=0, seed=s) for s in (0, 1)], "s = 1": [TINY, TINY.replace(seed=1)]}
        )
        assert len(found.history) == 4 * TINY.epochs  # read, as long as the folder is known
    return found


def test_every_figure_comes_in_four_files(chapter):
    moving = {path.stem for path in chapter.figures.glob("*.gif")}
    names = {path.stem for path in chapter.figures.glob("*.json")} - moving
    assert len(names) >= 20
    for name in names:
        for kind in ("pgf", "pdf", "png", "json"):
            assert (chapter.figures / f"{name}.{kind}").stat().st_size > 100
        assert Image.open(chapter.figures / f"{name}.png").width == round(style.TEXTWIDTH * 200)


def test_provenance(results, folders):
    save.save(curves.curves(results), "curves", results)
    provenance = json.loads((folders / "figures" / "smoke" / "curves.json").read_text())
    assert provenance["runs"] == {label: [row.id for row in results.only(label)] for label in results.labels}
    assert provenance["common"]["model"] == "mlp-tiny"
    assert provenance["varied"]["no term"]["strength"] == 0
    assert {"scale", "versions", "commit", "time"} <= provenance.keys()
    one = results.of([Row(TINY, "mine"), Row(TINY.replace(seed=1, lr=0.2), "mine"), Row(TINY.replace(lr=0.2), "other")])
    assert save._provenance(one)["varied"] == {
        "mine": {"seed": [0, 1], "lr": [0.1, 0.2]}, "other": {"seed": 0, "lr": 0.2}
    }  # fmt: skip


@pytest.mark.parametrize("name", ["", ".hidden", "../x", "a/b", "mine.pdf", 300 * "x", 100 * "数", None])
def test_a_name_that_leads_elsewhere_is_one_line(results, folders, name):
    for write in (
        lambda: save.save(curves.curves(results), name, results),
        lambda: save.table(results.final, name, results),
    ):
        with pytest.raises(UserError, match="is made of letters, digits, _, - and blanks, 100 bytes at most, not "):
            write()
    assert not (folders / "figures").exists()


def test_only_whole_figures_of_results_are_saved(results, folders):
    figure = curves.curves(results)
    for what, name, runs, says in (
        (figure, "chapter", results, "cannot be called chapter"),
        (figure.axes[0], "mine", results, "axis.figure"),
        (figure, "mine", [TINY], "tl.section or tl.train"),
    ):
        with pytest.raises(UserError, match=says):
            save.save(what, name, runs)
    assert not save.figures_folder("smoke").exists()


def test_columns_are_a_list(results):
    with pytest.raises(UserError, match=r"columns are a list: \['accuracy'\], not 'accuracy'"):
        curves.curves(results, "accuracy")


def test_a_curve_says_whether_its_hill_is_left(tiny):
    """N in the legend, in a figure and its PGF; none where there is no hill, or runs of a label differ in it."""
    runs = {
        "no term": [tiny.replace(strength=0)], "s = 10": [tiny.replace(strength=10, width=0.01)],
        "narrow": [tiny.replace(width=1e5)], "random": [tiny.replace(push="random")],
        "both": [tiny.replace(width=1), tiny.replace(width=2, seed=1)],
    }  # fmt: skip
    figure = curves.curves(trained(runs), ["accuracy"])
    # 4 s w lr / (1 - mu) a step: 4 * 10 * 0.01 * 0.1 / 0.1 in each of 4 steps of 4 epochs
    expected = ["no term", "s = 10 ($N = 6.4$)", "narrow ($N > 9999$)", "random", "both"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == expected


def test_pgf_has_the_legend_once_and_every_line(results, folders):
    save.save(curves.curves(results), "curves", results)
    code = (folders / "figures" / "smoke" / "curves.pgf").read_text()
    assert re.findall(r"\\addlegendentry\{(.*)\}", code) == ["no term", "s = 1 ($N = 0.1$)"]
    assert code.count(r"\begin{axis}") == 2 + 1  # the legend's
    assert code.count(r"\addplot") >= 4
    assert r"\textwidth" in code


def test_the_band_is_one_standard_deviation(results):
    figure = curves.curves(results, ["accuracy"], log=[])
    band = figure.axes[0].collections[1].get_paths()[0].vertices
    at_end = results.final.query("label == 's = 1'")["accuracy"]
    last = band[band[:, 0] == 6][:, 1]
    assert sorted({last.min(), last.max()}) == pytest.approx(
        [at_end.mean() - at_end.std(ddof=1), at_end.mean() + at_end.std(ddof=1)]
    )


def test_a_setting_looks_the_same_everywhere():
    styles = style.line_styles(["no term", "s = 10", "lr = 1", "cosine", "cosine, term"])
    assert style.line_styles(["cosine", "s = 10"])["s = 10"] == styles["s = 10"]
    assert styles["cosine"].color == styles["cosine, term"].color
    assert styles["cosine"].linestyle != styles["cosine, term"].linestyle
    assert len({one.color for one in styles.values()}) == 4
    many = style.line_styles([f"w = {k}" for k in range(20)])
    assert len({one.color for one in many.values()}) == 20
    for some in (styles, many):  # in grey print as well
        assert len({(one.linestyle, one.marker) for one in some.values()}) == len(some)


def test_panels_alike_have_one_axis():
    rows = [{"label": "a", "network": "m", "x": x, "y": 10 * x, "z": x} for x in (1.0, 2.0)]
    x, y, z = panels.points(pd.DataFrame(rows), {"x": "x", "y": "y", "z": "z"}, alike=[("x", "y")]).axes
    assert x.get_xlim() == y.get_xlim() != z.get_xlim()


def test_a_reference_is_a_dotted_line_at_its_mean():
    """Behind its own network's settings, in every panel, and no setting itself; NaN, of a single network, is none."""
    values = {"a": {"mlp": 1.0, "resnet": 5.0}, "five full": {"mlp": 2.0, "resnet": 7.0}}
    rows = [
        {"label": label, "network": network, "x": value + seed, "y": np.nan if label == "five full" else value}
        for label, of in values.items()
        for network, value in of.items()
        for seed in (0, 1)
    ]
    x, y = panels.points(pd.DataFrame(rows), {"x": "x", "y": "y"}, reference="five full").axes
    assert [text.get_text() for text in x.get_yticklabels()] == ["a, mlp", "a, resnet"]
    dotted = [line for line in x.lines if line.get_linestyle() == ":"]
    assert [[*line.get_xdata(), *line.get_ydata()] for line in dotted] == [[2.5, 2.5, -0.5, 0.5], [7.5, 7.5, 0.5, 1.5]]
    assert not [line for line in y.lines if line.get_linestyle() == ":"]


@pytest.mark.parametrize(("values", "ticks"), [([0.5, 1.0, 4.0], ["0.5", "1", "4"]), (range(1, 60), None)])
def test_what_was_tried_has_a_tick_each(values, ticks):
    table = pd.DataFrame({"label": "a", "network": "mlp", "seed": 0, "factor": values, "accuracy": 0.5})
    (axis,) = curves.against(table, "factor", ["accuracy"], log=["factor"]).axes
    assert ticks is None or [text.get_text() for text in axis.get_xticklabels()] == ticks
    assert (len(axis.get_xticks(minor=True)) == 0) == (ticks is not None)


def test_what_is_far_worse_than_the_best_leaves_the_panel():
    """The loss of 0.5 and the error of 10 % are the least: panels end a little below them, and at 1.6 times them."""
    rows = {"factor": [1.0, 2.0, 4.0], "nll_ensemble_scaled": [0.5, 0.6, 2.3], "accuracy_ensemble": [0.9, 0.88, 0.1]}
    table = pd.DataFrame(rows | {"label": "a", "network": "mlp", "seed": 0})
    loss, accuracy = curves.against(table, "factor", [*rows][1:], log=["factor"], near_best=True).axes
    assert loss.get_ylim() == pytest.approx((0.45, 0.8))
    assert accuracy.get_ylim() == pytest.approx((0.84, 0.91))


def test_networks_are_not_averaged():
    """Two networks under one label, as at scale thesis: a panel each, whatever the figure."""
    small = Run(data="cifar10", model="resnet20", epochs=2, minima_every=1)
    rows = {"epoch": [1, 2], "accuracy": [0.5, 0.6], "d_0": [0.0, 1.0], "members": [1, 2]}
    table = pd.concat(
        pd.DataFrame(rows).assign(label="s = 1", network=model, seed=seed, id=f"{model}{seed}", d_0=[0.0, d + seed])
        for model, d in (("resnet20", 1.0), ("mobilenetv2", 100.0))
        for seed in (0, 1)
    )
    results = Results({"s = 1": [small]})
    results.__dict__["history"] = table.reset_index(drop=True)
    for figure in (curves.distances(results), curves.curves(results, ["d_0"], log=[])):
        ends = [axis.lines[0].get_ydata()[-1] for axis in figure.axes]
        assert ends == [1.5, 100.5]
        assert all(
            name in axis.get_title() for name, axis in zip(("resnet20", "mobilenetv2"), figure.axes, strict=True)
        )


def test_lines_that_coincide_all_show(results):
    """The learning rate of all settings is the same: each line leaves some of those before it in sight."""
    figure = curves.curves(results, ["lr"], stripes=True)
    drawn = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    assert len(drawn) > 1
    assert all((line.get_ydata() == drawn[0].get_ydata()).all() for line in drawn)
    widths = [line.get_linewidth() for line in drawn]
    assert widths == sorted(set(widths), reverse=True)


def test_columns_may_be_a_tuple(results):
    axes = curves.against(results.history, "epoch", ("d_0", "d_init"), ("d_0", "d_init"), same_scale=True).axes
    assert len({axis.get_ylim() for axis in axes}) == 1


def test_smoothing(results):
    def line(smoothing):
        return curves.curves(results, ["accuracy"], smoothing, log=[]).axes[0].lines[0].get_ydata()

    assert line(3)[-1] == pytest.approx(line(1)[-3:].mean())
    with pytest.raises(UserError, match="smoothing"):
        line(0)


def test_diverged_runs_still_draw(tiny, folders):
    results = trained({"fine": [tiny.replace(cycle=2)], "diverged": [tiny.replace(cycle=2, lr=1e6)]})
    for k, figure in enumerate((curves.curves(results), curves.distances(results), curves.lengths(results))):
        save.save(figure, f"diverged{k}", results)
        assert (save.figures_folder("smoke") / f"diverged{k}.png").exists()


def test_networks_that_exploded_leave_the_heat_map_legible():
    """A squared distance of 37 digits is written short, and the others keep their shades."""
    runs = [Run(strength=s, width=w, minima_every=1) for s in (1.0, 10.0) for w in (0.01, 0.1)]
    results = Results({str(k): [run] for k, run in enumerate(runs)})
    rows = [
        {"network": "mlp", "id": row.id, "label": row.label, "strength": 0, "accuracy": 0.9, "d_0": d}
        for row, d in zip(results, (100.0, 2000.0, 3.4e37, np.inf), strict=True)
    ]
    results.__dict__["history"] = pd.DataFrame(rows)
    axis = panels.heatmaps(results, ["d_0"]).axes[0]
    assert [text.get_text() for text in axis.texts] == ["3e+37", "inf", "100", "2000"], "s = 10 above"
    (mesh,) = axis.collections
    assert mesh.get_array().ravel().tolist() == pytest.approx([6, 6, 2, np.log10(2000)])


def test_the_legend_says_whose_curve_is_in_no_panel(results):
    """Of a network that never learns: how far it went, a little or too far for the panel, says nothing."""
    lost = results.history.copy()
    dead = lost["label"] == "s = 1"
    for accuracy, distance, seen in ((0.1, 1e9, False), (0.1, 5.0, False), (lost["accuracy"].max(), 5.0, True)):
        lost.loc[dead, ["accuracy", "d_0"]] = accuracy, distance
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(results.__dict__, "history", lost)
            figure = curves.curves(results, ["accuracy", "d_0"])
        _, label = (text.get_text() for text in figure.legends[0].get_texts())
        assert label.startswith("s = 1") and label.endswith("(not in sight)") is not seen
        assert ("no distances where nothing is learned" in small_print(figure)[0]) is not seen


def test_who_learns_less_than_the_best_keeps_its_distances(results):
    """Guessing is what counts, not what stands beside it: a table has these distances, too."""
    weak = results.history.copy()
    dead = weak["label"] == "s = 1"
    weak.loc[~dead, "accuracy"], weak.loc[dead, ["accuracy", "d_0"]] = 0.9, (0.3, 5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(results.__dict__, "history", weak)
        figure = curves.curves(results, ["accuracy", "d_0"])
    assert any(np.isclose(line.get_ydata(), 5.0).any() for line in figure.axes[1].lines)
    assert "no distances" not in small_print(figure)[0]


def small_print(figure):
    """What stands at the lower right."""
    return [text.get_text() for text in figure.texts if text.get_gid() == "note"]


def test_small_print_says_n_and_what_a_band_is(results, tiny):
    assert small_print(curves.curves(results, ["accuracy"])) == ["n = 2; bands: ± 1 SD"]
    assert small_print(curves.curves(results)) == ["n = 2; bands: ± 1 SD, on log axes of the log"]
    assert small_print(curves.lengths(results, ["accuracy"], cycle=2)) == ["n = 2; bars: ± 1 SD"]
    few = results.of([row for row in results if (row.label, row.seed) != ("s = 1", 1)])
    assert small_print(curves.curves(few, ["accuracy"])) == ["n = 1 to 2; bands: ± 1 SD"]
    one = results.of([row for row in results if row.seed == 0])
    assert small_print(curves.curves(one)) == ["n = 1"], "a single seed has no band"


def test_some_labels_alone_have_bands():
    """Where bands of all would lie on each other."""
    rows = [{"label": label, "network": "m", "seed": seed, "x": x, "y": x + seed}
            for label in "ab" for seed in (0, 1) for x in (1.0, 2.0)]  # fmt: skip
    figure = curves.against(pd.DataFrame(rows), "x", ["y"], banded=["b"])
    (band,) = figure.axes[0].collections
    assert to_hex(band.get_facecolor()[0]) == to_hex(figure.axes[0].lines[1].get_color())
    assert small_print(figure) == ["n = 2; bands: ± 1 SD of b"]
    with pytest.raises(UserError, match="banded is a list of labels, of which 'c' is none"):
        curves.against(pd.DataFrame(rows), "x", ["y"], banded=["c"])


def test_small_print_counts_the_seeds_that_have_a_value():
    table = pd.DataFrame({"label": "a", "network": "m", "seed": [0, 1, 2], "x": [1.0, 2.0, 3.0], "y": [1.0, np.nan, 2]})
    assert small_print(panels.points(table, ["x"])) == ["n = 3"]
    assert small_print(panels.points(table, ["x", "y"])) == ["n = 2 to 3"]
    assert small_print(panels.scatter(table, "x", "y")) == ["n = 2"]


@pytest.mark.parametrize("width", layout.WIDTHS)
def test_small_print_fits_below_all_else(results, width):
    figure = curves.curves(results)
    layout.note(figure, "CIFAR-10 (JPEG)")
    layout.note(figure, "CIFAR-10 (JPEG)")
    assert small_print(figure) == ["n = 2; bands: ± 1 SD, on log axes of the log; CIFAR-10 (JPEG)"], "said once"
    height = figure.get_figheight()
    with style.styled(), layout.laid_out(figure, layout.WIDTHS[width]):
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        (text,) = figure.texts
        box, legend = text.get_window_extent(renderer), figure.legends[0].get_window_extent(renderer)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        assert box.y1 <= legend.y0 + 1
        assert all(legend.y1 <= axis.get_tightbbox(renderer).y0 + 1 for axis in figure.axes), "nor on a panel"
    assert figure.get_figheight() == height


@pytest.mark.parametrize("width", layout.WIDTHS)
def test_long_small_print_has_several_lines(results, width):
    """As large as ever, on the narrowest page too, below the legend; the figure is as before afterwards."""
    figure = curves.curves(results)
    layout.note(figure, *(f"something rather long, number {k}" for k in range(6)))
    height, said = figure.get_figheight(), small_print(figure)
    with style.styled(), layout.laid_out(figure, layout.WIDTHS[width]):
        figure.draw_without_rendering()
        (text,) = figure.texts
        box, legend = text.get_window_extent(), figure.legends[0].get_window_extent()
        assert text.get_fontsize() == 6
        assert "\n" in text.get_text()
        assert text.get_text().replace("\n", " ") == said[0].replace("\n", " ")
        assert box.width * 72 / figure.dpi <= layout.NARROWEST
        assert min(box.x0, box.y0) >= 0 and box.y1 <= legend.y0 + 1
    assert (figure.get_figheight(), small_print(figure)) == (height, said)


@pytest.mark.parametrize("first", ["$d_0 = 3 \\cdot 10^6$ at most", "well-known photographs"])
def test_small_print_breaks_no_formula_and_no_word(results, first):
    """However wide the figure is, and when more is added; said once, it is not said again."""
    figure = curves.curves(results)
    many = [f"{first}, number {k}" for k in range(8)]
    layout.note(figure, *many)
    with style.styled(), layout.laid_out(figure, 3.0):
        figure.draw_without_rendering()
        assert all(line.count("$") % 2 == 0 for line in figure.texts[0].get_text().split("\n"))
    layout.note(figure, *many, "the last")
    said = small_print(figure)[0].replace("\n", " ")
    assert [said.count(one) for one in many] == [1] * 8


def test_marks_without_lines_tell_labels_apart(tiny):
    """Where what follows the comma has no dashes to show: full, hollow, then another mark."""
    labels = [f"lr 0.1, s = {s}" for s in (1, 10, 100, 1000)]
    table = pd.DataFrame({"label": labels, "network": "m", "seed": 0, "x": range(4), "y": range(4), "epoch": 1})
    for figure in (panels.scatter(table, "x", "y"), curves.against(table, "epoch", ["y"])):
        lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
        assert len({(line.get_marker(), line.get_markerfacecolor()) for line in lines}) == 4
        assert len({line.get_color() for line in lines}) == 1


def test_small_print_says_what_curves_leave_out(results):
    assert "means of 2 epochs" in small_print(curves.curves(results, smoothing=2))[0]
    far = results.of(results)
    far.history["d_0"] *= 1e9
    assert "curves end at $10^6$" in small_print(curves.curves(far))[0]


def test_logarithmic_axes_have_numbers_that_are_read_at_once():
    """Over a decade or two 20, 50, 100; where there are many, or far from 1, powers of ten."""
    for ends, expected in (
        ((15, 140), {"20", "50", "100"}),
        ((620, 1032), {"700", "800", "900", "1000"}),
        ((0.5, 2000), {"1", "10", "100", "1000"}),
        ((1e-6, 1e-2), {r"$\mathdefault{10^{-6}}$", r"$\mathdefault{10^{-4}}$", r"$\mathdefault{10^{-2}}$"}),
    ):
        with style.styled():
            figure, axes = style.grid(1, 1, 2.5)
            axes[0, 0].plot([0, 1], ends)
            axes[0, 0].set(yscale="log", ylim=ends)
            style.log_ticks(axes[0, 0])
            figure.draw_without_rendering()
        low, high = ends
        axis = axes[0, 0].yaxis
        shown = {
            label.get_text()
            for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            if low <= place <= high
        }
        assert expected <= shown and "" not in shown
        assert not any(label.get_text() for label in axis.get_ticklabels(minor=True))
        plt.close(figure)


def test_error_bars_on_a_logarithmic_axis_are_of_the_logarithm():
    """1 and 100: their mean is 10, one deviation of the logarithm is 26 times as much or as little."""
    with style.styled():
        _, axes = style.grid(1, 2, 2.0)
        axes[0, 0].set_yscale("log")
        values = pd.Series([1.0, 100.0], index=[3, 3])
        log, plain = (style.error_bars(axis, values) for axis in axes.flat)
    assert log.get_ydata().item() == pytest.approx(10)
    assert plain.get_ydata().item() == pytest.approx(50.5)
    factor = np.exp(np.std(np.log([1, 100]), ddof=1))
    (bars,) = axes[0, 0].containers[0].lines[2]
    assert bars.get_segments()[0][:, 1] == pytest.approx([10 / factor, 10 * factor])


def test_dotted_lines_are_where_hills_appear(tiny):
    """Not at minima that a run without a term records, nor at the end, where nothing follows."""
    runs = {
        "no term": [tiny.replace(strength=0, minima_every=1, epochs=4)],
        "term": [tiny.replace(minima_every=2, epochs=4)],
    }
    both = trained(runs)
    for results, expected in ((both, {2}), (both.only("no term"), {1, 2, 3})):
        (axis,) = curves.curves(results, ["accuracy"]).axes
        dotted = {line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"}
        assert dotted == expected


def test_a_table_without_rows_is_a_mistake(results):
    with pytest.raises(UserError, match="^there is nothing to draw: the table has no rows"):
        curves.against(results.final.iloc[:0], "epoch", ["accuracy"])


def test_error_bars_have_caps(results):
    """Of the marks only the caps have an edge: it is all that is seen of them."""
    for axis in curves.lengths(results, cycle=2).axes:
        for line, caps, _ in axis.containers:
            assert line.get_markeredgewidth() == 0 and line.get_markersize() > 0
            assert len(caps) == 2 and all(cap.get_markeredgewidth() == 1 for cap in caps)


def test_one_seed_has_no_error_bar(tiny, folders):
    results = trained({"no term": [tiny.replace(cycle=2, strength=0)], "s = 1": [tiny.replace(cycle=2)]})
    for k, figure in enumerate((curves.lengths(results), panels.endpoints(results, "strength"))):
        assert not [c for axis in figure.axes for c in axis.collections]
        save.save(figure, f"single{k}", results)
        code = (folders / "figures" / "smoke" / f"single{k}.pgf").read_text()
        assert "mark=-" not in code
        assert "nan" not in code


def test_a_figure_saved_twice_has_its_note_once(photographs, monkeypatch, folders):
    monkeypatch.setitem(copies.VARIANTS, datasets.fingerprint("cifar10"), "CIFAR-10 (noise)")
    run = Run(data="cifar10", model="resnet20", epochs=2, minima_every=1)
    results = Results({"s = 1": [run]}, "smoke")
    results[0].__dict__["result"] = Result(run, Path())
    figure, _ = style.grid(1, 1, 2.0)
    for name in ("first", "second"):
        save.save(figure, name, results)
        assert (folders / "figures" / "smoke" / f"{name}.pgf").read_text().count("CIFAR-10 (noise)") == 1


def test_the_networks_of_a_scale_stand_side_by_side_in_the_claims():
    rows = [
        {"claim": "C1", "says": says, "verdict": "reproduced", "unit": "points", "effect": effect, "low": 1.0,
         "high": 9.0, "margin": 1.0, "network": network, "premise": says == "it was", "n": 3}
        for network, effect, says in
        (("resnet32", 4.0, "it is"), ("mobilenetv2", 5.0, "it is"), ("resnet32", -80.0, "it was"))
    ]  # fmt: skip
    axes = panels.forest(pd.DataFrame(rows)).axes
    assert [axis.get_xlabel() for axis in axes] == ["points of accuracy"] * 2, "no panel of what nothing is said about"
    assert [axis.get_title() for axis in axes] == ["resnet32", "mobilenetv2"]
    assert [axis.lines[0].get_xydata().tolist() for axis in axes] == [[[4, 0]], [[5, 0]]]
    assert [[label.get_text() for label in axis.get_yticklabels()] for axis in axes] == [["C1 it is"], [" "]]
    with pytest.raises(UserError, match="no statement to show but premises"):
        panels.forest(pd.DataFrame(rows[2:]))


def compile_tex(folder: Path, name: str) -> str:
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
    environment = os.environ | {"max_print_line": "1000"}  # no line breaks within file names
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == 0, process.stdout[-3000:]
    return (folder / name).with_suffix(".log").read_text(errors="replace")


@needs_tex
def test_all_figures_in_one_document_without_overfull_boxes(chapter):
    log = compile_tex(chapter.figures, "figures.tex")
    assert "Overfull" not in log
    assert re.search(r"Output written on figures\.pdf \(\d+ pages", log)


@needs_tex
def test_figures_are_found_from_a_thesis_elsewhere(chapter, tmp_path):
    """The folder dropped into a thesis, \\graphicspath set: side images of heat maps are found."""
    shutil.copytree(chapter.figures, tmp_path / "thesis" / "chapters" / "plots")
    heatmap = (tmp_path / "thesis" / "chapters" / "plots" / "2-3_interaction.pgf").read_text()
    assert "2-3_interaction-smoke-000.png" in heatmap, "of another scale it is another one"
    document = (
        r"\documentclass{article}", *PREAMBLE, r"\graphicspath{{chapters/plots/}}", r"\begin{document}",
        r"\input{chapters/plots/2-3_interaction.pgf}", r"\end{document}",
    )  # fmt: skip
    (tmp_path / "thesis" / "thesis.tex").write_text("\n".join(document))
    log = compile_tex(tmp_path / "thesis", "thesis.tex").replace("//", "/")
    assert "File: chapters/plots/2-3_interaction-smoke-000.png" in log


def test_runs_shorter_than_a_cycle_are_one_line(tiny):
    results = trained({"s = 1": [tiny.replace(cycle=10)]})
    with pytest.raises(UserError, match="no run is as long as a cycle: 6 epochs of 10; give cycle=6 or less"):
        curves.lengths(results)


def test_columns_and_fields_that_are_not_there_are_one_line(tiny):
    """And those without a name for axes have their own."""
    none = trained({"plain": [tiny.replace(minima_every=None)]})
    assert [axis.get_ylabel() for axis in curves.curves(none).axes] == ["test accuracy"], "no minima, so no distance"
    with pytest.raises(UserError, match="no column acuracy: is it accuracy"):
        curves.curves(none, ["acuracy"])
    with pytest.raises(UserError, match="no column acuracy"):
        none.table("acuracy")
    runs = trained({"": [tiny.replace(momentum=mu) for mu in (0.0, 0.9)]})
    (axis,) = panels.endpoints(runs, "momentum", ["seconds"]).axes
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_xscale()) == ("momentum", "seconds", "linear")
    assert list(axis.lines[0].get_xdata()) == [0.0, 0.9]
    with pytest.raises(UserError, match="a run has no field mu: choose from data, train_size"):
        panels.endpoints(runs, "mu")
    with pytest.raises(UserError, match="kernel is no number"):
        panels.endpoints(runs, "kernel")
    with pytest.raises(UserError, match="minima_every"):
        panels.cost(none)
    with pytest.raises(UserError, match="there are no runs to read"):
        curves.lengths(runs.where(seed=7))
    with pytest.raises(UserError, match="no column lss"):
        curves.steps(trained({"": [tiny.replace(dense_steps=8)]}), ["lss"])
    table = runs.final
    for draw in (
        lambda: panels.heatmaps(runs, ["acuracy"]),
        lambda: panels.points(table, {"acuracy": "accuracy"}),
        lambda: panels.scatter(table, "accuracy", "acuracy"),
        lambda: curves.against(table, "acuracy", ["accuracy"]),
        lambda: curves.lengths(runs, ["acuracy"], cycle=3),
    ):
        with pytest.raises(UserError, match="no column acuracy"):
            draw()
    with pytest.raises(UserError, match="train them with dense_steps"):
        curves.steps(runs, ["loss"])


def test_strengths_stand_on_a_logarithmic_axis_beside_runs_without(tiny):
    runs = trained({"no term": [tiny.replace(strength=0)], "term": [tiny.replace(strength=s) for s in (0.1, 1, 10)]})
    (axis,) = panels.endpoints(runs, "strength", ["accuracy"]).axes
    assert axis.get_xscale() == "log"
    assert list(axis.lines[0].get_xdata()) == [0.1, 1, 10]


@pytest.mark.parametrize(
    ("term", "base", "labels", "across"),
    [
        ((0.1, 0.2), (), {"term"}, [0.1, 0.2]),
        ((), (0.1, 0.2), {"no term"}, [0.1, 0.2]),
        ((), (0.1,), {"no term"}, [0.1]),
        ((0.1, 0.2), (0.1,), {"term", "no term"}, [0, 1]),
        ((0.1, 0.2), (0.2, 0.4), {"term", "no term"}, [0.2, 0.4]),
    ],
)
def test_ends_are_drawn_where_there_are_runs(term, base, labels, across):
    """Runs without a hill are a line across, or a point at each value of the field that they have."""
    runs = {"term": [TINY.replace(lr=lr) for lr in term], "no term": [TINY.replace(lr=lr, strength=0) for lr in base]}
    results = Results({label: some for label, some in runs.items() if some}, "smoke")
    front = {"section": "", "role": "curve", "network": "mlp-tiny", "seed": 0}
    results.history = pd.DataFrame([front | {"label": r.label, "id": r.id, "accuracy": r.run.lr} for r in results])
    figure = panels.endpoints(results, "lr", ["accuracy"])
    (axis,) = figure.axes
    assert {text.get_text() for text in figure.legends[0].get_texts()} == labels
    drawn = [*axis.containers, *(line for line in axis.lines if line.get_label() == "no term")]
    line = drawn[-1] if isinstance(drawn[-1], Line2D) else drawn[-1].lines[0]
    assert list(line.get_xdata()) == across
    assert axis.get_xscale() == "log"


def test_cost_is_relative_to_the_run_of_the_same_seed():
    """Seeds that two machines trained: one takes four times as long for all."""
    runs = {label: [TINY.replace(strength=s, seed=k) for k in (0, 1)] for label, s in (("no term", 0), ("s = 1", 1))}
    results = Results(runs, "smoke")
    results.history = pd.DataFrame(
        {"label": row.label, "network": "mlp-tiny", "seed": row.seed, "id": row.id, "strength": row.run.strength,
         "epoch": epoch, "train_seconds": (1, 4)[row.seed] * (1 + 0.5 * (row.run.strength > 0))}
        for row in results for epoch in range(1, 7)
    )  # fmt: skip
    lines = {line.get_label(): set(line.get_ydata()) for line in panels.cost(results).axes[0].lines}
    assert lines["no term"] == {1.0}
    assert lines["s = 1"] == {1.5}
    only = results.only("s = 1")
    only.history = results.history[results.history["label"] == "s = 1"]
    with pytest.raises(UserError, match="relative to runs with strength 0 of the same seeds: there are none"):
        panels.cost(only)


def test_numbers_below_narrow_panels_do_not_run_together():
    steps = np.geomspace(1, 1e4, 30)
    table = pd.DataFrame({"label": "s = 1", "network": "mlp", "seed": 0, "step": steps, **dict.fromkeys("abc", steps)})
    for columns, shown in (("abc", ["1", "100", "10000"]), ("ab", ["1", "10", "100", "1000", "10000"])):
        figure = curves.against(table, "step", list(columns), log=["step"])
        figure.draw_without_rendering()
        for axis in figure.axes:
            low, high = axis.get_xlim()
            places = axis.get_xticks()
            texts = [text.get_text() for text in axis.get_xticklabels()]
            assert [text for place, text in zip(places, texts, strict=True) if low <= place <= high] == shown


@pytest.mark.parametrize(("strengths", "widths"), [(20, 20), (2, 32)])
def test_every_row_and_column_of_a_heat_map_has_its_number(strengths, widths):
    """matplotlib would thin them out, and then had too few places for them."""
    grid = [(s + 1.0, w + 1.0) for s in range(strengths) for w in range(widths)]
    rows = [Row(Run(data="mnist5k", model="mlp-tiny", epochs=1, strength=s, width=w), "grid") for s, w in grid]
    results = Results(rows, "smoke")
    results.history = pd.DataFrame(
        {"section": "", "role": "curve", "label": "grid", "network": "mlp-tiny", "id": row.id, "accuracy": 0.5}
        for row in rows
    )
    (axis,) = panels.heatmaps(results, ["accuracy"]).axes
    above = [text.get_text() for text in axis.get_yticklabels()]
    assert above == [f"{s + 1}" for s in reversed(range(strengths))], "the tallest above"
    assert [text.get_text() for text in axis.get_xticklabels()] == [f"{w + 1}" for w in range(widths)]


def test_an_effect_of_one_seed_has_no_bar():
    """The interval of a factor is (0, inf) then; half a bar would say that it is known to one side."""
    row = {"claim": "C1", "says": "one", "network": "mlp", "verdict": "undecided", "effect": 1.5, "low": 0.0}
    row |= {"high": np.inf, "margin": 1.1, "unit": "factor", "premise": False, "n": 1}
    axis = panels.forest(pd.DataFrame([row])).axes[0]
    ends = [x for bars in axis.collections if isinstance(bars, LineCollection) for x in np.ravel(bars.get_segments())]
    assert set(ends[::2]) == {1.5}


def test_each_statement_has_its_own_band():
    """What counts as the same differs among those that stand in one panel."""
    rows = [
        {"claim": "C1", "says": says, "network": "mlp", "verdict": "reproduced", "effect": 0.1, "low": 0.0, "high": 0.2,
         "margin": margin, "unit": "points", "premise": False, "n": n}
        for says, margin, n in (("one", 0.2, 5), ("other", 0.5, 3))
    ]  # fmt: skip
    figure = panels.forest(pd.DataFrame(rows))
    assert small_print(figure) == ["n = 3 to 5; 95 % intervals"]
    (axis,) = figure.axes
    (band,) = [child for child in axis.collections if isinstance(child, PolyCollection)]
    corners = {(round(x, 3), round(y, 3)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(s * m, y + e) for m, y in ((0.2, 0), (0.5, 1)) for s in (-1, 1) for e in (-0.5, 0.5)}


def test_agreement_has_a_panel_of_its_own():
    """Its effects are ten times those of accuracy, whose intervals would vanish beside them."""
    row = {"claim": "C1", "says": "one", "network": "mlp", "verdict": "reproduced", "low": -0.1, "high": 0.2}
    row |= {"margin": 0.2, "premise": False, "n": 5}
    rows = [row | {"effect": 0.1, "unit": "points"}, row | {"effect": -13, "unit": "points of agreement"}]
    axes = panels.forest(pd.DataFrame(rows)).axes
    assert [axis.get_xlabel() for axis in axes] == ["points of accuracy", "points of agreement"]
    assert axes[0].get_xlim()[0] > -1


def test_a_figure_of_other_runs_does_not_take_a_sections_name(results, folders):
    """It would have the caption of that section's, or replace it; one of no runs would say of nothing what it shows."""
    figure = curves.curves(results)
    for name in ("1_baseline", "1_mine", "10-1_mine"):
        with pytest.raises(UserError, match=r"a figure of other runs cannot be called .*_ begins those of section 1"):
            save.save(figure, name, results)
    with pytest.raises(UserError, match="the figure mine would be of no runs"):
        save.save(figure, "mine", results.of([]))
    assert not (folders / "figures").exists()
    save.save(figure, "1_mine", Results(results, "smoke", "1_baseline"))
    save.save(figure, "99_mine", results)


def test_settings_of_two_roles_are_no_one_line(tiny):
    """Nor one row of dots: a mean over both would pass for one over seeds."""
    both = trained([Row(tiny, "s = 1"), Row(tiny.replace(lr=0.01), "s = 1", "other"), Row(tiny, "again")])
    says = r"'s = 1' has runs of several roles, curve, other: choose one, such as runs.where\(role='curve'\)"
    for draw in (
        lambda: curves.curves(both),
        lambda: curves.distances(both),
        lambda: curves.lengths(both, cycle=2),
        lambda: panels.points(both.final, ["accuracy"]),
        lambda: panels.scatter(both.final, "accuracy", "d_0"),
    ):
        with pytest.raises(UserError, match=says):
            draw()


def test_settings_that_differ_in_something_else_are_no_one_point(results):
    """Neither at one value of a field nor in one cell."""
    both = trained({label: [TINY.replace(lr=lr)] for label, lr in (("fast", 0.1), ("slow", 0.01))})
    for draw, of in (
        (lambda: panels.endpoints(both, "strength"), "strength 1.0"),
        (lambda: panels.heatmaps(both), "strength 1.0, width 0.001"),
    ):
        with pytest.raises(UserError, match=f"there are several rows of network mlp-tiny, {of}, seed 0"):
            draw()
    assert panels.endpoints(both, "lr").axes
    grid = trained({"grid": [TINY.replace(strength=s) for s in (1, 5)]})
    assert panels.endpoints(grid, "strength").axes, "fields tell them apart, whatever they are called"
    for draw in (lambda: curves.curves(grid), lambda: curves.distances(grid), lambda: readable(grid.final)):
        with pytest.raises(UserError, match="there are several rows of .*label grid"):
            draw()


def test_small_print_says_what_a_figure_does_not_show(tiny):
    results = trained({"fine": [tiny.replace(lr=0.2)], "dead": [tiny.replace(lr=1e6)]})
    shown = curves.curves(results, ["accuracy"])
    assert "1 run diverged and ends there" in layout._note(shown).get_text()
    assert "out of sight" not in layout._note(shown).get_text(), "the legend says it where no panel has a curve"
    pair = trained({"fine": [tiny.replace(lr=0.3)], "slow": [tiny.replace(lr=0.1)]})
    pair.__dict__["history"] = pair.history.assign(accuracy=np.where(pair.history["label"] == "fine", 0.9, 0.4))
    pair.history.loc[pair.history["epoch"] == 6, "accuracy"] += 0.01
    assert "1 curve of accuracy out of sight" in layout._note(curves.curves(pair)).get_text()


def test_small_print_is_of_the_figure_alone(tiny):
    """A shorter run of another network has not diverged, and no panel hides what its network does not have."""
    several = {"a": [tiny.replace(model="mlp", epochs=2), tiny], "b": [tiny.replace(strength=0)]}
    for labels in (several, {label: runs[::-1] for label, runs in several.items()}):
        assert layout._note(curves.curves(trained(labels))).get_text() == "n = 1"


def test_runs_that_saw_held_back_images_are_said_to(tiny, results):
    held_back = trained({"a": [tiny.replace(validation=True)]})
    for of, word in ((held_back, "validation accuracy"), (results, "test accuracy")):
        assert curves.curves(of).axes[0].get_ylabel() == word
        assert panels.endpoints(of, "lr").axes[0].get_ylabel() == word
        assert panels.heatmaps(of).axes[0].get_title() == word
    both = trained({"a": [tiny.replace(validation=True)], "b": [tiny]})
    assert curves.curves(both).axes[0].get_ylabel() == "accuracy"


def test_the_accuracy_of_a_mean_is_not_the_mean_accuracy(tiny):
    """In a run's metrics it is that of the mean weights, in a table of ensembles that of its members."""
    run = trained({"a": [tiny.replace(cycle=2, member_epochs=1)]})
    assert curves.curves(run, ["accuracy_mean"]).axes[0].get_ylabel() == "accuracy of the mean weights"
    table = pd.DataFrame({"label": "a", "network": "mlp", "seed": [0, 1], "accuracy_mean": 0.5})
    assert panels.points(table, ["accuracy_mean"]).axes[0].get_xlabel() == "mean accuracy of the members"


def test_panels_of_one_scale_have_room_for_their_bands():
    table = pd.DataFrame({"label": "a", "network": "mlp", "seed": [0, 1, 0, 1], "x": [1, 1, 2, 2], "y": 1.5})
    table["z"] = [1.0, 2.0, 1.0, 2.0]
    axes = curves.against(table, "x", ["y", "z"], same_scale=True).axes
    low, high = axes[0].get_ylim()
    assert axes[1].get_ylim() == (low, high)
    assert low < 1.5 - np.std([1, 2], ddof=1) < 1.5 + np.std([1, 2], ddof=1) < high
    empty = curves.against(table.assign(y=np.nan, z=np.nan), "x", ["y", "z"], log=["y", "z"], same_scale=True)
    assert len(empty.axes) == 2


def test_a_map_of_networks_that_all_died_is_one_line(tiny):
    with pytest.raises(UserError, match="no run has a value of d_0"):
        panels.heatmaps(trained({"a": [tiny.replace(lr=1e9, epochs=2)]}))


def test_walls_of_a_plane_are_said_to_be_cut():
    arrays = {"xs": np.arange(3.0), "ys": np.arange(3.0), "hills": np.ones((3, 3)), "path": np.zeros((2, 3))}
    arrays |= {"minima": np.zeros((3, 2)), "train_loss": np.array([[0.1, 1, 2], [1, 2, 9.0], [1, 1, 1]])}
    titles = [panels.plane(arrays, worst=worst).axes[0].get_title() for worst in (np.log(10), 20.0)]
    assert titles == ["training loss, 0.1 (dark) to 2.3 and more", "training loss, 0.1 (dark) to 9"]
