"""A figure's PGF is its PNG: what matplotlib draws on one side, what stands in the .pgf on the other."""

import json
import re
import shutil
import subprocess
from collections import Counter
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import thesislib
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text

from thesislib import chapter as notebooks
from thesislib import export, sections, style
from thesislib.pgf import PREAMBLE, escape, pgf_code

needs_tex = pytest.mark.skipif(
    not (shutil.which("pdflatex") and shutil.which("pdftotext")), reason="pdflatex and pdftotext are not installed"
)
#: pgfplots' marks by matplotlib's.
MARKS = {"o": "*", "s": "square*", "x": "x", "|": "|", "_": "-", "*": "matplotlib star", "None": None}
UNESCAPED = {r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"{\char34}": '"'}


def plain(text):
    """A text of TeX's or of matplotlib's without what only sets it."""
    for escaped, character in UNESCAPED.items():
        text = text.replace(escaped, character)
    return re.sub(r"\\mathdefault|[{}$]", "", text.replace("\N{MINUS SIGN}", "-")).replace("\\%", "%").strip()


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
    """Width, colour, whether it is dashed or drawn at all, mark with its size, edge and colour."""
    there = line.get_linestyle() != "None"
    mark = MARKS[str(line.get_marker())]
    face = to_hex(line.get_markerfacecolor()) if mark else None
    return {
        "width": line.get_linewidth() if there else None,
        "colour": to_hex(line.get_color()),
        "dashes": tuple(line._dash_pattern[1]) if there and line.is_dashed() else (),
        "mark": mark,
        "size": line.get_markersize() / 2 if mark else None,
        "edge": line.get_markeredgewidth() if mark else None,
        "face": face,
    }


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
        for text in legend.get_texts():
            x, baseline = text.get_transform().transform((0, 0))
            handle = handles[text.get_text()]
            line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
            entries.append((-round(baseline), x, plain(text.get_text()), drawn_line(line)))
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
        "face": colours[marks["fill"]] if mark else None,
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
        for match in re.finditer(r"\\addlegendimage\{(.*)\}\n\\addlegendentry\{(.*)\}\n", content):
            legend.append((plain(match[2]), written_line(match[1], colours)))
        if "hide axis" in given:
            continue
        lines = re.findall(r"\\addplot \[([^\n]*)\]\ntable \{%\n(.*?)\};", content, re.S)
        paths = re.findall(r"\\path \[(.*?)\]\n(.*?);", content, re.S)
        corners = [
            [float(x) for pair in re.findall(r"axis cs:([^,]+),([^)]+)\)", path) for x in pair] for _, path in paths
        ]
        panels.append(
            {
                "title": plain(given.get("title", "")),
                "labels": (plain(given.get("xlabel", "")), plain(given.get("ylabel", ""))),
                "scales": tuple(given.get(f"{side}mode", "linear") for side in "xy"),
                "limits": tuple(float(given[name]) for name in ("xmin", "xmax", "ymin", "ymax")),
                "ticks": [written_ticks(given, side) for side in "xy"],
                "lines": [written_line(line, colours) for line, _ in lines],
                "points": [table.count("\n") for _, table in lines],
                "bars": sorted(path for path in corners if len(path) == 4),
                "bands": [(max(path[::2]), max(path[1::2])) for path in corners if len(path) > 4],
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


@pytest.fixture
def saved(tmp_path):
    """Save a figure without runs; its .pgf."""

    def code(figure):
        export.save(figure, "figure", "smoke", {})
        return (tmp_path / "figures" / "smoke" / "figure.pgf").read_text()

    return code


def figures_of(section, monkeypatch):
    """The figures that a notebook saves, by name: its code, executed here."""
    found = {}
    # The chapter has saved them once; here they are only looked at.
    monkeypatch.setattr(export, "save", lambda figure, name, scale, results: found.setdefault(name, figure))
    cells = json.loads((notebooks.notebooks_folder() / f"{section}.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            names["scale"] = "smoke"
    return found


@pytest.mark.parametrize("section", sections.SECTIONS)
def test_every_figure_of_the_chapter(section, chapter, monkeypatch):
    monkeypatch.setenv("THESIS_RUNS", chapter.environment["THESIS_RUNS"])
    found = figures_of(section, monkeypatch)
    assert found
    for name, figure in found.items():
        assert_like((chapter.figures / f"{name}.pgf").read_text(), figure)
        plt.close(figure)
