"""Figures at other widths: laid out anew, their PGF equal to their PNG, and fitting where they are used."""

import io
import itertools
import re
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from test_pgf import assert_like, code_of, needs_tex, tex

from thesislib.__main__ import main
from thesislib.config import Run
from thesislib.plots import curves, layout, panels, save, style
from thesislib.plots.language import written_in
from thesislib.plots.pgf import pgf_code
from thesislib.runs.results import Results
from thesislib.system.errors import UserError


@pytest.fixture
def results(tiny, finished):
    """One run under names as long as those of section 5, with N behind them."""
    labels = ("constant", "cosine", "w = 0.01", "term as restart")
    return Results({label: [tiny] for label in labels}, "smoke")


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        ("text", (6.3, "", r"\textwidth")),
        ("column", (3.3, "-column", r"\linewidth")),
        ("half", (3.0, "-half", r"\linewidth")),
        ("4.5", (4.5, "-4.5in", "4.5in")),
        (5, (5.0, "-5in", "5in")),
        ("5in", (5.0, "-5in", "5in")),
        ("12cm", (12 / 2.54, "-12cm", "12cm")),
    ],
)
def test_widths(width, expected):
    assert layout.width_of(width) == expected


@pytest.mark.parametrize("width", ["colum", "0.1", "nan", 100, "3 m", "3cm"])
def test_what_is_no_width_is_one_line(width, capsys):
    with pytest.raises(UserError, match="write text, column, half, inches from 1.5 to 20, or 12cm"):
        layout.width_of(width)
    assert main(["figures", "--scale", "smoke", "--width", str(width)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def places(figure):
    figure.canvas.draw()
    return [axis.get_position() for axis in figure.axes]


def test_panels_stand_below_each_other_and_the_legend_has_fewer_columns(results):
    with style.styled():
        figure = curves.curves(results, ["accuracy", "d_0"])
        before, size, legend = places(figure), tuple(figure.get_size_inches()), figure.legends[0]
        sizes = [text.get_fontsize() for axis in figure.axes for text in (axis.xaxis.label, *axis.get_xticklabels())]
        with layout.laid_out(figure, 3.3):
            first, second = places(figure)
            assert second.y1 < first.y0 and first.x0 == pytest.approx(second.x0, abs=0.05)
            assert figure.get_figwidth() == 3.3
            assert figure.legends[0]._ncols < legend._ncols
            labels = [text.get_text() for text in figure.legends[0].get_texts()]
            assert labels == [text.get_text() for text in legend.get_texts()]
            now = [text.get_fontsize() for axis in figure.axes for text in (axis.xaxis.label, *axis.get_xticklabels())]
            assert set(now) == set(sizes)
            box = figure.legends[0].get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        assert tuple(figure.get_size_inches()) == size
        assert figure.legends == [legend]
        for old, new in zip(before, places(figure), strict=True):
            assert new.bounds == pytest.approx(old.bounds)


def test_a_panel_that_lost_its_neighbour_has_its_own_names(results):
    table = results.final.assign(accuracy_last=0.5)
    figure = panels.points(table, {"accuracy": "accuracy", "accuracy_last": "last"})
    with style.styled(), layout.laid_out(figure, 3.0):
        first, second = ([text.get_text() for text in axis.get_yticklabels()] for axis in figure.axes)
        assert first == second == results.labels
    assert {text.get_text() for text in figure.axes[1].get_yticklabels()} == {" "}


def test_many_panels_are_no_higher_than_a_page():
    figure, axes = style.grid(4, 2, 2.0)
    with style.styled(), layout.laid_out(figure, 3.3):
        assert figure.get_figheight() <= 8.5
        assert len({round(box.x0, 1) for box in places(figure)}) == 2


@pytest.mark.parametrize("width", [3.3, 3.0, 5.0])
def test_the_pgf_of_another_width_is_its_png(results, width, tmp_path):
    figure = curves.curves(results, ["accuracy", "d_0", "lr"])
    with style.styled(), layout.laid_out(figure, width):
        assert_like(code_of(figure, tmp_path), figure)


def test_files_have_the_widths_name(results, monkeypatch):
    figure = curves.curves(results)
    save.save(figure, "mine", results)
    folder = save.figures_folder("smoke")
    whole = (folder / "mine.pgf").read_bytes()
    save.save(figure, "mine", results, width="column")
    monkeypatch.setenv("THESIS_WIDTH", "half")
    save.save(figure, "mine", results)
    monkeypatch.setenv("THESIS_WIDTH", "")
    assert {path.name for path in folder.glob("*.pgf")} == {"mine.pgf", "mine-column.pgf", "mine-half.pgf"}
    assert Image.open(folder / "mine-column.png").size[0] == round(3.3 * 200)
    save.save(figure, "mine", results)
    assert (folder / "mine.pgf").read_bytes() == whole
    assert r"\textwidth" not in (folder / "mine-column.pgf").read_text()
    assert r"\linewidth" in (folder / "mine-column.pgf").read_text()


@pytest.fixture
def claims():
    """Statements with names as long as those of 9_claims."""
    rows = [
        {"claim": f"C{k}", "says": "after a further minimum d to the first falls", "verdict": verdict, "unit": unit,
         "effect": 2.0, "low": 1.5, "high": 4.0, "margin": 1.1, "network": "mlp", "premise": False, "n": 5}
        for k, (unit, verdict) in enumerate(
            [("factor", "reproduced"), ("factor", "undecided"), ("points", "not reproduced"), ("percent", "reproduced")]
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_long_names_stand_above_their_rows_in_a_column(claims, tmp_path):
    figure = panels.forest(claims)
    before = [[text.get_text() for text in axis.get_yticklabels()] for axis in figure.axes]
    with style.styled(), layout.laid_out(figure, 3.3):
        for axis, names, place in zip(figure.axes, before, places(figure), strict=True):
            assert place.width > 0.8
            assert [text.get_text() for text in axis.texts] == names
            boxes = [text.get_window_extent() for text in axis.texts]
            assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
            for text, box, y in zip(axis.texts, boxes, axis.get_yticks(), strict=True):
                assert box.y0 > axis.transData.transform((1, y))[1], text
            assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
        assert_like(code_of(figure, tmp_path), figure)
    assert [[text.get_text() for text in axis.get_yticklabels()] for axis in figure.axes] == before
    assert not any(axis.texts for axis in figure.axes)


#: Settings of the figure that is looked at, at heights at which nothing hides anything.
FLAT = {"s = 1": 0.125, "s = 10": 0.25, "s = 10, no L2": 0.375, "s = 100": 0.5}


def flat_curves():
    """Two panels with the band of two seeds around each curve."""
    rows = [
        {"label": label, "network": "mlp", "seed": seed, "t": t, "accuracy": y + spread, "lr": y - spread}
        for label, y in FLAT.items()
        for seed, spread in enumerate((-0.01, 0.01))
        for t in np.linspace(0, 1, 21)
    ]
    return curves.against(pd.DataFrame(rows), "t", ["accuracy", "lr"], height=1.8)


def heat_map():
    """Distances with thousands."""
    runs = [Run(strength=s, width=w, minima_every=1) for s in (1.0, 10.0) for w in (0.01, 0.1)]
    results = Results({str(k): [run] for k, run in enumerate(runs)})
    rows = [
        {"network": "mlp", "id": row.id, "label": row.label, "strength": 0, "accuracy": 0.9, "d_0": d}
        for row, d in zip(results, (100.0, 2000.0, 27106.0, 12345.0), strict=True)
    ]
    results.__dict__["history"] = pd.DataFrame(rows)
    return panels.heatmaps(results, height=1.8)


def seen(image):
    """What is on a picture of `flat_curves`: marks on each curve and samples in the legend, by colour; and ticks."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    found = {}
    for colour in sorted({one.color for one in style.line_styles(list(FLAT)).values()}):
        mask = np.abs(pixels - np.round(255 * np.array(colour))).sum(axis=2) < 50
        parts, _ = ndimage.label(ndimage.binary_closing(mask, np.ones((1, 15))), np.ones((3, 3)))
        boxes = ndimage.find_objects(parts)
        wide = [box for box in boxes if box[1].stop - box[1].start > 120]
        marks = [count_runs(mask[box].sum(axis=0) > 7) for box in wide]  # a line has 3 or 4 pixels, a mark 11
        found[colour] = (sorted(marks), sum(30 < box[1].stop - box[1].start < 60 for box in boxes))
    dark = pixels.max(axis=2) < 100
    return found, ticks_below(dark), ticks_below(dark.T[::-1])


def count_runs(flags):
    """How often flags in a row begin to be set."""
    return int((np.diff(flags.astype(int), prepend=0) == 1).sum())


def ticks_below(dark):
    """The number of ticks of each axis that runs across."""
    axes, _ = ndimage.label(ndimage.binary_opening(dark, np.ones((1, 120))))
    boxes = ndimage.find_objects(axes)
    return sorted(count_runs(dark[rows.stop + 3, max(0, at.start - 5) : at.stop + 5]) for rows, at in boxes)


def ticks_along_y(figure):
    return [
        len([y for y in axis.get_yticks() if axis.get_ylim()[0] <= y <= axis.get_ylim()[1]]) for axis in figure.axes
    ]


@pytest.mark.parametrize("height", [1.32, 1.54])
def test_the_ticks_are_the_pngs_where_two_layouts_would_differ(height, results, folders, monkeypatch):
    """At these heights a layout for LaTeX alone has fewer ticks than the picture; matplotlib's own come back."""
    with style.styled():
        figure, axes = style.grid(3, 2, height)
        for k, axis in enumerate(axes.flat):
            axis.plot([0, 80], [0, 10 ** (k % 3 + 2) * (1.3 + k)])
            axis.set(xlabel="epoch", ylabel="squared distance", title="one")
    locators, savefig, drawn = [axis.yaxis.get_major_locator() for axis in figure.axes], figure.savefig, []

    def noted(*arguments, **options):
        savefig(*arguments, **options)
        drawn.append(ticks_along_y(figure))

    monkeypatch.setattr(figure, "savefig", noted)
    save.save(figure, "ticks", results)
    assert len(drawn) == 2 and drawn[0] == drawn[1], "of .png and .pdf"
    code = (save.figures_folder("smoke") / "ticks.pgf").read_text()
    assert [len(places.split(",")) for places in re.findall(r"(?<!minor )\bytick=\{(.*?)\}", code)] == drawn[0]
    assert [axis.yaxis.get_major_locator() for axis in figure.axes] == locators
    plt.close(figure)


@pytest.mark.long
@needs_tex
@pytest.mark.parametrize(
    ("width", "document", "options", "around"),
    [
        ("text", "report", "10pt", "{}"),
        ("text", "scrbook", "12pt,twoside", "{}"),
        ("column", "article", "twocolumn,10pt", "{}"),
        ("half", "article", "11pt", r"\begin{{minipage}}{{0.5\textwidth}}{}\end{{minipage}}"),
        ("4.5", "beamer", "aspectratio=169", r"\begin{{frame}}{}\end{{frame}}"),
    ],
)  # fmt: skip
def test_a_page_shows_what_the_png_shows(width, document, options, around, tmp_path):
    """In two languages: no box is overfull, and of curves, marks, samples and ticks there are as many."""
    if subprocess.run(["kpsewhich", f"{document}.cls"], capture_output=True).returncode:
        pytest.skip(f"TeX has no {document} here")
    inches, _, length = layout.width_of(width)
    pngs, body = [], []
    for language, (name, make) in itertools.product(("en", "de"), (("flat", flat_curves), ("heat", heat_map))):
        figure, name = make(), f"{name}-{language}"
        with style.styled(), layout.laid_out(figure, inches), written_in(figure, language):
            figure.savefig(png := io.BytesIO(), dpi=200)
            with layout.ticks_kept(figure):  # as `save` does
                code, images = pgf_code(figure, name, length)
            pngs.append(Image.open(png))
        for image, content in images.items():
            (tmp_path / image).write_bytes(content)
        (tmp_path / f"{name}.pgf").write_text(code)
        body.append(around.format(rf"\noindent\input{{{name}.pgf}}") + r"\clearpage")
        plt.close(figure)
    plain = [r"\setbeamertemplate{navigation symbols}{}"] if document == "beamer" else []
    log = tex(tmp_path, *body, document=document, options=options, packages=plain)
    assert not re.search("Overfull|Missing character", log)
    subprocess.run(["pdftoppm", "-r", "200", "-png", "thesis.pdf", "page"], cwd=tmp_path, check=True)
    pages = [Image.open(path) for path in sorted(tmp_path.glob("page-*.png"))]
    assert len(pages) == len(pngs)
    for page, png in zip(pages[::2], pngs[::2], strict=True):
        found, *ticks = seen(png)
        assert seen(page) == (found, *ticks)
        assert sum(len(marks) for marks, _ in found.values()) == 2 * len(FLAT)
        assert sum(samples for _, samples in found.values()) == len(FLAT)
        assert all(count >= 4 for marks, _ in found.values() for count in marks)
        assert [len(some) for some in ticks] == [2, 2] and all(count >= 2 for some in ticks for count in some)
    texts = [
        subprocess.run(
            ["pdftotext", "-f", str(k), "-l", str(k), "thesis.pdf", "-"], cwd=tmp_path, capture_output=True, text=True
        ).stdout
        for k in range(1, 5)
    ]
    for some, sign in zip((texts[:2], texts[2:]), ".,", strict=True):
        assert f"0{sign}4" in some[0] and f"0{sign}01" in some[1]
        other = ".,".replace(sign, "")
        assert not re.search(rf"\d\{other}\d", "".join(some))
    assert "27106" in texts[1] and re.search(r"27\s?106", texts[3])
