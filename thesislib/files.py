"""Files that are whole or not there, and one clear line about those that are broken."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from thesislib.config import UserError


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole: a kill at any moment leaves the old content or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError if the file is broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _broken(path, error) from None


def read_arrays(path: Path, names: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, or only those named. Raises UserError if the file is broken."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _broken(path, error) from None


def read_metrics(path: Path, epochs: int | None = None) -> pd.DataFrame:
    """metrics.csv with rows for the epochs 1 to `epochs` (None: any number). Raises UserError if it is not that."""
    try:
        table = pd.read_csv(path, float_precision="round_trip", dtype=float)
    except (OSError, ValueError) as error:
        raise _broken(path, error) from None
    numbers = np.arange(1, len(table) + 1)
    if "epoch" not in table or not np.array_equal(table["epoch"], numbers) or epochs not in (None, len(table)):
        raise _broken(path, f"expected the epochs 1 to {epochs}")
    return table


def _broken(path: Path, why: object) -> UserError:
    first = (str(why).splitlines() or [""])[0]
    return UserError(f"{path} is broken ({first}): delete {path.parent} to train this run again")
