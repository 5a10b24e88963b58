"""numbers.tex, captions.tex and the chapter: what they say is what the tables and notebooks say, and TeX takes it."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from thesislib.__main__ import main
from thesislib.app import chapter, notebooks, numbers
from thesislib.plots import curves, save
from thesislib.runs.results import Results
from thesislib.system.errors import UserError

ENGINES = [
    pytest.param(engine, marks=pytest.mark.skipif(not shutil.which(engine), reason=f"{engine} is not installed"))
    for engine in chapter.ENGINES
]


def defined(code):
    """The macros of a .tex, by name."""
    return dict(re.findall(r"^\\thesisdefine\{(\w+)\}\{(.*)\}(?: %.*)?$", code, re.MULTILINE))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1_baseline", "OneBaseline"), ("s = 0.1, w = 10", "SZeroPointOneWOneZero"), ("s = -2", "SMinusTwo"),
        ("cosine, multiple", "CosineMultiple"), ("2-1_width_end", "TwoOneWidthEnd"), ("SWA", "SWA"),
    ],
)  # fmt: skip
def test_names_are_of_letters(text, name):
    assert numbers.letters(text) == name


@pytest.fixture
def tables(folders):
    """Tables as sections write them, with one network."""
    folder = folders / "figures" / "smoke"
    folder.mkdir(parents=True)
    runs = {"label": ["no term", "no term", "s = 0.1"], "network": "mlp", "seed": [0, 1, 0]}
    frame = pd.DataFrame(runs | {"epoch": 4, "accuracy": [0.9, 0.92, 0.5], "d_0": [1e7, 1e7, 3.0], "lr": 0.1})
    frame.to_csv(folder / "1_baseline.csv", index=False)
    row = {"claim": "C1", "says": "farther", "expected": "more", "premise": False, "verdict": "reproduced"}
    row |= {"effect": 2.5097, "low": 2.4, "high": float("inf"), "margin": 1.1, "unit": "factor", "n": 3}
    second = row | {"says": "as good", "verdict": "undecided", "effect": -0.4512, "unit": "points"}
    pd.DataFrame([row, second]).assign(network="mlp").to_csv(folder / "9_claims.csv", index=False)
    return folder


def test_there_is_a_macro_for_every_number(tables):
    found = defined(numbers.numbers(tables, {"1_baseline": ["accuracy", "d_0"]}))
    assert found == {
        "OneBaselineNoTermAccuracy": r"\ensuremath{0.910}",
        "OneBaselineNoTermAccuracyStd": r"\ensuremath{0.014}",
        "OneBaselineNoTermDZero": r"\ensuremath{1\cdot 10^{7}}",
        "OneBaselineNoTermDZeroStd": r"\ensuremath{0}",
        "OneBaselineNoTermN": "2",
        "OneBaselineSZeroPointOneAccuracy": r"\ensuremath{0.5}",
        "OneBaselineSZeroPointOneDZero": r"\ensuremath{3}",
        "OneBaselineSZeroPointOneN": "1",
        "ClaimOneVerdict": "undecided",
        "ClaimOneAEffect": r"\ensuremath{2.51}",
        "ClaimOneALow": r"\ensuremath{2.4}",
        "ClaimOneAHigh": r"\ensuremath{\infty}",
        "ClaimOneAUnit": r"\ensuremath{\times}",
        "ClaimOneAN": "3",
        "ClaimOneAVerdict": "reproduced",
        "ClaimOneBEffect": r"\ensuremath{-0.451}",
        "ClaimOneBLow": r"\ensuremath{2.4}",
        "ClaimOneBHigh": r"\ensuremath{\infty}",
        "ClaimOneBUnit": "points",
        "ClaimOneBN": "3",
        "ClaimOneBVerdict": "undecided",
    }


def test_several_networks_have_names_of_their_own(tables):
    path = tables / "9_claims.csv"
    found = pd.read_csv(path)
    pd.concat([found, found.assign(network="resnet32", effect=9.0)]).to_csv(path, index=False)
    found = defined(numbers.numbers(tables, {}))
    assert found["ClaimOneMlpAEffect"] == r"\ensuremath{2.51}"
    assert found["ClaimOneResnetThreeTwoAEffect"] == r"\ensuremath{9}"


def compile_(engine, folder, *lines):
    (folder / "thesis.tex").write_text("\n".join(lines))
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "thesis.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.skipif(
    not (shutil.which("pdflatex") and shutil.which("pdftotext")), reason="pdflatex, pdftotext: not here"
)
def test_signs_are_mathematics(tables):
    """As a deep-ensemble equivalent has them: "≤ 1", "≥ 5"."""
    scores = pd.DataFrame({"label": ["a", "a", "b", "b"], "network": "mlp", "seed": [0, 1, 0, 1]})
    scores.assign(equivalent=[0.5, 0.7, 5.1, 6]).to_csv(tables / "7_ensembles_scores.csv", index=False)
    assert numbers._math("≤ 1", "en") == r"\ensuremath{\leq 1}"
    assert numbers._math("≥ 5", "en") == r"\ensuremath{\geq 5}"
    assert numbers._math("−0.5", "de") == r"\ensuremath{-0{,}5}"
    assert numbers._math("4.97 to ≥ 5", "de") == r"\ensuremath{4{,}97\mbox{ to }\geq 5}"
    assert numbers._math("2e+09", "en") == r"\ensuremath{2\cdot 10^{9}}"
    assert not re.search("[≤≥]", numbers.numbers(tables, {}).split("%")[-1])


def test_columns_that_are_missing_and_tables_of_somebody_else_are_no_macros(tables):
    """Of a section without minima no distance; and what `make figures` did not write is not read."""
    frame = pd.DataFrame({"label": ["plain"], "network": "mlp", "seed": [0], "accuracy": [0.9]})
    frame.to_csv(tables / "2-4_plain.csv", index=False)
    found = defined(numbers.numbers(tables, {"2-4_plain": ["accuracy", "d_0"]}))
    assert [name for name in found if name.startswith("TwoFour")] == ["TwoFourPlainPlainAccuracy", "TwoFourPlainPlainN"]
    save.write(tables, "1_baseline.csv", (tables / "1_baseline.csv").read_bytes())
    (tables / "mine.csv").write_bytes(b"\xff\x00")
    assert all(name.startswith("OneBaseline") for name in defined(numbers.numbers(tables, {})))


def test_numbers_of_some_of_the_runs_say_of_how_many(tables):
    """Two of three networks died: their loss is missing, and the third one's is not the mean of three."""
    frame = pd.DataFrame({"label": "lr = 5", "network": "mlp", "seed": [0, 1, 2], "train_loss": [2.0, np.nan, 4.0]})
    frame.to_csv(tables / "1_baseline.csv", index=False)
    found = defined(numbers.numbers(tables, {"1_baseline": ["train_loss"]}))
    one = {name.removeprefix("OneBaselineLrFive"): value for name, value in found.items() if name.startswith("One")}
    assert one == {
        "TrainLoss": r"\ensuremath{3.0}", "TrainLossStd": r"\ensuremath{1.4}", "TrainLossN": "2", "N": "3"
    }  # fmt: skip


def test_two_numbers_never_share_a_macro(folders):
    """Labels that are alike but for a sign: the second one's numbers are there as a remark."""
    labels = ["a+b", "a b", "w = 1e-05", "w = 1e+05"]
    frame = pd.DataFrame({"label": labels, "seed": 0, "x": [1.5, 2.5, 3.5, 4.5]})
    save.table(frame, "mine", Results([], "smoke"))
    code = numbers.numbers(save.figures_folder("smoke"), {})
    assert r"\thesisdefine{MineABX}{\ensuremath{1.5}}" in code
    assert r"% no macro, MineABX is another number's already: \ensuremath{2.5}, mine, a b: x" in code
    assert r"{MineWOneEMinusZeroFiveX}{\ensuremath{3.5}}" in code
    assert r"{MineWOneEZeroFiveX}{\ensuremath{4.5}}" in code


def test_labels_are_texts_whatever_they_look_like(folders):
    """What a CSV has is no number, no truth value and nothing missing; role and network say so too."""
    labels = ["1", "10", "True", "None", "NA", "", "1e5"]
    frame = pd.DataFrame({"label": labels, "role": ["2", *["curve"] * 6], "network": "7", "seed": 0, "x": range(7)})
    save.table(frame, "mine", Results([], "smoke"))
    read = save.read_table(save.figures_folder("smoke") / "mine.csv")
    pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    found = defined(numbers.numbers(save.figures_folder("smoke"), {}))
    assert {name: value for name, value in found.items() if name.endswith("X")} == {
        f"Mine{name}X": rf"\ensuremath{{{k}}}"
        for k, name in enumerate(["TwoOne", "OneZero", "True", "None", "NA", "", "OneEFive"])
    }


def test_macros_are_read_in_text_and_formulas_of_two_scales(tables):
    (tables / "numbers.tex").write_text(numbers.numbers(tables, {"1_baseline": ["accuracy"]}))
    compile_(
        "pdflatex", tables, r"\documentclass{article}\begin{document}\input{numbers.tex}", r"\def\numbersprefix{Mnist}",
        r"\input{numbers.tex}", r"verdict \ClaimOneVerdict{}, \MnistClaimOneAEffect{} and $x = \ClaimOneBEffect$.",
        r"\end{document}",
    )  # fmt: skip
    subprocess.run(["pdftotext", "thesis.pdf"], cwd=tables, check=True)
    assert "verdict undecided, 2.51 and x = −0.451." in (tables / "thesis.txt").read_text()


def test_markdown_becomes_latex():
    markdown = (
        "## Two & three\n\nIt is **bold**, *slanted*, `a_b`, 50 % and $x_1$,\n\n$$L = 1,\n\\qquad d$$\n\n"
        "see [the page](../docs/PAGE.md).\n\n- [0.1, 0.2] is\n- two"
    )
    assert chapter.latex(markdown).split("\n\n") == [
        r"\subsection*{Two \& three}",
        r"It is \textbf{bold}, \emph{slanted}, \texttt{a\_b}, 50 \% and $x_1$,",
        "\\[\nL = 1,\n\\qquad d\n\\]",
        "see the page.",
        "\\begin{itemize}\n\\item {}[0.1, 0.2] is\n\\item two\n\\end{itemize}",
    ]


@pytest.fixture
def drawn(finished, results_of):
    """A figure and a table of section 1, as the notebook saves them."""
    runs = results_of(finished)
    save.save(curves.curves(runs), "1_baseline", runs)
    save.table(runs.for_csv(), "1_baseline", runs, ["accuracy", "d_0"])
    return save.figures_folder("smoke")


@pytest.fixture
def results_of():
    from thesislib.runs.results import Results

    return lambda finished: Results({"term, 50 % #1": [finished.run]}, "smoke", "1_baseline")


def test_captions_are_the_notebooks_texts(drawn):
    found = defined(chapter.captions(drawn, notebooks.chapter_sections()))
    said = found["CaptionOneBaseline"]
    assert said.startswith("Test accuracy, and squared distance to the minimum. Dotted: its epoch.")
    settings = "Scale smoke (512 embedded digits, tiny MLP, seconds), network mlp-tiny, one seed."
    assert said.endswith(f"{settings} From $N = 20$ on a hill has been left."), "N stands in its legend"
    for code, seeds in (("", "one seed"), ("{n = 2 to 5; CIFAR-10}", "2 to 5 seeds"), ("{n = 1}", "one seed")):
        (drawn / "1_baseline.pgf").write_text(code)
        said = defined(chapter.captions(drawn, notebooks.chapter_sections()))["CaptionOneBaseline"]
        assert said.endswith(settings.replace("one seed", seeds)), "of what is shown, whatever the runs are"
    assert list(found) == ["CaptionOneBaseline"], "of figures that are there"


def test_figures_of_another_width_have_captions_and_a_chapter_too(drawn):
    as_wide_as_the_text = chapter.captions(drawn, notebooks.chapter_sections())
    for kind in ("pgf", "json"):
        (drawn / f"1_baseline.{kind}").rename(drawn / f"1_baseline-column.{kind}")
    assert chapter.captions(drawn, notebooks.chapter_sections()) == as_wide_as_the_text
    chapter.write(drawn, notebooks.chapter_sections())
    assert r"\input{1_baseline-column.pgf}" in (drawn / "chapter-body.tex").read_text()


def test_a_sections_number_has_no_decimal_comma(drawn):
    section = next(some for some in notebooks.chapter_sections() if some.name == "1_baseline")
    told = section._replace(parts=[("text", "As in section 7.1, 0.5 of sections 2.3"), ("figure", "1_baseline")])
    assert "As in section 7.1, 0,5 of sections 2.3" in chapter.captions(drawn, [told], "de")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_chapter_compiles(engine, drawn, capsys):
    german = (
        shutil.which("kpsewhich") and subprocess.run(["kpsewhich", "ngerman.ldf"], capture_output=True).returncode == 0
    )
    language = ["--language", "ngerman"] if german else []
    assert main(["chapter", "--scale", "smoke", "--engine", engine, *language]) == 0
    assert capsys.readouterr().out == f"{drawn / 'chapter.pdf'}\n"
    log = (drawn / "chapter.log").read_text(errors="replace")
    assert not re.search(r"Overfull|Missing character|undefined", log)
    if shutil.which("pdftotext"):
        subprocess.run(["pdftotext", "chapter.pdf"], cwd=drawn, check=True)
        read = (drawn / "chapter.txt").read_text()
        assert ("Abbildung 1" if german else "Figure 1") in read
        assert "What does the distance term do to a run?" in read
        (drawn / "chapter.txt").unlink()
    assert not save.delete(save.figures_folder("smoke"))[1], "all that was written is deleted again"


def test_what_is_missing_is_one_line(drawn, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["chapter", "--scale", "smoke"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("thesislib: TeX (pdflatex, xelatex, lualatex) is not installed: ")
    assert (drawn / "chapter.tex").is_file()
    assert main(["chapter", "--scale", "smoke", "--engine", "tex"]) == 2
    assert "unknown engine 'tex'" in capsys.readouterr().err
    assert main(["chapter", "--scale", "laptop"]) == 2
    assert "no figures of the chapter are in" in capsys.readouterr().err
    assert main(["chapter", "--scale", "smoke", "--language", "$x"]) == 2
    assert "one of babel's" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_texs_complaint_is_one_line(drawn):
    document = chapter.write(drawn, notebooks.chapter_sections())
    (drawn / "1_baseline.pgf").write_text(r"\nosuchmacro")
    with pytest.raises(UserError, match=r"^pdflatex: Undefined control sequence. \(see .*chapter.log\)$"):
        chapter.compiled(document, "pdflatex")
