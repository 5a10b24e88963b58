"""The bar over runs that train."""

import re

import nbformat
import pytest
from conftest import TINY, interrupted
from nbformat import v4

from thesislib.app import notebooks
from thesislib.runs import launch, progress, store

CODE = """
import thesislib as tl
runs = tl.train([tl.Run(model="mlp-tiny", train_size=512, test_size=250, epochs=5)])
"""


def test_it_counts_epochs_of_what_is_done_and_under_way(capsys):
    other = TINY.replace(seed=1)
    interrupted(TINY, after=3)
    with progress.Bar([TINY, other]) as bar:
        bar.update({TINY: store.Config.of(TINY).folder})
        assert bar._bar.n == 3
        bar.done(TINY)
        bar.update({other: store.Config.of(other).folder})
    line = re.split(r"[\r\n]+", capsys.readouterr().err.strip())[-1]
    assert re.search(r"training: +50%.* 6/12 .*epoch.*1 of 2 runs, under way: 0/6", line)


def test_a_pool_shows_it(capsys):
    launch.train_missing([TINY], workers=1)
    line = re.split(r"[\r\n]+", capsys.readouterr().err.strip())[-1]
    assert re.search(r"training: 100%.* 6/6 .*1 of 1 runs", line)


def test_a_saved_notebook_still_shows_it(tmp_path, monkeypatch):
    """As text in place, neither a widget that is gone nor a line a second."""
    monkeypatch.setattr(notebooks, "notebooks_folder", lambda: tmp_path)
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(CODE)]), tmp_path / "mine.ipynb")
    _, error = notebooks._papermill("mine", tmp_path, {})
    assert not error
    (output,) = nbformat.read(tmp_path / "mine.ipynb", 4).cells[-1].outputs
    assert list(output["data"]) == ["text/plain"]
    assert re.search(r"training: 100%.* 5/5 .*1 of 1 runs", output["data"]["text/plain"])


@pytest.mark.parametrize("count", [2, 9])
def test_it_stays_a_line(capsys, count):
    runs = [TINY.replace(seed=seed) for seed in range(count)]
    with progress.Bar(runs) as bar:
        bar.update({run: store.Config.of(run).folder for run in runs})
    assert ("..." in capsys.readouterr().err) == (count > 4)
