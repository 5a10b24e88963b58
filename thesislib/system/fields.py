"""Kinds of numbers and names that a description may hold, checked by pydantic."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError
from pydantic.fields import FieldInfo

from thesislib.system import own

#: Of epochs, images, steps: more is a slip of the finger.
LARGEST_COUNT = 10**9
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Size = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
#: fp32's range, in which all of them are used. Below it processors are told to take numbers for 0, in ids too.
SMALLEST, LARGEST = 1e-30, 1e30


def _normal(value: float) -> float:
    """A number in that range, or 0."""
    if 0 < abs(value) < SMALLEST:
        raise ValueError(f"input should be {SMALLEST:g} or more")
    return abs(value)  # -0.0 equals 0.0, and equal runs have equal ids


def one_of(known: tuple[str, ...]) -> AfterValidator:
    """For a name: one of these, or "module:name" of one's own."""

    def check(name: str) -> str:
        if name not in known and not re.fullmatch(own.NAME, name):
            raise ValueError(f"input should be {', '.join(known)}, or module:name")
        return name

    return AfterValidator(check)


Positive = Annotated[float, Field(gt=0, lt=LARGEST), AfterValidator(_normal)]
NonNegative = Annotated[float, Field(ge=0, lt=LARGEST), AfterValidator(_normal)]


def no_such(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not among the `known` ones of its kind, such as "field"."""
    known = [*known]
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no {kind} {name}: " + (f"is it {near[0]}?" if near else f"choose from {', '.join(known)}")


def first_mistake(error: ValidationError, known: Mapping[str, FieldInfo]) -> str:
    """One line for the first of the `known` fields of a description that does not fit, or for one that is unknown."""
    first = error.errors()[0]
    name, reason = str(*first["loc"][:1]), first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return no_such("field", name, known)
    if first["type"] == "string_pattern_mismatch":
        reason = known[name].description
    got = f", not {first['input']!r}" if name else ""
    return f"{name}{': ' * bool(name)}{reason[0].lower()}{reason[1:]}{got}"
