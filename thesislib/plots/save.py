"""Figures on disk: .pgf for LaTeX, .pdf, .png, and .json with where they come from; tables as .csv."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from thesislib import datasets
from thesislib.plots.pgf import PREAMBLE, escape, pgf_code
from thesislib.plots.style import clip_error_bars, styled
from thesislib.runs.results import Results
from thesislib.system import files
from thesislib.system.errors import UserError
from thesislib.system.files import ROOT, make_writable, write


def figures_folder(scale: str) -> Path:
    """Where the figures of a scale go: $THESIS_FIGURES, else figures/ beside the package, and the scale."""
    return files.folder("THESIS_FIGURES") / scale


def reference(name: str) -> Path:
    """A file that came with the repository, in figures/reference/. Raises UserError if it is not there."""
    path = ROOT / "figures" / "reference" / name
    if not path.is_file():
        raise UserError(f"{path} is missing: it is part of the repository (make bench writes bench.csv)")
    return path


def make_folder(scale: str) -> Path:
    """That folder, there and writable. Raises UserError if it cannot be."""
    folder = figures_folder(scale)
    make_writable(folder, "figures", "THESIS_FIGURES")
    return folder


@styled()
def save(figure: Figure, name: str, scale: str, results: Results) -> None:
    """Write `name`.pdf, .png, .pgf and .json into the scale's folder.

    Of error bars that reach below 0 on a logarithmic axis, what is in sight is drawn.
    """
    clip_error_bars(figure)
    folder = make_folder(scale)
    data = {result.run.data for group in results.values() for result in group}
    noted = {text.get_text() for text in figure.texts}  # a figure that is saved a second time
    for note in sorted({datasets.variant(name) for name in data} - {"", *noted}):
        if (layout := figure.get_layout_engine()) is not None:
            layout.set(rect=(0, 0.04, 1, 0.96))  # a line below everything else
        figure.text(1, 0, note, ha="right", va="bottom", fontsize=6, color="0.4")
    for kind in ("pdf", "png"):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
        write(folder / f"{name}.{kind}", drawn.getvalue())
    write(folder / f"{name}.pgf", pgf_code(figure, folder / f"{name}.pgf").encode())
    write(folder / f"{name}.json", json.dumps(_provenance(scale, results), indent=1).encode())


def table(numbers: pd.DataFrame, name: str, scale: str) -> None:
    """Write a table as `name`.csv into the scale's folder, six digits a number."""
    write(make_folder(scale) / f"{name}.csv", numbers.to_csv(index=False, float_format="%.6g").encode())


def _provenance(scale: str, results: Results) -> dict[str, object]:
    runs = [result for group in results.values() for result in group]
    configs = [result.run.model_dump() for result in runs]
    fixed = {k: v for k, v in configs[0].items() if all(c[k] == v for c in configs)} if configs else {}
    return {
        "scale": scale,
        "data": {name: datasets.variant(name) or datasets.fingerprint(name) for name in {r.run.data for r in runs}},
        "runs": {label: [result.id for result in group] for label, group in results.items()},
        "common": fixed,
        "varied": {
            label: {k: v for k, v in g[0].run.model_dump().items() if k not in fixed} for label, g in results.items()
        },
        "versions": {name: version(name) for name in ("torch", "numpy", "matplotlib", "matplot2tikz", "thesislib")},
        "commit": _commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # not a clone, or no git


def book(folder: Path, drawn: Iterable[Path]) -> Path:
    """Write figures.tex, a document with these .pgf of a folder, and return its path."""
    lines = [
        r"\documentclass[11pt,a4paper]{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{lmodern}",
        r"\usepackage[margin=2.5cm]{geometry}",
        *PREAMBLE,
        r"\begin{document}",
    ]
    for path in drawn:
        lines += [
            r"\begin{figure}[p]",
            r"\noindent",
            rf"\input{{{path.name}}}",
            rf"\caption{{{escape(path.stem)}}}",
            r"\end{figure}",
        ]
    path = folder / "figures.tex"
    write(path, "\n".join([*lines, r"\end{document}", ""]).encode())
    return path
