"""Which figures on disk are current: made of today's notebook, parameters, runs, code and packages.

An executed notebook has in its metadata what it was made of, and which files it wrote, with their digests. As long as
all of that is as it was, it need not be executed again.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from thesislib.app import prose
from thesislib.plots import save
from thesislib.runs import store
from thesislib.runs.results import Row
from thesislib.system.files import FOLDERS, ROOT, digest
from thesislib.system.machine import JOBS

#: The entry in an executed notebook's metadata: a digest of each of its ingredients, `made_of`, and of the `files` that
#: it wrote.
_ENTRY = "thesislib"

#: Variables of ours that change nothing in a figure: where things lie, how many processes are at work.
_WITHOUT_EFFECT = (*FOLDERS, JOBS, save.LOG)


def ingredients(notebook: Path, parameters: dict[str, Any], rows: Iterable[Row]) -> dict[str, str]:
    """A digest of each thing that decides what a notebook draws.

    Raises UserError or OSError if the notebook or the package cannot be read.
    """
    ours = {name: value for name, value in os.environ.items() if name.startswith("THESIS_") and value}
    runs = [[row.section, row.role, row.label, row.member, row.seed, row.id, *_finished(row.id)] for row in rows]
    return {
        "notebook": _digest(prose.cells(notebook)),
        "parameters": _digest(parameters),
        "settings": _digest({name: value for name, value in ours.items() if name not in _WITHOUT_EFFECT}),
        "runs": _digest(runs),
        "code": _digest({str(path.relative_to(ROOT)): digest(path.read_bytes()) for path in _code()}),
        "packages": _digest(_packages()),
    }


def _digest(content: Any) -> str:
    return digest(json.dumps(content, sort_keys=True, default=repr).encode())


def _finished(identity: str) -> list[str]:
    """Digests of a run's summary, which has those of its weights, and of its tables; empty where there are none."""
    paths = [store.runs_folder() / identity / name for name in ("done.json", "metrics.csv", "steps.csv")]
    return [digest(path.read_bytes()) if path.is_file() else "" for path in paths]


def _code() -> list[Path]:
    """The package's files, and the measurements that section 8 draws."""
    inside = (path for path in (ROOT / "thesislib").rglob("*") if "__pycache__" not in path.parts)
    return sorted(path for path in (*inside, ROOT / "figures" / "reference" / "bench.csv") if path.is_file())


@functools.cache
def _packages() -> dict[str, str]:
    """Versions of Python and of all packages that the project asks for."""
    needed = (re.match(r"[\w.-]+", line)[0] for line in requires("thesislib") or () if "extra ==" not in line)
    return {"python": platform.python_version()} | {name: version(name) for name in needed}


def written(folder: Path, section: str, made_of: dict[str, str]) -> list[str] | None:
    """Names of the files that a notebook wrote when it was last executed; None if they are not current.

    They are if the notebook was made of these `ingredients`, and each file is there as it was written.
    """
    try:
        executed = json.loads((folder / f"{section}.ipynb").read_bytes())
        record = executed["metadata"][_ENTRY]
        made, files = record["made_of"], record["files"]
        there = {name: digest((folder / name).read_bytes()) for name in files} | _cells(section, executed)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # none, an earlier version's, or not whole
        return None
    return [*files] if (made, files) == (made_of, there) else None


def _cells(section: str, executed: dict[str, Any]) -> dict[str, str]:
    """The digest of the executed notebook itself, but for its metadata."""
    return {f"{section}.ipynb": _digest(executed["cells"])}


def note(folder: Path, section: str, made_of: dict[str, str], log: Path) -> list[str]:
    """Write what an executed notebook was made of, and what it wrote, into its metadata; names of these files.

    `log` is what `save.write` noted. Raises OSError if the disk is full.
    """
    executed = json.loads((folder / f"{section}.ipynb").read_bytes())
    lines = map(json.loads, log.read_text("utf-8").splitlines() if log.is_file() else ())
    files = {os.path.relpath(line["path"], folder): line["digest"] for line in lines} | _cells(section, executed)
    executed["metadata"][_ENTRY] = {"made_of": made_of, "files": files}
    save.write(folder, f"{section}.ipynb", json.dumps(executed, indent=1, ensure_ascii=False).encode())
    return [*files]
