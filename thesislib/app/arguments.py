"""What the command line accepts: its commands, their flags, and the form of their values."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from thesislib.config import Run
from thesislib.experiments import sections
from thesislib.system.errors import UserError, printable


def pair(flag: str, text: str) -> tuple[str, str]:
    """Name and value of "name=value", given to a flag. Raises UserError for anything else."""
    name, equals, value = text.partition("=")
    if not equals or not name.replace("-", "_").isidentifier():
        raise UserError(f"{flag} {text}: write name=value")
    return name, value


def parameters(text: str) -> dict[str, Any]:
    """Names and values of a notebook's parameters, "name=value name=value"; raises UserError for anything else.

    A value is JSON, which may have blanks in it, or else text up to the next blank.
    """
    found, rest = {}, text.strip()
    while rest or not found:
        name, _ = pair("-p", rest)
        rest = rest.partition("=")[2]
        value = word = re.match(r"\S*", rest)[0]
        try:
            known, end = json.JSONDecoder().raw_decode(rest)
            if not rest[end:] or rest[end].isspace():
                value, word = known, rest[:end]
        except (ValueError, RecursionError):
            pass
        found[name], rest = value, rest[len(word) :].strip()
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        """One line instead of the whole usage."""
        self.exit(2, f"thesislib: {printable(message)} (--help lists what is allowed)\n")


def parser(commands: Mapping[str, Callable[..., int]]) -> argparse.ArgumentParser:
    """The parser of all commands; what one of them is to call becomes `command` of the parsed options."""
    about = "Train, draw, send to a cluster, pack and clean the runs of the thesis' sections."
    root = _Parser(prog="python -m thesislib", description=about, allow_abbrev=False)
    subparsers = root.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, about: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, help=about, description=about, allow_abbrev=False)
        command.set_defaults(command=commands[name])
        return command

    parsers: dict[str, argparse.ArgumentParser] = {}
    for name, about in (
        ("list", "sections, with their runs done and missing"),
        ("figures", "train what is missing and execute the notebooks"),
        ("plan", "what a scale takes: runs, epochs, disk, and hours by the measured time of a step"),
        ("launch", "send the missing runs to Slurm, or to processes that outlive the terminal"),
        ("pack", "put what figures need of finished runs, no weights, into one small file"),
    ):
        command = add(name, about)
        command.add_argument("--scale", default="laptop", help=f"{', '.join(sections.SCALES)} (laptop)")
        command.add_argument("--section", nargs="+", default=[], help="only these (all)", metavar="X")
        parsers[name] = command
    parsers["figures"].add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a notebook's parameter",
    )
    parsers["figures"].add_argument("--jobs", help="processes at a time (one a processor)", metavar="N")
    launch = parsers["launch"].add_argument
    launch("--cluster", choices=("local", "slurm"), default="local", help="(local)")
    launch("--tasks", type=int, help="Slurm: size of the array (up to 64); local: processes (one a core)", metavar="N")
    launch("--cpus", type=int, default=1, help="cores, so runs at a time, of a task (1)", metavar="N")
    launch("--gpus", type=int, default=0, help="GPUs of a Slurm task; local ones share the visible (0)", metavar="N")
    launch("--hours", type=float, default=24.0, help="Slurm's limit of a task, then it is requeued (24)", metavar="H")
    launch("--partition", help="Slurm's partition", metavar="X")
    launch("--sbatch", action="append", default=[], help="another option of sbatch, such as account=...", metavar="X=Y")
    launch("--no-wait", dest="wait", action="store_false", help="send, show no progress")
    parsers["pack"].add_argument("--file", type=Path, help="where to (figures/<scale>/runs.zip)", metavar="X.zip")
    command = add("unpack", "put such a file's runs among those here")
    command.add_argument("file", type=Path, metavar="X.zip")
    command = add("run", "train one run, or say what came out if it was trained before")
    command.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    for name, field in Run.model_fields.items():
        default = "" if field.default in (None, PydanticUndefined) else f" ({field.default})"
        # Values stay text: pydantic reads and checks them, so there is one place that says what is allowed.
        kind: dict[str, Any] = {"metavar": "X"}
        if field.annotation is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        command.add_argument(f"--{name.replace('_', '-')}", help=f"{field.description}{default}", default=None, **kind)
    add("lab", "JupyterLab on the notebooks")
    command = add("clean", "delete all runs, after asking")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--records", action="store_true", help="only those that came without weights (unpack)")
    what.add_argument("--figures", action="store_true", help="not the runs but what was drawn of them; asks nothing")
    command.add_argument("--yes", action="store_true", help="do not ask")
    return root
