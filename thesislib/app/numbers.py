r"""numbers.tex: a macro for each number of the chapter, so that a text that uses them follows the tables."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

from thesislib.analysis import verdicts
from thesislib.plots import save
from thesislib.plots.language import language_of
from thesislib.plots.tables import RATES, math_number, means, prose, shown_columns, unit
from thesislib.system.errors import UserError

_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_CLAIMS = (*_DIGITS, "Ten", "Eleven", "Twelve", "Thirteen", "Fourteen")

#: Defines a macro under a name that a prefix may stand before; an existing one is an error, not overwritten.
DEFINE = r"""\providecommand{\numbersprefix}{}
\providecommand{\thesisdefine}[2]{\expandafter\newcommand\csname\numbersprefix#1\endcsname{#2}}
"""

_ABOUT = r"""% The numbers of scale {scale}, written from the tables beside it by `make figures` and
% `python -m thesislib numbers`: do not edit.
%
%     \input{{figures/{scale}/numbers.tex}}
%     The claim is \ClaimOneVerdict{{}}: the network ends \ClaimOneAEffect{{}} times as far
%     (\ClaimOneALow{{}} to \ClaimOneAHigh{{}}, $n = \ClaimOneAN$).
%
% Claims: \Claim, its number, then Verdict; or the letter of a statement (A is the first), then
%   Effect, Low, High (the 95 % interval), Unit, N (seeds), Verdict.
% Tables with a row a seed: the table's name, the setting, the column, as in \OneBaselineNoTermAccuracy, which is the
%   mean over seeds (of equivalents the median); with Std behind it the standard deviation; with N instead of a column
%   the number of runs. In tables of several learning rates the rate, times the scale's, stands behind the setting.
% Macros have names of letters only: a digit is spelled out, a decimal point is Point, a minus Minus, and each word
%   begins with a capital, so that "s = 0.1" is SZeroPointOne. Where there are several networks, theirs stands behind
%   the claim's number or the setting.
% Two scales in one document: \def\numbersprefix{{Mnist}} before \input makes it \MnistClaimOneVerdict.
"""


def letters(text: str) -> str:
    """A name for TeX: Latin letters, every word with a capital; digits and Greek spelled out, accents dropped."""
    text = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    text = "".join(sign for sign in text if not unicodedata.combining(sign))
    text = "".join(f" {_spelled(sign)} " if sign.isalpha() and not sign.isascii() else sign for sign in text)
    text = re.sub(r"(?<=\d)\.(?=\d)", " Point ", text)
    text = re.sub(r"(?:(?<![\w)])|(?<=\de))[-\N{MINUS SIGN}](?=\d)", " Minus ", text)
    text = re.sub(r"\d", lambda digit: f" {_DIGITS[int(digit[0])]} ", text)
    return "".join(word[0].upper() + word[1:] for word in re.findall(r"[A-Za-z]+", text))


def _spelled(letter: str) -> str:
    """The last word of a letter's name, in letters: "alpha"."""
    return re.sub("[^a-z]", "", unicodedata.name(letter, "").rpartition(" ")[2].lower())


def numbers(folder: Path, columns: dict[str, list[str]], language: str | None = None) -> str:
    """numbers.tex, from the tables in a folder of figures; `columns` are those of the sections' own tables.

    Numbers are written in the `language`: $THESIS_LANGUAGE if None.
    """
    language = language_of(language)
    lines: dict[str, str] = {}
    left_out: list[str] = []
    ours = save.written(folder)  # empty where a folder of figures was copied
    for path in sorted(folder.glob("*.csv")):
        if ours and path.name not in ours:
            continue
        is_claims, shown = path.stem == "9_claims", columns.get(path.stem, [])
        try:
            found = list(_claims(path, language) if is_claims else _settings(path, shown, language))
        except UserError as error:  # of a table that an earlier version wrote
            print(f"numbers.tex: {path.name} is left out: {error}")
            continue
        for name, value, says in found:
            line = rf"\thesisdefine{{{name}}}{{{value}}} % {says}"
            if not lines.setdefault(name, line).startswith(line.partition(" % ")[0]):
                left_out.append(f"% no macro, {name} is another number's already: {value}, {says}")
    if left_out:
        print(
            f"numbers.tex: {len(left_out)} numbers have no macro, its name is another's; they stand at the file's end"
        )
    return _ABOUT.format(scale=folder.name) + DEFINE + "\n".join([*lines.values(), *left_out]) + "\n"


def _claims(path: Path, language: str) -> Iterator[tuple[str, str, str]]:
    """Name, text and explanation of every number of the claims."""
    found = save.read_table(path)
    several = found["network"].nunique() > 1
    for row in verdicts.summary(found).itertuples():
        claim = f"Claim{_CLAIMS[int(row.claim[1:])]}" + letters(row.network) * several
        yield f"{claim}Verdict", row.verdict, row.claim
        statements = found[(found["claim"] == row.claim) & (found["network"] == row.network)]
        for letter, statement in zip(ascii_uppercase, statements.itertuples(), strict=False):
            for what in ("effect", "low", "high"):
                yield f"{claim}{letter}{what.capitalize()}", _number(getattr(statement, what), language), statement.says
            yield f"{claim}{letter}Unit", prose(unit(statement.unit)), statement.says
            yield f"{claim}{letter}N", str(statement.n), statement.says
            yield f"{claim}{letter}Verdict", statement.verdict, statement.says


def _settings(path: Path, columns: list[str], language: str) -> Iterator[tuple[str, str, str]]:
    """The same of a table with a row a seed."""
    found = save.read_table(path)
    if not {"label", "seed"} <= {*found}:
        return
    further = ["factor"] if path.stem in RATES else []
    shown = {name: title for name, title in shown_columns(found, path.stem, columns).items() if name not in further}
    table = means(found, shown, further)
    keys = [name for name in ("setting", "network", "member", *further) if name in table]
    for row in table.to_dict("records"):
        which = [f"{row[key]:g}" if isinstance(row[key], float) else str(row[key]) for key in keys]
        setting = letters(path.stem) + "".join(map(letters, which))
        says = f"{path.stem}, {', '.join(which)}"
        for column, title in shown.items():
            text, _, some = row.get(title, "").partition(", n = ")  # a column of other sections is not there
            mean, _, deviation = text.partition(" ± ")
            if mean:
                yield setting + letters(column), _math(mean, language), f"{says}: {title}"
            if deviation:
                yield f"{setting}{letters(column)}Std", _math(deviation, language), f"{says}: {title}"
            if some:
                yield f"{setting}{letters(column)}N", some, f"{says}: {title}, runs that have it"
        yield f"{setting}N", str(row["n"]), says


def _number(value: float, language: str) -> str:
    return "--" if math.isnan(value) else _math(f"{value:.3g}", language)


def _math(text: str, language: str) -> str:
    r"""A number, or two as "4.9 to ≥ 5", for text and formulas alike."""
    return rf"\ensuremath{{{math_number(text, language)}}}"
