"""`make figures` executes no notebook again that is current."""

import json
import os
import re
import shutil

import pytest
from trees import Tree

from thesislib.app import current
from thesislib.experiments import sections
from thesislib.runs import store

pytestmark = pytest.mark.long

CHOSEN = ("1_baseline", "2-1_width", "2-2_strength", "2-3_interaction", "3-2_epochs", "8_cost")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """With figures, in another folder than they were made in."""
    tree = Tree(tmp_path_factory.mktemp("tree"))
    made = tree.figures.parent.with_name("made")
    code, executed, _ = tree.make("--section", *CHOSEN, "3-1_learning_rate", THESIS_FIGURES=str(made))
    assert (code, len(executed)) == (0, 7)
    shutil.copytree(made, tree.figures.parent, dirs_exist_ok=True)
    return tree


def test_what_is_current_is_left_as_it_is(tree):
    before = tree.written()
    code, executed, said = tree.make("--section", *CHOSEN)
    assert (code, executed) == (0, [])
    assert said.startswith(f"0 of 6 notebooks, 0 figures in {tree.figures}")
    assert "6 were current" in said
    assert tree.written() == before
    assert len(tree.listed()) == 9


def test_only_what_has_changed_is_executed(tree):
    """Another text, a picture that is gone, a table that was edited, half a notebook, another run."""
    only = {store.run_id(row.run) for row in sections.rows("2-3_interaction", "smoke")}
    for section in CHOSEN:
        if section != "2-3_interaction":
            only -= {store.run_id(row.run) for row in sections.rows(section, "smoke")}
    done = tree.folder / "runs" / only.pop() / "done.json"
    changes = {
        "1_baseline": lambda: tree.edit("notebooks/1_baseline.ipynb", "# 1 Baseline", "# 1 The baseline"),
        "2-1_width": lambda: (tree.figures / "2-1_width_end.png").unlink(),
        "2-2_strength": lambda: (tree.figures / "2-2_strength.csv").write_text("mine"),
        "2-3_interaction": lambda: done.write_text(re.sub(r'"finished": "\d', '"finished": "9', digestless(done))),
        "3-2_epochs": lambda: os.truncate(tree.figures / "3-2_epochs.ipynb", 999),
    }
    for change in changes.values():
        change()
    before = tree.written()
    code, executed, said = tree.make("--section", *CHOSEN)
    assert code == 0
    assert sorted(executed) == sorted(changes)
    assert said.startswith("5 of 6 notebooks, 8 figures")
    after = tree.written()
    assert {name for name in after if name.startswith("8_cost") and after[name] == before[name]} == {
        name for name in before if name.startswith("8_cost")
    }
    assert (tree.figures / "2-1_width_end.png").is_file()
    assert (tree.figures / "2-2_strength.csv").read_text() != "mine"
    assert "8_cost.pgf" in tree.listed()
    assert tree.make("--section", *CHOSEN)[1] == []


def digestless(path):
    """A JSON file without the digest of its content, against which it would be read."""
    content = json.loads(path.read_text())
    del content["digest"]
    return json.dumps(content)


def test_parameters_settings_code_and_packages_count(tree, monkeypatch):
    """Each changes what a notebook is made of, and nothing else of it; where things lie and who works does not."""
    notebook, rows = tree.folder / "notebooks" / "8_cost.ipynb", sections.rows("8_cost", "smoke")
    monkeypatch.setenv("THESIS_RUNS", str(tree.folder / "runs"))
    monkeypatch.setattr(current, "ROOT", tree.folder)

    def changed(parameters=(("scale", "smoke"), ("hills", None))):
        current._packages.cache_clear()
        made_of = current.ingredients(notebook, dict(parameters), rows)
        return {name for name, digest in made_of.items() if digest != before[name]}

    before = dict.fromkeys(("notebook", "parameters", "settings", "runs", "code", "packages"), "")
    assert changed() == set(before)
    before = current.ingredients(notebook, {"scale": "smoke", "hills": None}, rows)
    assert changed() == set()
    assert changed((("scale", "smoke"), ("hills", 5))) == {"parameters"}
    for name in ("THESIS_JOBS", "THESIS_FIGURES", "THESIS_DATA"):
        monkeypatch.setenv(name, str(tree.folder))
        assert changed() == set()
    for name in ("THESIS_WIDTH", "THESIS_LANGUAGE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "column")
            assert changed() == {"settings"}
    with monkeypatch.context() as patch:
        patch.setattr(current, "version", lambda name: "99.0")
        assert changed() == {"packages"}
    for path in ("thesislib/runs/slurm.py", "thesislib/app/report.py", "figures/reference/bench.csv"):
        text = (tree.folder / path).read_text()
        (tree.folder / path).write_text(text + "\n")
        assert changed() == {"code"}
        (tree.folder / path).write_text(text)
    assert changed() == set()


def test_figures_of_other_parameters_are_not_current_and_force_draws_what_is(tree):
    once = ("--section", "3-1_learning_rate")
    assert tree.make(*once, "--width", "column", "-p", "smoothing=2")[1] == ["3-1_learning_rate"]
    assert tree.listed() == ["3-1_learning_rate-column.pgf"]
    assert tree.make(*once)[1] == ["3-1_learning_rate"], "what lies there is of other parameters"
    before = tree.written()
    assert tree.make(*once, "--force")[1] == ["3-1_learning_rate"]
    assert tree.written()["3-1_learning_rate.pgf"] != before["3-1_learning_rate.pgf"]


def test_what_failed_is_tried_again_and_told_at_the_end(tree):
    line = "figure = tl.plot.heatmaps(runs)"
    tree.edit("notebooks/2-3_interaction.ipynb", line, "figure = tl.plot.nothing(runs)")
    both = ("--section", "2-3_interaction", "8_cost")
    for _ in range(2):
        code, executed, said = tree.make(*both)
        assert (code, executed[0]) == (1, "2-3_interaction") or executed == ["8_cost", "2-3_interaction"]
        assert said.endswith("FAILED: 2-3_interaction")
        assert tree.listed() == ["8_cost.pgf"]
    tree.edit("notebooks/2-3_interaction.ipynb", "figure = tl.plot.nothing(runs)", line)
    code, executed, said = tree.make(*both)
    assert (code, executed) == (0, ["2-3_interaction"])
    assert tree.listed() == ["2-3_interaction.pgf", "8_cost.pgf"]
