"""The house rules: who may import whom, what reading costs, one list of packages."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "thesislib"
FILES = sorted(PACKAGE.rglob("*.py"))

#: Imports go one way, from later to earlier ones; "" is the core, the modules beside the packages.
PACKAGES = ("system", "", "runs", "experiments", "analysis", "plots", "app")
#: Inside the core too.
CORE = ("config", "datasets", "schedules", "batches", "flat", "models", "kernels", "minima", "trainer")


def name_of(path):
    """(package, module) of a file."""
    *packages, file = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(packages), file


def imported(path):
    """thesislib's modules that a file imports, anywhere in it, as (package, module)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            base = (node.module or "").split(".")
            for alias in node.names if base[0] == "thesislib" else ():
                whole = [*base[1:], alias.name]
                found = next(whole[:n] for n in (len(whole), len(whole) - 1) if is_module(whole[:n]))
                yield ".".join(found[:-1]), found[-1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                base, *rest = alias.name.split(".")
                if base == "thesislib" and rest:
                    yield ".".join(rest[:-1]), rest[-1]


def is_module(parts):
    return bool(parts) and PACKAGE.joinpath(*parts).with_suffix(".py").is_file()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    package, module = name_of(path)
    for other, name in imported(path):
        if module == "__main__":
            continue
        assert PACKAGES.index(other) <= PACKAGES.index(package), f"{package}/{module} imports {other}/{name}"
        if package == other == "":
            assert CORE.index(name) < CORE.index(module), f"{module} imports {name}, which comes after it"


def test_no_module_imports_itself_by_way_of_others():
    graph = {name_of(path): set(imported(path)) for path in FILES}
    for start in graph:
        seen, rest = set(), list(graph[start])
        while rest:
            if (module := rest.pop()) not in seen:
                seen.add(module)
                rest += graph.get(module, ())
        assert start not in seen, f"{'/'.join(start)} imports itself"


def test_the_core_is_what_the_list_says_and_thin():
    """What a student reads in an afternoon."""
    core = {path.stem: len(path.read_text().splitlines()) for path in PACKAGE.glob("*.py")}
    assert core.keys() == {"__init__", "__main__", *CORE}
    assert sum(core[name] for name in CORE) <= 1150


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            "thesislib.config, thesislib.datasets, thesislib.schedules, thesislib.analysis.scores, "
            "thesislib.runs.store, thesislib.runs.results, thesislib.experiments.sections",
            "torch, torchvision, matplotlib, seaborn, papermill",
        ),
        (
            "thesislib.runs.launch, thesislib.analysis.ensembles, thesislib.analysis.claims, thesislib.plots.curves, "
            "thesislib.plots.panels, thesislib.plots.save, thesislib.app.notebooks, thesislib.app.report, "
            "thesislib.app.explore",
            "torch, torchvision, tensorboard, papermill",
        ),
        ("thesislib.trainer", "pandas, torchvision, matplotlib, papermill"),
    ],
)
def test_nobody_waits_for_what_he_does_not_need(modules, forbidden):
    code = f"import sys\nimport {modules}\nprint(sorted(set({forbidden.split(', ')}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_only_what_draws_knows_matplotlib():
    uses = re.compile(r"^(import|from) (matplotlib|seaborn)", re.M)
    users = {name_of(path)[0] for path in FILES if uses.search(path.read_text())}
    assert users == {"plots"}


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
    lines = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    for requirement in map(Requirement, lines):
        if requirement.name == project["name"]:  # an extra of its own
            continue
        assert requirement.specifier.contains(versions[normal(requirement.name)]), requirement
    # One list: conda and make both install pyproject's, held to the lock.
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies[-1] == {"pip": ["--constraint requirements.lock", "--editable .[dev]"]}
    assert "--constraint requirements.lock --editable '.[dev]'" in (ROOT / "Makefile").read_text()


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["interactive"]]
    declared = {normal(Requirement(line).name) for line in lines}
    declared |= {"pydantic-core", "traitlets", "jupyter-client", "pil"}  # parts of pydantic and of nbclient; Pillow
    used = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used |= {normal(name.split(".")[0]) for name in names}
    assert used - {normal(name) for name in sys.stdlib_module_names} - {"thesislib"} <= declared
