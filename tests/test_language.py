"""Numbers in German: in figures, heat maps, legends, tables, macros and captions alike; English stays as it was."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_chapter import defined
from test_pgf import assert_like, code_of
from test_widths import heat_map

from thesislib.__main__ import main
from thesislib.app import chapter, notebooks, numbers
from thesislib.plots import curves, save, style, tables
from thesislib.plots.language import formula, language_of, localized, written_in
from thesislib.runs.results import Results
from thesislib.system.errors import UserError

SPACE = "\N{NARROW NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("english", "german"),
    [
        ("w = 0.0001, s = 10", "w = 0,0001, s = 10"),
        ("\N{MINUS SIGN}0.5 points, 2.5%.", "\N{MINUS SIGN}0,5 points, 2,5%."),
        ("9999 and 27106", f"9999 and 27{SPACE}106"),
        ("1234567.25", f"1{SPACE}234{SPACE}567,25"),
        ("1.5e+07", "1,5e+07"),
        ("[0.1, 0.3] ties", "[0,1; 0,3] ties"),
        ("[1.2, inf]", "[1,2; inf]"),
        (r"$\mathdefault{2.5\times10^{-3}}$ of 0.5", r"$\mathdefault{2{,}5\times10^{-3}}$ of 0,5"),
        (r"$27106.5$", r"$27\,106{,}5$"),
        ("torch 2.14.1, v0.5, a3.5, CIFAR-10", "torch 2.14.1, v0.5, a3.5, CIFAR-10"),
        ("0,5 stays, 5 $ too", "0,5 stays, 5 $ too"),
    ],
)
def test_texts(english, german):
    assert localized(english, "de") == german
    assert localized(english, "en") == formula(english, "en") == english
    assert localized(german, "de") == german, "German is left alone"


def test_what_is_no_language_is_one_line(monkeypatch, capsys):
    assert language_of() == language_of("en") == "en"
    monkeypatch.setenv("THESIS_LANGUAGE", "de")
    assert language_of() == "de" and language_of("en") == "en"
    with pytest.raises(UserError, match="language 'fr': write en or de"):
        language_of("fr")
    assert main(["figures", "--scale", "smoke", "--language", "Deutsch"]) == 2
    assert capsys.readouterr().err == "thesislib: language 'Deutsch': write en or de\n"


@pytest.fixture
def results(tiny, finished):
    return Results({"no term": [tiny], "w = 0.01": [tiny]}, "smoke", "1_baseline")


def texts(figure):
    figure.canvas.draw()
    sides = [side for axis in figure.axes for side in (axis.xaxis, axis.yaxis)]
    labels = [label.get_text() for side in sides for minor in (False, True) for label in side.get_ticklabels(minor)]
    drawn = [text.get_text() for axis in figure.axes for text in axis.texts]
    return labels + drawn + [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize("kind", ["curves", "lengths", "heat map"])
def test_a_figure_in_german_and_back(kind, results, tmp_path):
    """Every number of its ticks, legend and cells; its PGF is its PNG; afterwards it is English again."""
    make = {"curves": lambda: curves.curves(results), "lengths": lambda: curves.lengths(results, cycle=2)}
    figure = make.get(kind, heat_map)()
    with style.styled():
        english = texts(figure)
        with written_in(figure, "de"):
            german = texts(figure)
            code = code_of(figure, tmp_path)
            assert_like(code, figure)
        assert texts(figure) == english
    assert german == [localized(text, "de") for text in english]
    assert german != english
    assert not any("." in text for text in german)
    assert any(text.startswith("w = 0,01") for text in german) == (kind != "heat map")
    assert (f"27{SPACE}106" in german) == (r"27\,106" in code) == (kind == "heat map")


def test_files_in_german(results, monkeypatch):
    """A .csv has points. Figures and tables in English are the same bytes before and after."""
    folder, frame = (
        save.figures_folder("smoke"),
        pd.DataFrame({"label": ["w = 0.01"], "d": [27106.5], "accuracy": [0.5]}),
    )
    kept = {}
    for language in (None, "de", "en"):
        figure = curves.curves(results)
        save.save(figure, "mine", results, language=language)
        save.table(frame, "ours", results, language=language)
        kept[language] = [(folder / name).read_bytes() for name in ("ours.csv", "mine.pgf", "mine.png", "ours.tex")]
        plt.close(figure)
    assert kept[None] == kept["en"]
    assert [here == there for here, there in zip(kept["en"], kept["de"], strict=True)] == [True, False, False, False]
    assert b"{w = 0,01 " in kept["de"][1]
    monkeypatch.setenv("THESIS_LANGUAGE", "de")
    save.table(frame, "ours", results)
    assert (folder / "ours.tex").read_bytes() == kept["de"][3]


def test_tables():
    frame = pd.DataFrame(
        {
            "w = 0.1": ["27106.50 ± 0.25", "3 ± 1"],
            "effect": ["0.45 [\N{MINUS SIGN}0.811, 1.71] points", "1e7"],
            "one": [0.5, 12345],
        }
    )
    english, german = (tables.latex(frame, language).splitlines() for language in ("en", "de"))
    assert english[2].startswith(r"\multicolumn{2}{c}{w = 0.1}")
    assert german[2].startswith(r"\multicolumn{2}{c}{w = 0,1}")
    assert german[4] == (r"$27\,106{,}50$ & ${}\pm 0{,}25$ & 0,45 [$-$0,811; 1,71] points & $0{,}5$ \tabularnewline")
    assert german[5].startswith(r"$3\phantom{{,}00}$ & ${}\pm 1$ & ")
    assert english[5].startswith(r"$3\phantom{.00}$ & ${}\pm 1$ & ")


def test_macros_and_captions(results, monkeypatch, folders):
    figure = curves.curves(results)
    save.save(figure, "1_baseline", results)
    folder = save.figures_folder("smoke")
    runs = {"label": "no term", "network": "mlp", "seed": [0, 1], "accuracy": [0.9, 0.92], "d_0": [30000.0, 30001.0]}
    save.table(pd.DataFrame(runs), "1_baseline", results)
    found = defined(numbers.numbers(folder, {"1_baseline": ["accuracy", "d_0"]}, "de"))
    assert found["OneBaselineNoTermAccuracy"] == r"\ensuremath{0{,}910}"
    assert found["OneBaselineNoTermDZero"] == r"\ensuremath{30\,000{,}50}"
    said = {
        language: defined(chapter.captions(folder, notebooks.chapter_sections(), language)) for language in ("en", "de")
    }
    assert said["en"] == said["de"], "no number in it has decimals"
    monkeypatch.setattr(chapter, "_settings", lambda *_: "4,000 digits at 0.05 of 20,000")
    (caption,) = defined(chapter.captions(folder, notebooks.chapter_sections(), "de")).values()
    assert r"4000 digits at 0,05 of 20\,000" in caption


@pytest.mark.parametrize(("language", "babel"), [("de", "ngerman"), ("ngerman", "ngerman"), ("en", ""), ("", "")])
def test_the_chapters_language(language, babel, results):
    figure = curves.curves(results)
    save.save(figure, "1_baseline", results)
    document = chapter.write(save.figures_folder("smoke"), notebooks.chapter_sections(), language).read_text()
    assert (rf"\usepackage[{babel}]{{babel}}" in document) == bool(babel)
    assert ("babel" in document) == bool(babel)
