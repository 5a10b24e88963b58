"""Tables for LaTeX: what stands in the .tex is what the frame says, and a document takes it."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from thesislib.__main__ import main
from thesislib.app import numbers
from thesislib.plots import save, tables
from thesislib.plots.tables import latex, readable
from thesislib.runs.results import Results
from thesislib.system.errors import UserError

needs_tex = pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")


def rows(code):
    """The cells of a tabular, line by line."""
    return [
        re.split(r"(?<!\\) & ", line.removesuffix(r" \tabularnewline"))
        for line in code.splitlines()
        if "newline" in line
    ]


def test_numbers_stand_under_their_decimal_points():
    frame = pd.DataFrame({"label": ["a", "b", "c"], "d_0": [1.25, -3.0, None], "n": [1, 20, 3]})
    head, *body = rows(latex(readable(frame)))
    assert head == ["setting", "$d_0$", "n"]
    assert body == [["a", "$1.25$", "$1$"], ["b", r"$-3\phantom{.00}$", "$20$"], ["c", "", "$3$"]]
    assert r"\begin{tabular}{@{}lrr@{}}" in latex(frame)


def test_a_row_a_seed_becomes_mean_and_deviation():
    frame = pd.DataFrame(
        {"label": ["x"] * 2 + ["y"], "network": "mlp", "seed": [0, 1, 0], "accuracy": [0.9, 0.92, 0.5]}
    )
    code = latex(readable(frame, "mine"))
    assert rows(code) == [
        ["setting", r"\multicolumn{2}{c}{accuracy}", "n"],
        ["x", "$0.910$", r"${}\pm 0.014$", "$2$"],
        ["y", r"$0.5\phantom{00}$", "", "$1$"],
    ]
    assert "lr@{}lr" in code
    assert list(readable(frame.assign(nll=1.0), "mine", ["accuracy"])) == ["setting", "accuracy", "n"]


def test_every_text_is_escaped_and_signs_are_mathematics():
    frame = pd.DataFrame({"run #3 & more": ["50 %", "a_b"], "effect": ["2.5 [2, 3] ×", "−1 points"], "x": [1e7, 2.0]})
    head, first, second = rows(latex(frame))
    assert head[0] == r"run \#3 \& more"
    assert first == [r"50 \%", r"2.5 [2, 3] \ensuremath{\times}", r"$1\cdot 10^{7}$"]
    assert second[:2] == [r"a\_b", "$-$1 points"]


def test_wide_tables_are_several_and_long_ones_break():
    wide = pd.DataFrame({"label": ["x"], **{f"a rather long column {k}": [k / 7] for k in range(8)}})
    parts = latex(wide).split(r"\par\medskip")
    assert len(parts) > 1
    assert sum(len(rows(part)[0]) - 1 for part in parts) == 8
    assert all(rows(part)[1][0] == "x" for part in parts)
    assert r"\begin{longtable}" in latex(pd.DataFrame({"x": range(60)}))
    assert r"\begin{longtable}" not in latex(pd.DataFrame({"x": range(30)}))
    assert latex(pd.DataFrame({"x": range(60)})).startswith(tables.NO_FLOAT)
    in_columns = latex(pd.DataFrame({"x": range(60)}), points=240)  # which have no longtables
    assert in_columns.startswith(tables.NO_FLOAT)
    assert [part.count("$") // 2 for part in in_columns.split(r"\begin{tabular}")[1:]] == [40, 20]
    wide = pd.DataFrame({f"a column with a long name {k}": range(30) for k in range(6)})
    assert r"\begin{longtable}" not in latex(wide), "each of its parts fits a page"
    assert latex(wide).startswith(tables.NO_FLOAT)


def test_both_files_are_written_and_deleted_again(folders):
    runs = Results([], "smoke")
    frame = pd.DataFrame({"label": ["a"], "d_0": [1.25]})
    save.table(frame, "mine", runs)
    folder = save.figures_folder("smoke")
    assert (folder / "mine.csv").read_text() == "label,d_0\na,1.25\n"
    assert (folder / "mine.tex").read_text() == latex(readable(frame, "mine"))
    with pytest.raises(UserError, match="a table cannot be called numbers"):
        save.table(frame, "numbers", runs)
    assert sorted(save.delete(save.figures_folder("smoke"))[0]) == ["mine.csv", "mine.tex"]


def test_a_file_is_noted_before_it_is_written(folders, monkeypatch):
    """So that what a killed process leaves is still deleted, and read by others."""
    folder = save.make_folder("smoke")

    def killed(path, content):
        path.write_bytes(content)
        raise KeyboardInterrupt

    monkeypatch.setattr(save.files, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        save.write(folder, "mine.csv", b"")
    assert save.delete(folder) == (["mine.csv"], [])


def test_a_cell_says_where_runs_are_missing():
    rows = {"label": ["a", "a", "a", "b", "b"], "network": "mlp", "seed": [0, 1, 2, 0, 1]}
    shown = readable(pd.DataFrame(rows | {"train_loss": [2.0, np.nan, 4.0, 1.0, 1.1]}))
    assert shown["training loss"].tolist() == ["3.0 ± 1.4, n = 2", "1.050 ± 0.071"]
    assert r"${}\pm 1.4$, $n = 2$ & $3$" in latex(shown), "a number still, below the others"


def test_a_range_spans_the_number_and_its_deviation():
    exploded, bounds = ["2.0 ± 1.4", "2.2 to 8e+34", ""], ["5", "≤ 1 to ≥ 5", "4.97 to 5, n = 2"]
    shown = latex(pd.DataFrame({"label": ["a", "b", "c"], "d": exploded, "networks": bounds}), "de").splitlines()
    assert shown[4:7] == [
        r"a & $2{,}0$ & ${}\pm 1{,}4$ & $5$ \tabularnewline",
        r"b & \multicolumn{2}{c}{$2{,}2\mbox{ to }8\cdot 10^{34}$} & $\leq 1\mbox{ to }\geq 5$ \tabularnewline",
        r"c &  &  & $4{,}97\mbox{ to }5$, $n = 2$ \tabularnewline",
    ]


@needs_tex
def test_a_document_takes_them(tmp_path):
    """Wide, long and with every kind of cell, on the narrowest page, in German."""
    text = "an effect that is told in rather many words, so that it has to be broken"
    long = pd.DataFrame(
        {"claim": [f"C{k}" for k in range(50)], "says": text, "effect": "−0.0833 [−0.721, 0.554] points"}
    )
    own = pd.DataFrame(
        {
            'the "best" {x}': ["*a & b", "[c~d] best"],
            "value": [1.5, float("inf")],
            "±": ["≤ 1 to ≥ 5", "4.2 ± 1.8, n = 3"],
        }
    )
    wide = pd.DataFrame({"label": ["x"], **{f"column_{k}": [k / 7] for k in range(12)}})
    for name, frame in (("long", long), ("own", own), ("wide", wide)):
        (tmp_path / f"{name}.tex").write_text(latex(readable(frame)))
    language = subprocess.run(["kpsewhich", "ngerman.ldf"], capture_output=True).returncode == 0
    lines = [r"\documentclass[10pt]{report}\usepackage[T1]{fontenc}\usepackage{booktabs,longtable}"]
    lines += [r"\usepackage[ngerman]{babel}"] * language + [r"\begin{document}\small"]
    lines += [rf"\noindent\input{{{name}.tex}}" + "\n" for name in ("own", "wide", "long")] + [r"\end{document}"]
    (tmp_path / "thesis.tex").write_text("\n".join(lines))
    for name, frame in (("long", long), ("wide", wide)):
        (tmp_path / f"{name}-column.tex").write_text(latex(readable(frame), points=240))
    columns = [r"\documentclass[10pt,twocolumn]{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}"]
    columns += [rf"\noindent\small\input{{{name}-column.tex}}" + "\n" for name in ("wide", "long")] + [
        r"\end{document}"
    ]
    (tmp_path / "columns.tex").write_text("\n".join(columns))
    for document in ("thesis", "thesis", "columns"):  # longtable's columns take two runs
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{document}.tex"]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stdout[-3000:]
    for document in ("thesis", "columns"):
        assert "Overfull" not in (tmp_path / f"{document}.log").read_text(errors="replace")


def compared(*networks):
    return pd.DataFrame(
        [
            {"score": "nll_ensemble_scaled", "label": "SWA", "network": network, "difference": k, "low": k - 1,
             "high": k + 1, "n": 5, "verdict": verdict}
            for k, (network, verdict) in enumerate(zip(networks, ("wins", "loses"), strict=False))
        ]
    )  # fmt: skip


def test_no_network_takes_the_place_of_another():
    """A scale with several of them: each has a row, and its name."""
    found = readable(compared("resnet32", "mobilenetv2"), "7_ensembles_compared")
    assert list(found["setting"]) == ["SWA, resnet32", "SWA, mobilenetv2"]
    assert [cell.split()[-1] for cell in found["scaled NLL, 0.001 nats"]] == ["wins", "loses"]
    assert list(readable(compared("mlp"), "any name")["setting"]) == ["SWA"]


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(1, 1.95, "1.50 [1.00, 1.95]"), (0.0, np.inf, "1.50"), (-np.inf, np.inf, "1.50"), (-150, 24, "1.50 [−150, 24.0]")],
)
def test_an_interval_that_is_not_known_is_not_shown(low, high, shown):
    assert tables.interval(1.5, low, high, ".3g") == shown


def test_columns_that_are_not_there_are_one_line_and_an_index_is_kept(folders):
    frame = pd.DataFrame({"label": ["a", "a", "b"], "seed": [0, 1, 0], "accuracy": [0.1, 0.2, 0.3]})
    with pytest.raises(UserError, match="no column acuracy: is it accuracy"):
        save.table(frame, "mine", Results([], "smoke"), columns=["acuracy"])
    save.table(frame.groupby("label")[["accuracy"]].mean(), "mine", Results([], "smoke"))
    written = pd.read_csv(save.figures_folder("smoke") / "mine.csv")
    assert written.to_dict("list") == {"label": ["a", "b"], "accuracy": [pytest.approx(0.15), 0.3]}


def test_what_pandas_groups_has_one_line_of_headings(folders):
    frame = pd.DataFrame({"label": ["a", "a", "b", "b"], "accuracy": [0.1, 0.3, 0.5, 0.5]})
    grouped = frame.groupby("label")[["accuracy"]].agg(["mean", "std"])
    shown = save.table(grouped, "mine", Results([], "smoke"))
    assert list(shown) == ["setting", "accuracy, mean", "accuracy, std"]
    written = (save.figures_folder("smoke") / "mine.csv").read_text().splitlines()
    assert written[0] == 'label,"accuracy, mean","accuracy, std"'
    assert len(written) == 3
    numbered = pd.DataFrame({"label": ["a", "a"], "seed": [0, 1], 5: [0.1, 0.2]})
    assert list(save.table(numbered, "mine", Results([], "smoke"), [5])) == ["setting", "5", "n"]
    with pytest.raises(UserError, match="no column 6: choose from label, seed, 5"):
        save.table(numbered, "mine", Results([], "smoke"), [6])


def test_columns_under_one_heading_both_show(folders):
    """ "accuracy" is the heading of both: the ensembles' would take the place of the networks'."""
    columns = {"label": "a", "seed": [0, 1], "accuracy": [0.5, 0.6], "accuracy_ensemble": [0.7, 0.8]}
    shown = save.table(pd.DataFrame(columns), "mine", Results([], "smoke"))
    assert shown[["accuracy", "accuracy_ensemble"]].iloc[0].tolist() == ["0.550 ± 0.071", "0.750 ± 0.071"]
    code = numbers.numbers(save.figures_folder("smoke"), {})
    assert r"{MineAAccuracy}{\ensuremath{0.550}}" in code
    assert r"{MineAAccuracyEnsemble}{\ensuremath{0.750}}" in code


def test_a_table_without_columns_is_one_line_and_writes_nothing(folders):
    with pytest.raises(UserError, match="has no columns"):
        save.table(pd.DataFrame(), "mine", Results([], "smoke"))
    assert not save.figures_folder("smoke").exists()


def test_a_table_of_ones_own_may_have_any_name():
    own = pd.DataFrame({"label": ["a", "b"], "loss": [0.1, 0.2]})
    assert list(readable(own, "mine_compared")["setting"]) == ["a", "b"]


def test_a_notebook_shows_a_table_whole(folders):
    """pandas breaks off texts after 50 letters and leaves out rows of more than 60."""
    says = "after the first drop of the learning rate the distance to the first minimum falls, s = 100"
    frame = pd.DataFrame({"says": [says] * 100, "k": range(100)})
    shown = save.table(frame, "long", Results([], "smoke"))._repr_html_()
    assert shown.count(says) == 100
    assert pd.get_option("display.max_colwidth") == 50, "the user's own tables are as they were"


def test_columns_of_a_grouped_table_keep_what_tells_its_rows_apart(folders):
    frame = pd.DataFrame({"strength": [1, 1, 2], "accuracy": [0.5, 0.6, 0.7], "d_0": [1.0, 2.0, 3.0]})
    grouped = frame.groupby("strength").mean()
    assert list(save.table(grouped, "mine", Results([]), ["accuracy"])) == ["strength $s$", "accuracy"]


def test_parts_of_claims_have_a_letter_each_as_their_macros():
    found = pd.DataFrame(
        {
            "claim": ["C1", "C1", "C2", "C1"], "says": "x", "premise": False, "effect": 1.0, "low": 0.5, "high": 2.0,
            "unit": "points", "verdict": "undecided", "n": 3, "N": np.nan,
        }
    )  # fmt: skip
    assert list(readable(found.assign(network="a"), "9_claims")["claim"]) == ["C1A", "C1B", "C2A", "C1C"]
    several = readable(found.assign(network=["a", "a", "a", "b"]), "9_claims")
    assert list(several["claim"] + several["network"]) == ["C1Aa", "C1Ba", "C2Aa", "C1Ab"]


def test_numbers_of_tables_of_ones_own(folders, capsys):
    """Of a scale that no `make figures` knows."""
    assert main(["numbers", "--scale", "own"]) == 2
    assert "no tables are in " in capsys.readouterr().err
    save.table(pd.DataFrame({"label": "a", "seed": [0, 1], "accuracy": [0.5, 0.6]}), "mine", Results([]))
    assert main(["numbers", "--scale", "own", "--language", "de"]) == 0
    written = save.figures_folder("own") / "numbers.tex"
    assert capsys.readouterr().out == f"{written}\n"
    assert r"{MineAAccuracy}{\ensuremath{0{,}550}}" in written.read_text()
    assert main(["numbers", "--scale", "../own"]) == 2


def test_numbers_of_several_learning_rates_are_kept_apart(folders):
    """A macro that is a mean over rates says nothing."""
    rows = [("SWA", factor, seed, 0.1 * factor + 0.01 * seed) for factor in (1.0, 0.5) for seed in (0, 1)]
    frame = pd.DataFrame(rows, columns=["label", "factor", "seed", "nll_ensemble_scaled"]).assign(network="mlp")
    save.table(frame, "7-1_rates_scores", Results([], "smoke", "7-1_rates"))
    code = numbers.numbers(save.figures_folder("smoke"), {})
    for name, value in (("One", "0.1050"), ("ZeroPointFive", "0.0550")):
        assert rf"\thesisdefine{{SevenOneRatesScoresSWA{name}NllEnsembleScaled}}{{\ensuremath{{{value}}}}}" in code
    assert "SWANllEnsembleScaled" not in code


def test_a_table_that_cannot_be_read_is_left_out_and_said(folders, capsys):
    """An earlier version wrote it, with several rows of a seed."""
    frame = pd.DataFrame({"label": "mine", "network": "mlp", "seed": [0, 1], "v": [1.0, 2.0]})
    save.table(frame, "good", Results([], "smoke"))
    save.table(frame, "old", Results([], "smoke"))
    path = save.figures_folder("smoke") / "old.csv"
    path.write_text(path.read_text().replace("mlp,1,", "mlp,0,"))
    code = numbers.numbers(save.figures_folder("smoke"), {})
    assert r"\GoodMineV" in code.replace("\\thesisdefine{", "\\")
    assert "numbers.tex: old.csv is left out: there are several rows of label mine, seed 0" in capsys.readouterr().out
