"""Texts of matplotlib's as LaTeX sets them."""

from __future__ import annotations

import re
import unicodedata

from matplotlib.cbook import is_math_text

#: What a LaTeX document needs to \input the .pgf files.
PREAMBLE = (
    r"\usepackage{pgfplots}",
    r"\usepgfplotslibrary{groupplots,fillbetween}",
    r"\pgfplotsset{compat=1.17}",
)
#: What TeX takes for something else than a character. '"' begins an umlaut in German, "<" is another one in OT1 fonts.
_ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "#": r"\#", "$": r"\$", "%": r"\%", "&": r"\&", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", '"': r"{\char34}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "\N{MINUS SIGN}": "$-$", "\n": r"\\",
    "\N{EN DASH}": "--", "\N{EM DASH}": "---",
    "\N{NARROW NO-BREAK SPACE}": r"\,", "\N{THIN SPACE}": r"\,",
}  # fmt: skip
#: Characters that only TeX's mathematics has, beside the Greek ones.
_MATHEMATICAL = {
    "±": "pm", "×": "times", "·": "cdot", "≤": "leq", "≥": "geq", "≈": "approx", "≠": "neq", "≡": "equiv", "∼": "sim",
    "∝": "propto", "∞": "infty", "∂": "partial", "∇": "nabla", "√": "surd", "∑": "sum", "∏": "prod", "∫": "int",
    "∈": "in", "∥": "parallel", "‖": "|", "→": "to", "←": "leftarrow", "↔": "leftrightarrow", "⇒": "Rightarrow",
    "↑": "uparrow", "↓": "downarrow", "⟨": "langle", "⟩": "rangle", "ℓ": "ell", "µ": "mu",
    "ε": "varepsilon", "φ": "varphi", "ς": "varsigma", "λ": "lambda", "Λ": "Lambda", "ϑ": "vartheta", "ϵ": "epsilon",
    "ϕ": "phi", "ϖ": "varpi", "ϱ": "varrho", "∆": "Delta", "≪": "ll", "≫": "gg",
}  # fmt: skip
#: Raised and lowered signs, and what they are when they are neither.
_RAISED = dict(zip("⁰⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0456789+-n", strict=True)) | {"′": r"\prime"}
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
#: What pdflatex has not: all but Latin letters, dashes, quotation marks, and some such.
_BEYOND = re.compile(r"[^\x00-\u017f\u2010-\u2015\u2018-\u201e\u2020-\u2022\u2026\u2030\u20ac\u2122]")


def _mathematical() -> dict[str, str]:
    r"""Each such character as TeX's mathematics has it; \ensuremath does in a text and in a formula."""
    names = {sign: f"\\{name}" for sign, name in _MATHEMATICAL.items()}
    alike = "ΑΒΕΖΗΙΚΜΝΟΡΤΧο"  # Greek letters that TeX has no names for: they look like these Latin ones
    names |= dict(zip(alike, "ABEZHIKMNOPTXo", strict=True))
    for letter in map(chr, (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA))):
        if word := unicodedata.name(letter, "").split(" ")[-1].lower():
            names.setdefault(letter, f"\\{word if letter.islower() else word.capitalize()}")
    # Braces in front: one after another, in a formula, would raise what is raised.
    names |= {sign: f"{{}}^{{{plain}}}" for sign, plain in _RAISED.items()}
    names |= {sign: f"{{}}_{{{plain}}}" for sign, plain in _LOWERED.items()}
    return {sign: rf"\ensuremath{{{name}}}" for sign, name in names.items()}


_SIGNS = _mathematical()
_ESCAPED |= _SIGNS


def unknown(code: str) -> list[str]:
    """Signs in LaTeX code that pdflatex, as it comes, stops at."""
    return sorted(set(_BEYOND.findall(code)))


def escape(text: str) -> str:
    r"""A text of matplotlib's for LaTeX, $...$ as it is, but for what only matplotlib knows or only TeX does."""
    text = unicodedata.normalize("NFC", text)  # LaTeX knows no accents that follow their letter
    parts = re.split(r"(?<!\\)\$", text) if is_math_text(text) else [text]
    for k, part in enumerate(parts):
        if k % 2:  # between two dollars
            math = part.replace(r"\mathdefault", "").replace("\N{MINUS SIGN}", "-")
            math = "".join(_ESCAPED[sign] if sign in _SIGNS else sign for sign in math)
            parts[k] = "$" + re.sub(r"(?<!\\)[#%&]", r"\\\g<0>", math) + "$"
        else:
            parts[k] = "".join(_ESCAPED.get(character, character) for character in part.replace(r"\$", "$"))
    return re.sub(r"\\\\(?=\s*[\[*])", lambda lines: lines[0] + "{}", "".join(parts))


def behind_a_break(code: str) -> str:
    r"""Code for LaTeX that may follow one of \\, \tabularnewline and \item, which would take "[" or "*" as theirs.

    >>> behind_a_break("[b] lr")
    '{}[b] lr'
    """
    return "{}" + code if code.lstrip().startswith(("[", "*")) else code
