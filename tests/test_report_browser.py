"""The report of a whole chapter in a browser: from disk, without network."""

from __future__ import annotations

import re

import nbformat
import pytest
from browser import window
from conftest import thesislib

#: Pictures that are not there, and those that are empty.
UNSEEN = (
    "[...document.images].filter(i => !(i.complete && i.naturalWidth && i.getBoundingClientRect().height > 4)).length"
)

#: What in a formula lies where it must: a numerator above its denominator, an exponent above its base's bottom, a
#: subscript below its base's top. [formulas, fractions and scripts, those that lie elsewhere].
FORMULAS = """() => {
    const box = e => e.getBoundingClientRect(), all = tag => [...document.querySelectorAll('main ' + tag)];
    const formulas = all('math'), fractions = all('mfrac'), above = all('msup'), below = all('msub');
    const wrong = [
        ...formulas.filter(e => box(e).height < 6 || box(e).width < 4),
        ...fractions.filter(e => box(e.children[0]).bottom > box(e.children[1]).top + 1),
        ...above.filter(e => box(e.children[1]).bottom >= box(e.children[0]).bottom),
        ...below.filter(e => box(e.children[1]).top <= box(e.children[0]).top),
    ];
    return [formulas.length, fractions.length + above.length + below.length, wrong.map(e => e.outerHTML)];
}"""


@pytest.fixture
def report(chapter):
    """Its start page, made by the command line."""
    done = thesislib("report", "--scale", "smoke", **chapter.environment)
    assert done.returncode == 0, done.stderr
    return chapter.figures / "report" / "index.html"


def written(figures):
    """Formulas in the texts and tables of executed notebooks, and the scripts and fractions in them."""
    cells = [cell for path in figures.glob("*.ipynb") for cell in nbformat.read(path, 4).cells]
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts += [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    formulas = [one for text in texts for one in re.findall(r"\$+([^$]+)\$+", text)]
    assert any("^" in formula and "_" in formula for formula in formulas)
    return len(formulas), sum(len(re.findall(r"\^|_|\\frac", formula)) for formula in formulas)


def test_every_page_is_whole_without_network(report, chapter, folders):
    from playwright.sync_api import expect

    with window(report.parent.as_uri()) as opened:
        page = opened.page
        page.context.set_offline(True)
        page.goto(report.as_uri())
        cards = page.locator(".cards a")
        titles = [card.inner_text().strip() for card in cards.all()]
        expect(page.locator(".cards img")).to_have_count(len(titles))
        assert page.evaluate(UNSEEN) == 0
        page.screenshot(path=folders / "report.png", full_page=True)
        formulas = scripts = 0
        cards.first.click()
        for k, title in enumerate(titles):  # by its own links, from the first page to the last
            expect(page.locator("h1")).to_have_text(title, use_inner_text=True)
            assert page.evaluate(UNSEEN) == 0
            some, inner, wrong = page.evaluate(FORMULAS)
            assert wrong == []
            formulas, scripts = formulas + some, scripts + inner
            code = page.locator("details pre")
            assert code.count() > 0
            assert not any(cell.is_visible() for cell in code.all()), "folded"
            page.get_by_role("button", name="show or hide all code").click()
            assert all(cell.is_visible() for cell in code.all())
            page.get_by_role("button", name="show or hide all code").click()
            page.locator("summary").first.click()
            assert [cell.is_visible() for cell in code.all()][:2] == [True, False]
            if k + 1 < len(titles):
                page.locator("nav").first.get_by_role("link", name=titles[k + 1]).click()
        assert (formulas, scripts) == written(chapter.figures)
        page.get_by_role("link", name="all sections").first.click()
        expect(page.locator("h2").last).to_have_text("Sections")
        assert opened.errors == []
        assert opened.asked == []
