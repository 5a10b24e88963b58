"""Figures at other widths: laid out anew, their PGF equal to their PNG, and fitting where they are used."""

import shutil

import matplotlib.pyplot as plt
import pytest
from PIL import Image
from test_pgf import assert_like, code_of, needs_tex, tex

from thesislib.__main__ import main
from thesislib.plots import curves, panels, save, style
from thesislib.plots.pgf import pgf_code
from thesislib.runs.results import Results
from thesislib.system.errors import UserError


@pytest.fixture
def results(tiny, finished):
    """One run under names as long as those of section 5."""
    labels = ("constant", "cosine, multiple, w = 0.01", "strength on cosine", "term as restart")
    return Results({label: [tiny] for label in labels}, "smoke")


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        ("text", (6.3, "", r"\textwidth")),
        ("column", (3.3, "-column", r"\linewidth")),
        ("half", (3.0, "-half", r"\linewidth")),
        ("4.5", (4.5, "-4.5in", "4.5in")),
        (5, (5.0, "-5in", "5in")),
    ],
)
def test_widths(width, expected):
    assert style.width_of(width) == expected


@pytest.mark.parametrize("width", ["colum", "0.1", "nan", 100, "3 cm"])
def test_what_is_no_width_is_one_line(width, capsys):
    with pytest.raises(UserError, match="write text, column, half, or inches from 1.5 to 20"):
        style.width_of(width)
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
        with style.laid_out(figure, 3.3):
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
    plt.close(figure)


def test_a_panel_that_lost_its_neighbour_has_its_own_names(results):
    table = results.final.assign(accuracy_last=0.5)
    figure = panels.points(table, {"accuracy": "accuracy", "accuracy_last": "last"})
    with style.styled(), style.laid_out(figure, 3.0):
        first, second = ([text.get_text() for text in axis.get_yticklabels()] for axis in figure.axes)
        assert first == second == results.labels
    assert {text.get_text() for text in figure.axes[1].get_yticklabels()} == {" "}


def test_many_panels_are_no_higher_than_a_page():
    figure, axes = style.grid(4, 2, 2.0)
    with style.styled(), style.laid_out(figure, 3.3):
        assert figure.get_figheight() <= 8.5
        assert len({round(box.x0, 1) for box in places(figure)}) == 2


@pytest.mark.parametrize("width", [3.3, 3.0, 5.0])
def test_the_pgf_of_another_width_is_its_png(results, width, tmp_path):
    figure = curves.curves(results, ["accuracy", "d_0", "lr"])
    with style.styled(), style.laid_out(figure, width):
        assert_like(code_of(figure, tmp_path), figure)
    plt.close(figure)


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
    plt.close(figure)


@needs_tex
@pytest.mark.parametrize(
    ("width", "document", "options", "around"),
    [
        ("column", "article", "twocolumn,10pt", "{}"),
        ("half", "scrbook", "12pt,twoside", r"\begin{{minipage}}{{0.5\textwidth}}{}\end{{minipage}}"),
        ("text", "report", "10pt", "{}"),
        ("4.5", "beamer", "aspectratio=169", r"\begin{{frame}}{}\end{{frame}}"),
    ],
)
def test_it_fits_where_it_is_used(results, width, document, options, around, tmp_path):
    if (
        shutil.which("kpsewhich")
        and save.subprocess.run(["kpsewhich", f"{document}.cls"], capture_output=True).returncode
    ):
        pytest.skip(f"TeX has no {document} here")
    inches, _, length = style.width_of(width)
    figure = curves.curves(results, ["accuracy", "d_0"], height=1.5)
    with style.styled(), style.laid_out(figure, inches):
        code, _ = pgf_code(figure, "figure", length)
    (tmp_path / "figure.pgf").write_text(code)
    log = tex(tmp_path, around.format(r"\noindent\input{figure.pgf}"), document=document, options=options)
    assert "Overfull" not in log
    plt.close(figure)
