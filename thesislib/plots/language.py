r"""Numbers as a language writes them, in figures and in texts for LaTeX: 12345.6 is 12 345,6 in German.

From five digits on, thousands stand apart by a thin space (DIN 1333, and siunitx's default). English is left as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from matplotlib.axis import Axis
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import Formatter

from thesislib.system.errors import UserError

#: The variable that has the language of all figures and tables that are saved without one.
LANGUAGE = "THESIS_LANGUAGE"
LANGUAGES = ("en", "de")

#: Between thousands, in a text that is no formula; in LaTeX it is the same as in one.
THIN = "\N{NARROW NO-BREAK SPACE}"
#: In formulas a comma in braces has no space behind it, in LaTeX and in matplotlib.
_TEXT, _FORMULA = (",", THIN), ("{,}", r"\,")
_DIGITS = r"(\d+)(?:\.(\d+))?"
_IN_TEXT = re.compile(rf"(?<![\w.,]){_DIGITS}(?=(?:e[+-]?\d+)?(?!\w|[.,]\d))")
_IN_FORMULA = re.compile(rf"(?<![\d.,]){_DIGITS}(?!\d|[.,]\d)")
_INTERVAL = re.compile(r"\[([^][,]*\d[^][,]*), ([^][,]*)\]")


def language_of(language: str | None = None) -> str:
    """The language of numbers: the given one, else $THESIS_LANGUAGE, else English. Raises UserError for no language.

    >>> language_of("de")
    'de'
    """
    language = language or os.environ.get(LANGUAGE) or LANGUAGES[0]
    if language not in LANGUAGES:
        raise UserError(f"language {language!r}: write {' or '.join(LANGUAGES)}")
    return language


def localized(text: str, language: str) -> str:
    """A text, $...$ in it formulas, with its numbers as the language writes them; an interval has a semicolon.

    >>> localized("w = 0.1: 2.5 [2.4, 2.6]", "de")
    'w = 0,1: 2,5 [2,4; 2,6]'
    """
    if language == "en":
        return text
    text = _INTERVAL.sub(r"[\1; \2]", text)
    parts = re.split(r"(?<!\\)(\$)", text) if is_math_text(text) else [text]
    for k, part in enumerate(parts):  # text, $, formula, $, text ...
        parts[k] = formula(part, language) if k % 4 == 2 else _IN_TEXT.sub(lambda n: _number(n, *_TEXT), part)
    return "".join(parts)


def formula(text: str, language: str) -> str:
    r"""The same of a formula.

    >>> print(formula(r"12345.6\cdot 10^{-3}", "de"))
    12\,345{,}6\cdot 10^{-3}
    """
    return text if language == "en" else _IN_FORMULA.sub(lambda n: _number(n, *_FORMULA), text)


def _number(found: re.Match[str], comma: str, space: str) -> str:
    whole, decimals = found.groups()
    grouped = f"{int(whole):,}".replace(",", space) if len(whole) >= 5 and whole[0] != "0" else whole
    return grouped if decimals is None else f"{grouped}{comma}{decimals}"


class _Localized(Formatter):
    """What another formatter writes, its numbers as the language writes them."""

    def __init__(self, inner: Formatter, language: str) -> None:
        self.inner, self.language = inner, language

    def __call__(self, x: float, pos: int | None = None) -> str:
        return localized(self.inner(x, pos), self.language)

    def format_ticks(self, values: Any) -> list[str]:
        return [localized(text, self.language) for text in self.inner.format_ticks(values)]

    def set_locs(self, locs: Any) -> None:
        self.inner.set_locs(locs)

    def get_offset(self) -> str:
        return localized(self.inner.get_offset(), self.language)


@contextmanager
def written_in(figure: Figure, language: str) -> Iterator[None]:
    """For a while, all numbers of a figure are written as the language does: ticks, labels, legends, annotations."""
    with ExitStack() as back:
        if language != "en":
            for axis in figure.axes:
                for side in (axis.xaxis, axis.yaxis):
                    _localize(side, language, back)
                for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                    back.callback(handle.set_label, label)
                    handle.set_label(localized(label, language))
            for text in figure.findobj(Text):
                back.callback(text.set_text, text.get_text())
                text.set_text(localized(text.get_text(), language))
        yield


def _localize(axis: Axis, language: str, back: ExitStack) -> None:
    major, minor = axis.get_major_formatter(), axis.get_minor_formatter()
    back.callback(axis.set_major_formatter, major)
    back.callback(axis.set_minor_formatter, minor)
    axis.set_major_formatter(_Localized(major, language))
    axis.set_minor_formatter(_Localized(minor, language))
