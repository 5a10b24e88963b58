"""The public names: few, quick to import, each with an example that runs."""

import doctest
import inspect
import subprocess
import sys

import pytest

import thesislib as tl


def test_importing_costs_nothing():
    code = """
        import time; begin = time.perf_counter(); import thesislib; seconds = time.perf_counter() - begin
        import sys; heavy = {"torch", "pandas", "numpy", "matplotlib", "pydantic"}
        print(seconds < 0.1, sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", inspect.cleandoc(code)], capture_output=True, text=True)
    assert done.stdout == "True []\n", done.stderr


def test_completion_shows_the_public_names_only():
    code = "import thesislib; [getattr(thesislib, name) for name in dir(thesislib)]; print(dir(thesislib))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{sorted(tl.__all__)}\n", done.stderr
    assert len(tl.__all__) < 12


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = tl.rum


@pytest.mark.parametrize("name", [name for name in tl.__all__ if name != "plot"])
def test_examples_run(name, chapter, monkeypatch):
    monkeypatch.setenv("THESIS_RUNS", chapter.environment["THESIS_RUNS"])  # most of their runs are there
    public = getattr(tl, name)
    text = inspect.getdoc(public)
    assert text
    example = doctest.DocTestParser().get_doctest(text, {"tl": tl, name: public}, f"tl.{name}", None, 0)
    assert example.examples or issubclass(public, Exception), f"tl.{name} has no example"
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0
