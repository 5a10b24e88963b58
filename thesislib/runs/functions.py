"""A function of one's own that computes something of runs: what it computes with, and who can import it."""

from __future__ import annotations

import contextlib
import copyreg
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from enum import Enum
from functools import partial
from pathlib import Path
from types import CodeType, MethodType, ModuleType
from typing import Any

from thesislib.system.errors import UserError

#: Where Python's own modules lie.
_PYTHON = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
#: The functions and classes that are being described.
_under_way: ContextVar[frozenset[Any]] = ContextVar("under way", default=frozenset())


def key(function: Callable[..., Any]) -> dict[str, str]:
    """What a key needs so that another function of the same name is another one: nothing for those of this package.

    Of one's own it has a digest of its code, of the values that it was made with, and of the constants, functions and
    classes that it names, also in a module of one's own, with theirs: not of what those call. The code is that which
    was imported, not the file's of now.
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
        return _text(part.__wrapped__) if hasattr(part, "__wrapped__") else _held(part)
    closed = [cell.cell_contents for cell in part.__closure__ or ()]
    itself = [part.__self__] if inspect.ismethod(part) else []
    given = [*itself, *(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values(), *closed]
    names = sorted(set(_names(code)))
    named = [part.__globals__[name] for name in names if name in part.__globals__]
    modules: list[ModuleType] = []
    for value in named:  # to which values of modules of one's own are added, also of those in them
        if isinstance(value, ModuleType) and value not in modules and not _is_installed(value):
            modules.append(value)
            named += [vars(value)[name] for name in names if name in vars(value)]
    within = [_text(part.__wrapped__)] if hasattr(part, "__wrapped__") else []
    return _short([_code(code), *map(_held, given), *map(_named, named), *within])


def _short(texts: Iterable[str]) -> str:
    """One text for several, of a length that does not grow with how deep these lie in each other."""
    return hashlib.sha256(repr([*texts]).encode()).hexdigest()


def _is_installed(value: Any) -> bool:
    """Whether a module, or that of a class, is part of Python, of an installed package or of this one."""
    name = value.__name__ if isinstance(value, ModuleType) else value.__module__
    if name == "__main__":  # of a notebook: its file is that of Jupyter's kernel
        return False
    module = sys.modules.get(name)
    place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    if place is None or name.partition(".")[0] == __name__.partition(".")[0]:
        return True
    return place.startswith(_PYTHON) or not {"site-packages", "dist-packages"}.isdisjoint(Path(place).parts)


def _held(value: Any) -> str:
    """What a function was made with: another one's code, or a value with all that is in it."""
    if isinstance(value, ModuleType | type) or inspect.isbuiltin(value):
        name = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', value)}"
        return name if not isinstance(value, type) or _is_installed(value) else _of_class(value, name)
    if (code := getattr(value, "__code__", None)) is not None:
        return f"{value.__module__}:{value.__qualname__}" if _is_ours(value) else _of_function(value, code)
    if hasattr(value, "__wrapped__"):  # by lru_cache, say
        return _held(value.__wrapped__)
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


def _of_function(function: Any, code: CodeType) -> str:
    """A function's code, with the functions and constants that it has by default or closes over.

    What may change while it runs, as a dictionary that it fills, is none of these.
    """
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # nothing is in it yet
            values.append(cell.cell_contents)
    with _describing(function) as anew:
        return _short([_code(code), *map(_held, filter(_is_constant, values))]) if anew else _code(code)


def _of_class(kind: type, name: str) -> str:
    """The functions and constants that a class of one's own and its bases have."""
    with _describing(kind) as anew:
        if not anew:  # a value in it is of this class itself, as an Enum's are
            return name
        parts = [name, *map(_held, kind.__bases__)]
        for attribute, value in sorted(vars(kind).items()):
            function = next((getattr(value, n) for n in ("__func__", "fget", "func") if hasattr(value, n)), value)
            if hasattr(function, "__code__") or (not attribute.startswith("__") and _is_constant(function)):
                parts += [attribute, _held(function)]
        return _short(parts)


@contextlib.contextmanager
def _describing(what: Any) -> Iterator[bool]:
    """Whether this is not being described already: functions and classes may hold each other."""
    before = _under_way.get()
    token = _under_way.set(before | {what})
    try:
        yield what not in before
    finally:
        _under_way.reset(token)


def _is_constant(value: Any) -> bool:
    """Whether it is a function, or a value that stays as it is."""
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, int | float | complex | str | bytes | Enum) or hasattr(value, "__code__")


def _named(value: Any) -> str:
    """The same of what a function may name: some of these only look like the names of attributes."""
    with contextlib.suppress(UserError, RecursionError):
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
