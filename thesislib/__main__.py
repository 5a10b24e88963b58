"""The command line, python -m thesislib; its commands are list, plan, run, launch and those below.

Each command is a function, whose docstring is its help; `_parser` has their flags.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from thesislib.config import Run
from thesislib.experiments import sections
from thesislib.runs import store
from thesislib.runs.results import Row
from thesislib.system import machine
from thesislib.system.errors import UserError, printable
from thesislib.system.files import check_name, settle_folders


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    _open_what_is_closed()
    sys.stdout.reconfigure(errors="backslashreplace")  # of a folder's name, say, that is not UTF-8
    options = _parser().parse_args(arguments)
    if options.command is not _run:
        machine.leave_group()  # only a run is trained by several processes
    try:
        settle_folders()
        code = options.command(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        if _first_process():
            print(f"thesislib: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder without permission
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        where = f": {error.filename}" if error.filename else ""
        print(f"thesislib: {printable(f'{error.strerror or error}{where}')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("thesislib: interrupted; what is finished is kept, the rest resumes", file=sys.stderr)
        return 130


def _open_what_is_closed() -> None:
    """Standard files that are closed, as by `>&-`, lead nowhere: or the next file that is opened were one of them."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")


def _nobody_reads() -> bool:
    """Whether whoever reads the output has gone, as in `list | head`; the rest of it is then for nobody."""
    ends = select.poll()
    ends.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in ends.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _first_process() -> bool:
    """Whether it is this process that speaks: torchrun starts several."""
    return not machine.under_torchrun() or os.environ["RANK"] == "0"


def _list(options: Namespace) -> int:
    """Sections, with their runs done and missing; or all runs on disk."""
    if options.runs and (unused := [name for name in ("section", "seeds") if getattr(options, name)]):
        raise UserError(f"--runs lists every run: leave out --{unused[0]}")
    if options.runs:
        sections.usual(options.scale)  # says if there is no such scale
        # Imported here: the other commands need not wait for it.
        from thesislib.runs import listing

        table = listing.table()
        shown = table.to_string(index=False, na_rep="", float_format="{:.4g}".format)
        print(f"no runs in {store.runs_folder()}" if table.empty else shown)
        return 0
    seen: set[str] = set()
    for name in options.section or sections.usual(options.scale):
        rows = sections.rows(name, options.scale, options.seeds)
        settings = {(row.section, row.role, row.label) for row in rows}
        runs = {store.run_id(row.run): row.run for row in rows}
        seen |= set(runs)
        done = sum(store.is_done(run) for run in runs.values())
        print(f"{name:<24} {len(settings):3} settings {len(runs):4} runs {done:4} done {len(runs) - done:4} missing")
    print(f"{'together':<24} {len(seen):17} runs (sections share some)")
    if waiting := _on_their_way(options):
        print(f"{waiting} of those missing are on their way (launch)")
    print(f"scale {options.scale}: {sections.SCALES[options.scale].about}")
    return 0


def _on_their_way(options: Namespace) -> int:
    """How many runs wait or are trained by `launch`, as far as this machine knows."""
    # Imported here: the other commands need not wait for it.
    from thesislib.runs import slurm

    return len(slurm.on_their_way(_runs(options), there=False)) if slurm.sent() else 0


#: Fields that say something only of runs with a hill.
_OF_HILLS = {
    "strength", "width", "kernel", "minima", "minima_every", "merge", "share", "hill_at", "push", "distance",
    "strength_schedule", "pulse",
}  # fmt: skip


def _run(options: Namespace) -> int:
    """Train one run, or say what came out if it was trained before."""
    given = {name: getattr(options, name) for name in Run.model_fields if getattr(options, name) is not None}
    # Imported here: the other commands need not wait for it.
    from thesislib.runs import launch

    try:
        run = Run(**given)
        if given.keys() & _OF_HILLS:
            sections.check_hill(Row(run, "run"))
        summary = launch.execute(run).summary
    except UserError as error:
        field, colon, reason = str(error).partition(": ")
        if field not in Run.model_fields:
            raise
        raise UserError(f"--{field.replace('_', '-')}{colon}{reason}") from None
    if not _first_process():
        return 0
    if options.json:
        print(json.dumps(summary))
    else:
        accuracy = "none" if summary["accuracy"] is None else f"{summary['accuracy']:.4f}"
        distances = ", ".join("none" if d is None else f"{d:.4g}" for d in summary["squared_distances"])
        print(
            f"run {summary['id']} {summary['status']} after {summary['epochs']} epochs, {summary['seconds']:.1f} s: "
            f"accuracy {accuracy}, squared distances to minima: {distances or 'no minima'}"
        )
    return 0


def _pair(flag: str, text: str) -> tuple[str, str]:
    """Name and value of "name=value", given to a flag. Raises UserError for anything else."""
    name, equals, value = text.partition("=")
    if not equals or not name.replace("-", "_").isidentifier():
        raise UserError(f"{flag} {text}: write name=value")
    return name, value


def parameters(text: str) -> dict[str, Any]:
    """Names and values of a notebook's parameters, "name=value name=value"; raises UserError for anything else.

    A value is JSON, which may have blanks in it, or a word of Python's, or else text up to the next blank.
    """
    words = {"None": None, "True": True, "False": False}
    found, rest = {}, text.strip()
    while rest or not found:
        name, rest = _pair("-p", rest)
        value = re.match(r"\S*", rest)[0]
        end, value = len(value), words.get(value, value)
        with contextlib.suppress(ValueError, RecursionError):
            known, last = json.JSONDecoder().raw_decode(rest)
            if not rest[last : last + 1].strip():
                value, end = known, last
        found[name], rest = value, rest[end:].strip()
    return found


def _figures(options: Namespace) -> int:
    """Train what is missing and execute the notebooks whose figures are not current."""
    from thesislib.app import notebooks
    from thesislib.plots import language, layout

    if options.jobs is not None:
        os.environ[machine.JOBS] = str(machine.jobs_of(options.jobs, "--jobs"))
    machine.cores()  # says so if the variable is no number
    if options.width is not None:
        os.environ[layout.WIDTH] = options.width
    layout.width_of(os.environ.get(layout.WIDTH) or "text")  # says so if that is no width
    if options.language is not None:
        os.environ[language.LANGUAGE] = options.language
    language.language_of()  # says so if that is none
    given = {name: value for text in options.parameters for name, value in parameters(text).items()}
    if options.seeds is not None:
        if "seeds" in given:
            raise UserError("seeds are given twice, by --seeds and by -p")
        given["seeds"] = options.seeds
    return 0 if notebooks.execute(options.scale, options.section, given, options.force) else 1


def _report(options: Namespace) -> int:
    """Executed notebooks as pages for a browser."""
    from thesislib.app import report

    print(f"open {report.build(options.scale)}")
    return 0


def _chapter(options: Namespace) -> int:
    """The results chapter as a PDF, from the figures that are there: texts, figures with captions, tables."""
    from thesislib.app import chapter, notebooks
    from thesislib.plots import save

    sections.rows("1_baseline", options.scale)  # refuses an unknown scale
    document = chapter.write(save.figures_folder(options.scale), notebooks.chapter_sections(), options.language)
    print(chapter.compiled(document, options.engine))
    return 0


def _numbers(options: Namespace) -> int:
    """A macro of LaTeX's for each number of the tables that are there, numbers.tex; of scale own, too."""
    from thesislib.app import notebooks
    from thesislib.plots import save

    check_name("scale", options.scale)
    folder = save.figures_folder(options.scale)
    if not any(folder.glob("*.csv")):
        raise UserError(f"no tables are in {folder}: tl.table and make figures write them")
    print(notebooks.write_numbers(folder, notebooks.chapter_sections(), options.language))
    return 0


def _plan(options: Namespace) -> int:
    """What a scale takes: runs, epochs, disk, and hours by the measured time of a step."""
    from thesislib.runs import plan

    table = plan.table(_runs(options))
    print(table.to_string(index=False, float_format="{:.1f}".format))
    hours = table["hours"].sum()
    print(f"{hours:.1f} hours one after another on this device; a grid divides by the runs at a time")
    return 0


def _launch(options: Namespace) -> int:
    """Send the missing runs to Slurm, or to processes that outlive the terminal; or stop what was sent."""
    from thesislib.runs import slurm

    if options.stop:
        print(f"stopped {slurm.stop(_runs(options))} jobs; what they have begun resumes with the next launch")
        return 0
    for name, least in (("tasks", 1), ("cpus", 1), ("gpus", 0)):
        if (value := getattr(options, name)) is not None and value < least:
            raise UserError(f"--{name}: must be {least} or more, not {value}")
    if not 1 / 60 <= (hours := 24.0 if options.hours is None else options.hours) < 10_000:
        raise UserError(f"--hours: must be between a minute (0.017) and 10000, not {hours:g}")
    further = dict(_pair("--sbatch", text) for text in options.sbatch)
    if taken := sorted(name for name in further if name.replace("-", "_") in slurm.OURS):
        raise UserError(f"--sbatch {taken[0]}=...: this one is set by launch itself")
    of_slurm = [name for name in ("gpus", "hours", "partition", "sbatch") if getattr(options, name)]
    if of_slurm and options.cluster == "local":  # on a login node they would take every core
        raise UserError(f"--{of_slurm[0]} is Slurm's: add --cluster slurm, or the runs are trained here")
    resources = slurm.Resources(options.tasks, options.cpus, options.gpus or 0, hours, options.partition, further)
    runs = _runs(options)
    sent = slurm.submit(runs, options.cluster, resources)
    waiting = slurm.on_their_way(runs)
    print(
        f"sent {len(sent)} runs; {len(waiting)} are on their way; logs: {store.runs_folder() / 'cluster'}", flush=True
    )
    if not waiting or not options.wait:
        return 0
    print("Ctrl-C ends only this display", flush=True)
    return 1 if slurm.watch(waiting) else 0


def _pack(options: Namespace) -> int:
    """Put what figures need of finished runs, no weights, into one small file."""
    from thesislib.analysis import predictions
    from thesislib.plots import save
    from thesislib.runs import archive

    path = options.file or save.figures_folder(options.scale) / "runs.zip"
    runs = dict.fromkeys(_runs(options))
    predictions.keep_hits(run for run in runs if store.is_done(run))
    print(f"{archive.pack(runs, path)} of {len(runs)} runs in {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _unpack(options: Namespace) -> int:
    """Put such a file's runs among those here."""
    from thesislib.runs import archive

    new, runs, begun = archive.unpack(options.file)
    stay = f"; {begun} were begun here and go on from there" if begun else ""
    print(f"{runs} runs in {options.file}: {new} are new in {store.runs_folder()}{stay}")
    return 0


def _runs(options: Namespace) -> list[Run]:
    """All runs of the chosen sections at the chosen scale."""
    chosen = options.section or sections.usual(options.scale)
    return sections.in_order([row for name in chosen for row in sections.rows(name, options.scale, options.seeds)])


def _lab(options: Namespace) -> int:
    """JupyterLab on the notebooks."""
    from thesislib.app import notebooks

    # The first python3 on this path is the one that Lab offers: this environment's, not what somebody else calls so.
    path = [os.path.join(sys.prefix, "share", "jupyter"), os.environ.get("JUPYTER_PATH", "")]  # noqa: PTH118
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, path))
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--notebook-dir={notebooks.notebooks_folder()}"]
    os.execv(sys.executable, command)


def _tensorboard(options: Namespace) -> int:
    """Curves and hyperparameters in TensorBoard, under the names that runs have in figures."""
    from thesislib.app import board

    if options.port is not None and not 0 <= options.port < 2**16:
        raise UserError(f"--port: must be from 0 to 65535, not {options.port}")
    return board.serve(options.scale, options.section, options.port, options.seeds)


def _clean_figures() -> int:
    from thesislib.plots import save

    folders = save.written_folders()
    for folder in folders:
        gone, left = save.delete(folder)
        rest = f"; not written here, so left: {', '.join(left)}" if left else ""
        print(f"deleted {len(gone)} files in {folder}{rest}")
    if not folders:
        print(f"no figures in {save.figures_folder('')}")
    return 0


def _clean(options: Namespace) -> int:
    """Delete all runs, after asking."""
    if options.figures and options.records:
        raise UserError("--records is not allowed with --figures")
    if options.figures:
        return _clean_figures()
    # Imported here: the other commands need not wait for it.
    from thesislib.runs import slurm

    folder = store.runs_folder()
    runs = [path for path in folder.iterdir() if store.is_run(path)] if folder.is_dir() else []
    what = "runs"
    if options.records:
        what = "runs without weights"
        runs = [path for path in runs if store.is_archived(path)]
    if not runs:
        print(f"no {what} in {folder}")
        return 0
    question = f"delete {len(runs)} {what} in {folder}? [y/N] "
    if not options.yes and not _agreed(question):
        print(f"nothing deleted: {len(runs)} runs stay in {folder} (--yes deletes them without asking)")
        return 1
    slurm.sent()  # says so if it cannot be read, before anything is deleted
    deleted = [path.name for path in runs if store.delete(path)]
    slurm.forget(deleted)
    busy = len(runs) - len(deleted)
    print(f"deleted {len(deleted)} runs" + (f"; {busy} are being trained and stay" if busy else ""))
    return 1 if busy else 0


def _agreed(question: str) -> bool:
    """Whether somebody who can be asked says yes."""
    with contextlib.suppress(EOFError):  # Ctrl-D
        return sys.stdin.isatty() and input(question).strip().lower() == "y"
    return False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        """One line instead of the whole usage."""
        self.exit(2, f"thesislib: {printable(message)} (--help lists what is allowed)\n")


def _parser() -> argparse.ArgumentParser:
    about = "Train, draw, send to a cluster, pack and clean the runs of the thesis' sections."
    root = _Parser(prog="python -m thesislib", description=about, allow_abbrev=False)
    subparsers = root.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def add(command: Callable[[Namespace], int], *parents: _Parser) -> Callable[..., argparse.Action]:
        name, about = command.__name__.removeprefix("_"), command.__doc__.rstrip(".")
        parser = subparsers.add_parser(name, help=about, description=about, parents=parents, allow_abbrev=False)
        parser.set_defaults(command=command)
        return parser.add_argument

    scale = _Parser(add_help=False)
    scale.add_argument("--scale", default="laptop", help=f"{', '.join(sections.SCALES)} (laptop)")
    grid = _Parser(add_help=False, parents=[scale])
    grid.add_argument("--section", nargs="+", default=[], help="only these (the scale's usual ones)", metavar="X")
    grid.add_argument("--seeds", type=int, help="so many, from 0 on (the scale's own)", metavar="N")
    add(_list, grid)("--runs", action="store_true", help="every run on disk, of all scales")
    flag = add(_figures, grid)
    about = "a notebook's parameter; V is JSON or text"
    flag("-p", dest="parameters", action="append", default=[], help=about, metavar="NAME=V")
    flag("--jobs", help="processes at a time (one a processor)", metavar="N")
    flag("--force", action="store_true", help="execute notebooks whose figures are current, too")
    flag("--width", help="of the figures: text, column, half, inches or 12cm (text)", metavar="X")
    flag("--language", help="of the numbers in figures and tables: en or de (en)", metavar="X")
    add(_report, scale)
    flag = add(_chapter, scale)
    flag("--engine", default="", help="pdflatex, xelatex or lualatex (the first that is there)", metavar="X")
    flag("--language", default="", help="of captions and dates: de, or one of babel's such as ngerman", metavar="X")
    add(_numbers, scale)("--language", help="of the numbers: en or de (en)", metavar="X")
    add(_plan, grid)
    flag = add(_launch, grid)
    flag("--cluster", choices=("local", "slurm"), default="local", help="(local)")
    flag("--tasks", type=int, help="Slurm: size of the array (up to 64); local: processes (one a core)", metavar="N")
    flag("--cpus", type=int, help="cores, so runs at a time, of a task (1)", metavar="N")
    flag("--gpus", type=int, help="GPUs of a Slurm task; local ones share the visible (0)", metavar="N")
    flag("--hours", type=float, help="Slurm's limit of a task, then it is requeued (24)", metavar="H")
    flag("--partition", help="Slurm's partition", metavar="X")
    flag("--sbatch", action="append", default=[], help="another option of sbatch, such as account=...", metavar="X=Y")
    flag("--stop", action="store_true", help="end the jobs that these runs were sent with, and send nothing")
    flag("--no-wait", dest="wait", action="store_false", help="send, show no progress")
    add(_pack, grid)("--file", type=Path, help="where to (figures/<scale>/runs.zip)", metavar="X.zip")
    add(_unpack)("file", type=Path, metavar="X.zip")
    flag = add(_run)
    flag("--json", action="store_true", help="print the summary as one JSON object")
    for name, field in Run.model_fields.items():
        # Values stay text: pydantic reads and checks them, so there is one place that says what is allowed.
        words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        kind = {"metavar": "|".join(words) or "X"}
        if field.annotation is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        about = field.description if field.default is None else f"{field.description} ({field.default})"
        flag(f"--{name.replace('_', '-')}", default=None, help=about, **kind)
    add(_lab)
    add(_tensorboard, grid)("--port", type=int, help="0 is any that is free (6006, or the next one)", metavar="N")
    flag = add(_clean)
    flag("--records", action="store_true", help="only those that came without weights (unpack)")
    flag("--figures", action="store_true", help="not the runs but what was drawn of them; asks nothing")
    flag("--yes", action="store_true", help="do not ask")
    return root


if __name__ == "__main__":
    sys.exit(main())
