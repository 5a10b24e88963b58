"""Networks and kernels of one's own: found by name in an importable module, and known by their source text."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thesislib.system.errors import UserError

#: What a name of one's own looks like: an importable module, and something in it.
NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"

#: The text that each module was imported from: one that was edited since is another one.
_texts: dict[str, str] = {}


def is_own(name: str) -> bool:
    """Whether a name is of the form "module:name"."""
    return ":" in name


def source(name: str) -> str:
    """The text of the module in "module:name". Raises UserError if there is no such module.

    It is looked for in the working folder, then on Python's path. Processes that are started later find it as well.
    """
    module = name.partition(":")[0]
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a package in front of the dot that is not there
        found = None
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise UserError(f"{name}: no module {module} in {here} or on Python's path (PYTHONPATH)")
    path = Path(found.origin)
    folder = str(path.parents[module.count(".") + (path.name == "__init__.py")])
    paths = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *paths])
    return path.read_text()


def digest(name: str) -> str:
    """A short name of that text, part of a run's id: 16 hex digits."""
    return hashlib.sha256(source(name).encode()).hexdigest()[:16]


def load(name: str) -> Callable[..., Any]:
    """What "module:name" says, as its module's text is now. Raises UserError if it is not there, or not callable."""
    module, _, attribute = name.partition(":")
    text = source(name)
    with_module = importlib.reload if module in sys.modules and _texts.get(module) != text else importlib.import_module
    loaded = call(name, with_module, sys.modules[module] if with_module is importlib.reload else module)
    _texts[module] = text
    found = getattr(loaded, attribute, None)
    if not callable(found):
        raise UserError(f"{name}: {module} has no function or class {attribute}")
    return found


def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call somebody's own code. Raises UserError, with the place, for whatever goes wrong in it."""
    try:
        return function(*arguments)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        raise UserError(f"{name}: {type(error).__name__}: {error} ({where})") from error
