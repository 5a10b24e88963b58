"""The house rules: who may import whom, what reading costs, one list of packages."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import thesislib

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "thesislib").glob("*.py"))


def imported(path):
    """thesislib's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "thesislib":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thesislib."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("thesislib."))
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_imports_go_one_way(path):
    if path.stem == "__init__":
        assert not list(imported(path))
        return
    before = thesislib.ROOMS[: thesislib.ROOMS.index(path.stem)]
    assert set(imported(path)) <= set(before), f"{path.stem} may import only {before}"


def test_every_room_is_on_the_list():
    assert {path.stem for path in FILES} == {"__init__", *thesislib.ROOMS}


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            "config, datasets, schedules, metrics, store, results, scales, sections",
            "torch, torchvision, matplotlib, seaborn, papermill",
        ),
        (
            "launch, ensembles, claims, curves, figures, export, chapter",
            "torch, torchvision, tensorboard, papermill",
        ),
        ("train", "pandas, torchvision, matplotlib, papermill"),
    ],
)
def test_nobody_waits_for_what_he_does_not_need(modules, forbidden):
    code = (
        f"import sys\nfrom thesislib import {modules}\nprint(sorted(set({forbidden.split(', ')}) & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_only_what_draws_knows_matplotlib():
    users = {path.stem for path in FILES if re.search(r"^(import|from) (matplotlib|seaborn)", path.read_text(), re.M)}
    assert users == {"style", "curves", "figures", "pgf", "export"}


def test_nothing_is_unpickled():
    for path in FILES:
        assert not re.search(r"\bpickle\b|torch\.load\(|allow_pickle=True", path.read_text()), path


def locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(re.fullmatch(r"([\w.-]+)==(\S+)", line).groups() for line in lines if line and line[0] != "#")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_pyproject_lock_and_environment_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {normal(name): version for name, version in locked().items()}
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(versions[normal(requirement.name)]), line
    # One list: conda and make both install pyproject's, held to the lock.
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies[-1] == {"pip": ["--constraint requirements.lock", "--editable .[dev]"]}
    assert "--constraint requirements.lock --editable '.[dev]'" in (ROOT / "Makefile").read_text()


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {normal(Requirement(line).name) for line in project["dependencies"]}
    declared |= {"pydantic-core", "traitlets"}  # parts of pydantic and of nbclient
    used = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used |= {normal(name.split(".")[0]) for name in names}
    assert used - {normal(name) for name in sys.stdlib_module_names} - {"thesislib"} <= declared
