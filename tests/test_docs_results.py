"""The pages that `python docs/results.py` writes say what the tables and pictures in figures/reference say today."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from thesislib.runs.spreads import bounded

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def docs():
    specification = importlib.util.spec_from_file_location("docs_results", ROOT / "docs" / "results.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_no_page_is_stale(docs):
    pages = docs.pages()
    assert {str(path.relative_to(ROOT)) for path in pages} >= {"docs/RESULTS.md", "README.md"}
    stale = [str(path.relative_to(ROOT)) for path, text in pages.items() if path.read_text() != text]
    assert not stale, "run: python docs/results.py"


def test_every_picture_stands_in_its_chapter_once(docs):
    for scale in docs.scales():
        there = {path.name for kind in ("png", "gif") for path in (docs.REFERENCE / scale).glob(f"*.{kind}")}
        sides = {picture for picture in there if re.search(r"-\d{3}\.png$", picture)}  # of a .pgf
        shown = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", docs.chapter(scale))
        again = {picture for picture in there if docs.repeats(scale, picture.removesuffix(".png"))}
        assert sorted(shown) == sorted(there - sides - again)
        assert bool(again) == (scale == "mnist"), "where no rate was chosen, section 7 would be there twice"


def test_every_section_has_its_question_figure_and_numbers(docs):
    text = docs.results()
    for path in (ROOT / "notebooks").glob("[1-9]*.ipynb"):
        section = text.split(f"notebooks/{path.name}")[0].rsplit("\n## ", 1)[1]
        assert re.search(r"^\*\*.*\?\*\*", section, re.MULTILINE), "a question"
        assert len(re.findall(r"!\[", section)) == 1, "a figure"
        assert "| --- |" in section or path.stem == "9_claims", "numbers"
        assert len(re.findall(r"^- (?!\*\*)", section, re.MULTILINE)) >= 3, "a reading"


def test_the_readme_has_a_line_a_claim(docs):
    lines = re.findall(r"^\| (C\d+) \|.*$", docs.readme(), re.MULTILINE)
    assert lines == [f"C{n}" for n in range(1, 15)]


@pytest.mark.parametrize("column", ["model", "network"])
@pytest.mark.parametrize("roles", [False, True])
def test_both_forms_of_tables_are_read(docs, tmp_path, monkeypatch, column, roles):
    """With the column of networks under either name; without one that says what runs are for, all are shown."""
    rows = {"label": ["no term", "no term", "s = 1"], column: "mlp", "d_0": [1.0, 3.0, 9.0]}
    table = pd.DataFrame(rows | {"role": ["curve", "curve", "published"]}) if roles else pd.DataFrame(rows).head(2)
    (tmp_path / "mnist").mkdir()
    table.to_csv(tmp_path / "mnist" / "2-2_strength.csv", index=False)
    monkeypatch.setattr(docs, "REFERENCE", tmp_path)
    assert docs.table("mnist", "2-2_strength", ["d_0"]).splitlines()[2:] == ["| no term | 2.0 ± 1.4 | 2 |"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.98, 0.9816], "0.9808 ± 0.0011"),
        ([3100.0, 3600.0], "3350 ± 354"),
        ([0.1, 0.1, 0.1], "0.1 ± 0"),
        ([5.0], "5"),
        ([1e24, 3e24], "2.0e+24 ± 1.4e+24"),
        ([2.25, 1e12, 8e34], "2.2 to 8e+34"),
        ([float("nan")], ""),
        ([2.0, float("nan"), 4.0], "3.0 ± 1.4, n = 2"),
        ([float("nan"), 5.0], "5, n = 1"),
        ([float("inf"), 3.0, 4.0], "inf"),
    ],
)
def test_numbers_are_shown_with_the_digits_that_they_have(docs, values, shown):
    assert docs.spread(pd.Series(values)) == shown


def test_an_ensemble_better_than_all_independent_networks_reads_so():
    assert bounded(pd.Series([5.0, 5.0])) == bounded(pd.Series([5.0])) == "≥ 5"
    assert bounded(pd.Series([1.0, 1.0, 3.9])) == "≤ 1", "two are no better than one network; a mean would be 2"
    assert bounded(pd.Series([4.97, 2.3, 5.0, 5.0])) == "4.97 to ≥ 5"
    assert bounded(pd.Series([2.5, 1.0, 3.5, 5.0])) == "3.00"
    assert bounded(pd.Series([1.0, 5.0])) == "≤ 1 to ≥ 5"
    assert bounded(pd.Series([float("nan")])) == ""


def test_a_heading_without_anything_below_it_is_left_out(docs):
    first, empty = [("text", "first"), ("figure", "")], [("text", "### Three"), ("text", "this"), ("figure", "")]
    shown = [*first, ("text", "### Two"), ("text", "that"), ("table", ""), ("figure", "![x](x.png)"), *empty]
    assert docs._with_something(shown) == shown[:6]


def test_no_picture_is_cut_off():
    """At the left and at the right there is a rim of white: a label that is too long would cross it."""
    pictures = [path for path in sorted((ROOT / "figures" / "reference").glob("*/*.png")) if path.stem[-4:-2] != "-0"]
    assert len(pictures) > 90
    cut = [str(path) for path in pictures if np.asarray(Image.open(path).convert("L"))[:, [0, -1]].min() < 255]
    assert not cut
