import ast
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import thesislib

from thesislib.app import notebooks
from thesislib.app.notebooks import notebooks_folder
from thesislib.experiments import sections
from thesislib.runs import store
from thesislib.system.errors import UserError

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


@pytest.mark.parametrize("section", sections.SECTIONS)
def test_notebooks_start_with_the_chapters_values(section):
    assert notebooks.in_notebook(section).items() <= (notebooks.of_chapter(section) | {"scale": "laptop"}).items()


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Writes notebook 1_baseline with another parameters cell, in a folder of its own."""
    for path in PATHS:
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(notebooks, "notebooks_folder", lambda: tmp_path)
    path = tmp_path / "1_baseline.ipynb"

    def change(source):
        content = json.loads(path.read_text())
        content["cells"][1]["source"] = source.splitlines(keepends=True)
        path.write_text(json.dumps(content))
        return path

    return change


def test_what_somebody_tried_in_a_notebook_is_not_the_chapters(notebook, capsys):
    """JupyterLab has saved it by itself."""
    notebook('scale = "smoke"\nstrength = 33.0\nwidth = 2*0.5\nsmoothing = 1  # = 5\nhash = "a # b = c"\nfurther = -2')
    known = notebooks.parameters_of("1_baseline")
    expected = {"strength": 1.0, "width": None, "smoothing": 1, "hash": "a # b = c", "further": -2}
    assert {name: known[name] for name in expected} == expected
    assert capsys.readouterr().out.splitlines() == [
        "1_baseline: its notebook has strength = 33.0, used is the chapter's 1.0 (-p strength=... takes another)",
        "1_baseline: its notebook has width = 2 * 0.5, used is the chapter's None (-p width=... takes another)",
    ]
    notebooks.parameters_of("1_baseline", given={"strength", "width"})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("rates = [10**-k for k in range(1, 4)]", "the default of rates must be a plain value such as 0.1, not [10 **"),
        ("factor = 2 * 0.5", "the default of factor must be a plain value such as 0.1, not 2 * 0.5"),
        ("end = float('inf')", "the default of end must be a plain value such as 0.1, not float('inf')"),
        ("<<<<<<< HEAD\nfactor = 1\n=======\nfactor = 2\n", "line 1 of the parameters cell is no Python: <<<<<<< HEAD"),
        ("import math", "in the parameters cell write name = value, not import math"),
        ("a, b = 1, 2", "in the parameters cell write name = value, not a, b = (1, 2)"),
    ],
)
def test_a_parameters_cell_that_cannot_be_read_is_one_line(notebook, source, words):
    path = notebook(source)
    with pytest.raises(UserError) as error:
        notebooks.parameters_of("1_baseline")
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\n{}", "[]", "{}", '{"cells": [1]}', 9999 * "[", None])
def test_a_notebook_that_is_none_is_one_line(notebook, content):
    path = notebook("scale = 1")
    path.write_text(content) if content else path.unlink()
    with pytest.raises(UserError, match="1_baseline.ipynb is (no notebook|missing)"):
        notebooks.parameters_of("1_baseline")


def test_a_folder_for_sockets_is_short(monkeypatch, tmp_path):
    long = tmp_path / (90 * "x")
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "not there"))
    assert notebooks._temporary() == Path("/tmp")


def test_folders_of_killed_kernels_go(monkeypatch, tmp_path):
    """Only ours, only of processes that are gone."""
    monkeypatch.setattr(notebooks, "_temporary", lambda: tmp_path)
    names = [f"{notebooks._PRIVATE}{name}" for name in ("killed", "young")] + ["kernel-of-another-program"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    with notebooks._kernel_folder() as used:
        for path in (tmp_path / names[0], used, tmp_path / names[2]):
            os.utime(path, (0, 0))
        notebooks._delete_abandoned()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([used.name, *names[1:]])
    assert not used.exists()


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


def test_a_parameter_changes_the_runs(chapter, tmp_path):
    arguments = ("figures", "--scale", "smoke", "--section", "2-1_width", "-p", "widths=[0.5]", "-p", "smoothing=2")
    changed = thesislib(*arguments, **chapter.environment | {"THESIS_FIGURES": str(tmp_path)})
    assert changed.returncode == 0, changed.stderr
    assert "w = 0.5" in provenance(tmp_path / "smoke" / "2-1_width.json")


def test_figures_of_other_calls_are_not_counted(chapter, tmp_path):
    folder = tmp_path / "smoke"
    folder.mkdir()
    (folder / "of-yesterday.pgf").write_text("nothing")
    own = chapter.environment | {"THESIS_FIGURES": str(tmp_path)}
    again = thesislib("figures", "--scale", "smoke", "--section", "1_baseline", **own)
    assert "1 of 1 notebooks, 2 figures in" in again.stdout
    shown = re.findall(r"\\input\{(.*)\}", (folder / "figures.tex").read_text())
    assert shown == ["1_baseline.pgf", "1_baseline_losses.pgf"]


HOSTILE = """
c = get_config()
c.InteractiveShell.pdb = True
c.InteractiveShellApp.exec_lines = ["raise RuntimeError('a profile')"]
"""


def test_a_hostile_environment_changes_nothing(chapter, tmp_path):
    """A foreign kernel named python3, a profile with a debugger, braces and blanks in paths, nobody's home."""
    foreign, profile = tmp_path / "kernels" / "python3", tmp_path / "ipython" / "profile_default"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}')
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "00.py").write_text("import sys; print('a startup file', file=sys.stderr)")
    (profile / "ipython_kernel_config.py").write_text(HOSTILE)
    (tmp_path / "startup.py").write_text("raise RuntimeError('PYTHONSTARTUP')")
    runs, figures, temporary = tmp_path / "runs", tmp_path / "a {scale} {b} Ä", tmp_path / (100 * "t")
    temporary.mkdir()
    shutil.copytree(chapter.environment["THESIS_RUNS"], runs)
    (runs / provenance(chapter.figures / "2-2_strength.json")["no term"][0] / "metrics.csv").write_text("nothing")
    hostile = {
        "JUPYTER_PATH": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython"), "TMPDIR": str(temporary),
        "PYTHONSTARTUP": str(tmp_path / "startup.py"), "THESIS_RUNS": str(runs), "THESIS_FIGURES": str(figures),
        "RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9",
    }  # fmt: skip
    done = thesislib("figures", "--scale", "smoke", "--section", "8_cost", "2-2_strength", **hostile)
    assert re.search(r"ok +8_cost", done.stdout), done.stdout + done.stderr
    assert re.search(r"FAILED 2-2_strength +cell \d+: Broken: .*metrics\.csv is broken", done.stdout)
    executed = nbformat.read(figures / "smoke" / "8_cost.ipynb", 4)
    assert executed.metadata.papermill.output_path == str(figures / "smoke" / "8_cost.ipynb")
    shown = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.get("name") == "stderr"]
    assert not list(temporary.iterdir()), "no leftovers"


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
    assert re.search(r"FAILED 1_baseline +cell 5: Broken: .*metrics\.csv is broken", failed.stdout)
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
