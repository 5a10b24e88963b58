"""Figures, tables and labels of an author's own: on paper as on the screen, or one line that says why not."""

import contextlib
import io
import re
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import TINY, trained
from PIL import Image
from test_pgf import needs_tex, tex

import thesislib as tl
from thesislib.app.numbers import letters
from thesislib.plots import layout, save, style, tables
from thesislib.plots.known import beyond
from thesislib.plots.pgf import pgf_code
from thesislib.plots.tex import escape
from thesislib.system.errors import UserError

X = np.linspace(0, 6, 40)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def bars(axis):
    axis.bar(["a", "b"], [1, 2], color="red", label="q")
    axis.bar(["a", "b"], [1, 1], bottom=[1, 2], color="blue", label="r")
    axis.legend()


def spans(axis):
    axis.plot(X, np.exp(X), color="0.5")
    axis.set_yscale("log")
    axis.axvspan(1, 2, color="red")
    axis.axhspan(5, 20, xmin=0.5, color="blue")


def scatters(axis):
    axis.scatter(X, np.sin(X), s=30, color="red", label="dots")
    axis.scatter(X[::4], np.cos(X[::4]), s=120, marker="^", facecolors="none", edgecolors="blue", linewidth=2)
    axis.legend()


def histograms(axis):
    axis.hist(np.random.default_rng(0).normal(size=99), color="red", label="x")
    axis.hist(3 + np.random.default_rng(1).normal(size=99), color="blue", label="y")
    axis.legend()


def marks(axis):
    axis.plot(X, X, linestyle="none", marker=(5, 1), markersize=12, color="red")
    axis.plot(X, -X, linestyle="none", marker="$\\clubsuit$", markersize=9, color="blue")


def arrow(axis):
    axis.fill_between(X, 0, 1, color="red")
    axis.annotate("peak", (1.5, 0.2), (3, 0.7), arrowprops={"color": "blue", "width": 12})


def inset(axis):
    axis.fill_between(X, 0, 1, color="red")
    axis.inset_axes([0.6, 0.6, 0.4, 0.4]).fill_between(X, 0, 1, color="blue")


def hatched(axis):
    axis.bar(["a", "b"], [1, 2], color="red", hatch="/", edgecolor="black")


def hexagons(axis):
    axis.hexbin(X, X, gridsize=5, mincnt=1, cmap="bwr")


def arrows(axis):
    axis.quiver([0, 1], [0, 1], [1, 0], [0, 1], color=["red", "blue"], width=0.05)


def boxed(axis):
    axis.fill_between(X, 0, 1, color="red")
    axis.text(1, 0.5, "note", bbox={"facecolor": "blue", "pad": 15})


def pie(axis):
    axis.pie([1, 2], colors=["red", "blue"])


def symmetrical_log(axis):
    axis.fill_between(X, -X, X, color="red")
    axis.set_yscale("symlog")


def titled_legend(axis):
    axis.fill_between(X, 0, 1, color="red", label="x")
    axis.legend(title="kernel")


def twins(axis):
    axis.fill_between(X, 0, 1, color="red")
    axis.twinx().fill_between(X, 5, 6, color="blue")


def coloured_dots(axis):
    axis.scatter(X, X, s=60, c=X > 3, cmap="bwr")


def steps(axis):
    axis.hist(X, histtype="step", color="red", linewidth=4)


def empty(axis):
    """What is left of a figure whose data have been filtered away, beside what is not."""
    axis.fill_between(X, 0, 1, color="red")
    axis.fill_between([], [], [], color="blue", label="nothing")
    axis.scatter([], [], color="blue")
    axis.vlines([], 0, 1, color="blue")
    axis.errorbar([], [], yerr=[], color="blue")
    axis.bar([], [])
    axis.legend()


WRITTEN = (bars, spans, scatters, histograms, marks, empty)
SHOWN = {
    arrow: "Annotation", inset: "Axes", hatched: "Rectangle", hexagons: "PolyCollection", arrows: "Quiver",
    boxed: "Text", pie: "Wedge", symmetrical_log: "a symlog axis", titled_legend: "a title in a legend",
    twins: "two axes in one place", coloured_dots: "PathCollection", steps: "Polygon",
}  # fmt: skip


def figure_of(draw):
    with style.styled():
        figure, axes = style.grid(1, 1, 2.5)
        draw(axes[0, 0])
    return figure


def share(picture, colour):
    """How much of a picture has a colour."""
    pixels = np.asarray(picture.convert("RGB"), dtype=int)
    return (np.abs(pixels - colour).max(-1) < 60).mean()


@pytest.fixture
def runs(folders):
    return trained({"mine": [TINY]})


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """All of them, each a page of one document: by name the page, the picture, and what save said."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("runs", "figures"):
            patch.setenv(f"THESIS_{name.upper()}", str(tmp_path_factory.mktemp(name)))
        runs, said = trained({"mine": [TINY]}), {}
        for draw in (*WRITTEN, *SHOWN):
            with contextlib.redirect_stdout(io.StringIO()) as output:
                tl.save(figure_of(draw), draw.__name__, runs)
            said[draw.__name__] = output.getvalue()
            plt.close("all")
        folder = save.figures_folder("smoke")
        body = [rf"\noindent\input{{{name}.pgf}}\newpage" for name in said]
        tex(folder, *body, options="11pt,a4paper", packages=[r"\usepackage[margin=2.5cm]{geometry}"])
        subprocess.run(["pdftoppm", "-r", "200", "-png", "thesis.pdf", "page"], cwd=folder, check=True)
    pages = sorted(folder.glob("page-*.png"))
    return {name: (page, folder / f"{name}.png", said[name]) for name, page in zip(said, pages, strict=True)}


@needs_tex
@pytest.mark.parametrize("draw", [*WRITTEN, *SHOWN])
def test_a_page_has_the_colours_of_the_picture(draw, printed):
    """As much of each, through pdflatex and back; what pgfplots cannot draw is the .pdf, and save says so."""
    figure, why, name = figure_of(draw), SHOWN.get(draw, ""), draw.__name__
    assert beyond(figure).startswith(why) and bool(beyond(figure)) == bool(why)
    plt.close(figure)
    *paths, said = printed[name]
    assert (f"{name}.pgf shows a PDF" in said) == bool(why)
    page, picture = map(Image.open, paths)
    whole = np.prod(page.size) / np.prod(picture.size)
    for colour in (RED, BLUE):
        # A sample in a legend is no longer than TeX's.
        assert whole * share(page, colour) == pytest.approx(share(picture, colour), rel=0.06, abs=0.002), colour


def test_what_matplot2tikz_says_of_legends_is_left_out(runs):
    code, _ = pgf_code(figure_of(bars), "mine")
    assert code.count(r"\addlegendentry") == 2


@needs_tex
def test_greek_and_signs_are_set_in_texts_and_formulas(tmp_path):
    texts = ["α-Stärke ≤ ∞", "$λ_μ ≥ ±1$", "Ωmax → ς × ο", "\u0061\u0308 (decomposed)"]
    tex(tmp_path, *(escape(text) + r"\par" for text in texts))
    assert escape("α, β") == r"\ensuremath{\alpha}, \ensuremath{\beta}"
    assert escape("$λ$") == r"$\ensuremath{\lambda}$"


def test_numbers_of_two_labels_have_two_names():
    assert [letters(x) for x in ("α = 1", "β = 1", "Stärke", "Straße", "Ωmax", "s = 0.1")] == [
        "AlphaOne", "BetaOne", "Starke", "Strasse", "OmegaMax", "SZeroPointOne"
    ]  # fmt: skip


def test_a_label_with_a_dollar_keeps_it_beside_n(folders):
    runs = trained({"cost $5": [TINY.replace(strength=10)]})
    figure = tl.plot.curves(runs)
    (label,) = {line.get_label() for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    assert label.startswith(r"cost \$5 ($N = ")
    assert escape(label).startswith(r"cost \$5 ($N = ")
    plt.close(figure)


def test_a_label_is_one_line():
    with pytest.raises(UserError, match="a label must be one line"):
        tl.train({"two\nlines": {"strength": 0}}, "smoke")


def test_a_table_for_a_column_is_no_wider(runs, monkeypatch):
    """More tables below each other; each text in them is there as often as in the wide one."""
    wide = runs.final
    columns = ["accuracy", "test_loss", "train_loss", "d_0", "d_init", "lr", "grad_norm", "term_norm"]
    read = tables.readable(wide, "mine", columns)
    parts = [tables.latex(read, points=points).count(r"\begin{tabular}") for points in (layout.NARROWEST, 240)]
    assert parts[0] < parts[1]
    tl.table(wide, "mine", runs, columns, width="column")
    code = (save.figures_folder("smoke") / "mine-column.tex").read_text()
    assert code.count(r"\begin{tabular}") == parts[1]
    assert code.index("& n &") < code.index("\\midrule"), "the first has the number of seeds, not the last alone"
    monkeypatch.setenv("THESIS_WIDTH", "column")
    tl.table(wide, "own", runs, columns)
    assert (save.figures_folder("smoke") / "own-column.tex").read_text() == code
    monkeypatch.delenv("THESIS_WIDTH")
    tl.table(wide, "mine", runs, columns)
    assert (save.figures_folder("smoke") / "mine.tex").read_text().count(r"\begin{tabular}") == parts[0]
    assert (save.figures_folder("smoke") / "mine-column.tex").read_text() == code


#: As `tl.runs` lists runs: without labels.
LISTED = pd.DataFrame({"id": ["a"], "model": "mlp", "seed": 0, "accuracy": 0.9})

MISTAKES = {
    "the column accuracy is named twice": lambda r: tl.plot.curves(r, ["accuracy", "accuracy"]),
    "the column label has no numbers": lambda r: tl.plot.curves(r, ["label"]),
    "smoothing must be 1 epoch .none. or more, not '5'": lambda r: tl.plot.curves(r, smoothing="5"),
    "smoothing must be .* not 2.5": lambda r: tl.plot.curves(r, smoothing=2.5),
    "not DataFrame": lambda r: tl.plot.curves(r.history),
    "not Results": lambda r: tl.plot.against(r, "epoch", ["accuracy"]),
    "a table is .* not Results$": lambda r: tl.plot.scatter(r, "accuracy", "d_0"),
    "there is no column claim": lambda r: tl.plot.forest(r.final),
    "a table is .* not Results": lambda r: tl.table(r, "mine", r),
    "not Series": lambda r: tl.table(r.final["accuracy"], "mine", r),
    "means over epochs say nothing": lambda r: tl.table(r.history, "mine", r),
    "height of a row must be inches, more than 0, not -1": lambda r: tl.plot.curves(r, height=-1),
    "height of a row must be inches, more than 0, not '3'": lambda r: tl.plot.curves(r, height="3"),
    "log is a list of columns, of which 'd0' is none": lambda r: tl.plot.curves(r, log=["d0"]),
    r"log is a list: \['d_0'\], not 'd_0'": lambda r: tl.plot.curves(r, log="d_0"),
    "epoch is what the columns are drawn against": lambda r: tl.plot.curves(r, ["epoch"]),
    "there is no column acuracy: is it accuracy": lambda r: tl.plot.curves(r, ["acuracy"]),
    "the table mine has no rows": lambda r: tl.table(r.final.head(0), "mine", r),
    "figures of other widths end so": lambda r: tl.save(tl.plot.curves(r), "mine-column", r),
    "width 0 of figures": lambda r: tl.save(tl.plot.curves(r), "mine", r, width=0),
    "'strength=10' is no tl.Run": lambda r: tl.train({"x": "strength=10"}, "smoke", seeds=[0]),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(words, runs):
    with pytest.raises(UserError, match=words) as error:
        MISTAKES[words](runs)
    assert "\n" not in str(error.value)
    plt.close("all")


@pytest.mark.parametrize(
    ("words", "draw"),
    [
        ("no column label: .* label, network, seed", lambda r: tl.plot.against(LISTED, "seed", ["accuracy"])),
        ("no column label: .*runs.final", lambda r: tl.plot.points(LISTED, ["accuracy"])),
        ("no column label: .*runs.final", lambda r: tl.plot.scatter(LISTED, "seed", "accuracy")),
        ("no column label: .*runs.final", lambda r: tl.plot.members(LISTED, ["accuracy"], "seed")),
        ("no column seed: ", lambda r: tl.plot.against(r.final.drop(columns="seed"), "lr", ["accuracy"])),
        ("no column network: ", lambda r: tl.plot.points(r.final.drop(columns="network"), ["accuracy"])),
        ("not DataFrame", lambda r: tl.plot.endpoints(r.final, "width")),
        ("not DataFrame", lambda r: tl.plot.heatmaps(r.final)),
        ("not DataFrame", lambda r: tl.plot.cost(r.final)),
        ("column label has no numbers", lambda r: r.table("label")),
        ("column id has no numbers", lambda r: tl.table(r.final, "mine", r, ["id"])),
        ("column accuracy has no numbers", lambda r: tl.plot.points(r.table("accuracy"), ["accuracy"])),
        ("column label has no numbers", lambda r: tl.plot.heatmaps(r, ["label"])),
        ("column label has no numbers", lambda r: tl.plot.endpoints(r, "width", ["label"])),
        ("column label has no numbers", lambda r: tl.plot.members(r.final, ["label"], "epoch")),
        ("column id has no numbers", lambda r: tl.plot.scatter(r.final, "accuracy", "id")),
        ("width is named twice", lambda r: tl.plot.heatmaps(r, ["width"])),
        ("strength is named twice", lambda r: tl.plot.endpoints(r, "strength", ["strength"])),
        ("one or more", lambda r: tl.plot.curves(r, [])),
        ("one or more", lambda r: tl.plot.against(r.final, "epoch", [])),
        ("one or more", lambda r: tl.plot.endpoints(r, "width", [])),
        ("one or more", lambda r: tl.plot.heatmaps(r, [])),
        ("one or more", lambda r: tl.plot.lengths(r, [], cycle=2)),
        ("one or more", lambda r: tl.plot.members(r.final, [], "epoch")),
        ("one or more", lambda r: tl.plot.points(r.final, {})),
        ("columns of panels must be 1 or more, not 0", lambda r: tl.plot.distances(r, columns=0)),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(words, draw, runs):
    """Tables that do not say which run a row is of, columns of texts, and no columns at all."""
    with pytest.raises(UserError, match=words):
        draw(runs)


def test_a_column_without_a_name_for_axes_is_drawn_under_its_own(runs):
    results = trained({"mine": [TINY.replace(dense_steps=8)], "not": [TINY.replace(strength=0, dense_steps=8)]})
    table = results.final.assign(mine=0.5, x=2.0)
    for figure in (
        tl.plot.against(table, "x", ["mine"], log=["x", "mine"], names={}),
        tl.plot.members(table, ["mine"], "x"),
        tl.plot.points(table, ["mine"]),
        tl.plot.scatter(table, "x", "mine"),
        tl.plot.curves(results, ["seconds"]),
        tl.plot.endpoints(results, "momentum", ["seconds"]),
        tl.plot.heatmaps(results, ["seconds"]),
        tl.plot.lengths(results, ["seconds"], cycle=2),
        tl.plot.steps(results, ["d"]),
    ):
        axis = figure.axes[0]
        assert {axis.get_xlabel(), axis.get_ylabel(), axis.get_title()} & {"mine", "seconds", "d"}
        plt.close(figure)


def test_lists_are_taken_where_figures_take_them(runs):
    assert list(runs.table(["accuracy", "d_0"])) == list(runs.table("accuracy", "d_0"))
    plt.close(tl.plot.points(runs.final, ["accuracy"]))


@pytest.mark.parametrize("seeds", [range(2), np.arange(2), [0, 1], 2, np.int64(2)])
def test_seeds_are_any_numbers(seeds, folders):
    rows = tl.experiments.own.rows({"x": {"strength": 0}}, "smoke", seeds)
    assert [row.seed for row in rows] == [0, 1]


@pytest.mark.parametrize("width", ["text", "column"])
def test_panels_that_share_an_axis_are_saved(runs, width):
    """The inner ones have ticks without texts."""
    figure, axes = plt.subplots(2, 2, sharex=True, sharey=True)
    axes[0, 0].plot(X, np.sin(X))
    axes[1, 1].tick_params(labelbottom=False)
    tl.save(figure, "mine", runs, width=width)
    code = (save.figures_folder("smoke") / f"mine{'' if width == 'text' else '-column'}.pgf").read_text()
    labels = re.findall(r"xticklabels=\{(.*)\}", code)
    assert len(labels) == 4
    assert [bool(re.search(r"\d", label)) for label in labels] == [False, False, True, False]


def test_a_layout_of_ones_own_stays(runs):
    """In all files, and afterwards."""
    figure, axes = plt.subplots(1, 2)
    figure.subplots_adjust(left=0.3, wspace=0.9)
    axes[0].plot(X, X)
    before = [tuple(axis.get_position().bounds) for axis in axes]
    tl.save(figure, "mine", runs)
    assert [tuple(axis.get_position().bounds) for axis in axes] == before
    assert figure.get_layout_engine() is None
    code = (save.figures_folder("smoke") / "mine.pgf").read_text()
    share, points = map(float, re.search(r"at=\{\(\{([\d.]+)\*\\textwidth\+([\d.]+)bp", code).groups())
    assert share + points / 72 / style.TEXTWIDTH == pytest.approx(0.3, abs=0.02)


def test_a_figure_without_a_layout_has_room_for_its_texts(runs):
    """At every width, in all files; afterwards it is as it was."""
    figure, axes = plt.subplots(1, 2, figsize=(6, 2.2))
    for axis in axes:
        axis.plot([0, 10000])
        axis.set(ylabel="a label\nof two lines", xlabel="x")
    before = [tuple(axis.get_position().bounds) for axis in axes]
    for width, name in (("text", "mine"), ("half", "mine-half")):
        tl.save(figure, "mine", runs, width=width)
        code = (save.figures_folder("smoke") / f"{name}.pgf").read_text()
        assert r"ylabel={\vphantom{Ay}a label\\of two lines}" in code
        assert all(float(found) > 40 for found in re.findall(r"at=\{\(\{0\.00000\*.*?\+([\d.]+)bp", code))
    assert np.allclose([axis.get_position().bounds for axis in axes], before)
    assert figure.get_layout_engine() is None


def test_a_colour_bar_is_saved(runs):
    figure, axis = plt.subplots()
    figure.colorbar(axis.imshow(np.arange(16).reshape(4, 4)))
    tl.save(figure, "mine", runs)
    assert (save.figures_folder("smoke") / "mine.pgf").is_file()


def test_labels_of_a_large_family_are_told_apart():
    labels = [f"s = 10, w = {k}" for k in range(20)]
    styles = style.line_styles(labels)
    assert len(set(styles.values())) == 20
    assert len({one.color for one in styles.values()}) == 1
    assert [one.marker for one in styles.values()][:4] == [styles[labels[0]].marker] * 4


def test_a_legend_that_is_wider_than_its_figure_is_said(runs, capsys):
    long = trained({"a label that is as long as a sentence in which nothing is left out, and then some": [TINY]})
    tl.save(tl.plot.curves(runs), "short", runs, width="half")
    assert not capsys.readouterr().out
    tl.save(tl.plot.curves(long), "long", long, width="half")
    assert "long-half: the legend is wider than the figure: make labels shorter" in capsys.readouterr().out


@needs_tex
def test_raised_and_lowered_signs_are_set_and_unknown_ones_said(tmp_path, runs, capsys):
    texts = ["10⁻³, d₀₁, x′ ≪ ϑ ϵ ϕ ∆", "$10⁻³ d₀ ≫ ϱ$", "a\N{THIN SPACE}b – “c” … € ™ ‰"]
    tex(tmp_path, *(escape(text) + r"\par" for text in texts))
    signs = trained({"α⁻¹ ☃": [TINY]})
    tl.save(tl.plot.curves(signs), "signs", signs)
    assert "signs.pgf has signs that pdflatex may not know: ☃" in capsys.readouterr().out


def test_columns_that_tables_have_themselves_are_refused(runs):
    for name in ("n", "setting"):
        table = runs.map(lambda some, name=name: {name: 4.0, "v": 1.0}, "mine", 1)
        with pytest.raises(UserError, match=f"give the column {name} another name"):
            tl.table(table, "mine", runs)


def test_rows_are_not_taken_for_seeds(runs):
    """A table with a row a minimum: its mean over rows is none over seeds."""
    table = runs.map(lambda some: {"pair": np.arange(2), "v": np.array([1.0, 2.0])}, "pairs", 1)
    with pytest.raises(
        UserError, match="there are several rows of label mine, seed 0: means over seeds take one of each"
    ):
        tl.table(table, "mine", runs, ["v"])


def test_whether_something_holds_is_a_number(runs):
    table = runs.map(lambda some: {"holds": True}, "holds", 1)
    assert tl.table(table, "mine", runs)["holds"].tolist() == ["1"]


def test_a_label_without_members_stays_beside_one_with():
    rows = [("plain", np.nan, 0, 0.9), ("plain", np.nan, 1, 0.8), ("several", 1, 0, 0.5), ("several", 2, 0, 0.7)]
    frame = pd.DataFrame(rows, columns=["label", "member", "seed", "accuracy"]).assign(id=list("abcd"), network="mlp")
    shown = tables.readable(frame, "mine", ["accuracy"])
    assert shown[["setting", "accuracy", "n"]].values.tolist() == [
        ["plain", "0.850 ± 0.071", 2], ["several", "0.60 ± 0.14", 2]
    ]  # fmt: skip
