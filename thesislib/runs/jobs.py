"""Where runs were sent, and whether that job still waits or works: runs/cluster/submitted.json, by run id."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from thesislib.runs import store
from thesislib.system.errors import UserError
from thesislib.system.files import Broken, lock, unreadable, write

Cluster = Literal["local", "slurm"]


@dataclass(frozen=True)
class Sent:
    """Where a run was sent."""

    cluster: Cluster
    name: str  # of the launch: job numbers begin anew when a cluster is set up again, names do not
    job: str
    log: str


def folder() -> Path:
    """Where what belongs to jobs lies: runs/cluster/."""
    return store.runs_folder() / "cluster"


def read() -> dict[str, Sent]:
    """Where runs were last sent, by run id. Raises UserError if the file that says so is broken, or cannot be read."""
    path = folder() / "submitted.json"
    try:
        return {i: Sent(**sent) for i, sent in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Broken(path, error, "delete it once no job is on its way") from None


def note(sent: dict[str, Sent]) -> None:
    """Write down where runs were last sent, by run id; the caller holds the folder's lock."""
    content = {i: asdict(one) for i, one in sent.items()}
    write(folder() / "submitted.json", json.dumps(content, indent=1).encode())


def active(sent: Iterable[Sent], there: bool = True) -> set[Sent]:
    """Those whose job waits or runs. Raises UserError if Slurm does not answer though it should be `there`."""
    sent, waiting = set(sent), set()
    if any(s.cluster == "slurm" for s in sent):
        try:
            waiting = queue()
        except UserError:
            if there:
                raise
    return {s for s in sent if ((s.job, s.name) in waiting if s.cluster == "slurm" else _alive(s))}


def queue() -> set[tuple[str, str]]:
    """(job, name) of all that waits or runs on Slurm. Raises UserError if Slurm does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--format", "%i %j"]
    try:
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        raise UserError("Slurm is not installed here: no command squeue (--cluster local needs none)") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"Slurm does not answer: {last_line(error)}") from None
    return {tuple(line.split(maxsplit=1)) for line in lines if " " in line}


def _alive(sent: Sent) -> bool:
    """Whether a local job's process is there; its command line has the launch's name in it."""
    try:
        process = psutil.Process(int(sent.job))
        return process.status() != psutil.STATUS_ZOMBIE and any(sent.name in word for word in process.cmdline())
    except psutil.Error:
        return False


def last_line(error: Exception) -> str:
    """The last line of what a failed command said."""
    text = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    text = text.decode() if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def forget(identities: Iterable[str]) -> None:
    """Where these runs were sent is of no interest any more: they were deleted."""
    if not read():
        return
    gone = set(identities)
    with lock(folder() / "lock"):
        note({i: sent for i, sent in read().items() if i not in gone})
