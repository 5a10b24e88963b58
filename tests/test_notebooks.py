import ast
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import thesislib
from trees import papermill

from thesislib.app import notebooks, prose
from thesislib.app.notebooks import notebooks_folder
from thesislib.experiments import sections
from thesislib.runs import store
from thesislib.system.errors import UserError

PATHS = sorted(notebooks_folder().glob("*.ipynb"))


def cells(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def test_there_is_one_for_every_section():
    assert [path.stem for path in PATHS] == sorted([*sections.SECTIONS, *notebooks.EXPLORATORY])


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_are_clean(path):
    code = cells(path, "code")
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "outputs are stripped"
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert re.fullmatch(r"\w+ = .+  # .+", line), "every parameter is explained where it stands"
    if path.stem == "0_first_steps":  # teaches what the others leave to thesislib
        return
    assert sum(bool(line.strip()) for cell in code for line in cell.source.splitlines()) <= 45
    forbidden = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If, ast.comprehension, ast.Lambda)
    for cell in code:
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not [node for node in nodes if isinstance(node, forbidden)], "logic belongs into thesislib"
        arithmetic = [node for node in nodes if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitOr)]
        assert not arithmetic
    assert len(cells(path, "markdown")) >= 2, "a question and a reading"


@pytest.mark.parametrize("section", sections.SECTIONS)
def test_notebooks_start_with_the_sections_defaults(section, capsys):
    assert notebooks.parameters_of(section).keys() | {"scale"} == notebooks.written_parameters(section).keys()
    assert capsys.readouterr().out == ""


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


def test_what_somebody_tried_in_a_notebook_is_not_drawn_for_the_thesis(notebook, capsys):
    """JupyterLab has saved it by itself."""
    notebook('scale = "smoke"\nstrength = 33.0\nwidth = 2*0.5\nsmoothing = 1  # = 5\nhash = "a # b = c"\nfurther = -2')
    known = notebooks.parameters_of("1_baseline")
    expected = {"strength": 1.0, "width": None, "smoothing": 1, "hash": "a # b = c", "further": -2}
    assert {name: known[name] for name in expected} == expected
    assert capsys.readouterr().out.splitlines() == [
        "1_baseline: its notebook has strength = 33.0, used is the default 1.0 (-p strength=... takes another)",
        "1_baseline: its notebook has width = 2 * 0.5, used is the default None (-p width=... takes another)",
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


@pytest.mark.parametrize(
    "content", ["<<<<<<< HEAD\n{}", "[]", "{}", '{"cells": []}', '{"cells": [1]}', 9999 * "[", None]
)
def test_a_notebook_that_is_none_is_one_line(notebook, content):
    path = notebook("scale = 1")
    path.write_text(content) if content else path.unlink()
    with pytest.raises(UserError, match="1_baseline.ipynb is (no notebook|missing)"):
        notebooks.parameters_of("1_baseline")


def test_a_copy_that_still_draws_another_section_is_refused(notebook):
    """It would overwrite that one's figures."""
    path = notebook("strength = 1")
    path.write_text(path.read_text().replace("1_baseline", "2-2_strength"))
    with pytest.raises(UserError, match='no cell asks for its section: write tl.section.\'?"1_baseline", ...'):
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


def test_all_of_them_run_through_papermill(chapter):
    assert chapter.process.returncode == 0, chapter.process.stderr
    lines = chapter.process.stdout.splitlines()
    assert sum(line.startswith("ok ") for line in lines) == len(PATHS) == len(lines) - 1
    for path in PATHS:
        executed = nbformat.read(chapter.figures / path.name, 4)
        assert executed.metadata.papermill.parameters["scale"] == "smoke"
        shown = [output for cell in executed.cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in shown), f"{path.stem} shows its figure"
        assert not [output for output in shown if output.get("name") == "stderr"]


def test_notebooks_are_executed_beside_the_training_when_their_runs_are_there(chapter):
    """Of a chapter that was made from nothing."""
    runs = Path(chapter.environment["THESIS_RUNS"])
    done = {path.parent.name: path.stat().st_mtime for path in runs.glob("*/done.json")}
    begun = {name: papermill(chapter.figures, name, "start_time") for name in sections.SECTIONS}
    for section, at in begun.items():
        assert at > max(done[store.run_id(row.run)] for row in sections.rows(section, "smoke")), section
    assert begun["1_baseline"] < papermill(chapter.figures, "1_baseline", "end_time") < max(done.values())
    assert begun["6_gradients_and_valleys"] < max(done.values()), "the one that takes longest is not left for the end"


def test_every_figure_stands_under_its_cell(chapter):
    for path in sorted(chapter.figures.glob("[1-9]*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            if "tl.save(figure" in "".join(cell["source"]):
                assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), (path, cell["source"])


def test_a_scales_runs_are_those_of_its_figures(chapter):
    """What `plan`, `launch` and `pack` count is what the notebooks ask for."""
    drawn = {run for path in chapter.figures.glob("*.json") for group in provenance(path).values() for run in group}
    known = {store.run_id(row.run) for name in sections.SECTIONS for row in sections.rows(name, "smoke")}
    assert drawn == known


def provenance(path):
    return json.loads(path.read_text())["runs"]


def test_a_second_time_nothing_is_trained_and_figures_of_other_calls_are_not_counted(chapter, tmp_path):
    folder = tmp_path / "smoke"
    folder.mkdir()
    (folder / "of-yesterday.pgf").write_text("nothing")
    own = chapter.environment | {"THESIS_FIGURES": str(tmp_path)}
    again = thesislib("figures", "--scale", "smoke", "--section", "1_baseline", **own)
    assert again.returncode == 0
    assert "training" not in again.stderr
    assert "1 of 1 notebooks, 2 figures in" in again.stdout
    shown = re.findall(r"\\input\{(.*?)\}", (folder / "figures.tex").read_text())
    assert shown == ["1_baseline.pgf", "1_baseline_losses.pgf"]


def test_a_parameter_changes_the_runs(chapter, tmp_path):
    """Of a section, and of the notebook for a question of one's own."""
    arguments = ("figures", "--scale", "smoke", "--section", "2-1_width", "0_own_question", "-p", "widths=[0.5]")
    settings = 'settings={"far": {"strength": 10, "width": 0.5}} smoothing=2 name=mine seeds=[0]'
    changed = thesislib(*arguments, "-p", settings, **chapter.environment | {"THESIS_FIGURES": str(tmp_path)})
    assert changed.returncode == 0, changed.stderr
    assert "w = 0.5" in provenance(tmp_path / "smoke" / "2-1_width.json")
    assert list(provenance(tmp_path / "smoke" / "mine.json")) == ["far"]


HOSTILE = """
c = get_config()
c.InteractiveShell.pdb = True
c.InteractiveShellApp.exec_lines = ["raise RuntimeError('a profile')"]
"""
#: A style that nobody would want in a thesis, every line of it from a user's own file.
MATPLOTLIBRC = """
figure.facecolor: black
axes.facecolor: "#111111"
savefig.facecolor: black
savefig.bbox: tight
axes.edgecolor: white
axes.labelcolor: white
text.color: white
xtick.color: white
ytick.color: white
xtick.minor.visible: True
ytick.minor.visible: True
xtick.direction: in
axes.grid: True
axes.linewidth: 3
axes.formatter.useoffset: False
axes.formatter.limits: -1, 1
axes.prop_cycle: cycler("color", ["w"])
axes.unicode_minus: False
lines.marker: o
lines.linewidth: 7
lines.dashed_pattern: 1, 9
errorbar.capsize: 20
legend.fancybox: False
legend.numpoints: 3
image.cmap: gray
font.family: monospace
font.weight: bold
text.usetex: True
"""
THEME = """
import matplotlib.pyplot as plt, seaborn as sns, sys
print("a startup file", file=sys.stderr)
sns.set_theme("poster", "darkgrid", "husl")
plt.rcParams.update({"text.usetex": True, "lines.marker": "s"})
"""


@pytest.fixture(scope="module")
def hostile(chapter, tmp_path_factory):
    """The figures of five sections, made where nothing is as it should be: the process, its folder of figures.

    A foreign kernel named python3, a profile with a debugger and a theme, a matplotlibrc, braces and blanks in paths, a
    long TMPDIR, variables of another program's group, runs by a relative path. 1_baseline's runs cannot all be trained,
    the metrics of one of 3-2_epochs are broken.
    """
    folder = tmp_path_factory.mktemp("hostile")
    foreign, profile = folder / "kernels" / "python3", folder / "ipython" / "profile_default"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}')
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "00.py").write_text(THEME)
    (profile / "ipython_kernel_config.py").write_text(HOSTILE)
    (folder / "matplotlibrc").write_text(MATPLOTLIBRC)
    (folder / "startup.py").write_text("raise RuntimeError('PYTHONSTARTUP')")
    runs, figures, temporary = folder / "runs", folder / "a {scale} {b} Ä", folder / (100 * "t")
    temporary.mkdir()
    shutil.copytree(chapter.environment["THESIS_RUNS"], runs)
    tanh = provenance(chapter.figures / "1_baseline.json")["term, tanh"][0]
    shutil.rmtree(runs / tanh)
    (runs / tanh).write_text("in the way")
    metrics = runs / provenance(chapter.figures / "3-2_epochs.json")["cosine, term"][0] / "metrics.csv"
    metrics.write_bytes(metrics.read_bytes()[:-9])
    environment = {
        "JUPYTER_PATH": str(folder), "IPYTHONDIR": str(folder / "ipython"), "TMPDIR": str(temporary),
        "PYTHONSTARTUP": str(folder / "startup.py"), "MATPLOTLIBRC": str(folder / "matplotlibrc"),
        "THESIS_RUNS": os.path.relpath(runs), "THESIS_FIGURES": str(figures), "RANK": "1", "WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9",
    }  # fmt: skip
    chosen = ("1_baseline", "2-2_strength", "2-3_interaction", "3-2_epochs", "8_cost")
    process = thesislib("figures", "--scale", "smoke", "--section", *chosen, **environment)
    left = {path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor")}
    assert not left, "only torch leaves its cache"
    return process, figures / "smoke"


def test_a_hostile_environment_changes_nothing(hostile):
    process, figures = hostile
    assert re.search(r"ok +8_cost", process.stdout), process.stdout + process.stderr
    executed = nbformat.read(figures / "8_cost.ipynb", 4)
    assert executed.metadata.papermill.output_path == str(figures / "8_cost.ipynb")
    shown = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.get("name") == "stderr"]


def test_the_users_style_changes_nothing(hostile, chapter):
    """Byte for byte: lines, error bars, shades."""
    _, figures = hostile
    drawn = sorted(path for path in figures.glob("2-*") if path.suffix in (".pgf", ".png"))
    assert len(drawn) == 8
    for path in drawn:
        assert path.read_bytes() == (chapter.figures / path.name).read_bytes(), path.name


def test_failures_are_named_and_the_others_finish(hostile):
    """A file that was cut, which fails in a notebook, and a run that cannot be trained, which fails before."""
    process, _ = hostile
    assert process.returncode == 1
    assert re.search(r"FAILED 3-2_epochs +cell \d+: Broken: .*metrics\.csv is broken", process.stdout)
    assert "FAILED training: 1 run failed: cannot write runs to" in process.stdout
    assert re.search(r"FAILED 1_baseline +1 runs are missing", process.stdout)
    for section in ("2-2_strength", "2-3_interaction", "8_cost"):
        assert re.search(rf"ok +{section}", process.stdout)


def test_ipythons_own_commands_are_no_mistake(tmp_path):
    """What a notebook says is read past them; one that is half merged is one line, before anything is trained."""
    cells = [("markdown", "# 1 Title\n\nQuestion"), ("code", "%load_ext autoreload\n!ls\ntl.save(figure, 'one', runs)")]
    cells += [("code", "<<<<<<< HEAD")]
    content = {"cells": [{"cell_type": kind, "source": text, "metadata": {}} for kind, text in cells]}
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps(content))
    section = prose.read(path)
    assert (section.title, section.question, section.parts) == ("1 Title", "Question", [("figure", "one")])
    path.write_text("<<<<<<< HEAD\n{}")
    with pytest.raises(UserError, match="mine.ipynb is no notebook .* half merged"):
        prose.read(path)
