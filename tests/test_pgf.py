"""A figure's PGF is its PNG: what matplotlib draws on one side, what stands in the .pgf on the other."""

import io
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from itertools import combinations
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text

from thesislib.app import notebooks
from thesislib.experiments import sections
from thesislib.plots import layout, save, style
from thesislib.plots.known import beyond
from thesislib.plots.pgf import pgf_code
from thesislib.plots.tex import PREAMBLE, escape
from thesislib.plots.thinning import POINTS, thinned

needs_tex = pytest.mark.skipif(
    not (shutil.which("pdflatex") and shutil.which("pdftotext")), reason="pdflatex and pdftotext are not installed"
)
needs_german = pytest.mark.skipif(
    not shutil.which("kpsewhich") or subprocess.run(["kpsewhich", "ngerman.ldf"], capture_output=True).returncode != 0,
    reason="TeX has no German here (texlive-lang-german)",
)
#: pgfplots' marks by matplotlib's.
MARKS = {
    "o": "*", "s": "square*", "x": "x", "|": "|", "_": "-", "*": "matplotlib star", "None": None,
    "^": "matplotlib triangle up", "v": "matplotlib triangle down", "D": "matplotlib diamond",
    "<": "matplotlib triangle left", ">": "matplotlib triangle right", "p": "matplotlib pentagon",
    "P": "matplotlib plus filled", "X": "matplotlib x filled",
    "d": "matplotlib thin diamond", "h": "matplotlib hexagon1",
}  # fmt: skip


#: Characters that TeX has in its mathematics alone, by what stands in the .pgf.
READ = {r"\pm": "±", r"\times": "×", r"\leq": "≤", r"\geq": "≥"}


#: What texts that stand side by side begin with.
STRUT = r"\vphantom{Ay}"


def plain(text):
    """A text of TeX's or of matplotlib's without what only sets it."""
    text = text.replace("\N{MINUS SIGN}", "-").replace("\N{NARROW NO-BREAK SPACE}", r"\,")
    text = re.sub(r"\\mathdefault|[{}$]", "", re.sub(r"\\ensuremath\{(\S+?)\}", lambda sign: READ[sign[1]], text))
    return re.sub(r"\\([#%&_])", r"\1", text).strip()


# What matplotlib draws.


def drawn_ticks(axis):
    """Places and texts of the ticks that matplotlib draws, major and minor."""
    minor = set(map(id, axis.get_minor_ticks()))
    ticks = axis._update_ticks()
    return [
        sorted((tick.get_loc(), plain(tick.label1.get_text())) for tick in ticks if (id(tick) in minor) == which)
        for which in (False, True)
    ]


def drawn_line(line):
    """Width, colour, whether it is dashed or drawn at all, mark with its size, edge and colour, and how many of it."""
    there = line.get_linestyle() != "None"
    mark = MARKS[str(line.get_marker())]
    filled = mark and line.get_markerfacecolor() != "none"
    return {
        "width": line.get_linewidth() if there else None,
        "colour": to_hex(line.get_color()),
        "dashes": tuple(line._dash_pattern[1]) if there and line.is_dashed() else (),
        "mark": mark,
        "size": line.get_markersize() / 2 if mark else None,
        "edge": line.get_markeredgewidth() if mark else None,
        "face": to_hex(line.get_markerfacecolor()) if filled else None,
        "marks": len(line.get_xdata()[slice(*every)]) if (every := spaced(line.get_markevery())) and mark else None,
    }


def spaced(every):
    """First and step of marks, as a slice takes them."""
    return (every[0], None, every[1]) if isinstance(every, tuple) else every and (0, None, every)


def drawn_panel(axis):
    lines = [line for line in axis.lines if line.get_visible() and len(np.atleast_1d(line.get_xdata()))]
    bars = [path.vertices for c in axis.collections if isinstance(c, LineCollection) for path in c.get_paths()]
    bands = [c for c in axis.collections if isinstance(c, PolyCollection)]
    return {
        "title": plain(axis.get_title()),
        "labels": (plain(axis.get_xlabel()), plain(axis.get_ylabel())),
        "scales": (axis.get_xscale(), axis.get_yscale()),
        "limits": (*sorted(axis.get_xlim()), *sorted(axis.get_ylim())),
        "ticks": [drawn_ticks(side) for side in (axis.xaxis, axis.yaxis)],
        "lines": [drawn_line(line) for line in sorted(lines, key=lambda line: line.get_zorder())],
        "points": [len(line.get_xydata()) for line in sorted(lines, key=lambda line: line.get_zorder())],
        "bars": sorted([float(f"{x:.5g}") for x in bar.ravel()] for bar in bars if np.isfinite(bar).all()),
        "bands": [tuple(np.vstack([p.vertices for p in band.get_paths()]).max(axis=0)) for band in bands],
        "images": sum(isinstance(c, QuadMesh) for c in axis.collections),
    }


def drawn_legend(figure):
    """Texts and line styles of a legend as they are read: row by row."""
    handles = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    entries = []
    for legend in figure.legends:
        lowest = min(text.get_transform().transform((0, 0))[1] for text in legend.get_texts())
        for text in legend.get_texts():
            x, baseline = text.get_transform().transform((0, 0))
            row = round((baseline - lowest) / (1.5 * text.get_fontsize() * figure.dpi / 72))
            handle = handles[text.get_text()]
            has_bars = isinstance(handle, ErrorbarContainer)
            line = drawn_line(handle.lines[0] if has_bars else handle) | {"marks": None}
            bars = 2 * (handle.has_xerr + handle.has_yerr) if has_bars else 0
            entries.append((-row, x, plain(text.get_text()), line, bars))
    return [entry[2:] for entry in sorted(entries, key=lambda entry: entry[:2])]


def drawn_texts(figure):
    """Texts that are neither title, label, tick nor legend: notes, titles of the figure, numbers in a heat map."""
    texts = [*figure.texts]
    for axis in figure.axes:
        texts += [child for child in axis.get_children() if isinstance(child, Text) and child is not axis.title]
        texts += [axis.xaxis.get_offset_text(), axis.yaxis.get_offset_text()]
    return Counter(plain(text.get_text()) for text in texts if text.get_text().strip())


# What stands in a .pgf.


def braced(text, at):
    """What the brace at this place holds."""
    depth = 0
    for k in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[k], 0) if text[k - 1] != "\\" else 0
        if not depth:
            return text[at + 1 : k]
    raise AssertionError("no closing brace")


def split(text):
    """At the commas outside of all braces."""
    parts, depth = [""], 0
    for before, character in zip(" " + text, text, strict=False):
        depth += {"{": 1, "}": -1}.get(character, 0) if before != "\\" else 0
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def options(text):
    """pgfplots' options as a dictionary; braces around a value are taken off."""
    found = {}
    for option in split(text):
        name, _, value = option.partition("=")
        found[name.strip()] = braced(value, 0) if value.startswith("{") else value
    return found


def points(text):
    """Length in points."""
    return float(text.removesuffix("pt"))


def numbers(pattern, text):
    """x and y of every point, in a row."""
    return [float(number) for pair in re.findall(pattern, text) for number in pair]


def written_line(text, colours):
    given = options(text)
    marks = options(given.get("mark options", ""))
    mark, there = given.get("mark"), "only marks" not in given
    pattern = re.findall(r"([\d.]+)pt", given.get("dash pattern", ""))
    return {
        "width": points(given["line width"]) if there else None,
        "colour": colours[given["color"]],
        "dashes": tuple(map(float, pattern)) if there else (),
        "mark": mark,
        "size": points(given["mark size"]) if mark else None,
        "edge": points(marks["line width"]) if mark else None,
        "face": colours[marks["fill"]] if "fill opacity" not in marks and mark else None,
        "marks": len(given["mark indices"].split(",")) if "mark indices" in given else None,
    }


def written_ticks(given, side):
    def of(places, labels=None):
        numbers = [float(x) for x in given.get(places, "").split(",") if x and x != r"\empty"]
        texts = [plain(braced(text, 0)) for text in split(given.get(labels, ""))] if labels else [""] * len(numbers)
        return list(zip(numbers, texts, strict=True))

    major, minor = of(f"{side}tick", f"{side}ticklabels"), of(f"minor {side}tick")
    return [sorted(major), sorted(minor + of(f"extra {side} ticks", f"extra {side} tick labels"))]


def written(code):
    """Panels, legend and texts of a .pgf."""
    colours = {
        name: "#" + "".join(f"{int(part):02x}" for part in rgb.split(","))
        for name, rgb in re.findall(r"\\definecolor\{(\w+)\}\{RGB\}\{([\d,]+)\}", code)
    }
    panels, legend = [], []
    for body in re.findall(r"\\begin\{axis\}\[\n(.*?)\\end\{axis\}", code, re.S):
        head, _, content = body.partition("\n]\n")
        given = options(head)
        names = {name: given.get(name, STRUT) for name in ("title", "xlabel", "ylabel")}
        assert all(text.removeprefix("{").startswith(STRUT) for text in names.values()), "of one height, side by side"
        for match in re.finditer(r"\\addlegendimage\{(.*)\}\n\\addlegendentry\{(.*)\}\n", content):
            area = match[1].startswith("area legend")
            halves = max(0, match[1].count(r"\draw[") - 1)  # of bars, before the line
            legend.append((plain(match[2]), None if area else written_line(match[1], colours), halves))
        if "hide axis" in given:
            continue
        lines = re.findall(r"\\addplot \[([^\n]*)\]\ntable \{%\n(.*?)\};", content, re.S)
        paths = re.findall(r"\\path \[(.*?)\]\n(.*?);", content, re.S)
        polygons = re.findall(r"\\addplot \[[^\n]*\]\ncoordinates \{(.*?)\} -- cycle;", content, re.S)
        corners = [numbers(r"axis cs:([^,]+),([^)]+)\)", path) for _, path in paths]
        bands = [numbers(r"\(([^,]+),([^)]+)\)", polygon) for polygon in polygons]
        panels.append(
            {
                "title": plain(names["title"].replace(STRUT, "")),
                "labels": tuple(plain(names[f"{side}label"].replace(STRUT, "")) for side in "xy"),
                "scales": tuple(given.get(f"{side}mode", "linear") for side in "xy"),
                "limits": tuple(float(given[name]) for name in ("xmin", "xmax", "ymin", "ymax")),
                "ticks": [written_ticks(given, side) for side in "xy"],
                "lines": [written_line(line, colours) for line, _ in lines],
                "points": [table.count("\n") for _, table in lines],
                "bars": sorted(corners),
                "bands": [(max(band[::2]), max(band[1::2])) for band in bands],
                "images": len(re.findall(r"\\addplot graphics", content)),
            }
        )
    texts = Counter()
    for match in re.finditer(r"\\node\[.*\] at \(.*?\) \{", code):
        texts[plain(braced(code, match.end() - 1))] += 1
    return panels, legend, texts


def assert_same(drawn, written, where=""):
    """Equal, numbers up to what five digits leave."""
    if isinstance(drawn, dict):
        assert drawn.keys() == written.keys()
        for key in drawn:
            assert_same(drawn[key], written[key], f"{where} {key}")
    elif isinstance(drawn, list | tuple):
        assert len(drawn) == len(written), f"{where}: {drawn} drawn, {written} written"
        for k, pair in enumerate(zip(drawn, written, strict=True)):
            assert_same(*pair, f"{where} {k}")
    elif isinstance(drawn, str | None):
        assert drawn == written, where
    else:
        assert written == pytest.approx(drawn, rel=1e-3, abs=1e-9), where


def assert_like(code, figure):
    """The .pgf says what matplotlib draws."""
    with style.styled():
        style.clip_error_bars(figure)
        figure.canvas.draw()
    panels, legend, texts = written(code)
    assert_same([drawn_panel(axis) for axis in figure.axes], panels)
    assert_same(drawn_legend(figure), legend)
    assert drawn_texts(figure) == texts
    assert not re.search(r"axis cs:[^)]*nan", code)


def assert_told_apart_in_grey(figure):
    """In every panel no two curves of the legend have the same dashes and marks, full or hollow."""
    for axis in figure.axes:
        handles, _ = axis.get_legend_handles_labels()
        lines = [handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
        looks = [
            (drawn_line(line)["dashes"], line.get_marker(), line.get_markerfacecolor() == "white") for line in lines
        ]
        assert len(set(looks)) == len(looks), looks


def figures_of(section, monkeypatch):
    """The figures that a notebook saves, by name: its code, executed here."""
    found = {}
    # They have been saved once; here they are only looked at. An animation is no PGF.
    monkeypatch.setattr(
        save, "save", lambda figure, name, _: isinstance(figure, Figure) and found.update({name: figure})
    )
    cells = json.loads((notebooks.notebooks_folder() / f"{section}.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            names["scale"] = "smoke"
    return found


def assert_nothing_cut_off(figure):
    """All that is drawn lies within the picture, as it is saved: small letters are wider on a coarse screen."""
    with style.styled():
        figure.set_dpi(style.STYLE["savefig.dpi"])
        figure.draw_without_rendering()
    drawn, size = figure.get_tightbbox(figure.canvas.get_renderer()), figure.get_size_inches()
    slack = 0.035  # half of a small letter: matplotlib does not count on the factor above an axis
    assert (drawn.min >= -slack).all() and (drawn.max <= size + slack).all(), (drawn, size)


@pytest.mark.parametrize("section", ["0_own_question", *sections.SECTIONS])
def test_every_figure_of_the_notebooks(section, chapter, monkeypatch):
    monkeypatch.setenv("THESIS_RUNS", chapter.environment["THESIS_RUNS"])
    found = figures_of(section, monkeypatch)
    assert found
    for name, figure in found.items():
        with style.styled():
            style.clip_error_bars(figure)
            figure.draw_without_rendering()
        with layout.ticks_kept(figure):  # as they were saved
            assert_like((chapter.figures / f"{name}.pgf").read_text(), figure)
            assert_nothing_cut_off(figure)
        assert_told_apart_in_grey(figure)
        plt.close(figure)


def panels(rows=1, columns=1):
    with style.styled():
        return style.grid(rows, columns, 2.0)


@style.styled()
def code_of(figure, folder):
    style.clip_error_bars(figure)
    code, images = pgf_code(figure, "figure")
    for name, content in images.items():
        (folder / name).write_bytes(content)
    return code


def test_lines_marks_and_dashes(tmp_path):
    """Every kind of line and mark, in a panel and in the legend, which matplotlib fills by column."""
    figure, axes = panels(1, 2)
    with style.styled():
        for k, (form, label) in enumerate(zip(("-", "--o", ":s", "-.x", "*", "|"), "abcdef", strict=True)):
            axes[0, k % 2].plot([1, 2, 3], [k, k + 1, k], form, label=label, linewidth=0.5 + k, markeredgewidth=k / 2)
        axes[0, 0].plot([1, 2], [1, 2], "o", markerfacecolor="none", color="C3", alpha=0.5)
        axes[0, 1].axhline(2, color="0.5", linewidth=1)
        handles = [line for axis in axes.flat for line in axis.lines if line.get_label() in "abcdef"]
        labels = [line.get_label() for line in handles]
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    code = code_of(figure, tmp_path)
    assert [text for text, *_ in written(code)[1]] == ["a", "e", "d", "f", "c", "b"]
    assert_like(code, figure)


def test_error_bars_keep_both_ends_on_a_logarithmic_axis(tmp_path):
    """1.1, 1.2, 30: mean 10.8, deviation 16.7, so that the lower end is below 0, where no logarithm is."""
    values = np.array([1.1, 1.2, 30.0])
    figure, axes = panels()
    with style.styled():
        axes[0, 0].set_yscale("log")
        bars = {"fmt": "o", "capsize": 2, "label": "both halves"}
        axes[0, 0].errorbar([10, 20], [2.0, values.mean()], [1.0, values.std(ddof=1)], **bars)
        layout.legend_below(figure, axes[0, 0])
    code = code_of(figure, tmp_path)
    (panel,), _, _ = written(code)
    bottom = panel["limits"][2]
    assert 0 < bottom < 1
    top = values.mean() + values.std(ddof=1)
    assert panel["bars"] == [pytest.approx([10, 1, 10, 3]), pytest.approx([20, bottom, 20, top], rel=1e-4)]
    caps = [line for line in axes[0, 0].lines if line.get_marker() == "_"]
    assert sorted(y for cap in caps for y in cap.get_ydata()) == pytest.approx([bottom, 1, 3, top])
    assert_like(code, figure)


def test_marks_without_bars_have_a_legend(tmp_path):
    """A single seed has no deviation."""
    figure, axes = panels()
    with style.styled():
        style.error_bars(axes[0, 0], pd.Series([0.5, 0.7], index=[1, 2]), fmt="o-", label="one")
        layout.legend_below(figure, axes[0, 0])
    code = code_of(figure, tmp_path)
    (panel,), legend, _ = written(code)
    assert panel["bars"] == []
    assert [text for text, *_ in legend] == ["one"]
    assert_like(code, figure)


def test_ticks_are_matplotlibs(tmp_path):
    """Trailing zeros, minor labels of a short logarithmic axis, a factor, an offset, and hidden labels."""
    figure, axes = panels(2, 2)
    with style.styled():
        axes[0, 0].plot([0, 1], [0.974, 0.986])
        axes[0, 1].plot([10, 70], [2e-3, 4.1e-3])
        axes[0, 1].set(xscale="log", yscale="log")
        axes[1, 0].plot([0, 3e-9], [1e8, 1e8 + 1])
        axes[1, 1].plot([-3, -1], [1, 2])
        axes[1, 1].set_yticks([1, 1.5], ["run #3", "50 %"])
        axes[1, 1].invert_xaxis()
        figure.suptitle("said once & for all")
    code = code_of(figure, tmp_path)
    assert_like(code, figure)
    first, second, third, _ = written(code)[0]
    assert (0.98, "0.9800") in first["ticks"][1][0]
    assert [text for _, text in second["ticks"][1][1] if text] == [r"2\times10^-3", r"3\times10^-3", r"4\times10^-3"]
    assert [text for _, text in second["ticks"][0][1] if text], "minor ticks of 10 to 70 have labels"
    texts = written(code)[2]
    assert texts["1e-9"] == texts["+1e8"] == 1
    assert code.count("said once") == 1
    assert r"{run \#3},{50 \%}" in code


def test_a_panel_with_its_own_legend_and_a_colour_bar(tmp_path):
    """What nobody here draws, but a user may: legend in a panel, text, colour bar (test_own_figures has more)."""
    figure, axes = panels(1, 2)
    with style.styled():
        axes[0, 0].plot([1, 2], [1, 2], label="in $x^2$")
        axes[0, 0].fill_between([1, 2], [1, 1], [2, 2], label="#1", alpha=0.3)
        axes[0, 0].legend()
        axes[0, 0].annotate("here", (1.5, 1.8))
        mesh = axes[0, 1].pcolormesh(np.arange(4.0).reshape(2, 2))
        figure.colorbar(mesh, ax=axes[0, 1])
    code = code_of(figure, tmp_path)
    assert re.findall(r"addlegendentry\{(.*)\}", code) == ["in $x^2$", r"\#1"]
    assert code.count("area legend") == 1
    assert len(written(code)[0]) == 3
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["figure-000.png", "figure-001.png"]
    assert written(code)[2] == {"here": 1}


#: Labels that users gave, each as it is to be read on paper.
LABELS = (
    "lr_decay 0.1", "dropout 10 %", "SGD & hill", "run #3", "w = 10^-3", 'the "best"', "5 $ a run", "a~b {c}",
    "C:\\runs", "x < y > z | a", "s = \N{MINUS SIGN}1", "3 ± 0.5", "Größe",
)  # fmt: skip


def test_escape():
    assert escape("50 % of $10^{-3}$ & #1") == r"50 \% of $10^{-3}$ \& \#1"
    assert escape(r"$\mathdefault{2\times10^{−3}}$") == r"${2\times10^{-3}}$"
    assert escape(r"$10\%$ and $5%$") == r"$10\%$ and $5\%$"
    assert escape("5 $") == escape(r"5 \$") == r"5 \$"
    assert escape("two\nlines") == r"two\\lines"


#: Says where the text is, in points.
AREA = r"\typeout{AREA \the\dimexpr1in+\oddsidemargin\relax\space\the\textwidth}"


def tex(folder, *body, document="article", options="", packages=()):
    """Compile a document; its log."""
    lines = [
        rf"\documentclass[{options}]{{{document}}}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{lmodern}",
        *packages,
    ]
    lines += [*PREAMBLE, r"\pagestyle{empty}", r"\begin{document}", AREA, *body, r"\end{document}"]
    (folder / "thesis.tex").write_text("\n".join(lines))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "thesis.tex"]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout[-3000:]
    return process.stdout


@needs_german
@needs_tex
def test_texts_are_read_on_paper_as_they_were_given(tmp_path):
    """Legend, ticks, labels, titles, notes: through pdflatex in German, where '"' begins an umlaut, and back."""
    figure, axes = panels(1, 2)
    with style.styled():
        for k, label in enumerate(LABELS):
            axes[0, 0].plot([0, 1], [k, k], label=label)
        axes[0, 1].set(title=LABELS[3], xlabel=LABELS[5], ylabel=LABELS[6])
        axes[0, 1].set_yticks(range(len(LABELS)), LABELS)
        axes[0, 1].text(0.2, 3, LABELS[1])
        figure.suptitle(LABELS[2])
        further = Counter(LABELS[k] for k in (3, 5, 6, 1, 2))
        layout.legend_below(figure, axes[0, 0])
    (tmp_path / "figure.pgf").write_text(code_of(figure, tmp_path))
    tex(tmp_path, r"\input{figure.pgf}", packages=[r"\usepackage[ngerman]{babel}"])
    subprocess.run(["pdftotext", "-raw", "thesis.pdf"], cwd=tmp_path, check=True)
    paper = (tmp_path / "thesis.txt").read_text().replace("\N{MINUS SIGN}", "-")
    for label in LABELS:
        times = 2 + further[label]
        assert re.sub(r"\s", "", paper).count(re.sub(r"\s", "", label.replace("\N{MINUS SIGN}", "-"))) == times, label


@needs_tex
def test_no_text_lies_on_another_on_a_narrow_page(chapter, tmp_path):
    """Every figure at 345 points, instead of the 455 that matplotlib laid it out for."""
    names = sorted(path.stem for path in chapter.figures.glob("*.pgf"))
    body = [rf"\noindent\input{{{name}.pgf}}\newpage" for name in names]
    shutil.copytree(chapter.figures, tmp_path, dirs_exist_ok=True)
    log = tex(tmp_path, *body, document="report", options="10pt,a4paper,oneside")
    assert "Overfull" not in log
    assert "Missing character" not in log
    left, width = (float(x) * 72 / 72.27 for x in re.search(r"AREA ([\d.]+)pt ([\d.]+)pt", log).groups())
    assert width < 72 * style.TEXTWIDTH
    subprocess.run(["pdftotext", "-bbox", "thesis.pdf", "words.html"], cwd=tmp_path, check=True)
    pages = list(ElementTree.parse(tmp_path / "words.html").iter("{http://www.w3.org/1999/xhtml}page"))
    assert len(pages) == len(names)
    for name, page in zip(names, pages, strict=True):
        words = [
            (word.text, *(float(word.get(side)) for side in ("xMin", "yMin", "xMax", "yMax")))
            for word in page.iter("{http://www.w3.org/1999/xhtml}word")
        ]
        assert all(left - 1 < word[1] and word[3] < left + width + 1 for word in words), name
        for first, second in combinations(words, 2):
            across = min(first[3], second[3]) - max(first[1], second[1])
            down = min(first[4], second[4]) - max(first[2], second[2])
            # Boxes are as high as the font: lines of small print may touch.
            assert across < 0.5 or down < 2.5, f"{name}: {first} on {second}"


def test_our_style_is_nobodys_but_ours():
    """Whoever imports these modules, and draws with them, keeps the style that was set before."""
    code = """
        import matplotlib.pyplot as plt
        import pandas as pd
        plt.rcParams["lines.linewidth"] = 3
        before = dict(plt.rcParams)
        from thesislib.plots import layout, panels, pgf, plot, save, style
        rows = [{"label": "a", "network": "m", "seed": 0, "x": 1.0, "y": 2.0}]
        panels.points(pd.DataFrame(rows), {"y": "y"})
        assert dict(plt.rcParams) == before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_thinned_curves_keep_their_extremes():
    """Few points stay as they are; of many each bin's lowest and highest, both ends, and gaps."""
    few = np.arange(2.0 * POINTS).reshape(-1, 2)
    assert thinned(few) is few
    x = np.arange(600.0)
    y = np.random.default_rng(0).normal(size=600)
    y[[123, 456]] = -9, 9
    curve = np.stack([x, y], axis=1)
    thin = thinned(curve)
    assert 100 < len(thin) <= POINTS
    assert {tuple(point) for point in thin} <= {tuple(point) for point in curve}
    assert (np.diff(thin[:, 0]) > 0).all()
    assert {0.0, 123.0, 456.0, 599.0} <= set(thin[:, 0])
    for some in np.array_split(curve, (POINTS - 2) // 2):
        near = thin[(thin[:, 0] >= some[0, 0]) & (thin[:, 0] <= some[-1, 0])]
        assert near[:, 1].min() == some[:, 1].min() and near[:, 1].max() == some[:, 1].max()
    round_ = np.stack([np.cos(x / 95.49), np.sin(x / 95.49)], axis=1)  # x falls and rises
    assert len(thinned(round_)) <= POINTS
    assert np.abs(thinned(round_)).max(axis=0) == pytest.approx(np.abs(round_).max(axis=0))
    curve[200:210, 1] = np.nan
    assert np.isnan(thinned(curve)).any() and len(thinned(curve)) <= POINTS


def of_600_epochs():
    """Curves with bands, as scale thesis has them."""
    rng, x = np.random.default_rng(0), np.arange(1, 601)
    figure, axes = panels(1, 2)
    with style.styled():
        for axis in axes.flat:
            for k in range(6):
                y = k + np.log(x) + 0.3 * rng.normal(size=600)
                axis.plot(x, y, label=f"s = {k}")
                axis.fill_between(x, y - 0.5, y + 0.5, alpha=0.2, linewidth=0)
        layout.legend_below(figure, axes[0, 0])
    return figure


def test_curves_of_600_epochs_are_thinned_in_the_pgf_alone(tmp_path):
    figure = of_600_epochs()
    drawn = [io.BytesIO(), io.BytesIO()]
    with style.styled():
        figure.savefig(drawn[0], format="png")
    code = code_of(figure, tmp_path)
    with style.styled():
        figure.savefig(drawn[1], format="png")
    assert drawn[0].getvalue() == drawn[1].getvalue()
    found = written(code)[0]
    assert len(found) == 2
    for axis, panel in zip(figure.axes, found, strict=True):
        assert len(panel["points"]) == 6
        assert max(panel["points"]) <= POINTS
        assert_same(drawn_panel(axis) | {"points": 0}, panel | {"points": 0})
    bands = re.findall(r"coordinates \{(.*?)\} -- cycle;", code, re.S)
    assert len(bands) == 12 and max(band.count("(") for band in bands) <= POINTS + 1


@needs_tex
def test_a_figure_of_600_epochs_compiles(tmp_path):
    (tmp_path / "figure.pgf").write_text(code_of(of_600_epochs(), tmp_path))
    tex(tmp_path, r"\noindent\input{figure.pgf}")


@pytest.mark.parametrize(
    ("markevery", "marks"),
    [(None, None), (20, [1, 21]), (np.int64(20), [1, 21]), ((1, np.int64(20)), [2, 22]), ([1, 5], [2, 6]),
     ([1, 5, 9], [2, 6, 10]), (slice(0, 40, 20), [1, 21]), ([True] + [False] * 39, [1])],
)  # fmt: skip
def test_marks_are_where_matplotlib_has_them(markevery, marks):
    figure, axis = plt.subplots()
    axis.plot(range(40), marker="o", markevery=markevery)
    found = re.findall(r"mark indices=\{([\d,]*)\}", pgf_code(figure, "x")[0])
    assert found == ([] if marks is None else [",".join(map(str, marks))])
    plt.close(figure)


@pytest.mark.parametrize("markevery", [0.1, np.float32(0.1), (0.0, 0.1)])
def test_marks_that_hang_on_the_panels_size_are_drawn_by_matplotlib(markevery):
    figure, axis = plt.subplots()
    axis.plot(range(40), marker="o", markevery=markevery)
    assert "Line2D" in str(beyond(figure))
    plt.close(figure)


def test_what_lies_close_together_far_from_nothing_has_digits_enough():
    figure, axis = plt.subplots()
    axis.plot(1e5 + np.array([0, 0.4, 0.8]), [0.981231, 0.981232, 0.981234])
    code = pgf_code(figure, "x")[0]
    assert all(point in code for point in ("100000 0.981231", "100000.4 0.981232", "100000.8 0.981234"))
    plt.close(figure)


@needs_tex
def test_lines_that_begin_with_a_bracket_are_texts(tmp_path):
    """Behind a break TeX would take it for an argument, and a star for a part of the break."""
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    axis.set(xlabel="time\n[s]", title="loss\n*best", ylabel="plain\nlines")
    code = code_of(figure, tmp_path)
    assert r"plain\\lines" in code
    (tmp_path / "figure.pgf").write_text(code)
    tex(tmp_path, r"\input{figure.pgf}")
    subprocess.run(["pdftotext", "-raw", "thesis.pdf"], cwd=tmp_path, check=True)
    paper = (tmp_path / "thesis.txt").read_text()
    assert "[s]" in paper and "*best" in paper
    plt.close(figure)
