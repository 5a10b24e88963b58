"""A function of one's own that computes something of runs: what it computes with, and who can import it."""

from __future__ import annotations

import contextlib
import copyreg
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, MethodType, ModuleType
from typing import Any

from thesislib.system.errors import UserError


def key(function: Callable[..., Any]) -> dict[str, str]:
    """What a key needs so that another function of the same name is another one: nothing for those of this package.

    Of one's own it has a digest of its code, of the values that it was made with, and of the constants and functions
    that it names, with theirs: not of what those call. The code is that which was imported, not the file's of now.
    Raises UserError for a value that it was made with and that nothing tells from another one, as an open file.
    """
    parts = _parts(function)
    if all(callable(part) and _is_ours(part) for part in parts):
        return {}
    return {"function": _short(map(_text, parts))[:12]}


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
    """A function, method or object that can be called, with what it computes with; else a value."""
    if not hasattr(part, "__code__") and hasattr(
        call := inspect.getattr_static(type(part), "__call__", None), "__code__"
    ):
        part = MethodType(call, part)
    code = getattr(part, "__code__", None)
    if code is None:
        return _held(part)
    closed = [cell.cell_contents for cell in part.__closure__ or ()]
    itself = [part.__self__] if inspect.ismethod(part) else []
    given = [*itself, *(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values(), *closed]
    named = [part.__globals__[name] for name in sorted(set(_names(code))) if name in part.__globals__]
    return _short([_code(code), *map(_held, given), *map(_named, named)])


def _short(texts: Iterable[str]) -> str:
    """One text for several, of a length that does not grow with how deep these lie in each other."""
    return hashlib.sha256(repr([*texts]).encode()).hexdigest()


def _held(value: Any) -> str:
    """What a function was made with: another one's code, or a value with all that is in it."""
    if isinstance(value, ModuleType | type) or inspect.isbuiltin(value):
        return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', value)}"
    if (code := getattr(value, "__code__", None)) is not None:
        return f"{value.__module__}:{value.__qualname__}" if _is_ours(value) else _code(code)
    if value is None or isinstance(value, int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, tuple | list):
        return _short(map(_held, value))
    if isinstance(value, set | frozenset):
        return _short(sorted(map(_held, value)))
    if isinstance(value, dict):
        return _short(sorted(_short(map(_held, pair)) for pair in value.items()))
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # what a tensor is made of differs from process to process
        return _held(value.detach().cpu().numpy())
    # What copies are made of: bytes would depend on which of its parts are one object.
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        return _held(reduce(value) if reduce else value.__reduce_ex__(4))
    except (TypeError, ValueError, AttributeError, RuntimeError):  # RecursionError is one: it holds itself
        kind = type(value).__name__
        raise UserError(f"a function must not hold on to a {kind}: read it within, or give a parameter") from None


def _named(value: Any) -> str:
    """The same of what a function may name: some of these only look like the names of attributes."""
    with contextlib.suppress(UserError):
        return _held(value)
    return type(value).__qualname__


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
