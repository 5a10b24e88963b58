"""Files that are whole or not there, and one clear line about those that are broken."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from thesislib.config import UserError


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
    temporary = _temporary(path)
    temporary.write_bytes(content)
    _publish(temporary, path)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Replace a safetensors file as a whole, as `write` does, without a copy of the arrays in memory."""
    temporary = _temporary(path)
    # safetensors writes memory as it lies: an array in another order would come back shuffled.
    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, temporary)
    except SafetensorError as error:  # it has no kind of its own for a full disk or a folder that may only be read
        raise OSError(errno.EIO, str(error), str(path)) from None
    _publish(temporary, path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _publish(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


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

    Raises UserError if the file is not that: a line cut short must not become a missing value.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
        table = pd.read_csv(path, float_precision="round_trip", dtype=float)
    except (OSError, ValueError) as error:
        raise broken(path, error) from None
    missing = set(columns) - set(table.columns)
    if missing:
        raise broken(path, f"it lacks {', '.join(sorted(missing))}")
    if len({line.count(",") for line in lines}) != 1 or not lines[-1].endswith("\n"):
        raise broken(path, "a line is cut short")
    whole = np.array_equal(table["epoch"], np.arange(1, len(table) + 1)) and epochs in (None, len(table))
    if not whole:
        raise broken(path, f"expected the epochs 1 to {epochs or 'the last'}")
    return table


def broken(path: Path, why: object) -> UserError:
    """The error for a file that is not what it should be, and what to do about it."""
    first = (str(why).splitlines() or [""])[0]
    return UserError(f"{path} is broken ({first}): delete {path.parent} to train this run again")
