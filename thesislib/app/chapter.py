r"""The chapter for LaTeX: captions.tex, chapter-body.tex for somebody's own document, and chapter.tex around it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from thesislib.app.numbers import DEFINE, letters
from thesislib.app.prose import TABLES, Section
from thesislib.experiments.scales import SCALES
from thesislib.plots import save
from thesislib.plots.language import THIN, language_of, localized
from thesislib.plots.tables import NO_FLOAT
from thesislib.plots.tables import prose as text
from thesislib.plots.tex import PREAMBLE, behind_a_break
from thesislib.runs.growth import LEFT
from thesislib.system.errors import UserError

#: Any of these makes the PDF; the first that is there is taken.
ENGINES = ("pdflatex", "xelatex", "lualatex")

#: babel's names of the languages of `save`, and those of languages with German numbers.
_BABEL = {"en": "", "de": "ngerman"}
_GERMAN = ("german", "ngerman", "austrian", "naustrian")

#: How a figure's small print begins, as `plots.style.count` writes it.
_SHOWN = re.compile(r"\{n = (\d+(?: to \d+)?)[;}]")

_HEADINGS = (r"\section*", r"\subsection*", r"\subsubsection*", r"\paragraph*", r"\paragraph*", r"\paragraph*")

_CAPTIONS = r"""% A caption for each figure of scale {scale}, written by `make figures` from the notebooks: do not edit.
% \input this, then \caption{{\CaptionOneBaseline}} belongs to 1_baseline.pgf: Caption, and the file's name with its
% digits spelled out. \def\numbersprefix{{Mnist}} before \input makes it \MnistCaptionOneBaseline.
"""

_DOCUMENT = r"""% The results at scale {scale}, written by `make chapter`: do not edit.
\documentclass[11pt,a4paper]{{article}}
\usepackage{{iftex}}
\ifPDFTeX\usepackage[T1]{{fontenc}}\usepackage{{lmodern}}\fi
\usepackage[margin=2.5cm]{{geometry}}
{packages}
\extrafloats{{500}}
\begin{{document}}
\input{{captions.tex}}
\input{{chapter-body.tex}}
\end{{document}}
"""

_BODY = r"""% The results at scale {scale}, for \input behind captions.tex. Written by `make chapter`: do not edit.
% It wants amsmath, booktabs, longtable, and what the figures want (figures/README.md).
"""


def latex(markdown: str) -> str:
    """Markdown as the notebooks have it for LaTeX: headings, lists, emphasis, code, formulas; of links the text."""
    import mistune

    # $$ in one line with its formula is a formula of its own too.
    markdown = re.sub(r"^\$\$(.*?)\$\$", r"$$\n\1\n$$", markdown, flags=re.MULTILINE | re.DOTALL)
    return "\n\n".join(filter(None, map(_block, mistune.create_markdown(renderer=None, plugins=["math"])(markdown))))


def _block(token: dict[str, Any]) -> str:
    match token["type"]:
        case "heading":
            return f"{_HEADINGS[token['attrs']['level'] - 1]}{{{_inline(token)}}}"
        case "list":
            kind = "enumerate" if token["attrs"]["ordered"] else "itemize"
            items = ["\n\n".join(map(_block, item["children"])) for item in token["children"]]
            items = [f"\\item {behind_a_break(item)}" for item in items]
            return "\n".join([rf"\begin{{{kind}}}", *items, rf"\end{{{kind}}}"])
        case "block_math":
            return "\\[\n" + token["raw"].strip() + "\n\\]"
        case "block_code":
            return "\\begin{verbatim}\n" + token["raw"].rstrip() + "\n\\end{verbatim}"
        case "paragraph" | "block_text":
            return _inline(token)
    return "\n\n".join(map(_block, token.get("children", [])))


def _inline(token: dict[str, Any]) -> str:
    inside = "".join(map(_inline, token.get("children", [])))
    match token["type"]:
        case "text":
            return text(token["raw"])
        case "strong":
            return rf"\textbf{{{inside}}}"
        case "emphasis":
            return rf"\emph{{{inside}}}"
        case "codespan":
            return rf"\texttt{{{text(token['raw'])}}}"
        case "inline_math":
            return f"${token['raw']}$"
        case "softbreak" | "linebreak":
            return "\n"
    return inside


def captions(folder: Path, chapter: list[Section], language: str | None = None) -> str:
    """captions.tex: what each figure asks, from the text before it, and its scale, network and seeds.

    Numbers are written in the `language`: $THESIS_LANGUAGE if None.
    """
    lines, language = [], language_of(language)
    for section in chapter:
        before = re.match(r"\*\*.*?\*\*", section.question, re.DOTALL)  # the rest of it stands in the body
        said = latex(before[0] if before else section.title)
        for kind, what in section.parts:
            if kind == "text":
                said = _told(what)[1]
            elif kind == "figure" and (path := _pgf(folder, what)):
                code = path.read_text("utf-8")
                caption = f"{said} {_settings(path.with_suffix('.json'), code)}"
                if "($N " in code:
                    caption += rf" From $N = {LEFT:.0f}$ on a hill has been left."
                if language != "en":  # what the notebooks write is 4,000; sections have numbers that are none
                    parts = re.split(r"([Ss]ections? [\d.]*\d)", re.sub(r"(?<=\d),(?=\d{3}\b)", "", caption))
                    parts[::2] = [localized(part, language).replace(THIN, r"\,") for part in parts[::2]]
                    caption = "".join(parts)
                lines.append(rf"\thesisdefine{{Caption{letters(what)}}}{{{caption}}}")
    return _CAPTIONS.format(scale=folder.name) + DEFINE + "\n".join(lines) + "\n"


def _pgf(folder: Path, figure: str) -> Path | None:
    """A figure's .pgf, as wide as the text or else of another width; None if there is none."""
    return _one_of(folder, figure, ".pgf")


def _one_of(folder: Path, name: str, kind: str) -> Path | None:
    """The file of that name and suffix, laid out for the text, or else for another width; None if there is none."""
    others = [path for path in sorted(folder.glob(f"{name}-*{kind}")) if save.VARIANT.sub("", path.stem) == name]
    return next(filter(Path.is_file, [folder / f"{name}{kind}", *others]), None)


def _told(markdown: str) -> tuple[str, str]:
    """A text between figures: its headings and formulas, and the rest in one paragraph, as a caption has it."""
    blocks = latex(markdown).split("\n\n")
    apart = [block for block in blocks if block.startswith(("\\[", *_HEADINGS))]
    rest = re.sub(r"\\(begin|end)\{(itemize|enumerate)\}|\\item", "", " ".join(b for b in blocks if b not in apart))
    return "\n\n".join(apart), " ".join(rest.split())


def _settings(figure: Path, code: str) -> str:
    """Scale, network and number of seeds of a figure: from its .json, and from its small print, in its `code`.

    Some of the runs may have come without what it shows.
    """
    about = json.loads(figure.read_bytes())
    said = [
        f"Scale {about['scale']}"
        + (f" ({SCALES[about['scale']].about.split(':')[0]})" if about["scale"] in SCALES else "")
    ]
    said += [f"network {about['common']['model']}"] if "model" in about["common"] else []
    shown = _SHOWN.search(code)
    if seeds := shown[1] if shown else str(len(about.get("seeds", ())) or ""):
        said.append(f"{seeds} seeds" if seeds != "1" else "one seed")
    return text(", ".join(said) + ".")


def body(folder: Path, chapter: list[Section]) -> str:
    """chapter-body.tex: the notebooks' texts with the figures and tables that lie in a folder."""
    lines = []
    for section in chapter:
        title = text(section.title)
        lines += [rf"\section*{{{title}}}", rf"\addcontentsline{{toc}}{{section}}{{{title}}}", latex(section.question)]
        for (kind, what), (following, name) in itertools.pairwise([*section.parts, ("", "")]):
            if kind == "text" and following == "figure" and (folder / f"{name}.gif").is_file():
                continue  # about what moves, which no page shows
            if kind == "text":  # a caption is not said twice, or of what is not there, but where it opens a part
                is_caption = following == "figure" and not what.startswith("#")
                lines.append(_told(what)[0] if is_caption else latex(what))
            elif kind == "figure":
                lines += _figure(folder, what, title)
            else:
                own = f"{section.title.split(' ', 1)[-1]}, at the end: means and standard deviations over seeds"
                table, says = (section.name, own) if kind == "columns" else (what, TABLES.get(what, what))
                lines += _table(folder, table, text(f"{says}."))
        read = [*section.bullets, *(line for scale, line in section.scales.items() if scale == folder.name)]
        lines += [r"\subsection*{Reading}", latex("\n".join(f"- {line}" for line in read))] if read else []
    return _BODY.format(scale=folder.name) + "\n\n".join(filter(None, lines)) + "\n"


def _figure(folder: Path, name: str, title: str) -> list[str]:
    if (path := _pgf(folder, name)) is None:
        return []
    caption = rf"\caption[{title}]{{\csname\numbersprefix Caption{letters(name)}\endcsname}}"
    return [f"\\begin{{figure}}[htbp]\n\\noindent\\input{{{path.name}}}\n{caption}\n\\end{{figure}}"]


def _table(folder: Path, name: str, caption: str) -> list[str]:
    if (path := _one_of(folder, name, ".tex")) is None:
        return []
    code = path.read_text("utf-8")
    if code.startswith(NO_FLOAT) or r"\begin{longtable}" in code:  # the latter of an earlier version
        return [f"{{\\small\\noindent {caption}\\par\\noindent\\input{{{path.name}}}}}"]
    inside = f"\\caption{{{caption}}}\n\\smallskip\\small\\noindent\\input{{{path.name}}}"
    return [f"\\begin{{table}}[htbp]\n{inside}\n\\end{{table}}"]


def write(folder: Path, chapter: list[Section], language: str = "") -> Path:
    """Write captions.tex, chapter-body.tex and chapter.tex into a folder of figures; the path of the last.

    `language` is one of babel's, such as ngerman, or as `save` has it. Raises UserError if there are no figures.
    """
    if not any(_pgf(folder, what) for section in chapter for kind, what in section.parts if kind == "figure"):
        raise UserError(f"no figures of the chapter are in {folder}: make figures scale={folder.name} draws them")
    if not re.fullmatch(r"[a-z]*", language):
        raise UserError(f"language {language!r}: write de, en, or one of babel's, such as ngerman")
    language = _BABEL.get(language := language or language_of(), language)
    packages = [r"\usepackage{amsmath,booktabs,longtable}", *PREAMBLE, r"\emergencystretch=3em"]
    packages += [rf"\usepackage[{language}]{{babel}}"] if language else []
    document = _DOCUMENT.format(scale=folder.name, packages="\n".join(packages))
    for name, code in (
        ("captions", captions(folder, chapter, "de" if language in _GERMAN else "en")),
        ("chapter-body", body(folder, chapter)),
        ("chapter", document),
    ):
        save.write(folder, f"{name}.tex", code.encode())
    return folder / "chapter.tex"


def compiled(document: Path, engine: str = "") -> Path:
    """The PDF of a document, beside it. Raises UserError without TeX, and with TeX's first complaint if it fails."""
    if engine and engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}: choose from {', '.join(ENGINES)}")
    program = next(filter(shutil.which, [engine] if engine else ENGINES), None)
    if program is None:
        wanted = engine or f"TeX ({', '.join(ENGINES)})"
        raise UserError(f"{wanted} is not installed: {document} is written, and waits for it")
    with TemporaryDirectory(prefix="chapter-") as work:
        command = [program, "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={work}", document.name]
        for _ in range(3):  # until references and the columns of long tables have settled
            done = subprocess.run(command, cwd=document.parent, capture_output=True, check=False)
            said = done.stdout.decode(errors="replace")
            if done.returncode or not re.search(r"Rerun|Table widths have changed", said):
                break
        log = Path(work, f"{document.stem}.log")
        if log.is_file():
            save.write(document.parent, log.name, log.read_bytes())
        if done.returncode:
            first = next((line for line in said.splitlines() if line.startswith("!")), "it failed")
            raise UserError(f"{program}: {first.lstrip('! ')} (see {document.with_suffix('.log')})")
        pdf = document.with_suffix(".pdf")
        save.write(document.parent, pdf.name, Path(work, pdf.name).read_bytes())
    return pdf
