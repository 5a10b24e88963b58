"""Figures on disk: .pgf for LaTeX, .pdf, .png, and .json with where they come from; animations as .gif; tables."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from thesislib import datasets
from thesislib.experiments.sections import SECTIONS
from thesislib.plots.animation import Animation
from thesislib.plots.known import beyond
from thesislib.plots.language import language_of, written_in
from thesislib.plots.layout import NARROWEST, WIDTH, WIDTHS, is_cut, laid_out, note, spaced, ticks_kept, width_of
from thesislib.plots.pgf import pgf_code
from thesislib.plots.style import POINTS_PER_INCH, clip_error_bars, styled
from thesislib.plots.tables import latex, readable
from thesislib.plots.tex import PREAMBLE, escape, unknown
from thesislib.runs.copies import variant
from thesislib.runs.results import Results, Row, need_results
from thesislib.runs.spreads import FRONT, need
from thesislib.system import files
from thesislib.system.errors import UserError, printable
from thesislib.system.files import ABANDONED, make_writable

#: In each folder of figures, the names of the files that were written there.
WRITTEN = ".written"
#: Names a file to which every process below notes what it writes, a JSON object a line: path and digest.
LOG = "THESIS_WRITTEN"
#: How figures of another width than the text's end.
VARIANT = re.compile(r"-(column|half|[\d.]+(in|cm))$")
#: Names of the .tex and .pdf files in such a folder that are no figures or tables.
OURS = ("captions", "chapter", "chapter-body", "figures", "numbers")

#: The columns of a table that are texts in every line.
_TEXTS = ("section", "label", "role", "network", "id")


def figures_folder(scale: str) -> Path:
    """Where the figures of a scale go: $THESIS_FIGURES, else figures/ beside the package, and the scale."""
    return files.folder("THESIS_FIGURES") / scale


def written_folders() -> list[Path]:
    """The scales' folders, and the ones in them, in which there is something that `write` wrote; inner ones first."""
    inner, outer = (sorted(figures_folder("").glob(pattern)) for pattern in (f"*/*/{WRITTEN}", f"*/{WRITTEN}"))
    return [path.parent for path in (*inner, *outer)]


def make_folder(scale: str) -> Path:
    """That folder, there and writable. Raises UserError if it cannot be."""
    folder = figures_folder(scale)
    make_writable(folder, "figures", "THESIS_FIGURES")
    return folder


def write(folder: Path, name: str, content: bytes) -> None:
    """Write a file into a folder of figures, and its name into the list of what `delete` may delete there."""
    _note(folder, name)  # first: what a killed process leaves is deleted then, too
    files.write(folder / name, content)
    if log := os.environ.get(LOG):
        line = {"path": str(folder / name), "digest": files.digest(content)}
        files.append(Path(log), json.dumps(line).encode() + b"\n")


@contextmanager
def writing(folder: Path, section: str) -> Iterator[None]:
    """Be the only process that writes the figures of a section; waits while another one does."""
    lock = f".{section}.lock"
    _note(folder, lock)
    with files.lock(folder / lock):
        yield


def _note(folder: Path, name: str) -> None:
    """Add a name to the list of what `delete` may delete."""
    if name not in written(folder):
        with (folder / WRITTEN).open("a", encoding="utf-8") as names:
            names.write(f"{name}\n")


def written(folder: Path) -> set[str]:
    """Names of the files that `write` wrote into a folder; empty where it was copied."""
    path = folder / WRITTEN
    return set(path.read_text("utf-8").splitlines()) if path.is_file() else set()


def delete(folder: Path) -> tuple[list[str], list[str]]:
    """Delete what `write` wrote into a folder; names of the files that went, and of the others, which stay."""
    there = sorted(path for path in folder.iterdir() if path.name != WRITTEN) if folder.is_dir() else []
    ours = written(folder)
    # What a killed process left has a dot before its name and a suffix behind.
    names = {path: re.sub(rf"^\.(.+)\.{ABANDONED}$", r"\1", path.name) for path in there}
    gone = [path for path in there if {path.name, names[path]} & ours and path.is_file()]
    for path in gone:
        path.unlink()
    if ours:
        (folder / WRITTEN).unlink()
    if there and gone == there:
        with contextlib.suppress(OSError):  # a link to a folder elsewhere
            folder.rmdir()
    return [path.name for path in gone], [path.name for path in there if path not in gone]


@styled()
def save(
    figure: Figure | Animation,
    name: str,
    runs: Results,
    width: str | float | None = None,
    language: str | None = None,
) -> None:
    r"""Write `name`.pdf, .png, .pgf and .json into figures/, into the folder of the runs' scale.

    The .pgf is for LaTeX's \input, as wide as \textwidth; the .json says which runs the figure shows. Error bars that
    reach below 0 on a logarithmic axis are cut at its end. An animation is a .gif and its .json, of one width.

    With a `width` of "column" (3.3 inches), "half" (3.0), a number of inches or "12cm" the figure is laid out anew,
    texts as large as ever, and written as `name`-column and so on. Its .pgf is as wide as \linewidth, or just that.
    $THESIS_WIDTH is the width if none is given. With `language` "de" numbers have a decimal comma, and thousands apart;
    $THESIS_LANGUAGE is the language if none is given. Raises UserError for a name that `make figures` needs itself, and
    if the folder cannot be written.

    >>> import thesislib as tl
    >>> runs = tl.section("2-3_interaction", scale="smoke", widths=[0.1], strengths=[10])
    >>> tl.save(tl.plot.curves(runs), "mine", runs)
    >>> tl.save(tl.plot.curves(runs), "mine", runs, width="column", language="de")
    """
    _check("figure", name, runs)
    if not isinstance(figure, Figure | Animation):
        raise UserError(f"a figure is saved as a whole, not {type(figure).__name__}: that of an axis is axis.figure")
    if isinstance(figure, Animation):
        folder = make_folder(runs.scale)
        write(folder, f"{name}.gif", figure.gif)
        write(folder, f"{name}.json", json.dumps(_provenance(runs), indent=1).encode())
        return
    width = _asked(width)
    inches, suffix, length = width_of("text" if width is None else width)
    language = language_of(language)
    if copies := sorted({variant(row.run.data) for row in runs} - {""}):
        note(figure, *copies)
    # matplotlib gives a figure without a layout the one of the style as soon as it is written.
    with (
        matplotlib.rc_context({"figure.constrained_layout.use": False}),
        spaced(figure),
        laid_out(figure, figure.get_figwidth() if width is None else inches),
        written_in(figure, language),
    ):
        _save(figure, f"{name}{suffix}", length, runs)


def _save(figure: Figure, name: str, length: str, runs: Results) -> None:
    clip_error_bars(figure)
    folder = make_folder(runs.scale)
    figure.draw_without_rendering()
    drawn = {"png": io.BytesIO(), "pdf": io.BytesIO()}
    with ticks_kept(figure):
        figure.savefig(drawn["png"], format="png")
        figure.savefig(drawn["pdf"], format="pdf", metadata={"CreationDate": None})
        # A document may have the same figure of two scales, whose images it looks for in several folders.
        code, images = pgf_code(figure, f"{name}-{runs.scale}", length)
        if why := beyond(figure):
            print(printable(f"{name}.pgf shows a PDF, with its own font: pgfplots cannot draw {why}"))
    if signs := unknown(code):
        print(printable(f"{name}.pgf has signs that pdflatex may not know: {' '.join(signs)}"))
    if any(is_cut(legend) for legend in figure.legends):
        print(f"{name}: the legend is wider than the figure: make labels shorter, or the figure wider")
    for kind, content in drawn.items():
        write(folder, f"{name}.{kind}", content.getvalue())
    for image, content in images.items():
        write(folder, image, content)
    write(folder, f"{name}.pgf", code.encode())
    write(folder, f"{name}.json", json.dumps(_provenance(runs), indent=1).encode())


def table(
    frame: pd.DataFrame,
    name: str,
    runs: Results,
    columns: Sequence[str] = (),
    language: str | None = None,
    width: str | float | None = None,
) -> pd.DataFrame:
    r"""Write a table as `name`.csv and `name`.tex into figures/, into the folder of the runs' scale; as it is read.

    The .csv has every row and column, six digits a number. The .tex is for LaTeX's \input, with the package booktabs,
    and longtable if it is long (`tables.latex`). A table with a row a seed is there as mean ± std over seeds, of the
    `columns` (all if none are given), and its numbers are written in the `language`, as `save` has it. What is wider
    than the `width`, again as `save` has it, stands in several tables below each other, in `name`-column.tex and so on
    if it is not the text's. An index that has a name is
    written as columns, and one column of several levels is named by all of them. Raises UserError for a column that is
    not there, has texts where means are written, or none at all, for a name that `make figures`
    needs itself, for a table of every epoch, and if the folder cannot be written.

    >>> import thesislib as tl
    >>> runs = tl.section("2-3_interaction", scale="smoke", widths=[0.1], strengths=[10])
    >>> list(tl.table(runs.table("accuracy", "d_0"), "mine", runs))
    ['setting', 'network', 'N', 'accuracy', '$d_0$', 'n']
    """
    _check("table", name, runs)
    need(frame, ())
    named = [*filter(None, frame.index.names)]
    if named:
        frame = frame.reset_index()
    frame = frame.set_axis([*map(_flat, frame.columns)], axis=1)
    columns = columns if isinstance(columns, str) else [*map(_flat, columns)]
    need(frame, columns, numbers=bool(columns) and {"label", "seed"} <= {*frame})
    if frame.empty:
        raise UserError(f"the table {name} has no {'rows' if len(frame.columns) else 'columns'}: nothing to write")
    if "epoch" in frame and frame.duplicated([column for column in FRONT if column in frame]).any():
        raise UserError("a table has a row a run, as runs.final: means over epochs say nothing")
    shown = {*(columns or frame)} if {"label", "seed"} <= {*frame} else {}
    if taken := [column for column in ("n", "setting") if column in shown]:
        raise UserError(f"give the column {taken[0]} another name: tables of means have one that is called so")
    width = _asked(width)
    points = NARROWEST if width in (None, "text") else POINTS_PER_INCH * width_of(width)[0]
    language = language_of(language)
    folder = make_folder(runs.scale)
    if columns and named and "label" not in frame:  # what tells rows apart is always shown
        columns = [*map(_flat, named), *columns]
    read = readable(frame, name, columns)
    code = latex(read, language, points)
    write(folder, f"{name}.csv", frame.to_csv(index=False, float_format="%.6g").encode())
    write(folder, f"{name}{'' if width is None else width_of(width)[1]}.tex", code.encode())
    return _Whole(read)


class _Whole(pd.DataFrame):
    """A table that notebooks show whole, where pandas breaks off texts and leaves out rows."""

    def _repr_html_(self) -> str | None:
        with pd.option_context("display.max_colwidth", None, "display.max_rows", 500):
            return super()._repr_html_()


def read_table(path: Path) -> pd.DataFrame:
    """A table that `table` wrote; what says which run a line is of is text, whatever it looks like."""
    found, texts = pd.read_csv(path), pd.read_csv(path, dtype=str, keep_default_na=False)
    # Inferred, labels such as 10 and True would be no texts, and None and NA nothing at all.
    return found.assign(**{name: texts[name] for name in _TEXTS if name in found})


def _flat(name: object) -> str:
    """The name of a column: ("accuracy", "mean"), as pandas calls one of several levels, is "accuracy, mean"."""
    return ", ".join(filter(None, map(str, name))) if isinstance(name, tuple) else str(name)


def _asked(width: str | float | None) -> str | float | None:
    """The width that is asked for: $THESIS_WIDTH if none is given; None if that is not set either."""
    return os.environ.get(WIDTH) or None if width is None else width


def _check(kind: str, name: str, runs: Results) -> None:
    """Raise UserError for a figure or table that cannot be called so, or for what is no results."""
    files.check_name(kind, name)
    if name in OURS:
        raise UserError(f"a {kind} cannot be called {name}: make figures and make chapter write files of that name")
    need_results(runs)
    if kind == "figure" and not len(runs):
        raise UserError(f"the figure {name} would be of no runs: choose some")
    # It would have the caption of that section's figure, or replace it.
    number = name.partition("_")[0]
    of = next((s for s in SECTIONS if s.partition("_")[0] == number != "0"), runs.section)
    if runs.section != of:
        raise UserError(f"a {kind} of other runs cannot be called {name}: {number}_ begins those of section {of}")
    if VARIANT.search(name):
        raise UserError(f"a {kind} cannot be called {name}: figures of other widths end so")
    files.check_name("scale", runs.scale)


def _provenance(runs: Results) -> dict[str, Any]:
    """The scale, the data, every run's id, the fields that all have in common and those that vary, versions, commit."""
    groups: dict[str, list[Row]] = {}
    for row in runs:
        front = [row.section] * (runs.section != row.section) + [row.role] * (row.role != "curve")
        groups.setdefault(": ".join([*front, row.label]), []).append(row)
    configs = [row.run.model_dump() for row in runs]
    common = {k: v for k, v in configs[0].items() if all(c[k] == v for c in configs)} if configs else {}
    return {
        "scale": runs.scale,
        "data": {name: variant(name) or datasets.fingerprint(name) for name in {r.run.data for r in runs}},
        "runs": {label: [row.id for row in rows] for label, rows in groups.items()},
        "seeds": sorted({row.seed for row in runs}),
        "common": common,
        "varied": {label: _values(rows, common) for label, rows in groups.items()},
        "versions": {name: version(name) for name in ("torch", "numpy", "matplotlib", "matplot2tikz", "thesislib")},
        "commit": _commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _values(rows: list[Row], common: dict[str, Any]) -> dict[str, Any]:
    """Of each field that is not in common its value in these rows; where they differ, a list of the distinct ones."""
    configs = [row.run.model_dump() for row in rows]
    found = {name: list(dict.fromkeys(c[name] for c in configs)) for name in configs[0] if name not in common}
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # not a clone, or no git


def document(folder: Path, drawn: Iterable[Path]) -> Path:
    """Write figures.tex, a document with these .pgf of a folder, and return its path."""
    head = [r"\documentclass[11pt,a4paper]{article}", r"\usepackage[T1]{fontenc}", r"\usepackage{lmodern}"]
    head += [r"\usepackage[margin=2.5cm]{geometry}", *PREAMBLE]
    head += [r"\extrafloats{500}", r"\begin{document}"]  # LaTeX keeps 52 figures in mind at a time
    body = []
    for path in drawn:
        narrow = WIDTHS.get(path.stem.rpartition("-")[2])
        inside = rf"\noindent\input{{{path.name}}}"
        inside = rf"\begin{{minipage}}{{{narrow}in}}{inside}\end{{minipage}}" if narrow else inside
        body.append(rf"\begin{{figure}}[p]{inside}\caption{{{escape(path.stem)}}}\end{{figure}}")
    write(folder, "figures.tex", "\n".join([*head, *body, r"\end{document}", ""]).encode())
    return folder / "figures.tex"
