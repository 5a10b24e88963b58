"""The report: its pages and their links; test_report_browser looks at them."""

import base64
import io
import re
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from matplotlib.image import imsave
from nbformat import v4

from thesislib.__main__ import main
from thesislib.app import report
from thesislib.plots import save
from thesislib.system.errors import UserError

CLAIMS = "claim,says,expected,premise,verdict,effect,low,high,margin,unit,n,network\n"
CLAIMS += "C1,the term ends <farther>,more,False,not reproduced,2.5,2.4,2.6,1.1,factor,3,mlp\n"


def notebook(title, text, number=1):
    picture = io.BytesIO()
    imsave(picture, np.full((4, 4), number), format="png")
    shown = {
        "image/png": base64.b64encode(picture.getvalue()).decode(),
        "image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0h9"/></svg>',
        "text/plain": "<Figure>",
    }
    script = {
        "text/html": "<table><tr><th>$d_0$, factor</th></tr><tr><td>0.9</td></tr></table>",
        "application/javascript": "load('http://x')",
    }
    outputs = [v4.new_output("display_data", data) for data in (shown, script)]
    code = v4.new_code_cell(f"runs = {number}  # of one's own", outputs=outputs, execution_count=1)
    return v4.new_notebook(cells=[v4.new_markdown_cell(f"# {title}\n\n{text}"), code])


@pytest.fixture
def site(folders):
    folder = save.make_folder("smoke")
    formulas = r"Height $s \le 1$, and $$\frac{s}{n} e^{-w d}$$" + "\n\n" + r"\begin{align}a &= b\end{align}"
    links = "[next](2-1_width.ipynb), [later](8_cost.ipynb), [a file](../docs/X.md), [paper](https://arxiv.org/abs/1)"
    for name, cells in (("1_baseline", notebook("1 A < B", f"{formulas} {links}")), ("2-1_width", notebook("2", ""))):
        save.write(folder, f"{name}.ipynb", nbformat.writes(cells).encode())
    (folder / "9_claims.csv").write_text(CLAIMS)
    return report.build("smoke").parent


class Page(HTMLParser):
    """What a page loads and links to, its ids, and its text outside of folded code."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids, self.tags = [], [], set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.ids.add(given.get("id"))
        self.loads += [given[name] for name in ("src", "srcset", "data") if given.get(name)]
        if given.get("href"):
            (self.links if tag == "a" else self.loads).append(given["href"])


def test_nothing_is_loaded_from_elsewhere_and_links_resolve(site):
    pages = {path.name: Page(path) for path in site.glob("*.html")}
    assert pages.keys() == {"index.html", "1_baseline.html", "2-1_width.html"}
    for path in site.glob("*.html"):
        page = pages[path.name]
        assert "script" not in page.tags
        assert not re.search(r"@import|url\(", path.read_text())
        for address in page.loads:
            assert address.startswith("data:") or (site / address).is_file(), address
        for address in page.links:
            file, _, anchor = address.partition("#")
            if not address.startswith("https://arxiv.org"):
                assert not file or file in pages, address
                assert not anchor or anchor in pages[file or path.name].ids, address


def test_formulas_are_mathml_code_is_folded_and_figures_are_vectors(site):
    text, page = (site / "1_baseline.html").read_text(), Page(site / "1_baseline.html")
    assert page.tags.count("math") == 4, "three in the text, one in a table"
    assert page.tags.count("details") == 1
    assert "$" not in re.sub(r"<annotation.*?</annotation>", "", text)
    assert any(address.startswith("data:image/svg+xml") for address in page.loads)
    assert "<td>0.9</td>" in text
    assert "<title>1 A &lt; B</title>" in text


def test_a_formula_that_cannot_be_read_is_shown_as_it_is_written(folders):
    save.write(save.make_folder("smoke"), "1_baseline.ipynb", nbformat.writes(notebook("1 A", "See $x_$.")).encode())
    text = (report.build("smoke").parent / "1_baseline.html").read_text()
    assert "See <code>x_</code>." in text


@pytest.mark.parametrize("broken", [b'{"cells": 3}', b"[]", b"{"])
def test_a_broken_notebook_is_one_line(folders, broken):
    save.write(save.make_folder("smoke"), "1_baseline.ipynb", broken)
    with pytest.raises(UserError, match="is no notebook"):
        report.build("smoke")


def test_the_start_page_has_claims_and_pictures(site):
    text = (site / "index.html").read_text()
    assert "the term ends &lt;farther&gt;" in text
    assert '<tr class="claim not-reproduced">' in text
    assert "<td>2.50 [2.40, 2.60] ×</td><td>not reproduced</td>" in text
    assert Page(site / "index.html").loads == ["1_baseline.png", "2-1_width.png"]


def test_it_is_deleted_with_the_figures_but_for_what_is_not_ours(site, capsys):
    (site / "notes.txt").touch()
    assert main(["clean", "--figures"]) == 0
    assert [path.name for path in site.iterdir()] == ["notes.txt"]


def test_without_executed_notebooks_it_is_one_line(folders, capsys):
    for scale, words in (("smoke", "no executed notebooks in"), ("huge", "unknown scale 'huge'")):
        assert main(["report", "--scale", scale]) == 2
        assert words in capsys.readouterr().err
    folder = save.make_folder("smoke")
    (folder / "1_baseline.ipynb").write_text("<<<<<<<")
    assert main(["report", "--scale", "smoke"]) == 2
    error = capsys.readouterr().err
    assert "1_baseline.ipynb is no notebook" in error
    assert error.count("\n") == 1
