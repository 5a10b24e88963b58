import ast
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import thesislib

from thesislib import sections, store
from thesislib.chapter import notebooks_folder

PATHS = sorted(notebooks_folder().glob("*.ipynb"))


def cells(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def test_there_is_one_for_every_section():
    assert [path.stem for path in PATHS] == sorted(sections.SECTIONS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_are_clean(path):
    code = cells(path, "code")
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "outputs are stripped"
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert re.fullmatch(r"\w+ = .+  # .+", line), "every parameter is explained where it stands"
    assert sum(bool(line.strip()) for cell in code for line in cell.source.splitlines()) <= 40
    forbidden = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If, ast.comprehension, ast.Lambda)
    for cell in code:
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not [node for node in nodes if isinstance(node, forbidden)], "logic belongs into thesislib"
        arithmetic = [node for node in nodes if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitOr)]
        assert not arithmetic
    assert len(cells(path, "markdown")) >= 2, "a question and a reading"


def test_the_chapter_runs_through_papermill(chapter):
    assert chapter.process.returncode == 0, chapter.process.stderr
    lines = chapter.process.stdout.splitlines()
    assert sum(line.startswith("ok ") for line in lines) == len(PATHS) == len(lines) - 1
    for path in PATHS:
        executed = nbformat.read(chapter.figures / path.name, 4)
        assert executed.metadata.papermill.parameters["scale"] == "smoke"
        shown = [output for cell in executed.cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in shown), f"{path.stem} shows its figure"
        assert not [output for output in shown if output.get("name") == "stderr"]


def test_a_second_time_nothing_is_trained(chapter):
    again = thesislib("figures", "--scale", "smoke", "--section", "1_baseline", **chapter.environment)
    assert again.returncode == 0
    assert "training" not in again.stderr


def test_a_scales_runs_are_those_of_its_figures(chapter):
    """What `plan`, `launch` and `pack` count is what the notebooks ask for."""
    drawn = {run for path in chapter.figures.glob("*.json") for group in provenance(path).values() for run in group}
    known = {name: sections.groups(name, "smoke") for name in sections.SECTIONS}
    assert drawn == {store.run_id(run) for groups in known.values() for runs in groups.values() for run in runs}


def provenance(path):
    return json.loads(path.read_text())["runs"]


def test_a_parameter_changes_the_runs(chapter):
    arguments = ("figures", "--scale", "smoke", "--section", "2-1_width", "-p", "widths=[0.5]", "-p", "smoothing=2")
    changed = thesislib(*arguments, **chapter.environment)
    assert changed.returncode == 0, changed.stderr
    assert "w = 0.5" in provenance(chapter.figures / "2-1_width.json")


def test_a_failing_notebook_is_named_and_the_others_finish(chapter):
    """A real failure: a metrics file that was cut. The path of the runs is relative, as in a shell."""
    runs = Path(chapter.environment["THESIS_RUNS"])
    tanh = provenance(chapter.figures / "1_baseline.json")["term, tanh"][0]
    metrics = runs / tanh / "metrics.csv"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-9])
    relative = chapter.environment | {"THESIS_RUNS": os.path.relpath(runs)}
    failed = thesislib("figures", "--scale", "smoke", "--section", "1_baseline", "3-2_epochs", **relative)
    metrics.write_bytes(whole)
    assert failed.returncode == 1
    assert re.search(r"FAILED 1_baseline +cell 5: UserError: .*metrics\.csv is broken", failed.stdout)
    assert re.search(r"ok +3-2_epochs", failed.stdout)
    assert "training" not in failed.stderr


def test_sections_without_their_runs_are_named(chapter, tmp_path):
    """Training that fails for one section leaves the others: here its run folder is taken by a file."""
    runs = tmp_path / "copied"
    shutil.copytree(chapter.environment["THESIS_RUNS"], runs)
    tanh = provenance(chapter.figures / "1_baseline.json")["term, tanh"][0]
    shutil.rmtree(runs / tanh)
    (runs / tanh).write_text("in the way")
    environment = chapter.environment | {"THESIS_RUNS": str(runs)}
    failed = thesislib("figures", "--scale", "smoke", "--section", "1_baseline", "3-2_epochs", **environment)
    assert failed.returncode == 1
    assert "FAILED training: 1 runs failed: cannot write runs to" in failed.stdout
    assert re.search(r"FAILED 1_baseline +1 runs are missing", failed.stdout)
    assert re.search(r"ok +3-2_epochs", failed.stdout)
