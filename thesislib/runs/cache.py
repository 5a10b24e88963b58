"""What is computed from finished runs, kept beside them: computed once, then drawn as often as one likes.

runs/<id of the first run>/derived-<name>-<key>.safetensors, the key made of all runs' ids and the parameters.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thesislib.runs import functions, store
from thesislib.runs.finished import Result
from thesislib.system import machine, own
from thesislib.system.errors import UserError
from thesislib.system.files import Broken, read_arrays, read_json, write_arrays

Arrays = dict[str, np.ndarray]
#: Columns, or numbers, which become columns of length one.
Computed = Mapping[str, np.ndarray | float]

#: What takes longer in one process is shared out among several, whose start takes some seconds.
POOL_SECONDS = 15.0


def arrays(name: str, runs: Sequence[Result], compute: Callable[[], Computed], **parameters: Any) -> Arrays:
    """What `compute` returns for these runs, from disk if it was asked before with the same parameters.

    `parameters` are everything else that the arrays depend on; raise one called `version` when `compute` changes.
    Raises UserError if a run's own network or kernel has changed: `compute` would build the new one.
    """
    path = _path(name, runs, parameters)
    store.sweep(path.parent)
    with contextlib.suppress(Broken):  # it is computed again
        if path.is_file():
            return dict(sorted(read_arrays(path).items()))
    for run in (run for run in runs if any(map(own.is_own, (run.run.model, run.run.kernel)))):
        if earlier := read_json(run.folder / "config.json", store.Config).earlier:
            raise UserError(f"run {run.id} is {earlier}")
    # In the order in which they will be read back.
    computed = {key: np.atleast_1d(value) for key, value in sorted(compute().items())}
    try:
        write_arrays(path, computed)
    except OSError as error:  # a folder that may only be read costs time, not correctness
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    return computed


def is_there(name: str, runs: Sequence[Result], **parameters: Any) -> bool:
    """Whether `arrays` of these would come from disk."""
    return _path(name, runs, parameters).is_file()


def _path(name: str, runs: Sequence[Result], parameters: dict[str, Any]) -> Path:
    try:
        key = json.dumps([[run.id for run in runs], parameters], sort_keys=True)
    except TypeError as error:
        raise UserError(f"{name}: parameters are numbers, texts and lists of such ({error})") from None
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return runs[0].folder / f"derived-{name}-{digest}.safetensors"


def many(
    name: str,
    groups: Sequence[Sequence[Result]],
    function: Callable[..., Computed],
    parameters: Mapping[str, Any],
    beside: Collection[str] | None = None,
) -> list[Arrays]:
    """`arrays` of `function(runs, **parameters)` for several groups of runs; one parameter is the version.

    What is missing is shared out among as many processes as there are cores if it takes long, and they can import the
    function. Raises UserError if it returns something else than a dictionary; with `beside`, the names of other columns
    of a table, also for what are no columns of numbers of one length that can stand beside these.
    """
    keyed = dict(parameters) | functions.key(function)
    given = {key: value for key, value in parameters.items() if key != "version"}
    one = partial(_of_group, name, function, given, keyed, beside)
    missing = [k for k, runs in enumerate(groups) if not _path(name, runs, keyed).is_file()]
    begin, computed = time.perf_counter(), {k: one(groups[k]) for k in missing[:1]}
    rest = missing[1:]
    takes_long = (time.perf_counter() - begin) * len(rest) > POOL_SECONDS
    if takes_long and functions.is_importable(function) and (workers := min(machine.cores(), len(rest))) > 1:
        with machine.pool_of(workers) as pool:
            there = partial(_imported, one, name, function, keyed["function"]) if "function" in keyed else one
            computed |= zip(rest, pool.map(there, [groups[k] for k in rest]), strict=True)
    return [computed[k] if k in computed else one(runs) for k, runs in enumerate(groups)]


def _column(value: Any) -> np.ndarray:
    """A column or number; of objects if it is none."""
    try:
        return np.atleast_1d(np.asarray(value))
    except (ValueError, RuntimeError):  # a ragged list, a tensor with a gradient
        return np.empty(1, dtype=object)


def _is_stored(dtype: np.dtype) -> bool:
    """Whether files have such numbers: of eight bytes at most."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def _check_columns(name: str, found: Computed, beside: Collection[str]) -> None:
    """Raise UserError if this is no table of numbers, or has a column of those that say of which run it is."""
    if wrong := [key for key in found if not isinstance(key, str) or not key]:
        raise UserError(f"{name}: its function must name columns by texts, not {wrong[0]!r}")
    columns = {key: _column(value) for key, value in found.items()}
    if taken := [key for key in columns if key in beside]:
        raise UserError(
            f"{name}: its function must not return {taken[0]!r}: {', '.join(beside)} say of which run it is"
        )
    if wrong := [key for key, column in columns.items() if column.ndim > 1 or not _is_stored(column.dtype)]:
        shown = f"{columns[wrong[0]].dtype} {list(columns[wrong[0]].shape)}"
        raise UserError(f"{name}: its function must return numbers, or columns of numbers, not {wrong[0]}: {shown}")
    if len(lengths := {len(column) for column in columns.values()}) > 1:
        raise UserError(f"{name}: its function's columns must be of one length, not of {sorted(lengths)}")


def _imported(
    one: Callable[[Sequence[Result]], Arrays],
    name: str,
    function: Callable[..., Computed],
    key: str,
    runs: Sequence[Result],
) -> Arrays:
    """`one` in another process, which has imported the function only now."""
    if functions.key(function)["function"] != key:
        raise UserError(f"{name}: its function was edited since it was imported: restart what asks for it")
    return one(runs)


def _of_group(
    name: str,
    function: Callable[..., Computed],
    parameters: dict[str, Any],
    keyed: dict[str, Any],
    beside: Collection[str] | None,
    runs: Sequence[Result],
) -> Arrays:
    def compute() -> Computed:
        found = function(runs, **parameters)
        if not isinstance(found, Mapping):
            kind = type(found).__name__
            raise UserError(f"{name}: its function must return a dictionary of numbers or columns, not {kind}")
        if beside is not None:
            _check_columns(name, found, beside)
        return found

    return arrays(name, runs, compute, **keyed)
