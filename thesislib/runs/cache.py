"""What is computed from finished runs, kept beside them: computed once, then drawn as often as one likes.

runs/<id of the first run>/derived-<name>-<key>.safetensors, the key made of all runs' ids and the parameters. Runs are
`finished.Result` here, which this module may not import.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thesislib.runs import functions, store
from thesislib.system import machine, own
from thesislib.system.errors import UserError
from thesislib.system.files import FULL, Broken, read_arrays, read_json, write_arrays

Arrays = dict[str, np.ndarray]
#: Columns, or numbers, which become columns of length one.
Computed = Mapping[str, np.ndarray | float]

#: What takes longer in one process is shared out among several, whose start takes some seconds.
POOL_SECONDS = 15.0


def arrays(name: str, runs: Sequence[Any], compute: Callable[[], Computed], **parameters: Any) -> Arrays:
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
    except OSError as error:  # a folder that may only be read costs time, not correctness; a full disk stops us
        if error.errno in FULL:
            raise
    return computed


def is_there(name: str, runs: Sequence[Any], **parameters: Any) -> bool:
    """Whether `arrays` of these would come from disk."""
    return _path(name, runs, parameters).is_file()


def _path(name: str, runs: Sequence[Any], parameters: dict[str, Any]) -> Path:
    try:
        key = json.dumps([[run.id for run in runs], parameters], sort_keys=True)
    except TypeError as error:
        raise UserError(f"{name}: parameters are numbers, texts and lists of such ({error})") from None
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return runs[0].folder / f"derived-{name}-{digest}.safetensors"


def many(
    name: str, groups: Sequence[Sequence[Any]], function: Callable[..., Computed], version: int, **parameters: Any
) -> list[Arrays]:
    """`arrays` of `function(runs, **parameters)` for several groups of runs.

    What is missing is shared out among as many processes as there are cores if it takes long, and they can import the
    function. Raises UserError if it returns something else.
    """
    keyed = parameters | {"version": version} | functions.key(function)
    one = partial(_of_group, name, function, parameters, keyed)
    missing = [k for k, runs in enumerate(groups) if not _path(name, runs, keyed).is_file()]
    begin, computed = time.perf_counter(), {k: one(groups[k]) for k in missing[:1]}
    rest = missing[1:]
    takes_long = (time.perf_counter() - begin) * len(rest) > POOL_SECONDS
    if takes_long and functions.is_importable(function) and (workers := min(machine.cores(), len(rest))) > 1:
        with machine.pool_of(workers) as pool:
            computed |= zip(rest, pool.map(one, [groups[k] for k in rest]), strict=True)
    return [computed[k] if k in computed else one(runs) for k, runs in enumerate(groups)]


def _of_group(
    name: str,
    function: Callable[..., Computed],
    parameters: dict[str, Any],
    keyed: dict[str, Any],
    runs: Sequence[Any],
) -> Arrays:
    def compute() -> Computed:
        if functions.key(function).get("function") != keyed.get("function"):  # this process has imported it only now
            raise UserError(f"{name}: its function was edited since it was imported: restart what asks for it")
        found = function(runs, **parameters)
        if not isinstance(found, Mapping):
            kind = type(found).__name__
            raise UserError(f"{name}: its function must return a dictionary of numbers or columns, not {kind}")
        return found

    return arrays(name, runs, compute, **keyed)
