r"""A matplotlib figure as pgfplots code for LaTeX, equal to its PNG.

matplot2tikz writes what is inside the panels: data, bands, error bars, images. Panels, ticks, legends and texts are
written here, as matplotlib drew them, and so are the styles of lines: matplot2tikz makes them thinner, knows neither
the layout nor the legend of a figure, leaves tick labels to pgfplots, and does not escape all of TeX's characters.
A figure with anything that neither of the two can write is shown as its PDF.
"""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplot2tikz
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline
from matplotlib.text import Text

from thesislib.plots.adapted import as_marks, as_matplot2tikz_wants
from thesislib.plots.known import beyond, handles
from thesislib.plots.tex import escape
from thesislib.plots.thinning import NO_MARKER, written

#: pgfplots' marks of the same shape and size as matplotlib's; any other is drawn from its outline.
_MARKS = {"o": "*", "s": "square*", "x": "x", "+": "+", "|": "|", "_": "-"}
#: Length in points of pgfplots' samples in legends, 0.6 cm.
_SAMPLE = 17.07
#: Before texts side by side: TeX aligns them by their boxes, which without it are as high as their letters.
_STRUT = r"\vphantom{Ay}"
_STEPS = {"steps-pre": "right", "steps": "right", "steps-mid": "mid", "steps-post": "left"}
#: The options that matplot2tikz gives a line.
_LINE = re.compile(r"\\addplot \[.*?\]\n(?=table (?:\[.*\] )?\{%\n)")
#: A closed polygon of matplot2tikz's. As a plot TeX takes half the time.
_POLYGON = re.compile(r"\\path \[(.*?)\]\n((?:-*\(axis cs:[^)]*\)\n?)+)--cycle;")
#: What matplot2tikz says of a legend, which is written here.
_OTHERS_LEGEND = re.compile(r"\\addlegend(?:image|entry)\{.*\}\n")
_COLOUR = re.compile(r"\\definecolor.*\n")


def pgf_code(figure: Figure, name: str, width: str = r"\textwidth") -> tuple[str, dict[str, bytes]]:
    r"""pgfplots code of a figure, as wide as a length of TeX's, and its side images by file name.

    Texts, and what is between the panels, keep their size; the panels take the width that is left. Images are called
    `name`-000.png and so on, without a folder: LaTeX finds them through \graphicspath wherever they are dropped, so
    that no two figures of one document may have the same name.

    With something that pgfplots code cannot show (`beyond`) it is the figure's PDF at that width, an image as well.
    """
    figure.canvas.draw()
    if beyond(figure):
        drawn = io.BytesIO()
        figure.savefig(drawn, format="pdf", metadata={"CreationDate": None})
        return f"\\includegraphics[width={width}]{{{name}-000.pdf}}\n", {f"{name}-000.pdf": drawn.getvalue()}
    writer = _Writer(figure, name, width)
    return writer.code(), writer.images


class _Writer:
    """One figure on its way to TeX; collects the colours and marks to be declared before they are used."""

    def __init__(self, figure: Figure, name: str, width: str) -> None:
        self.figure, self.name, self.width = figure, name, width
        self.panels = [axis for axis in figure.axes if axis.get_visible()]
        self.colours: dict[str, None] = {}
        self.marks: dict[str, str] = {}
        self.images: dict[str, bytes] = {}
        # Along x, what some panel covers can be stretched; what is between is as wide as its text, everywhere.
        self.stretched: list[list[float]] = []
        for box in sorted((axis.get_position() for axis in self.panels), key=lambda box: box.x0):
            if self.stretched and box.x0 <= self.stretched[-1][1]:
                self.stretched[-1][1] = max(self.stretched[-1][1], box.x1)
            else:
                self.stretched.append([box.x0, box.x1])

    def code(self) -> str:
        body = [self.panel(axis) for axis in self.panels]
        body += [self.legend_alone(legend) for legend in self.figure.legends if legend.get_visible()]
        texts = [*self.figure.texts, *itertools.chain.from_iterable(map(_texts, self.panels))]
        body += [self.node(text) for text in texts if text.get_visible() and text.get_text().strip()]
        size = f"({{{self.x(1)}}},{self.y(1)})"
        return "\n".join(
            [r"\begin{tikzpicture}", *self.colours, *self.marks.values()]
            + [rf"\path[use as bounding box] (0bp,0bp) rectangle {size};", *body, r"\end{tikzpicture}", ""]
        )

    def x(self, fraction: float) -> str:
        """A place along the figure's width as a length in TeX."""
        covered, free = self.covered(fraction), self.covered(1.0) or 1.0
        share = covered / free
        rigid = 72 * self.figure.get_figwidth() * (fraction - covered - share * (1 - free))
        return f"{share:.5f}*{self.width}{rigid:+.2f}bp"

    def covered(self, fraction: float) -> float:
        """How much of the figure's width up to a place belongs to panels."""
        return sum(float(np.clip(fraction, low, high) - low) for low, high in self.stretched or [(0.0, 1.0)])

    def y(self, fraction: float) -> str:
        return f"{72 * self.figure.get_figheight() * fraction:.2f}bp"

    def colour(self, colour: Any) -> str:
        """Name of a colour, its transparency aside."""
        red, green, blue = (round(255 * part) for part in to_rgba(colour)[:3])
        name = f"rgb{red:02x}{green:02x}{blue:02x}"
        self.colours[rf"\definecolor{{{name}}}{{RGB}}{{{red},{green},{blue}}}"] = None
        return name

    def stroke(self, colour: Any, width: float) -> str:
        return f"{self.colour(colour)}, line width={width:.4g}pt"

    def panel(self, axis: Axes) -> str:
        box = axis.get_position()
        legend = axis.get_legend()
        options = [
            "scale only axis", f"at={{({{{self.x(box.x0)}}},{{{self.y(box.y0)}}})}}", "anchor=south west",
            f"width={{max(9bp,{self.x(box.x1)}-({self.x(box.x0)}))}}", f"height={self.y(box.height)}",
            "tick align=outside", "major tick length=3.5bp", "minor tick length=2bp", "unbounded coords=jump",
            "scaled ticks=false", "xlabel near ticks", "ylabel near ticks",
            *self.side("x", axis.xaxis, axis), *self.side("y", axis.yaxis, axis),
        ]  # fmt: skip
        if title := axis.get_title():
            options.append(f"title={{{_STRUT}{escape(title)}}}")
            options.append(f"title style={{{self.font(axis.title)}, align=center, yshift=-2bp}}")
        if not axis.axison:
            options.append("hide axis")
        if to_rgba(axis.get_facecolor())[:3] != (1, 1, 1):
            options.append(f"axis background/.style={{fill={self.colour(axis.get_facecolor())}}}")
        if not axis.get_axisbelow():
            options.append("axis on top")
        entries = ""
        if legend is not None and legend.get_visible():
            x, y = axis.transAxes.inverted().transform(legend.get_window_extent().get_points().mean(axis=0))
            some, entries = self.legend(legend, f"({x:.3f},{y:.3f})")
            options += some
        return _environment(options, entries + self.content(axis))

    def side(self, name: str, axis: Axis, panel: Axes) -> list[str]:
        """Options of a panel's x or y axis: limits, scale, line, ticks, label."""
        low, high = axis.get_view_interval()
        near, far = ("bottom", "top") if name == "x" else ("left", "right")
        spines = [side for side in (near, far) if panel.spines[side].get_visible()]
        options = [f"{name}min={min(low, high):.9g}", f"{name}max={max(low, high):.9g}"]
        if low > high:
            options.append(f"{name} dir=reverse")
        if axis.get_scale() == "log":
            options += [f"{name}mode=log", f"log basis {name}=10"]
        if len(spines) < 2:
            options.append(f"axis {name} line*={(spines or [near])[0]}")
        style = "draw=none"
        for spine in map(panel.spines.get, spines[:1]):
            style = self.stroke(spine.get_edgecolor(), spine.get_linewidth())
        ticks = axis.get_ticks_position()
        options += [f"{name} axis line style={{{style}}}", f"{name}tick pos={ticks if ticks in (near, far) else near}"]
        options += self.ticks(name, axis)
        if label := axis.get_label_text():
            options += [f"{name}label={{{_STRUT}{escape(label)}}}", f"{name}label style={{{self.font(axis.label)}}}"]
        return options

    def ticks(self, name: str, axis: Axis) -> list[str]:
        """Ticks where matplotlib has them, with the texts it writes; minor ones that have a text are extra ticks."""
        major, minor = _shown(axis, False), _shown(axis, True)
        labelled, plain = ([tick for tick in minor if bool(tick[1]) == there] for there in (True, False))
        options = [
            f"{name}tick={_places(major)}", f"{name}ticklabels={_labels(major)}",
            f"minor {name}tick={_places(plain) if plain else '{}'}",
        ]  # fmt: skip
        if labelled:
            options += [
                f"extra {name} ticks={_places(labelled)}", f"extra {name} tick labels={_labels(labelled)}",
                f"extra {name} tick style={{major tick length=2bp, {name} tick style={{line width=0.6pt}}}}",
            ]  # fmt: skip
        labels = [label for label in axis.get_ticklabels() + axis.get_ticklabels(minor=True) if label.get_text()]
        if labels:
            rotation = labels[0].get_rotation()
            style = self.font(labels[0]) + (f", rotate={rotation:.4g}" if rotation else "")
            options.append(f"{name}ticklabel style={{{style}}}")
        for lines, which in ((axis.get_majorticklines(), ""), (axis.get_minorticklines(), "minor ")):
            for line in lines[:1]:
                style = self.stroke(line.get_color(), line.get_markeredgewidth())
                options.append(f"{which}{name} tick style={{{style if line.get_visible() else 'draw=none'}}}")
        for line in [line for line in axis.get_gridlines() if line.get_visible()][:1]:
            style = self.stroke(line.get_color(), line.get_linewidth())
            options += [f"{name}majorgrids", f"{name} grid style={{{style}}}"]
        return options

    def font(self, text: Text) -> str:
        size = text.get_fontsize()
        style = rf"font=\fontsize{{{size:.4g}}}{{{1.2 * size:.4g}}}\selectfont"
        bold = r"\bfseries" if text.get_fontweight() in ("bold", "semibold", "heavy", 700) else ""
        italic = r"\itshape" if text.get_fontstyle() == "italic" else ""
        return f"{style}{bold}{italic}, text={self.colour(text.get_color())}"

    def node(self, text: Text) -> str:
        """A text where matplotlib put it, in front of everything."""
        box = text.get_window_extent().transformed(self.figure.transFigure.inverted())
        rotation, horizontal, vertical = text.get_rotation(), text.get_ha(), text.get_va()
        if rotation:
            horizontal = vertical = "center"
        x = {"left": box.x0, "right": box.x1}.get(horizontal, (box.x0 + box.x1) / 2)
        y = {"top": box.y1, "bottom": box.y0, "baseline": box.y0}.get(vertical, (box.y0 + box.y1) / 2)
        anchor = {"top": "north", "bottom": "south", "baseline": "south"}.get(vertical, "")
        anchor = f"{anchor} {({'left': 'west', 'right': 'east'}).get(horizontal, '')}".strip() or "center"
        options = f"anchor={anchor}, inner sep=0bp, align={horizontal}, {self.font(text)}"
        options += f", rotate={rotation:.4g}" if rotation else ""
        options += "" if text.get_alpha() is None else f", opacity={text.get_alpha():.4g}"
        return rf"\node[{options}] at ({{{self.x(x)}}},{self.y(y)}) {{{escape(text.get_text())}}};"

    def content(self, axis: Axes) -> str:
        """What is inside a panel, by matplot2tikz."""
        with TemporaryDirectory(prefix="pgf-") as folder, as_matplot2tikz_wants(axis):
            # In the order in which matplot2tikz writes them.
            lines = [line for line in axis.lines if line.get_visible() and len(np.atleast_1d(line.get_xdata()))]
            lines.sort(key=lambda line: line.get_zorder())
            code = matplot2tikz.get_tikz_code(
                self.figure,
                filepath=Path(folder) / "panel.pgf",
                strict=True,
                wrap=False,
                add_axis_environment=False,
                include_disclaimer=False,
                float_format=f".{_digits(axis)}g",
                dpi=200,
            )
            for image in sorted(Path(folder).glob("*.png")):
                name = f"{self.name}-{len(self.images):03d}.png"
                self.images[name] = image.read_bytes()
                code = code.replace(f"{{{image.name}}}", f"{{{name}}}")
        for unwanted in ("includegraphics cmd=\\pgfimage,", r"\end{groupplot}"):
            code = code.replace(unwanted, "")
        code = _OTHERS_LEGEND.sub("", code)
        self.colours |= {line.strip(): None for line in _COLOUR.findall(code)}
        code = _COLOUR.sub("", code).strip()
        lines = iter(lines)
        code = _LINE.sub(lambda _: f"\\addplot [{self.line(next(lines))}]\n", code)
        code = _POLYGON.sub(lambda found: _closed_plot(found[1], found[2]), code)
        return code + "\n" if code else ""

    def line(self, line: Line2D, is_sample: bool = False) -> str:
        """pgfplots' options for a line and its marks, in a panel or as a legend's sample."""
        options = [f"color={self.colour(line.get_color())}", f"line width={line.get_linewidth():.4g}pt"]
        if line.get_alpha() is not None:
            options.append(f"opacity={line.get_alpha():.4g}")
        if line.get_drawstyle() in _STEPS:
            options.append(f"const plot mark {_STEPS[line.get_drawstyle()]}")
        drawn = line.get_linestyle() not in ("None", "none", " ", "") and line.get_linewidth() > 0
        if drawn and line.is_dashed():
            pattern = zip(*[iter(line._dash_pattern[1])] * 2, strict=True)  # as long as the line is wide
            options.append("dash pattern=" + " ".join(f"on {on:.4g}pt off {off:.4g}pt" for on, off in pattern))
        marked = None if is_sample else written(line)[1]
        if line.get_marker() in NO_MARKER or marked == []:
            return ", ".join([*options, "no marks"] if drawn else [*options, "draw=none", "no marks"])
        edge, face = line.get_markeredgecolor(), line.get_markerfacecolor()
        style = ["solid", f"line width={line.get_markeredgewidth():.4g}pt", f"draw={self.colour(edge)}"]
        style += [f"fill={self.colour(face)}"] if to_rgba(face)[3] else ["fill opacity=0"]
        style += [] if line.get_markeredgewidth() else ["draw opacity=0"]
        options += [f"mark={self.mark(line)}", f"mark size={line.get_markersize() / 2:.4g}pt"]
        if marked is not None:
            options.append(f"mark indices={{{','.join(str(k + 1) for k in marked)}}}")
        options.append(f"mark options={{{', '.join(style)}}}")
        return ", ".join(options if drawn else [*options, "only marks"])

    def mark(self, line: Line2D) -> str:
        """Name of a mark; one that pgfplots does not have is declared."""
        marker = line.get_marker()
        if isinstance(marker, str) and marker in _MARKS:
            return _MARKS[marker]
        known = MarkerStyle.markers.get(marker) if isinstance(marker, str | int) else None
        name = f"matplotlib {known or len(self.marks)}".replace("_", " ")
        style = MarkerStyle(marker)
        outline = style.get_path().transformed(style.get_transform())
        self.marks[name] = f"\\pgfdeclareplotmark{{{name}}}{{{_outline(outline)}}}"
        return name

    def legend_alone(self, legend: Legend) -> str:
        """A figure's legend, in an invisible panel of its own."""
        x, y = self.figure.transFigure.inverted().transform(legend.get_window_extent().get_points().mean(axis=0))
        options, entries = self.legend(legend, "(0,0)")
        place = f"at={{({{{x:.5f}*{self.width}}},{self.y(y)})}}"
        size = ["width=9bp", "height=9bp", "xmin=0", "xmax=1", "ymin=0", "ymax=1"]
        return _environment(["hide axis", "scale only axis", place, *size, *options], entries)

    def legend(self, legend: Legend, place: str) -> tuple[list[str], str]:
        """Options and entries of a legend; matplotlib fills it column by column, pgfplots row by row."""
        texts, shown = legend.get_texts(), handles(legend)
        columns = [list(column) for column in np.array_split(np.arange(len(texts)), legend._ncols)]
        order = [k for row in itertools.zip_longest(*columns) for k in row if k is not None]
        style = [f"at={{{place}}}", "anchor=center", "cells={anchor=west}", "inner sep=0bp"]
        frame = f"draw={self.colour('0.8')}, fill=white, fill opacity=0.8, text opacity=1"
        style += [frame if legend.get_frame_on() else "draw=none, fill=none"]
        style += [self.font(texts[0])] if texts else []
        style += ["/tikz/column 2/.style={column sep=3bp}", "/tikz/every even column/.append style={column sep=8bp}"]
        options = [f"legend style={{{', '.join(style)}}}", f"legend columns={min(legend._ncols, len(texts))}"]
        entries = ""
        for k in order:
            entries += f"\\addlegendimage{{{self.sample(shown[k], texts[k].get_fontsize())}}}\n"
            entries += f"\\addlegendentry{{{escape(texts[k].get_text())}}}\n"
        return options, entries

    def sample(self, handle: Any, size: float) -> str:
        """What stands before a legend's text: the very style that is drawn."""
        if isinstance(handle, ErrorbarContainer):
            if handle.lines[2]:
                return self.bar_sample(handle, size)
            handle = handle.lines[0]  # of a single seed, without bars
        if isinstance(handle, BarContainer):
            handle = handle.patches[0]
        if isinstance(handle, PathCollection):
            handle = as_marks(handle)
        if isinstance(handle, Line2D):
            options = self.line(handle, is_sample=True)
            if not options.endswith("only marks"):
                return options
            # As wide as that of a line, or the mark would touch the text.
            width = rf"\path[draw=none] (0pt,0pt) -- ({_SAMPLE}pt,0pt);"
            mark = rf"\draw[{options}] plot coordinates {{({_SAMPLE / 2:.4g}pt,0pt)}};"
            return f"{options}, legend image code/.code={{{width}{mark}}}"
        options = ["area legend"]
        for part, colours in (("fill", handle.get_facecolor()), ("draw", handle.get_edgecolor())):
            colour = (*np.reshape(colours, (-1, 4)), np.zeros(4))[0]
            options.append(f"{part}={self.colour(colour)}, {part} opacity={colour[3]:.4g}")
        return ", ".join(options)

    def bar_sample(self, handle: ErrorbarContainer, size: float) -> str:
        """A line with its mark and, as matplotlib draws it, a bar as long as the text of this size is high."""
        line, caps, bars = handle.lines
        style = self.stroke(bars[0].get_colors()[0], bars[0].get_linewidths()[0])
        cap = caps[0].get_markersize() / 2 if caps else 0
        code = ""
        for there, (along, across) in ((handle.has_xerr, "xy"), (handle.has_yerr, "yx")):
            reach = {along: size / 2, across: 0.0}
            for side in (-1, 1) if there else ():
                end = {name: side * value for name, value in reach.items()}
                corners = [{along: 0.0, across: 0.0}, end, end | {across: -cap}, end | {across: cap}]
                points = [f"({_SAMPLE / 2 + corner['x']:.4g}pt,{corner['y']:.4g}pt)" for corner in corners]
                code += rf"\draw[{style}] {points[0]} -- {points[1]} {points[2]} -- {points[3]};"
        options = self.line(line, is_sample=True) if line else "draw=none"
        along = " ".join(f"({x:.4g}pt,0pt)" for x in (0, _SAMPLE / 2, _SAMPLE))
        code += rf"\draw[{options}, mark repeat=2, mark phase=2] plot coordinates {{{along}}};"
        return f"{options}, legend image code/.code={{{code}}}"


def _digits(axis: Axes) -> int:
    """Significant digits of a panel's data: five, and more where its limits lie close together, far from 0."""
    limits = [np.asarray(some, dtype=float) for some in (axis.get_xlim(), axis.get_ylim())]
    far = max(np.abs(some).max() / max(np.ptp(some), np.finfo(float).tiny) for some in limits)
    return int(np.clip(3 + np.ceil(np.log10(far)), 5, 12))


def _environment(options: list[str], body: str) -> str:
    """A panel of pgfplots."""
    return "\\begin{axis}[\n" + ",\n".join(options) + f"\n]\n{body}\\end{{axis}}"


def _closed_plot(options: str, corners: str) -> str:
    points = corners.replace("axis cs:", "").replace("\n", "").replace("--", "\n")
    return f"\\addplot [draw=none, {options}]\ncoordinates {{{points}}} -- cycle;"


def _shown(axis: Axis, minor: bool) -> list[tuple[float, str]]:
    """Places and texts of the ticks that are in sight."""
    low, high = sorted(axis.get_transform().transform(axis.get_view_interval()))
    places = np.asarray(axis.get_ticklocs(minor=minor), dtype=float)
    # Not `get_ticklabels`, which leaves out those that are hidden, as of panels that share an axis.
    ticks = (axis.get_minor_ticks if minor else axis.get_major_ticks)(len(places))
    labels = [tick.label1 if tick.label1.get_visible() else tick.label2 for tick in ticks]
    with np.errstate(all="ignore"):
        where = axis.get_transform().transform(places)
    slack = 1e-9 * (high - low)
    return [
        (float(place), label.get_text().strip() if label.get_visible() else "")
        for place, at, label in zip(places, where, labels, strict=True)
        if low - slack <= at <= high + slack
    ]


def _places(ticks: list[tuple[float, str]]) -> str:
    return f"{{{','.join(f'{place:.9g}' for place, _ in ticks)}}}" if ticks else r"\empty"


def _labels(ticks: list[tuple[float, str]]) -> str:
    return f"{{{','.join(f'{{{escape(text)}}}' for _, text in ticks)}}}"


def _texts(axis: Axes) -> list[Text]:
    """A panel's texts but its title and labels: annotations, titles at the sides, factors of the tick labels."""
    own = [child for child in axis.get_children() if isinstance(child, Text) and child is not axis.title]
    return [*own, axis.xaxis.get_offset_text(), axis.yaxis.get_offset_text()]


def _outline(path: Outline) -> str:
    """A closed path in units of pgfplots' size of marks."""
    kinds = {Outline.MOVETO: "moveto", Outline.LINETO: "lineto"}
    kinds |= {Outline.CURVE3: "quadraticcurveto", Outline.CURVE4: "curveto"}
    code = ""
    for vertices, kind in path.cleaned(curves=True).iter_segments(curves=True):
        if kind in kinds:
            points = zip(*[iter(2 * vertices)] * 2, strict=True)
            code += rf"\pgfpath{kinds[kind]}" + "".join(
                f"{{\\pgfpoint{{{x:.4f}\\pgfplotmarksize}}{{{y:.4f}\\pgfplotmarksize}}}}" for x, y in points
            )
        elif kind == Outline.CLOSEPOLY:
            code += r"\pgfpathclose"
    return code + r"\pgfusepathqfillstroke"
