"""What is computed from finished runs, kept beside them: computed once, then drawn as often as one likes.

runs/<id of the first run>/derived-<name>-<key>.safetensors, the key made of all runs' ids and the parameters.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thesislib.files import read_arrays, write_arrays
from thesislib.results import Result

Arrays = dict[str, np.ndarray]


def arrays(name: str, results: Sequence[Result], compute: Callable[[], Arrays], **parameters: Any) -> Arrays:
    """What `compute` returns for these runs, from disk if it was asked before with the same parameters.

    `parameters` are everything else that the arrays depend on; raise one called `version` when `compute` changes.
    """
    key = json.dumps([[result.id for result in results], parameters], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    path = results[0].folder / f"derived-{name}-{digest}.safetensors"
    if path.is_file():
        return dict(sorted(read_arrays(path).items()))
    computed = dict(sorted(compute().items()))  # the order in which they will be read back
    with contextlib.suppress(OSError):  # a folder that may only be read costs time, not correctness
        write_arrays(path, computed)
    return computed


def numbers(
    name: str, results: Sequence[Result], compute: Callable[[], dict[str, float]], **parameters: Any
) -> dict[str, float]:
    """The same for plain numbers."""
    stored = arrays(name, results, lambda: {k: np.array([v]) for k, v in compute().items()}, **parameters)
    return {key: value.item() for key, value in stored.items()}
