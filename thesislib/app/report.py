"""The report: a scale's executed notebooks as pages that a browser opens from disk, without network."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thesislib.app.notebooks import EXPLORATORY, notebooks_folder
from thesislib.experiments import sections
from thesislib.experiments.scales import SCALES
from thesislib.plots import save, tables
from thesislib.system.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

#: The folder of the report, in the folder of the scale's figures.
FOLDER = "report"

#: What is shown of an output that comes in several kinds, the first that is there: no scripts, nothing that is loaded.
KINDS = ("image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown", "text/plain")

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 52rem; margin: 0 auto; padding: 1rem; }
a { color: #0b5394; } nav { display: flex; justify-content: space-between; gap: 1rem; padding: .5rem 0; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; } .anchor-link { display: none; }
img, svg { max-width: 100%; height: auto; } math[display=block] { margin: 1rem 0; }
pre { font-size: .85rem; line-height: 1.4; overflow-x: auto; background: #f6f6f6; padding: .6rem; margin: .3rem 0; }
details { margin: .4rem 0; } summary, .quiet { color: #777; font-size: .85rem; } summary { cursor: pointer; }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto; margin: .6rem 0; }
table, th, td { border: 0; }
th, td { text-align: left; border-bottom: 1px solid #ddd; padding: .2rem .6rem; vertical-align: top; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
.cards a { border: 1px solid #ddd; border-radius: .4rem; padding: .6rem; text-decoration: none; }
.cards img { display: block; width: 100%; height: 9rem; object-fit: contain; background: #fff; }
.claim td:nth-child(n+3) { white-space: nowrap; } .claim td:nth-child(5) { color: #777; }
.reproduced td:nth-child(5) { color: #1a7f37; } .not-reproduced td:nth-child(5) { color: #b3261e; }
.undecided td:nth-child(5) { color: #8a6100; }
.k, .kn, .ow { color: #00f; } .s1, .s2, .sd { color: #a31515; } .c1 { color: #2a7d2a; } .mi, .mf { color: #098658; }
"""

_HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>{style}</style></head>
"""

#: A page around nbconvert's cells: code is folded, images stand in the page itself.
_TEMPLATE = """
{%- extends 'basic/index.html.j2' -%}
{%- block header -%}{{ resources.report.head }}<body>{{ resources.report.links }}
<button onclick="const all = [...document.querySelectorAll('details')], open = !all.every(d => d.open);
all.forEach(d => d.open = open)">show or hide all code</button><main>{%- endblock header -%}
{%- block footer -%}</main>{{ resources.report.links }}</body></html>{%- endblock footer -%}
{%- block input -%}<details><summary>code</summary>{{ super() }}</details>{%- endblock input -%}
{%- block data_svg -%}
<img alt="figure" src="data:image/svg+xml;base64,{{ output.data['image/svg+xml'] | in_base64 }}">
{%- endblock data_svg -%}
{%- block data_html -%}{{ super() | with_formulas }}{%- endblock data_html -%}
"""


def build(scale: str) -> Path:
    """Write the report of a scale into figures/<scale>/report/ and return its start page.

    Raises UserError for an unknown scale, or if none of its notebooks has been executed.
    """
    if scale not in SCALES:
        raise UserError(f"unknown scale {scale!r}: choose from {', '.join(SCALES)}")
    figures = save.figures_folder(scale)
    notebooks = {
        name: _read(figures / f"{name}.ipynb")
        for name in (*EXPLORATORY, *sections.SECTIONS)
        if (figures / f"{name}.ipynb").is_file()
    }
    if not notebooks:
        raise UserError(f"no executed notebooks in {figures}: 'make figures scale={scale}' makes them")
    folder, titles = save.make_folder(f"{scale}/{FOLDER}"), {name: _title(nb, name) for name, nb in notebooks.items()}
    for name, notebook in notebooks.items():
        save.write(folder, f"{name}.html", _page(name, notebook, titles).encode())
        if picture := _first_picture(notebook):
            save.write(folder, f"{name}.png", picture)
    save.write(folder, "index.html", _start_page(scale, titles, folder).encode())
    return folder / "index.html"


def _read(path: Path) -> NotebookNode:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, TypeError, KeyError, AttributeError, nbformat.ValidationError) as error:
        raise UserError(f"{path} is no notebook ({error}): delete it, and make its figures again") from None


def _title(notebook: NotebookNode, name: str) -> str:
    found = (re.match(r"#\s+(.+)", cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    return next((match[1].strip() for match in found if match), name)


def _first_picture(notebook: NotebookNode) -> bytes | None:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    found = (output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    return next((base64.b64decode(picture) for picture in found), None)


def _page(name: str, notebook: NotebookNode, titles: dict[str, str]) -> str:
    """The page of one notebook, with links to those before and after it."""
    names = list(titles)
    place = names.index(name)
    before = "".join(f'<a href="{other}.html">← {html.escape(titles[other])}</a>' for other in names[:place][-1:])
    after = "".join(f'<a href="{other}.html">{html.escape(titles[other])} →</a>' for other in names[place + 1 :][:1])
    around = {
        "head": _HEAD.format(title=html.escape(titles[name]), style=_STYLE),
        "links": f'<nav><span>{before}</span><a href="index.html">all sections</a><span>{after}</span></nav>',
    }
    return _exporter(titles).from_notebook_node(
        notebook, resources={"report": around, "metadata": {"path": str(notebooks_folder())}}
    )[0]


def _exporter(titles: dict[str, str]) -> Any:
    """nbconvert's exporter to HTML, with formulas as MathML and links among the report's pages."""
    # Imported here: it takes a second.
    from latex2mathml.converter import convert as to_mathml
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    def convert(formula: str, display: str = "inline") -> str:
        try:
            return to_mathml(formula, display=display)
        except Exception:  # its errors have no class in common; a formula that it cannot read is shown as it is written
            return f"<code>{html.escape(formula)}</code>"

    class Renderer(IPythonRenderer):
        """Markdown as nbconvert has it, but for formulas, which it leaves to MathJax, and links."""

        def inline_math(self, body: str) -> str:
            return convert(body)

        def block_math(self, body: str) -> str:
            return convert(body, display="block")

        def latex_environment(self, name: str, body: str) -> str:
            return convert(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")

        def link(self, text: str, url: str, title: str | None = None) -> str:
            page = re.fullmatch(r"(?:\./)?([\w-]+)\.ipynb(#.*)?", url)
            if page and page[1] in titles:
                url = f"{page[1]}.html{page[2] or ''}"
            elif not url.startswith(("http://", "https://", "#")):
                return text  # a file of the repository, which is not where the report is
            return super().link(text, url, title)

    class Exporter(HTMLExporter):
        def markdown2html(self, source: str) -> str:
            path = str(notebooks_folder())
            return MarkdownWithMath(renderer=Renderer(escape=False, embed_images=True, path=path)).render(source)

        def default_filters(self) -> Any:
            yield from super().default_filters()
            yield "markdown2html", self.markdown2html
            yield "with_formulas", lambda text: re.sub(r"\$([^$<>\n]+)\$", lambda found: convert(found[1]), text)
            yield "in_base64", lambda text: base64.b64encode(text.encode()).decode()

    exporter = Exporter(raw_template=_TEMPLATE, exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.config.NbConvertBase.display_data_priority = list(KINDS)
    return exporter


def _start_page(scale: str, titles: dict[str, str], folder: Path) -> str:
    cards = []
    for name, title in titles.items():
        image = f'<img alt="" src="{name}.png">' if (folder / f"{name}.png").is_file() else ""
        cards.append(f'<a href="{name}.html">{image}{html.escape(title)}</a>')
    heading = "Forcing a neural network to explore the loss landscape"
    return "\n".join([
        _HEAD.format(title=heading, style=_STYLE),
        f"<body><main><h1>{heading}</h1>",
        f'<p class="quiet">Scale {scale}: {html.escape(SCALES[scale].about)}.</p>',
        _claims(folder.parent / "9_claims.csv"),
        f'<h2>Sections</h2><div class="cards">{"".join(cards)}</div></main></body></html>\n',
    ])  # fmt: skip


def _claims(path: Path) -> str:
    """The table of claims, if section 9 has been drawn."""
    if not path.is_file():
        return '<p class="quiet">The claims are not tested yet: section 9_claims has not been drawn.</p>'
    shown = tables.statements(save.read_table(path))
    head = "".join(f"<th>{name}</th>" for name in shown)
    rows = []
    for row in shown.itertuples(index=False):
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
        kind = html.escape(str(row.verdict).replace(" ", "-"))
        rows.append(f'<tr class="claim {kind}">{cells}</tr>')
    return f"<h2>What holds</h2><table><tr>{head}</tr>{''.join(rows)}</table>"
