"""TensorBoard on the runs, under the names that they have in figures instead of their ids."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from thesislib.config import Run
from thesislib.experiments import sections
from thesislib.runs import store
from thesislib.runs.finished import read_config
from thesislib.runs.results import Row, rows_of
from thesislib.system.errors import UserError

#: Seconds after which runs that were begun meanwhile show; the longest part of a name.
REFRESH_SECONDS, LONGEST = 5.0, 120


def serve(scale: str, chosen: Iterable[str] = (), port: int | None = None, seeds: int | None = None) -> int:
    """Run TensorBoard until it is told to stop, on this machine alone; its exit code.

    The runs of the chosen sections (all) are called `<section>/<label>, seed <n>`. If none is chosen, runs of no
    section are shown too, as `other <data> <network>/<fields in which these differ>, seed <n>, <id>`. Runs begun later
    show as well. `port` is TensorBoard's choice if None is given, `seeds` are the scale's.
    """
    rows = [row for name in chosen or sections.SECTIONS for row in sections.rows(name, scale, seeds)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # else the folder and TensorBoard stay
    with tempfile.TemporaryDirectory(prefix="thesis-tensorboard-") as folder:
        shown = _link(Path(folder), rows, not chosen, set())
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--host", "127.0.0.1"]
        with subprocess.Popen([*command, *(["--port", str(port)] if port is not None else [])]) as board:
            try:
                while True:
                    try:
                        return board.wait(REFRESH_SECONDS)
                    except subprocess.TimeoutExpired:
                        shown = _link(Path(folder), rows, not chosen, shown)
            except KeyboardInterrupt:
                return 0
            finally:
                board.terminate()


def _link(folder: Path, rows: list[Row], others: bool, shown: set[str]) -> set[str]:
    """Give the runs that are there, but for those `shown`, names by links to their folders; all that are shown now."""
    runs = store.runs_folder()
    there = {path.name: path for path in runs.iterdir() if store.is_run(path)} if runs.is_dir() else {}
    several = len({row.network for row in rows}) > 1
    names: dict[str, str] = {}  # a run that several sections have is the first one's
    for row in rows:
        names.setdefault(row.id, f"{row.section}/{_name(row, several)}")
    if others:
        rest: dict[str, dict[str, Run]] = {}
        for path in [path for identity, path in there.items() if identity not in names]:
            with contextlib.suppress(UserError):  # a broken one has no name
                run = read_config(path).run
                rest.setdefault(re.sub(r"[/\x00]", "-", f"other {run.data} {run.model}"), {})[path.name] = run
        for kind, some in rest.items():
            for identity, row in zip(some, rows_of(some.values()), strict=True):
                names[identity] = f"{kind}/{_name(row)}, {identity}"
    new = names.keys() & there.keys() - shown
    for identity in new:
        link = folder / names[identity]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(there[identity], target_is_directory=True)
    return shown | new


def _name(row: Row, network: bool = False) -> str:
    role, member = "" if row.role == "curve" else row.role, "" if row.member is None else f"member {row.member}"
    label = re.sub(r"[/\x00]", "-", row.label)[:LONGEST]
    return ", ".join(filter(None, (role, label, row.network * network, f"seed {row.seed}", member)))
