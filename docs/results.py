"""Write what the repository's pages show of the results, from the tables and pictures in figures/reference.

    python docs/results.py

writes docs/RESULTS.md, figures/reference/<scale>/README.md, and the table of claims in README.md. Questions, captions
and readings are those of the notebooks' markdown cells. Nothing is trained or drawn. tests/test_docs_results.py fails
when a page is stale.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pandas as pd

from thesislib.analysis import better, rates, verdicts
from thesislib.app import prose
from thesislib.app.prose import Section
from thesislib.experiments.scales import SCALES
from thesislib.experiments.sections import SECTIONS
from thesislib.experiments.statements import FEWEST
from thesislib.plots.save import read_table
from thesislib.plots.tables import TITLES, curves, interval, markdown, means, readable, statements
from thesislib.runs.spreads import spread

ROOT = Path(__file__).parents[1]
NOTEBOOKS, REFERENCE = ROOT / "notebooks", ROOT / "figures" / "reference"

#: The thesis' claims, in one line each.
CLAIMS = {
    "C1": "with the term the network ends farther from the minimum",
    "C2": "without it SGD keeps drifting, though accuracy has converged",
    "C3": "final accuracy with the term is the baseline's",
    "C4": "more strength: farther; accuracy drops more and recovers",
    "C5": "a smaller w ends farther and starts slower; too large a w does nothing",
    "C6": "width does not change accuracy",
    "C7": "a further minimum shrinks the older distances, because of L2",
    "C8": "step decay raises accuracy; the distance falls at a drop",
    "C9": "with cosine restarts the term costs a little accuracy",
    "C10": "the term keeps accuracy up at ten times the learning rate",
    "C11": "an ensemble of snapshots beats the single network",
    "C12": "distance snapshots are no better an ensemble; cosine's are best",
    "C13": "farther in weights is not more different in predictions",
    "C14": "cost grows with every minimum",
}

#: Of each scale: what it is, beyond what its description says.
ABOUT = {
    "mnist": "All of MNIST, the thesis' MLP and settings. Five seeds, ten in section 10. Intervals are over seeds "
    "alone, but in section 10.",
    "fashion": "Fashion-MNIST in place of MNIST, all else alike, section 10 alone. Ten seeds that nothing was chosen "
    "by. The hills are those that were chosen on MNIST. All of it was fixed before a run was looked at.",
    "cifar": "20,000 CIFAR-10 photographs that have gone through JPEG, ResNet-20 in bf16, four cycles of eight epochs. "
    "Section 10 has five seeds, against three of its nine opponents; the others take ten hours on two cores. Its "
    "barriers and its predictions under shift are of one seed: the other runs came without their weights. "
    "Sections 1, 2.1, 2.2, 3, 4.1, 8 and all claims have three seeds. A seed of all sections but 10 takes eleven "
    "to thirteen hours, one of the claims alone six. Accuracies are with BatchNorm statistics that are estimated "
    "anew at each epoch's end.\n\n"
    "To draw all of this without training:\n\n    make restore scale=cifar\n    "
    'make figures scale=cifar section=10_better_ensembles p=\'opponents=["plain means", "SWA"]\'\n    '
    "make figures scale=cifar seeds=3 "
    "section='1_baseline 2-1_width 2-2_strength 3-1_learning_rate 3-2_epochs 4-1_multiple_minima 8_cost 9_claims'",
}

#: How the text above the table of equivalents begins, which a scale without networks of five cycles lacks.
EQUIVALENT = "The deep-ensemble equivalent"
#: Figure and tables of section 7 at the rate that suits each.
FAIR = ("7_ensembles_fair", "7_ensembles_fair_scores", "7_ensembles_fair_compared")
#: How the text above that table begins which only scales have whose settings the thesis prints.
PRINTED = "The settings whose end the thesis prints"

#: The figure of a section that stands for it in docs/RESULTS.md, where it is not the section's own.
MAIN = {"6_gradients_and_valleys": "6_barriers"}


def scales() -> list[str]:
    """Scales with figures in figures/reference, in the order in which they are shown."""
    known = ("mnist", "laptop", "fashion", "cifar")
    return [name for name in known if any((REFERENCE / name).glob("*.png"))]


def judged() -> list[str]:
    """Those at which the thesis' claims are judged, all of them or some."""
    return [scale for scale in scales() if _csv(scale, "9_claims") is not None]


def conclusive() -> list[str]:
    """Those with enough seeds for a verdict."""
    found = {scale: _verdicts(scale) for scale in scales()}
    return [scale for scale, table in found.items() if table is not None and table["n"].max() >= FEWEST]


def _verdicts(scale: str) -> pd.DataFrame | None:
    """The table with verdicts on the thesis' claims, else that on ours."""
    found = _csv(scale, "9_claims")
    return _csv(scale, "10_better_ensembles_compared") if found is None else found


@cache
def sections() -> list[Section]:
    """The notebooks that have a figure in figures/reference, in their order; 0_... come last."""
    order = [name for name in SECTIONS if not name.startswith("0")]
    last = sorted(path.stem for path in NOTEBOOKS.glob("0*.ipynb"))
    paths = [NOTEBOOKS / f"{name}.ipynb" for name in (*order, *last)]
    return [section for section in map(prose.read, paths) if drawn(section)]


def drawn(section: Section) -> list[str]:
    """The scales at which the figure that stands for a section is in figures/reference."""
    return [scale for scale in scales() if _png(scale, main(section)).is_file()]


def main(section: Section) -> str:
    """The figure that stands for a section."""
    return MAIN.get(section.name, section.name)


def _png(scale: str, name: str) -> Path:
    return REFERENCE / scale / f"{name}.png"


def _csv(scale: str, name: str) -> pd.DataFrame | None:
    """A table of the reference, its column of networks named "network"; None if it is not there."""
    path = REFERENCE / scale / f"{name}.csv"
    return read_table(path).rename(columns={"model": "network"}) if path.is_file() else None


def table(scale: str, section: str, what: str | list[str]) -> str:
    """A table of a section at a scale as Markdown: a CSV by its name, or columns of the section's own."""
    if repeats(scale, what):
        return ""
    if isinstance(what, list):
        found = _csv(scale, section)
        return "" if found is None else markdown(means(curves(found), {c: TITLES.get(c, c) for c in what}))
    found = _csv(scale, what)
    return "" if found is None else markdown(readable(found, what))


def repeats(scale: str, what: str | list[str]) -> bool:
    """Whether it is section 7 at the rate that suits each, where none was chosen (section 7.1): section 7 once more."""
    return what in FAIR and _csv(scale, "7-1_rates") is None


def claims(chosen: list[str]) -> pd.DataFrame:
    """One line a claim, with its verdict at each of these scales, as far as its runs are trained there."""
    outcomes = {s: verdicts.summary(_csv(s, "9_claims")).set_index("claim")["verdict"] for s in chosen}
    rows = [
        {"": c, "claim of the thesis": says} | {s: o.get(c, "–") for s, o in outcomes.items()}
        for c, says in CLAIMS.items()
    ]
    return pd.DataFrame(rows)


def ours(chosen: list[str]) -> str:
    """Claims N1 and N2, which are ours, in a sentence each: their verdicts at these scales."""
    tested: dict[str, list[str]] = {}
    for scale in chosen:
        if (found := _csv(scale, "10_better_ensembles_compared")) is not None:
            beaten = found.loc[found["score"] == rates.SCORE, "verdict"] == "loses"
            planned = better.opponents(scale)
            outcome = VERBS[better.verdict(found, planned)]
            what = ("" if tested else " opponents lose") + (
                f", {len(planned)} planned" if len(beaten) < len(planned) else ""
            )
            shown = f"`{scale}` ({beaten.sum()} of {len(beaten)}{what}, n = {found['n'].max()})"
            tested.setdefault(outcome, []).append(shown)
    says = [f"It {outcome} at {' and '.join(scales)}." for outcome, scales in tested.items()]
    at_own = {scale: _csv(scale, "10-3_rates_compared") for scale in chosen}
    outcomes = [
        f"{VERBS[better.verdict(found)]} at `{scale}`{BUT.get(scale, '')}"
        for scale, found in at_own.items()
        if found is not None
    ]
    says += [f"N2, hills beat means each at its own rate, {', '.join(outcomes)}."] if outcomes else []
    return f"{N1} ([section 10](docs/RESULTS.md#10-better-ensembles)).\n{' '.join(says)}"


def effects() -> pd.DataFrame:
    """Every part of every claim, its effects side by side."""
    found = {scale: statements(_csv(scale, "9_claims")).set_index(["claim", "says"]) for scale in judged()}
    rows = dict.fromkeys(index for table in found.values() for index in table.index)
    order = sorted(rows, key=lambda index: int(index[0][1:]))
    cells = {scale: t["effect"] + ", " + t["verdict"] for scale, t in found.items()}
    shown = [{"": c, "part": says} | {s: t.get((c, says), "") for s, t in cells.items()} for c, says in order]
    return pd.DataFrame(shown)


def seeds_of_effects() -> str:
    """Of how many seeds the parts of the claims are, in a sentence."""
    of = {scale: sorted(_csv(scale, "9_claims")["n"].unique()) for scale in judged()}
    parts = [f"{' or '.join(map(str, n))} at `{scale}`" for scale, n in of.items()]
    return f"Seeds: {', '.join(parts)}."


def published(scale: str) -> str:
    """The settings whose numbers the thesis prints, beside ours; empty at scales that have none."""
    wanted = SCALES[scale].published
    found = _csv(scale, "2-1_width")
    rows = found[found["role"] == "published"]
    shown = []
    for (label, group), (accuracy, distance) in zip(rows.groupby("label", sort=False), wanted.values(), strict=True):
        row = {"setting": label, "$d_0$, thesis": f"{distance:g}"}
        row |= {"$d_0$, here": spread(group["d_0"]), "ratio": f"{group['d_0'].mean() / distance:.3f}"}
        shown.append(row | {"accuracy, thesis": accuracy, "accuracy, here": spread(group["accuracy"])})
    return markdown(pd.DataFrame(shown)) if shown else ""


def cost(chosen: list[str]) -> str:
    """What a hill costs: the part of claim 14 at each of these scales."""
    rows = []
    for scale in chosen:
        for row in _csv(scale, "9_claims").query("claim == 'C14'").itertuples():
            cell = f"{interval(row.effect, row.low, row.high, '.3g')} %"
            rows.append({"scale": scale, "network": row.network, "each hill, share of an epoch": cell, "n": row.n})
    return markdown(pd.DataFrame(rows)) if rows else ""


def side_by_side(section: str) -> str:
    """The section's main numbers at the scales that carry verdicts, as far as it is drawn there, in one table."""
    columns = {name: TITLES[name] for name in ("accuracy", "train_loss", "test_loss", "d_0")}
    tables, chosen = [], [scale for scale in conclusive() if _csv(scale, section) is not None]
    for scale in chosen:
        found = means(curves(_csv(scale, section)), columns).set_index("setting")
        tables.append(found.add_suffix(f", {scale}"))
    wide = pd.concat(tables, axis=1)
    order = [f"{title}, {scale}" for title in ("N", *columns.values(), "n") for scale in chosen]
    order = [heading for heading in order if heading in wide]
    return markdown(wide[order].rename_axis("setting").reset_index())


GENERATED = "<!-- Written by `python docs/results.py`. Edit that, or the notebooks, not this. -->"


def results() -> str:
    """docs/RESULTS.md."""
    lines = [GENERATED, INTRODUCTION, "## The claims", markdown(claims(judged())), f"{EFFECTS}\n{seeds_of_effects()}"]
    lines.append(markdown(effects()))
    for section in sections():
        if section.name.startswith("0"):
            continue
        chapters = drawn(section)
        picture = f"../figures/reference/{chapters[0]}/{main(section)}.png"
        lines += [f"## {section.title}", section.question, f"![{section.title}, scale {chapters[0]}]({picture})"]
        lines += _numbers(section) + _reading(section, section.scales)
        links = [f"[{scale}](../figures/reference/{scale}/README.md#{_anchor(section.title)})" for scale in chapters]
        lines += [f"Notebook [{section.name}](../notebooks/{section.name}.ipynb). All figures: {', '.join(links)}."]
    return "\n\n".join(filter(None, lines)) + "\n"


def _numbers(section: Section) -> list[str]:
    """The tables of a section for docs/RESULTS.md, each after a line that says what it is."""
    if section.name == "8_cost":
        return [cost(judged())]
    if section.name == "9_claims":
        return ["The tables are at the top of this page."]
    # Of every member alone the chapters have it.
    if named := [what for kind, what in section.parts if kind == "table" and what != "7_ensembles_each"]:
        shown = [(prose.TABLES[name], s, table(s, section.name, name)) for name in named for s in conclusive()]
        return [part for text, scale, found in shown if found for part in (f"{text} ({scale}):", found)]
    lines = [side_by_side(section.name)]
    for scale in judged() if section.name == "2-1_width" else ():
        if found := published(scale):
            lines += [f"The numbers that the thesis prints ({scale}):", found]
    return lines


def _reading(section: Section, lines: dict[str, str]) -> list[str]:
    """How a section is read: its bullets, and a line a scale."""
    spoken = [*section.bullets, *(f"**{scale}**: {line}" for scale, line in lines.items())]
    return ["\n".join(f"- {line}" for line in spoken)]


def _anchor(title: str) -> str:
    """The fragment that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def chapter(scale: str) -> str:
    """figures/reference/<scale>/README.md: the chapter with every picture that lies there."""
    about = ABOUT.get(scale) or f"{SCALES[scale].about[0].upper()}{SCALES[scale].about[1:]}."
    lines = [GENERATED, f"# The results chapter at scale {scale}", about, PICTURES]
    rest = {path.stem for path in (REFERENCE / scale).glob("*.png") if not re.search(r"-\d{3}$", path.stem)}
    for section in sections():
        if scale not in drawn(section):
            continue
        lines += [f"## {section.title}", section.question]
        shown = _with_something([(kind, _shown(scale, section, kind, what)) for kind, what in section.parts])
        for (kind, text), (following, picture) in pairwise([*shown, ("", "")]):
            is_caption = kind == "text" and following == "figure" and not text.startswith("#")
            lines += [text] if picture or not is_caption else []  # nothing about what is not there
        rest -= {what for kind, what in section.parts if kind == "figure"}
        lines += [markdown(claims([scale]))] if section.name == "9_claims" else []
        lines += [cost([scale])] if section.name == "8_cost" else []
        lines += [ours([scale]).replace("](docs/", "](../../../docs/")] if section.name == "10_better_ensembles" else []
        if section.bullets:
            here = {name: line for name, line in section.scales.items() if name == scale}
            lines += ["### Reading", *_reading(section, here)]
    lines += [f"![{name}]({name}.png)" for name in sorted(rest)]  # of a notebook that is there no more
    return "\n\n".join(filter(None, lines)) + "\n"


def _with_something(shown: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parts of a section without a heading, and the texts below it, under which no figure or table is there."""
    blocks: list[list[tuple[str, str]]] = [[]]
    for kind, text in shown:
        blocks += [[]] if kind == "text" and text.startswith("### ") else []
        blocks[-1].append((kind, text))
    first, *rest = blocks
    return [*first, *(part for block in rest if any(text for kind, text in block if kind != "text") for part in block)]


def _shown(scale: str, section: Section, kind: str, what: str | list[str]) -> str:
    """A part of a notebook as Markdown; empty if it has nothing at this scale."""
    if kind == "text" and what.startswith(EQUIVALENT) and "equivalent" not in _csv(scale, "7_ensembles_scores"):
        return ""
    if kind == "text" and what.startswith(PRINTED):
        return f"{what}\n\n{found}" if (found := published(scale)) else ""
    if kind == "text":
        return re.sub(r"^## ", "### ", what)
    if kind == "figure" and repeats(scale, what):
        return ""
    if kind == "figure":
        there = [name for name in (f"{what}.png", f"{what}.gif") if (REFERENCE / scale / name).is_file()]
        return "".join(f"![{section.title}: {what}]({name})" for name in there)
    return table(scale, section.name, what)


INTRODUCTION = """# Results

Every section of the chapter: its question, one figure, the numbers, and how they are read.
Figures are those of the full MNIST. All others stand in the chapters of the scales:
[mnist](../figures/reference/mnist/README.md), [laptop](../figures/reference/laptop/README.md); section 10 also of
[fashion](../figures/reference/fashion/README.md) and [cifar](../figures/reference/cifar/README.md), which has the first
sections, too.

Numbers are means ± standard deviations over seeds. Effects are paired by seed, with a 95 % interval.
It runs over seeds, and over test images where predictions of single ones were kept. Distances $d$ are squared
and $N$ says whether a hill has been left, from 20 on ([glossary](GLOSSARY.md)). How effects become verdicts stands in
the [rules](RULES.md).

Five things limit what these numbers say.

- No scale here is the thesis' own: MobileNetV2 and ResNet-32 on all of CIFAR-10, over 600 to 750 epochs. "Not
  reproduced" means: not in this size ([scales](DIFFERENCES.md#scales)).
- Five seeds leave some verdicts undecided at `mnist`. Section 10 has ten seeds, of its own.
- Intervals of `mnist` are over seeds alone, except in sections 10 and 10.3: most other runs kept no predictions of
  single images. Those of section 6.1 and under shift are over seeds alone everywhere.
- Another processor rounds differently, and training amplifies that. Single runs differ there, means over seeds less.
- Seeds 5 to 9 of `laptop` were trained after the rules were frozen. Alone they give the same verdicts, except
  for C5, C9 and C14, which are undecided by them (section 9). What changed in the rules stands there.
  At `mnist` such seeds are 3 and 4, and those of section 10. The five of section 7, C11 to C13, are older than the
  rules.

The first minimum is an early one: sections 1 and 2 store it at epoch 7 or 8, at `mnist` 13 of 80. Part of every
distance is training that was not finished. The runs of `mnist` are of several sittings, on an Intel and an AMD
processor. Sections 10, 10.1 and 10.3 at `mnist` and `fashion` and all of `cifar` are in bf16."""

EFFECTS = """The parts of the claims. × is a factor of squared distances, points are of accuracy, if not of agreement.
A claim is reproduced if all of its parts are that can be tested, and not reproduced if one is contradicted."""

PICTURES = """$d_0, d_1, \\dots$ are squared distances to the first minimum, the second, and so on. $N$ says
whether a hill has been left, from 20 on. These words and others: [glossary](../../../docs/GLOSSARY.md).

Each picture lies here as `.pgf` for LaTeX too, and its runs and settings in a `.json`.
How to include one: [figures/README.md](../../README.md)."""


N1 = (
    "**Beyond the thesis.** It hoped for better ensembles and found none. Our claim N1: hills, with members that are\n"
    "means of weights, make an ensemble of lower NLL than each opponent that takes as many gradients"
)
#: What the verdict of N2 hangs on.
BUT = {"laptop": ", though against means at a rate that proves too high"}
VERBS = {"holds": "holds", "does not hold": "does not hold", "undecided": "is undecided"}


def readme() -> str:
    """README.md with its table of claims made anew."""
    text = (ROOT / "README.md").read_text()
    start, end = "<!-- claims: written by `python docs/results.py` -->\n", "\n<!-- end of claims -->"
    before, rest = text.split(start)
    shown = markdown(claims(judged()))
    shown += "\n\n" + ours(conclusive())
    return f"{before}{start}\n{shown}\n{end}{rest.split(end)[1]}"


def pages() -> dict[Path, str]:
    """Every generated page: its path and what it should say."""
    chapters = {REFERENCE / scale / "README.md": chapter(scale) for scale in scales()}
    return {ROOT / "docs" / "RESULTS.md": results(), ROOT / "README.md": readme(), **chapters}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(ROOT))
