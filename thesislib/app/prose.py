"""What the notebooks say: titles, questions, and the texts around their figures and tables."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import NamedTuple

from thesislib.system.errors import UserError


class Section(NamedTuple):
    """A notebook: its title and question, then texts, figures and tables in order, and how it is read."""

    name: str
    title: str
    question: str
    parts: list[tuple[str, str | list[str]]]
    bullets: list[str]
    scales: dict[str, str]


class Cell(NamedTuple):
    """A cell of a notebook: "code" or "markdown", its text and its tags."""

    kind: str
    source: str
    tags: tuple[str, ...]


def cells(path: Path) -> list[Cell]:
    """The cells of a notebook's file. Raises UserError if it is missing or broken."""
    try:
        found = json.loads(path.read_bytes())["cells"]
        read = [Cell(c["cell_type"], "".join(c["source"]), tuple(c["metadata"].get("tags", ()))) for c in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no notebook ({error}): was it left half merged?") from None
    if not read:
        raise UserError(f"{path} is no notebook: it has no cell, so no title")
    return read


def read(path: Path) -> Section:
    """What a notebook says. Raises UserError if it is missing or broken."""
    title, *found = cells(path)
    first, _, question = title.source.partition("\n")
    parts, bullets, lines = [], [], {}
    for kind, source, _ in found:
        if kind == "code":
            parts += _saved(source)
        elif source.startswith("## Reading"):
            bullets = re.findall(r"^- (.*)$", source, re.MULTILINE)
            lines = dict(re.findall(r"^\*\*([\w-]+)\*\*: (.*)$", source, re.MULTILINE))
        else:
            parts.append(("text", source))
    return Section(path.stem, first.removeprefix("# "), question.strip(), parts, bullets, lines)


def _saved(source: str) -> list[tuple[str, str | list[str]]]:
    """Figures and tables that a code cell saves or shows; IPython's own commands (%, !) are left out."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    try:
        calls = [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.Call)]
    except SyntaxError:  # the notebook says so itself, where it is executed
        return []
    found: list[tuple[int, tuple[str, str | list[str]]]] = []
    for call in calls:
        words = [value.value for value in call.args if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        match call.func:
            case ast.Attribute(attr="save" | "table" as what) if words:
                columns = what == "table" and len(words) == len(call.args)
                part = ("columns", words) if columns else ("figure" if what == "save" else "table", words[0])
                found.append((call.lineno, part))
    return [part for _, part in sorted(found, key=lambda pair: pair[0])]


def columns(section: Section) -> list[str]:
    """The columns of the table of the section's runs: those that its notebook shows."""
    shown = next((what for kind, what in section.parts if kind == "columns"), [])
    return [*shown] or ["accuracy", "test_loss", "d_0"]


#: Tables that notebooks save, in words.
TABLES = {
    "6_valley_or_jump": "Barrier between neighbouring minima, and rise along the trajectory",
    "6_disguises": "First against last minimum, as they are and aligned",
    "6-1_controls_since": "The end of training against the first minimum",
    "6-1_controls_against": "Controls against the hill, paired by seed",
    "7_ensembles_scores": "Scores; NLL, Brier score and ECE are after temperature scaling",
    "7_ensembles_compared": "Against plain snapshots, paired by seed",
    "7_ensembles_each": "Every member alone",
    "7_ensembles_means": "Snapshots, and the means of the weights of each cycle's last half",
    "7_ensembles_fair_scores": "The same, each at the learning rate chosen for it",
    "7_ensembles_fair_compared": "Against plain snapshots at their rate, paired by seed",
    "7-1_rates_scores": "Scaled NLL on validation images at multiples of the scale's learning rate",
    "10-1_variants_scores": "Ensembles of five members on validation images, the lowest scaled NLL first",
    "10_better_ensembles_scores": "Ensembles on test images, the lowest scaled NLL first",
    "10_better_ensembles_compared": "Opponents against the chosen hills, paired by seed",
    "10_valley_or_jump": "Barrier between neighbouring members, and rise along the trajectory",
    "10_shift_compared": "Opponents against the chosen hills on shifted images, paired by seed",
    "10-2_ten_members_compared": "Ten members against ten plain means, paired by seed",
    "10-2_gain_members": "NLL lower than that of as many plain means, by members",
    "10-3_rates_scores": "Scaled NLL on validation images at multiples of the scale's learning rate",
    "10-3_tested_scores": "Each at its rate, on test images and fresh seeds",
    "10-3_rates_compared": "Means without hills against the hills, each at its rate, paired by seed",
    "9_claims": "Every part of every claim: effect, 95 % interval, verdict",
    "9_claims_sensitivity": "Every claim by other rules",
}
