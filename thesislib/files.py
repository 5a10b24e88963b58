"""Files that are whole or not there, and one clear line about those that are broken."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from filelock import AcquireReturnProxy, FileLock, SoftFileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from thesislib.config import UserError, printable

if TYPE_CHECKING:
    import pandas as pd


#: Errors of a disk, or a user's share of it, that takes nothing more.
FULL = (errno.ENOSPC, errno.EDQUOT)

#: What stands behind the dot and the name of a file that is being written (`replacing`).
ABANDONED = r"(?:\d+(?:[.-]\w+)?|[0-9a-f]{8,})"

#: Variables that move the three folders elsewhere, and the folders' names beside the package.
FOLDERS = {"THESIS_RUNS": "runs", "THESIS_DATA": "data", "THESIS_FIGURES": "figures"}


def folder(variable: str) -> Path:
    """The folder that one of FOLDERS names, absolute. Raises UserError if its name cannot be used."""
    text = os.environ.get(variable) or str(Path(__file__).resolve().parents[1] / FOLDERS[variable])
    try:
        path = Path(text).expanduser().absolute()
        str(path).encode()  # safetensors and JSON know no other names
    except UnicodeEncodeError:
        raise UserError(f"{variable}: the name of folder {text} is not UTF-8; give another one") from None
    except (RuntimeError, OSError) as error:  # nobody of that name after ~, a working directory that is gone
        raise UserError(f"{variable}: {error}, in {text}") from None
    return path


def settle_folders() -> None:
    """Write the three variables anew as absolute paths: processes that work elsewhere must mean the same folders."""
    for variable in FOLDERS:
        if os.environ.get(variable):
            os.environ[variable] = str(folder(variable))


def make_writable(folder: Path, what: str, variable: str) -> None:
    """Make the folder where `what` goes. Raises UserError, naming the `variable` to set, if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write {what} to {folder}: {error.strerror} (set {variable})") from None


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole: a kill at any moment leaves the old content or the new."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Replace a safetensors file as a whole, as `write` does, without a copy of the arrays in memory."""
    with replacing(path) as temporary:
        # safetensors writes memory as it lies: an array in another order would come back shuffled.
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, temporary)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside it to write to; on success it takes the place of `path`, else nothing of it stays.

    Raises OSError, which names `path`, if the disk is full or the folder may only be read.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as error:  # it has no kind of its own for a full disk or a folder that may only be read
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error), str(path)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """The file, open for further lines. Raises OSError, which names it, if the disk is full."""
    try:
        with path.open("a", newline="") as file:
            yield file
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def read_json(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """A JSON object with at least these keys. Raises UserError if the file is broken."""
    try:
        content = json.loads(path.read_text())
        missing = set(keys) - content.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise broken(path, error) from None
    if missing:
        raise broken(path, f"it lacks {', '.join(sorted(missing))}")
    return content


def read_arrays(path: Path, names: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, or only those named. Raises UserError if the file is broken."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise broken(path, error) from None


def read_metrics(path: Path, columns: Iterable[str], epochs: int | None = None) -> pd.DataFrame:
    """metrics.csv with at least these columns and rows for the epochs 1 to `epochs` (None: any number).

    Raises UserError if the file is not that.
    """
    try:
        return parse_metrics(path.read_bytes(), columns, epochs)
    except (OSError, ValueError) as error:
        raise broken(path, error) from None


def parse_metrics(content: bytes, columns: Iterable[str], epochs: int | None = None) -> pd.DataFrame:
    """The same from the file's content. Raises ValueError: a line cut short must not become a missing value."""
    # Imported here: it takes a third of a second, and the loop does not need it.
    import pandas as pd

    lines = content.decode().splitlines(keepends=True)
    table = pd.read_csv(io.BytesIO(content), float_precision="round_trip", dtype=float)
    if missing := set(columns) - set(table.columns):
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    if len({line.count(",") for line in lines}) != 1 or not lines[-1].endswith("\n"):
        raise ValueError("a line is cut short")
    if not np.array_equal(table["epoch"], np.arange(1, len(table) + 1)) or epochs not in (None, len(table)):
        raise ValueError(f"expected the epochs 1 to {epochs or 'the last'}")
    return table


def broken(path: Path, why: object) -> UserError:
    """The error for a file that is not what it should be, and what to do about it."""
    first = (str(why).splitlines() or [""])[0]
    return UserError(f"{path} is broken ({first}): delete {path.parent} to train this run again")


#: After so many seconds a process that waits for a lock says for whom.
PATIENCE = 5.0


def lock(path: Path) -> AcquireReturnProxy:
    """Wait until this process is the only one that has the lock; `with` releases it. Says so if it takes long.

    Raises OSError if the file cannot be written.
    """
    own = FileLock(path)
    try:
        held = own.acquire(timeout=PATIENCE)
    except Timeout:
        advice = "if that process is gone, delete this file"
        waiting = f"thesislib: waiting for {printable(path)}, held by {_holder(path)}: {advice}"
        print(waiting, file=sys.stderr, flush=True)
        held = own.acquire()
    if not isinstance(own, SoftFileLock):  # which, where the file system knows no flock, writes the same itself
        with contextlib.suppress(OSError):  # a full disk: the lock is held all the same, only without a name
            path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
    return held


def _holder(path: Path) -> str:
    """Who wrote a lock: by its own content, which may be gone or another program's."""
    try:
        process, host, *_ = path.read_text(errors="replace").split("\n")
        if host:
            return f"process {int(process)} on {printable(host)}"
    except (OSError, ValueError):
        pass
    return "a process that left no name"
