r"""Tables to read: numbers as "mean ± std" under readable headings, and any table as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd

from thesislib.analysis import better, rates
from thesislib.experiments.statements import FEWEST
from thesislib.plots.language import formula, localized
from thesislib.plots.layout import NARROWEST
from thesislib.plots.style import LABELS
from thesislib.plots.tex import behind_a_break, escape
from thesislib.runs.spreads import need_once, spreads

#: Columns of tables, and their headings; those that are not here have figures' LABELS.
TITLES = {
    "label": "setting", "member": "member", "accuracy": "accuracy", "test_loss": "test loss",
    "train_loss": "training loss", "d_init": "$d$ to the start", "grad_norm": "gradient",
    "term_norm": "term's gradient", "grad_cosine": "cosine of steps",
    **{f"d_{k}": f"$d_{k}$" for k in range(10)},
}  # fmt: skip
SCORES = {
    "accuracy_last": "last member", "accuracy_ensemble": "ensemble", "nll_ensemble_scaled": "NLL, scaled",
    "brier_ensemble_scaled": "Brier score, scaled", "ece_ensemble_scaled": "ECE, scaled", "agreement": "all agree",
    "disagreement": "two disagree", "mutual_information": "mutual information",
    "equivalent": "deep-ensemble equivalent, median",
}  # fmt: skip
MEANS = {
    "accuracy_mean": "mean of the members", "accuracy_ensemble": "ensemble", "nll_ensemble_scaled": "NLL, scaled",
    "disagreement": "two disagree", "mutual_information": "mutual information",
}  # fmt: skip
EACH = {
    "accuracy": "accuracy", "nll": "NLL", "nll_scaled": "NLL, scaled", "brier_scaled": "Brier score, scaled",
    "ece": "ECE", "ece_scaled": "ECE, scaled",
}  # fmt: skip
ALIGNED = {
    "d": "$d$", "d_aligned": "$d$, aligned", "barrier": "barrier [nats]", "barrier_aligned": "barrier, aligned [nats]"
}  # fmt: skip
CONTROLS = {
    "d_0": "$d_0$", "d_0_radial": "$d_0$, radial", "d_0_angular": "$d_0$, angular",
    "accuracy_minimum": "accuracy at the minimum", "lowest": "lowest after it", "accuracy": "at the end",
    "disagreement": "predictions changed",
}  # fmt: skip
#: Of tables with a row a seed, the columns that are shown.
_SHOWN = {
    **dict.fromkeys(("7_ensembles_scores", "7_ensembles_fair_scores"), SCORES),
    "7_ensembles_means": MEANS, "7_ensembles_each": EACH, "6_disguises": ALIGNED, "6-1_controls_since": CONTROLS,
}  # fmt: skip
#: Tables of scores at several learning rates, which their column "factor" tells apart.
RATES = ("7-1_rates_scores", "10-3_rates_scores")
#: Columns of a table of means that say what a line is of.
_FRONT = ("setting", "section", "role", "label", "network", "member", "seed", "factor", "severity", "N", "n")
#: What tells settings apart, as far as a table has several of them.
_KEYS = ("label", "network", "member")


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a section's table shows: not those of published settings, of single steps, or between minima."""
    hidden = ("published", "steps", "between", "chosen", "full", "means")
    return table[~table["role"].isin(hidden)] if "role" in table else table


def means(table: pd.DataFrame, titles: Mapping[str, str], further: Sequence[str] = ()) -> pd.DataFrame:
    """`spreads` of the columns that there are, a row a setting.

    Settings are told apart by label, and by network, member and `further` columns where there are several. What has
    another role than "curve" says it before its label. Raises UserError for two rows of one setting and seed.
    """
    if "role" in table:
        label = table["label"].where(table["role"] == "curve", table["role"] + ": " + table["label"])
        table = table.assign(label=label)
    by = [name for name in (*_KEYS, *further) if name == "label" or (name in table and table[name].nunique() > 1)]
    if "seed" in table:
        need_once(table, dict.fromkeys([*by, "seed", "member"]))
    there = {column: title for column, title in titles.items() if column in table}
    flags = [column for column in there if table[column].dtype == bool]
    if "member" in by and table["member"].isna().any():  # of some labels only: networks of their own, not snapshots
        by.remove("member")
    return spreads(table.astype(dict.fromkeys(flags, float)), by, there).rename(columns=TITLES)


def interval(effect: float, low: float, high: float, digits: str) -> str:
    """ "effect [low, high]", the effect alone where nothing is known of its interval; empty where there is none."""
    if np.isnan(effect):
        return ""
    texts = (f"{number:#{digits}}".rstrip(".") for number in (effect, low, high))
    shown, *ends = (re.sub(r"^-(?=[0.]+$)", "", text).replace("-", "−") for text in texts)  # no zero is negative
    # That of a factor of one seed is [0, inf].
    return f"{shown} [{', '.join(ends)}]" if np.isfinite([low, high]).all() else shown


def compared(found: pd.DataFrame) -> pd.DataFrame:
    """Ensembles against one of them: a column a score, differences in points or in thousandths."""
    names = {
        "accuracy_ensemble": "accuracy, points", "nll_ensemble_scaled": "scaled NLL, 0.001 nats",
        "brier_ensemble_scaled": "scaled Brier score, 0.001",
    }  # fmt: skip
    rows: dict[str, dict[str, str]] = {}
    for row in _settings(found).itertuples():
        points = row.score.startswith("accuracy")
        factor = 100 if points else 1000
        title = names.get(row.score, f"{heading(row.score)}, {'points' if points else '0.001'}")
        shown = interval(factor * row.difference, factor * row.low, factor * row.high, ".2f")
        n = {"N": f"{row.N:.3g}" if pd.notna(row.N) else ""} if "N" in found else {}
        rows.setdefault(row.label, n)[title] = _judged(shown, row)
    return pd.DataFrame([{"setting": label, **cells} for label, cells in rows.items()])


def shifted(found: pd.DataFrame) -> pd.DataFrame:
    """Ensembles against one of them under shift (`shift.against`): a column a severity, a row a score and setting."""
    titles = {
        "accuracy_ensemble": ("accuracy, points", 100, ".2f"),
        "nll_ensemble_scaled": ("scaled NLL, nats", 1, ".3f"),
    }
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for row in _settings(found).itertuples():
        title, factor, digits = titles[row.score]
        cells = rows.setdefault((row.label, title), {"setting": row.label, "score": title})
        shown = interval(factor * row.difference, factor * row.low, factor * row.high, digits)
        cells[f"severity {row.severity}"] = _judged(shown, row)
        cells["n"] = max(row.n, cells.pop("n", 0))  # behind the severities
    return pd.DataFrame([*rows.values()])


def _judged(shown: str, row: Any) -> str:
    """A difference with its verdict, which fewer than FEWEST seeds have none of."""
    return f"{shown} {row.verdict}" if row.n >= FEWEST else shown


def _settings(found: pd.DataFrame) -> pd.DataFrame:
    """A table whose labels say the network too, where there are several."""
    if "network" not in found or found["network"].nunique() < 2:
        return found
    return found.assign(label=found["label"] + ", " + found["network"])


def valleys(found: pd.DataFrame) -> pd.DataFrame:
    """Barrier between neighbouring minima and rise along the trajectory, with their verdicts."""
    rows = []
    for row in _settings(found).itertuples():
        barrier = f"{interval(row.barrier, row.barrier_low, row.barrier_high, '.3f')} {row.barrier_says}"
        rise = f"{interval(row.rise, row.rise_low, row.rise_high, '.3f')} {row.rise_says}" if pd.notna(row.rise) else ""
        rows.append({"setting": row.label, "barrier [nats]": barrier, "rise [nats]": rise, "n": row.n})
    return pd.DataFrame(rows)


def controls(found: pd.DataFrame) -> pd.DataFrame:
    """Controls against the hill: squared distance as a factor, accuracy and changed predictions in points."""
    titles = {"factor": "$d_0$, factor", "accuracy": "accuracy, points", "disagreement": "changed, points"}
    rows = []
    for row in _settings(found).to_dict("records"):
        cells = {
            title: interval(row[name], row[f"{name}_low"], row[f"{name}_high"], ".3g")
            + (f", n = {row[f'{name}_n']}" if 0 < row[f"{name}_n"] < row["n"] else "")
            for name, title in titles.items()
        }
        rows.append({"setting": row["label"], **cells, "n": row["n"]})
    return pd.DataFrame(rows)


def statements(found: pd.DataFrame, lettered: bool = False) -> pd.DataFrame:
    """Every part of every claim: N, effect with its interval, verdict; `lettered` as in numbers.tex, C1A and so on."""
    rows, several = [], "network" in found and found["network"].nunique() > 1
    if lettered:
        places = found.groupby(["claim", *["network"] * several]).cumcount()
        found = found.assign(claim=found["claim"] + places.map(dict(enumerate(ascii_uppercase))).fillna(""))
    for row in found.itertuples():
        says = f"{row.says} (premise)" if row.premise else row.says
        says += f", {row.network}" if several and not lettered else ""
        effect = f"{interval(row.effect, row.low, row.high, '.3g')} {unit(row.unit)}"
        left = f"{row.N:.3g}" if pd.notna(getattr(row, "N", np.nan)) else ""
        front = {"claim": row.claim} | ({"network": row.network} if several and lettered else {})
        rows.append(front | {"says": says, "N": left, "effect": effect, "verdict": row.verdict, "n": row.n})
    return pd.DataFrame(rows)


def unit(name: str) -> str:
    """A unit of effects as it is written behind a number."""
    return {"factor": "×", "percent": "%"}.get(name, name)


def readable(frame: pd.DataFrame, name: str = "", columns: Sequence[str] = ()) -> pd.DataFrame:
    """A table as it is read: what has a row a seed as means over them, cells and headings as texts.

    `name` is the table's file: the chapter's own tables have a form of their own. `columns` are those that are shown
    of a table with a row a seed; every number if none are given.
    """
    match name:
        case _ if {"score", "difference", "severity", "verdict"} <= set(frame):
            return shifted(frame)
        case _ if {"score", "difference", "verdict"} <= set(frame):
            return compared(frame)
        case _ if name in RATES:
            return rates.summary(frame).rename(columns=heading)
        case "10-1_variants_scores" | "10_better_ensembles_scores" | "10-3_tested_scores":
            return better.summary(frame).rename(columns=heading)
        case "6_valley_or_jump" | "10_valley_or_jump":
            return valleys(frame)
        case "6-1_controls_against":
            return controls(frame)
        case "9_claims":
            return statements(frame, lettered=True)
    if "seed" not in frame or "label" not in frame:
        kept = [name for name in frame if not columns or name in {*columns, *_FRONT}]
        return frame[kept].rename(columns=heading)
    return means(curves(frame), shown_columns(frame, name, columns))


def shown_columns(frame: pd.DataFrame, name: str, columns: Sequence[str] = ()) -> dict[str, str]:
    """The columns of a table with a row a seed that are shown, with their headings, as for `readable`."""
    others = [*_KEYS, "seed", "epoch", "N", "n"]
    numbers = frame.select_dtypes(["number", "bool"]).columns.difference(others, sort=False)
    known = {column: title for column, title in _SHOWN.get(name, {}).items() if column in frame}
    headings = {column: heading(column) for column in columns or numbers}
    alike = [*headings.values()]  # where two are, each has its own name: the later one would hide the other
    return known or {column: title if alike.count(title) == 1 else column for column, title in headings.items()}


def heading(column: str) -> str:
    """A column's name in words, where there are any."""
    return TITLES.get(column) or LABELS.get(column) or column


def markdown(frame: pd.DataFrame) -> str:
    """A table for a Markdown page, numbers with four digits; what is missing stays empty."""
    rows = [frame.columns, ["---"] * frame.shape[1], *frame.astype(object).where(frame.notna(), "").to_numpy()]
    return "\n".join("| " + " | ".join(_marked(value) for value in row) + " |" for row in rows)


def _marked(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", r"\|")


#: Lines that stand on one page, with room for a caption.
_LINES = 40
#: How the LaTeX of a table begins that takes more: it may be broken between its parts, or is a longtable.
NO_FLOAT = "% longer than a page: goes into no float\n"
#: Points that a letter of small print takes and the gap between columns; letters of which a text may be broken into
#: lines of `_LEAST`.
_LETTER, _GAP, _LONG, _LEAST = 5.0, 12.0, 28, 19
_PLAIN = r"[-\N{MINUS SIGN}]?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf|nan)".replace(r"\N{MINUS SIGN}", "\N{MINUS SIGN}")
_NUMBER = re.compile(rf"([≥≤] )?({_PLAIN})(?: ± ({_PLAIN}))?(, n = \d+)?")
#: What `spread` and `bounded` say of several: "2.3 to 8e+34", "4.9 to ≥ 5".
_RANGE = re.compile(rf"(?:[≥≤] )?{_PLAIN} to (?:[≥≤] )?{_PLAIN}(, n = \d+)?")


def latex(frame: pd.DataFrame, language: str = "en", points: float = NARROWEST) -> str:
    r"""A table for LaTeX's \input, in the style of booktabs; texts are escaped, $...$ in them stays a formula.

    Numbers stand with their decimal points below each other, those with a deviation as $a \pm b$. Laid out for small
    print and so many `points`: a long text is broken, and what is wider still stands in several tables below each
    other, each with the first columns. What is longer than a page begins with `NO_FLOAT`. If one of its tables is, that
    is a longtable, which LaTeX breaks across pages; in columns, where it cannot, several tables. Numbers are written in
    the `language`.
    """
    columns = [_Column(str(name), frame.iloc[:, place], language) for place, name in enumerate(frame.columns)]
    # What tells the rows apart stands in each part.
    keys = next((k for k, column in enumerate(columns[1:], 1) if column.heading not in _KEYS), 1)
    first, rest = columns[:keys], columns[keys:]
    for count in range(1, len(rest) + 1):
        if count == 2:  # else the last of several tables might have nothing but the number of seeds
            rest.sort(key=lambda column: column.heading != "n")
        blocks = [[*first, *some] for some in np.array_split(np.array(rest, dtype=object), count)]
        if max(sum(column.narrow for column in block) for block in blocks) <= points + _GAP:
            break
    parts: list[str] = []
    total = 0
    for block in blocks if rest else [first]:
        lines = [max(column.lines(k) for column in block) for k in range(len(frame))]
        total += sum(lines)
        is_long = sum(lines) > _LINES and points >= NARROWEST
        pages = [range(len(lines))] if is_long else _pages(lines)
        parts += [_tabular(block, rows, is_long) for rows in pages]
    return NO_FLOAT * (total > _LINES) + "\\par\\medskip\\noindent\n".join(parts)


def _pages(lines: Sequence[int]) -> Iterator[range]:
    """Rows, of so many lines each, that stand on a page together."""
    first = high = 0
    for row, more in enumerate(lines):
        if high + more > _LINES and row > first:
            yield range(first, row)
            first, high = row, 0
        high += more
    yield range(first, len(lines))


class _Column:
    """A column of a table on its way to LaTeX: its cells, and how they are set."""

    def __init__(self, name: str, values: pd.Series, language: str) -> None:
        texts = [_text(value) for value in values]
        found = [_NUMBER.fullmatch(text) for text in texts]
        other = [text for match, text in zip(found, texts, strict=True) if text and not match]
        self.is_number = any(found) and all(_RANGE.fullmatch(text) for text in other)
        self.has_deviation = self.is_number and any(match and match[3] for match in found)
        self.heading = prose(localized(name, language))
        self.letters = [_letters(text) for text in (name, *texts)]
        self.breaks = not self.is_number and max(self.letters) > _LONG
        #: The least width that it can be set in, in points.
        self.narrow = _LETTER * (_LEAST if self.breaks else max(self.letters)) + _GAP
        self.cells = [prose(localized(text, language)) for text in texts]
        if self.is_number:
            decimals = max(_decimals(match[2]) for match in found if match)
            self.cells = [
                _aligned(match, decimals, self.has_deviation, language)
                if match
                else _spanning(text, self.has_deviation, language)
                for match, text in zip(found, texts, strict=True)
            ]

    def head(self) -> str:
        return rf"\multicolumn{{2}}{{c}}{{{self.heading}}}" if self.has_deviation else self.heading

    def cell(self, row: int) -> str:
        return rf"\raggedright {self.cells[row]}" if self.breaks else self.cells[row]

    def kind(self, width: str) -> str:
        """Its part of a tabular's preamble, of this width if it breaks."""
        return f"p{{{width}}}" if self.breaks else "r@{}l" if self.has_deviation else "r" if self.is_number else "l"

    def lines(self, row: int) -> int:
        """Lines that a cell takes at most."""
        return -(-self.letters[row + 1] // _LEAST) if self.breaks else 1


def _tabular(columns: list[_Column], rows: range, long: bool) -> str:
    broken = max(1, sum(column.breaks for column in columns))
    fixed = sum(column.narrow for column in columns if not column.breaks) + _GAP * (broken - 1)
    kinds = "".join(column.kind(rf"\dimexpr(\linewidth-{fixed + 5:.0f}pt)/{broken}") for column in columns)
    head = " & ".join(column.head() for column in columns) + r" \tabularnewline"
    cells = (" & ".join(column.cell(k) for column in columns) for k in rows)
    body = [behind_a_break(row) + r" \tabularnewline" for row in cells]
    if long:
        top = [rf"\begin{{longtable}}{{@{{}}{kinds}@{{}}}}", r"\toprule", head, r"\midrule", r"\endhead"]
        lines = [*top, r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
    else:
        top = [rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}", r"\toprule", head, r"\midrule"]
        lines = [*top, *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, ""])


def _text(value: object) -> str:
    """A cell's text: floats with four digits, what is missing empty."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.4g}"
    return "" if value is None or value is pd.NA else str(value)


def prose(text: str) -> str:
    """A text for LaTeX, in a table's cell: of one line."""
    return escape(" ".join(text.split("\n")))


def math_number(text: str, language: str) -> str:
    r"""A number for LaTeX's mathematics, as the language writes it; "≥ 5" is \geq 5, "1 to 2" has both."""
    if " to " in text:
        return r"\mbox{ to }".join(math_number(part, language) for part in text.split(" to "))
    text = text.replace("\N{MINUS SIGN}", "-").replace("inf", r"\infty").replace("nan", r"\mbox{--}")
    text = text.replace("≥ ", r"\geq ").replace("≤ ", r"\leq ")
    digits, times, exponent = re.sub(r"e(?=[+-]?\d)", "×", formula(text, language)).partition("×")
    return rf"{digits}\cdot 10^{{{int(exponent)}}}" if times else digits


def _decimals(text: str) -> int:
    return 0 if "e" in text else len(text.partition(".")[2])


def _aligned(match: re.Match[str], decimals: int, deviation: bool, language: str) -> str:
    """A number with room for the decimals that others of its column have, its deviation in a column of its own."""
    own, some = _decimals(match[2]), (match[4] or "").replace(", n = ", ", $n = ") + "$" * bool(match[4])
    lacking = formula("0." + "0" * decimals, language)[1 if not own else -(decimals - own) :]
    shown = math_number((match[1] or "") + match[2], language)
    if own < decimals and "e" not in match[2]:
        shown += rf"\phantom{{{lacking}}}"
    if not deviation:
        return f"${shown}${some}"
    return f"${shown}$ & " + (rf"${{}}\pm {math_number(match[3], language)}$" if match[3] else "") + some


def _spanning(text: str, deviation: bool, language: str) -> str:
    """A range, or nothing, over both columns that a number with its deviation has."""
    numbers, some, count = text.partition(", n = ")
    shown = (f"${math_number(numbers, language)}$" if numbers else "") + f", $n = {count}$" * bool(some)
    return rf"\multicolumn{{2}}{{c}}{{{shown}}}" if deviation and shown else " & " * deviation or shown


def _letters(text: str) -> int:
    """Letters that a text takes on paper, roughly."""
    return len(re.sub(r"\\[a-zA-Z]+|[\\${}^]", "", text))
