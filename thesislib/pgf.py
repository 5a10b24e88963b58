"""A matplotlib figure as pgfplots code for LaTeX."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import matplot2tikz
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

#: What a LaTeX document needs to \input the .pgf files.
PREAMBLE = (
    r"\usepackage{pgfplots}",
    r"\usepgfplotslibrary{groupplots,fillbetween}",
    r"\pgfplotsset{compat=1.17}",
)
#: Panels are drawn a little narrower than matplotlib's: TeX sets axis labels farther out.
TIGHTER = 0.95
#: Tick labels below this many points are \tiny in LaTeX.
SMALL = 7


def pgf_code(figure: Figure, path: Path) -> str:
    r"""pgfplots code of a figure, laid out as matplotlib did it, in fractions of the document's \textwidth.

    matplot2tikz knows neither the layout nor a figure's legend: both are written here. Side images get bare
    names, so that LaTeX finds them through \graphicspath wherever the folder is dropped.
    """
    figure.canvas.draw()
    axes, ratio = figure.axes, figure.get_figheight() / figure.get_figwidth()
    boxes = [axis.get_position() for axis in axes]
    corners = [axis.get_subplotspec() for axis in axes]
    gaps = [
        (right.x0 - left.x1, "horizontal")
        for (left, a), (right, b) in itertools.pairwise(zip(boxes, corners, strict=True))
        if a.rowspan == b.rowspan
    ][:1]
    columns = corners[0].get_gridspec().ncols
    if len(axes) > columns:
        gaps.append(((boxes[0].y0 - boxes[columns].y1) * ratio, "vertical"))
    code = matplot2tikz.get_tikz_code(
        figure,
        filepath=path,
        override_externals=True,
        strict=True,
        include_disclaimer=False,
        float_format=".5g",
        textsize=0.5 * plt.rcParams["font.size"],  # matplot2tikz halves the size of texts
        extra_axis_parameters=[
            "scale only axis", "axis x line*=bottom", "axis y line*=left", "scaled ticks=false",
            "tick label style={font=\\scriptsize, /pgf/number format/precision=4}",
            "label style={font=\\footnotesize}", "title style={font=\\footnotesize}",
        ],
        extra_groupstyle_parameters=[f"{kind} sep={gap:.4f}\\textwidth" for gap, kind in gaps],
    )  # fmt: skip
    code = code.replace("includegraphics cmd=\\pgfimage,", "")
    opening = re.compile(r"\\(nextgroupplot|begin\{axis\})\[\n")
    sizes = iter(zip(axes, boxes, strict=True))
    code = opening.sub(lambda m: f"{m[0]}{_panel(*next(sizes), ratio)},\n", code)
    if figure.legends:
        last = list(opening.finditer(code))[-1]
        options, entries = _legend(figure, boxes[-1])
        body = code.index("\n]\n", last.end()) + 3
        code = code[: last.end()] + options + code[last.end() : body] + entries + code[body:]
    for note in figure.texts:
        node = r"\node[anchor=north east, font=\tiny, text=gray] at (current bounding box.south east)"
        code = code.replace(r"\end{tikzpicture}", f"{node} {{{note.get_text()}}};\n\\end{{tikzpicture}}")
    return code


def _panel(axis: Axes, box: Bbox, ratio: float) -> str:
    """Size of a panel; a long list of labels keeps its small print."""
    small = any(label.get_fontsize() < SMALL for label in axis.get_yticklabels())
    style = "yticklabel style={font=\\tiny},\n" if small else ""
    return f"{style}width={TIGHTER * box.width:.4f}\\textwidth,\nheight={box.height * ratio:.4f}\\textwidth"


def _legend(figure: Figure, box: Bbox) -> tuple[str, str]:
    """Options and entries that put the figure's legend where it is, seen from the panel at `box`."""
    legend = figure.legends[0]
    drawn = legend.get_window_extent().transformed(figure.transFigure.inverted())
    x, y = ((drawn.x0 + drawn.x1) / 2 - box.x0) / box.width, (drawn.y1 - box.y0) / box.height
    options = (
        f"legend style={{at={{({x:.3f},{y:.3f})}}, anchor=north, draw=none, fill=none, font=\\scriptsize, "
        f"column sep=2pt}},\nlegend columns={legend._ncols},\nlegend cell align=left,\n"
    )
    entries = ""
    drawn_as = dict(
        pair for axis in figure.axes for pair in zip(*reversed(axis.get_legend_handles_labels()), strict=True)
    )
    for text in [text.get_text() for text in legend.get_texts()]:
        handle = drawn_as[text]
        line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
        red, green, blue = to_rgb(line.get_color())
        style = {"--": ", dashed", ":": ", dotted", "None": ", only marks"}.get(line.get_linestyle(), "")
        mark = ", mark=*, mark size=1.5pt" if line.get_marker() == "o" else ""
        colour = f"color={{rgb,1:red,{red:.3f};green,{green:.3f};blue,{blue:.3f}}}"
        entries += f"\\addlegendimage{{{colour}, semithick{style}{mark}}}\n\\addlegendentry{{{text}}}\n"
    return options, entries
