"""Measures of one's own: which function a stored number is of, and who computes it."""

import errno
import functools
import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping
from copy import deepcopy
from enum import Enum
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY

from thesislib.analysis import barriers, ensembles
from thesislib.runs import cache, functions
from thesislib.runs.results import Results
from thesislib.system import machine
from thesislib.system.errors import UserError

FACTOR = 1.0
#: A module of one's own, which a test puts here.
mine = None


def helper(x):
    return x + 1


def scaled(runs):
    return {"n": FACTOR * len(runs)}


def by_helper(runs):
    return {"n": float(helper(len(runs)))}


def made(k):
    return lambda runs: {"n": k}


def times(k, runs, by=1):
    return {"n": float(k * by)}


@pytest.fixture
def number(tiny, finished):
    """What a function gives for one run."""

    def of(function, **parameters):
        (found,) = Results([tiny]).map(function, "mine", 1, **parameters)["n"]
        return found

    return of


def test_another_function_of_the_same_name_has_its_own_numbers(number, monkeypatch):
    functions_of_1_to_4 = [lambda runs: {"n": 1.0}, lambda runs: {"n": 2.0}, made(3.0), made(4.0)]
    for _ in range(2):
        assert [number(function) for function in functions_of_1_to_4] == [1, 2, 3, 4]
    assert [number(partial(times, k, by=by)) for k, by in ((5, 1), (5, 2), (7, 1))] == [5, 10, 7]
    assert (number(scaled), number(by_helper)) == (1, 2)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 8.0)
    monkeypatch.setattr(sys.modules[__name__], "helper", lambda x: x + 8)
    assert (number(scaled), number(by_helper)) == (8, 9), "a constant and a function that it names"


WEIGHTS = []


def summed(runs, ks=(1, 2)):
    return {"n": float(sum(ks))}


def weighed(runs):
    return {"n": float(sum(WEIGHTS))}


class Scaled:
    def __init__(self, by):
        self.by = {"factors": [by]}

    def __call__(self, runs):
        return {"n": float(self.by["factors"][0])}

    def half(self, runs):
        return {"n": self.by["factors"][0] / 2}


@pytest.mark.parametrize("wrap", [list, set, np.array, torch.tensor, lambda ks: dict(enumerate(ks))])
def test_what_a_function_was_made_with_is_told_apart(number, wrap):
    """Also what is in lists, arrays and objects."""

    def holding(held):
        return lambda runs: {"n": float(sum(held.values() if isinstance(held, Mapping) else held))}

    assert [number(holding(wrap(ks))) for ks in ([1, 2], [1, 5])] == [3, 6]


@pytest.mark.parametrize(
    "make",
    [
        lambda k: pd.DataFrame({"x": [k]}),
        lambda k: torch.nn.Linear(k, 1).requires_grad_(False),
        lambda k: re.compile("x" * k),
        lambda k: TINY.replace(seed=k),
        lambda k: np.random.default_rng(k),
        lambda k: Results([TINY.replace(seed=k)]),
    ],
)
def test_objects_of_all_kinds_are_told_apart(make):
    def holding(held):
        return lambda runs: {"n": held}

    torch.manual_seed(0)
    one = make(1)
    keys = [functions.key(holding(held))["function"] for held in (one, deepcopy(one), make(2))]
    assert keys[0] == keys[1] != keys[2]


def test_functions_methods_and_objects_are_told_apart(number, monkeypatch):
    assert [number(partial(summed, ks=ks)) for ks in ([1, 2], [10], (10, 1))] == [3, 10, 11]
    assert [number(Scaled(by)) for by in (1, 5)] == [1, 5]
    assert [number(Scaled(by).half) for by in (1, 5)] == [0.5, 2.5]
    for weights in ([1, 2], [10]):
        monkeypatch.setattr(sys.modules[__name__], "WEIGHTS", weights)
        assert number(weighed) == sum(weights)
    with (
        Path(__file__).open() as file,
        pytest.raises(UserError, match="must not hold on to a TextIOWrapper: read it within"),
    ):
        number(lambda runs: {"n": float(len(file.read()))})


def test_the_same_function_is_not_called_again(number, tmp_path):
    text = "def mine(runs):\n    open(path, 'a').write('x')\n    return {'n': 1.0 if 'a' in {'a', 'b'} else held}\n"
    for _ in range(2):  # as a cell that is executed twice
        cell = {"path": str(tmp_path / "calls"), "held": {"a": {"b", "c"}, "d": np.arange(3), "e": Scaled(2)}}
        exec(text, cell)
        assert number(cell["mine"]) == 1
    assert (tmp_path / "calls").read_text() == "x"


def test_a_function_may_change_what_it_names(tiny, tmp_path, monkeypatch):
    """Its key is that of before."""
    monkeypatch.setattr(sys.modules[__name__], "WEIGHTS", [])

    def growing(runs):
        WEIGHTS.append(1)
        return {"n": float(len(WEIGHTS))}

    groups = [[Some(tiny, tmp_path / f"{k}")] for k in range(3)]
    assert [found["n"].item() for found in cache.many("x", groups, growing, {"version": 1})] == [1, 2, 3]


def test_the_packages_own_numbers_keep_their_names(tiny, finished):
    """Archives have them under these."""
    for measure in (barriers._lines, barriers._aligned, barriers._aligned_once):
        assert functions.key(partial(barriers._of_members, measure)) == functions.key(ensembles._score) == {}
    assert functions.key(partial(barriers._aligned, starts=1)) != functions.key(partial(barriers._aligned, starts=2))
    ensembles.table(Results([tiny]))
    (path,) = finished.folder.glob("derived-ensemble-*")
    key = json.dumps([[finished.id], {"average": "probabilities", "last": None, "version": 2}], sort_keys=True)
    assert path.name == f"derived-ensemble-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"


def test_what_is_no_measure_is_one_line(number):
    with pytest.raises(UserError, match="mine: its function must return a dictionary of numbers or columns, not float"):
        number(lambda runs: 3.0)
    with pytest.raises(UserError, match="mine: parameters are numbers, texts and lists of such"):
        number(made(1.0), way=print)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ({"seed": 1.0}, "must not return 'seed': label, network, seed say of which run it is"),
        ({"n": "three"}, "columns of numbers, not n: <U5 [1]"),
        ({"n": [[1.0, 2.0]]}, "columns of numbers, not n: float64 [1, 2]"),
        ({"n": None}, "columns of numbers, not n: object [1]"),
        ({"n": [[1], [2, 3]]}, "columns of numbers, not n: object [1]"),
        ({"n": torch.ones(2, requires_grad=True)}, "columns of numbers, not n: object [1]"),
        ({"n": np.longdouble(1)}, "columns of numbers, not n: float128 [1]"),
        ({0: 1.0, "n": 1.0}, "must name columns by texts, not 0"),
        ({"n": [1, 2, 3], "m": [1.0, 2.0]}, "columns must be of one length, not of [2, 3]"),
    ],
)
def test_what_is_no_table_is_one_line_and_not_kept(number, finished, returned, says):
    with pytest.raises(UserError, match=re.escape(says)):
        number(lambda runs: returned)
    assert not list(finished.folder.glob("derived-mine-*"))


def test_only_a_folder_that_may_not_be_written_is_passed_over(number, monkeypatch):
    """Any other error of the disk is said: what was computed would be computed again and again."""

    for code in (errno.EROFS, errno.EACCES, errno.EIO, errno.ENOSPC):
        monkeypatch.setattr(cache, "write_arrays", Mock(side_effect=OSError(code, "no")))
        if code in (errno.EROFS, errno.EACCES):
            assert number(made(2.0)) == 2
        else:
            pytest.raises(OSError, number, made(2.0)).match("no")


@pytest.fixture
def slow(monkeypatch):
    """Everything takes long, and there are two cores."""
    monkeypatch.setattr(cache, "POOL_SECONDS", -1)
    monkeypatch.setattr(machine, "cores", lambda: 2)


class Some:
    """As much of a `Result` as is asked for here."""

    def __init__(self, run, folder):
        self.run, self.folder, self.id = run, folder, folder.name
        folder.mkdir(parents=True, exist_ok=True)


def test_what_others_cannot_import_is_computed_here(tiny, tmp_path, slow, monkeypatch):
    """A notebook's function, a lambda, one that was made in another one."""
    groups = [[Some(tiny, tmp_path / f"{k}")] for k in range(3)]
    mine = partial(times, 2)
    assert functions.is_importable(mine)
    assert functions.is_importable(partial(barriers._of_members, barriers._lines))
    monkeypatch.setattr(times, "__module__", "__main__")
    for k, function in enumerate((mine, lambda runs: {"n": 2.0}, made(2.0))):
        assert not functions.is_importable(function)
        assert [found["n"].item() for found in cache.many(f"x{k}", groups, function, {"version": 1})] == [2, 2, 2]


def test_others_compute_what_was_imported_here(tiny, tmp_path, slow, monkeypatch):
    """Not what the file says by then: it would be stored as the old one's."""
    monkeypatch.setenv("THESIS_JOBS", "2")
    groups = [[Some(tiny, tmp_path / f"{k}")] for k in range(3)]
    path = tmp_path / "mymeasure.py"
    path.write_text("import os\ndef process(runs):\n    return {'n': os.getpid()}\n")
    monkeypatch.syspath_prepend(tmp_path)
    import mymeasure

    monkeypatch.delitem(sys.modules, "mymeasure")
    monkeypatch.setitem(sys.modules, "mymeasure", mymeasure)
    found = [arrays["n"].item() for arrays in cache.many("x", groups, mymeasure.process, {"version": 1})]
    assert found[0] == os.getpid()
    assert os.getpid() not in found[1:]
    path.write_text("import os\ndef process(runs):\n    return {'n': -os.getpid()}\n")
    with pytest.raises(UserError, match="y: its function was edited since it was imported: restart"):
        cache.many("y", groups, mymeasure.process, {"version": 1})


class Power:
    """What a measure names: `of` may change in the cell that defines it."""

    by = 2

    @property
    def twice(self):
        return 2 * self.by


class Kind(Enum):
    FIRST = 1


def raised(runs):
    return {"n": float(Power.by + Power().twice)}


def of_kind(runs):
    return {"n": float(Kind.FIRST.value)}


def test_classes_that_a_function_names_are_told_apart(number, monkeypatch):
    """Their values, methods and properties, their bases, and the members of an Enum."""
    here = sys.modules[__name__]
    assert (number(raised), number(of_kind)) == (6, 1)
    monkeypatch.setattr(Power, "by", 3)
    assert number(raised) == 9
    monkeypatch.setattr(here, "Power", type("Power", (Power,), {"__module__": __name__}))
    assert number(raised) == 9
    monkeypatch.setattr(here.Power.__bases__[0], "twice", property(lambda self: 0))
    assert number(raised) == 3
    monkeypatch.setattr(here, "Kind", Enum("Kind", {"FIRST": 5}, module=__name__))
    assert number(of_kind) == 5


def by_default(runs):
    return {"n": float(shifted(len(runs)))}


def shifted(x, by=1):
    return x + by


def closing(k):
    return lambda x, by=0: x + k


def test_what_a_named_function_is_given_or_closes_over_is_told_apart(number, monkeypatch):
    here = sys.modules[__name__]
    assert number(by_default) == 2
    monkeypatch.setattr(shifted, "__defaults__", (2,))
    assert number(by_default) == 3
    for k in (5, 7):
        monkeypatch.setattr(here, "shifted", closing(k))
        assert number(by_default) == 1 + k


def from_module(runs):
    return {"n": mine.double(mine.K) * np.ones(1)[0]}


def test_values_of_a_module_of_ones_own_are_told_apart(number, tmp_path, monkeypatch):
    """Of installed ones their version says what they compute."""
    (tmp_path / "mine_alone.py").write_text("K = 2.0\n\ndef double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("mine_alone")
    monkeypatch.setattr(sys.modules[__name__], "mine", module)
    for k in (2.0, 5.0):
        monkeypatch.setattr(module, "K", k)
        assert number(from_module) == 2 * k
    assert functions._is_installed(np)
    assert functions._is_installed(cache)
    assert not functions._is_installed(module)


def remembering(x, seen={}):  # noqa: B006
    return seen.setdefault(x, x + 1)


class Counted:
    found = []  # noqa: RUF012

    def __call__(self, x):
        self.found.append(x)
        return x


def memo(function):
    known = {}
    return lambda x: known.setdefault(x, function(x))


in_memo = memo(lambda x: x + 3)


def busy(runs):
    return {"n": float(remembering(len(runs)) + Counted()(len(runs)) + in_memo(len(runs)))}


def test_what_a_function_fills_as_it_runs_does_not_make_another_one_of_it():
    before = functions.key(busy)
    assert busy([1]) == {"n": 7.0}
    assert functions.key(busy) == before


def test_functions_that_hold_each_other_have_a_key(monkeypatch):
    table = {}

    def helper(x, table=table, both=()):
        return table

    table["helper"] = helper
    helper.__defaults__ = (table, (helper, 1))
    monkeypatch.setattr(Scaled, "kind", Scaled, raising=False)
    monkeypatch.setattr(sys.modules[__name__], "mine", helper)

    def measure(runs):
        return {"n": mine(1), "m": Scaled}

    assert functions.key(measure) == functions.key(measure)


@pytest.mark.parametrize("wrap", [torch.no_grad(), functools.lru_cache, functools.wraps(scaled)])
def test_a_measure_is_what_it_wraps(monkeypatch, wrap):
    """What it names, and helpers that are wrapped."""
    keys = []
    for factor, by in ((1.0, 1), (2.0, 1), (2.0, 2)):
        monkeypatch.setattr(sys.modules[__name__], "FACTOR", factor)
        helper = (lambda x: x + 1) if by == 1 else (lambda x: x + 2)
        monkeypatch.setattr(sys.modules[__name__], "mine", functools.lru_cache(helper))
        keys.append(functions.key(wrap(of_both))["function"])
    assert len(set(keys)) == 3


def of_both(runs):
    return {"n": FACTOR * mine(1)}


def test_values_of_a_package_of_ones_own_are_told_apart(tmp_path, monkeypatch):
    """Also of a module in it, and without an __init__.py."""
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "within.py").write_text("import package_of_mine\nK = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("package_of_mine.within")
    monkeypatch.setattr(sys.modules[__name__], "mine", sys.modules["package_of_mine"])

    def measure(runs):
        return {"n": mine.within.K}

    before = functions.key(measure)
    module.K = 2
    assert functions.key(measure) != before
