"""A function of one's own that computes something of runs: what it computes with, and who can import it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType
from typing import Any


def key(function: Callable[..., Any]) -> dict[str, str]:
    """What a key needs so that another function of the same name is another one: nothing for those of this package.

    Of one's own it has a digest of its code, of the values that it was made with, and of the constants and functions
    that it names, with theirs: not of what those call. The code is that which was imported, not the file's of now.
    """
    parts = _parts(function)
    if all(callable(part) and _is_ours(part) for part in parts):
        return {}
    text = repr([_text(part) for part in parts])
    return {"function": hashlib.sha256(text.encode()).hexdigest()[:12]}


def is_importable(function: Callable[..., Any]) -> bool:
    """Whether other processes can import it: no notebook's function and none that was made in another one."""
    for part in filter(callable, _parts(function)):
        module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", "")
        if module == "__main__" or getattr(sys.modules.get(module), name, None) is not part:
            return False
    return True


def _parts(function: Callable[..., Any]) -> list[Any]:
    """A function, or the one of a `partial` and what it was given, which may be such ones as well."""
    if not isinstance(function, partial):
        return [function]
    given = [*function.args, *(x for pair in function.keywords.items() for x in pair)]
    return [*_parts(function.func), *(part for value in given for part in _parts(value))]


def _is_ours(part: Any) -> bool:
    return (getattr(part, "__module__", None) or "").partition(".")[0] == __name__.partition(".")[0]


def _text(part: Any) -> str:
    code = getattr(part, "__code__", None)
    if code is None:
        return _plain(part) or f"{getattr(part, '__module__', '')}:{getattr(part, '__qualname__', type(part))}"
    closed = [cell.cell_contents for cell in part.__closure__ or ()]
    given = [*(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values(), *closed]
    named = [part.__globals__[name] for name in sorted(set(_names(code))) if name in part.__globals__]
    return repr([_code(code), *map(_held, given + named)])


def _held(value: Any) -> str:
    """What a function holds on to: another one's code, or a constant."""
    code = getattr(value, "__code__", None)
    return _code(code) if code is not None and not _is_ours(value) else _plain(value)


def _plain(value: Any) -> str:
    """A number, a text or a tuple of such; nothing of what has more to it."""
    if isinstance(value, tuple):
        return repr([_plain(item) for item in value])
    return repr(value) if value is None or isinstance(value, int | float | str) else ""


def _code(code: CodeType) -> str:
    # A set's elements are in another order in every process.
    constants = (
        _code(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c)
        for c in code.co_consts
    )
    return repr([code.co_code.hex(), code.co_names, *constants])


def _names(code: CodeType) -> Iterator[str]:
    """Global names and attributes in it, and in what is defined in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
