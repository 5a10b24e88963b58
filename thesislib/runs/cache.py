"""What is computed from finished runs, kept beside them: computed once, then drawn as often as one likes.

runs/<id of the first run>/derived-<name>-<key>.safetensors, the key made of all runs' ids and the parameters.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thesislib.runs import store
from thesislib.system import machine
from thesislib.system.files import Broken, read_arrays, write_arrays
from thesislib.runs.results import Result

Arrays = dict[str, np.ndarray]

#: What takes longer in one process is shared out among several, whose start takes some seconds.
POOL_SECONDS = 15.0


def arrays(name: str, results: Sequence[Result], compute: Callable[[], Arrays], **parameters: Any) -> Arrays:
    """What `compute` returns for these runs, from disk if it was asked before with the same parameters.

    `parameters` are everything else that the arrays depend on; raise one called `version` when `compute` changes.
    """
    path = _path(name, results, parameters)
    store.sweep(path.parent)
    with contextlib.suppress(Broken):  # it is computed again
        if path.is_file():
            return dict(sorted(read_arrays(path).items()))
    computed = dict(sorted(compute().items()))  # the order in which they will be read back
    with contextlib.suppress(OSError):  # a folder that may only be read costs time, not correctness
        write_arrays(path, computed)
    return computed


def _path(name: str, results: Sequence[Result], parameters: dict[str, Any]) -> Path:
    key = json.dumps([[result.id for result in results], parameters], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return results[0].folder / f"derived-{name}-{digest}.safetensors"


def many(
    name: str, groups: Sequence[Sequence[Result]], compute: Callable[[Sequence[Result]], Arrays], **parameters: Any
) -> list[Arrays]:
    """`arrays` of several groups of runs, what is missing by as many processes as there are cores if it takes long.

    `compute` takes a group; other processes must be able to import it.
    """
    one = partial(_of_group, name, compute, parameters)
    missing = [k for k, runs in enumerate(groups) if not _path(name, runs, parameters).is_file()]
    begin, computed = time.perf_counter(), {k: one(groups[k]) for k in missing[:1]}
    rest = missing[1:]
    if len(rest) > 1 and (time.perf_counter() - begin) * len(rest) > POOL_SECONDS:
        with machine.pool_of(min(machine.cores(), len(rest))) as pool:
            computed |= zip(rest, pool.map(one, [groups[k] for k in rest]), strict=True)
    return [computed[k] if k in computed else one(runs) for k, runs in enumerate(groups)]


def _of_group(
    name: str, compute: Callable[[Sequence[Result]], Arrays], parameters: dict[str, Any], runs: Sequence[Result]
) -> Arrays:
    return arrays(name, runs, partial(compute, runs), **parameters)


def numbers(
    name: str, results: Sequence[Result], compute: Callable[[], dict[str, float]], **parameters: Any
) -> dict[str, float]:
    """The same for plain numbers."""
    stored = arrays(name, results, lambda: {k: np.array([v]) for k, v in compute().items()}, **parameters)
    return {key: value.item() for key, value in stored.items()}
