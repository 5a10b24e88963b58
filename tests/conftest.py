"""Shared fixtures: every test has run, data and figure folders of its own; the chapter is made once for all."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from thesislib.config import Run
from thesislib.minima import Minima
from thesislib.runs import launch, store
from thesislib.runs.finished import Result, load
from thesislib.runs.results import Labelled, Results, Row, rows_of
from thesislib.system import files
from thesislib.trainer import Trainer

torch.set_num_threads(1)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile the package, each for itself
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background, by a shell that has it ignored: what the tests start would not hear Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: Seconds after which something hangs, on the slowest machine: tests do not measure how fast it is.
PATIENCE = 900

#: Files of tests that take minutes. The first makes the chapter; those that only read it come when it is there.
LONGEST = (
    "test_notebooks", "test_slurm", "test_launch", "test_explore_browser", "test_local_launch", "test_figures",
    "test_figures_disturbed", "test_scales", "test_parallel", "test_explore", "test_pgf", "test_report_browser",
    "test_docs",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The longest first, so that the processes of `make test` end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


#: A run of a second: 512 digits, a network of 12,730 parameters, 4 steps an epoch.
TINY = Run(train_size=512, test_size=250, model="mlp-tiny", lr=0.1, epochs=6, minima_every=2, minima="multiple")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    for name in ("runs", "data", "figures"):
        monkeypatch.setenv(f"THESIS_{name.upper()}", str(tmp_path / name))
    for name in ("WIDTH", "LANGUAGE"):
        monkeypatch.setenv(f"THESIS_{name}", "")
    # A module of one's own that is loaded is found by what is started afterwards: not by the next test.
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(sys, "path", list(sys.path))
    # Every process of a pool imports torch, and tests run beside each other: who needs two asks for two.
    monkeypatch.setenv("THESIS_JOBS", "1")
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # no network: nothing listens there
    yield tmp_path
    for name in ("mynet", "mykernels"):
        sys.modules.pop(name, None)
    if drawn := sys.modules.get("matplotlib.pyplot"):
        drawn.close("all")


@pytest.fixture
def tiny() -> Run:
    return TINY


def term_of(minima: Minima, theta: torch.Tensor, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Value, [], and gradient, [P], of the distance term at `theta`, [P]; with no hills both are 0."""
    (value, factors), gradient = minima.factors(theta, strength), torch.zeros_like(theta)
    minima.add_gradient(theta, factors, [gradient])
    return value, gradient


def write_photographs(folder: Path) -> None:
    """Coloured noise in CIFAR-10's form: what is trained does not matter where it is used."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 64, dtype=np.uint8)
    np.savez(folder / "cifar10.npz", x_train=x, y_train=y, x_test=x, y_test=y)


@pytest.fixture
def photographs(folders):
    (folders / "data").mkdir()
    write_photographs(folders / "data")


def trained(groups: Labelled | list[Row], scale: str = "smoke") -> Results:
    """`launch.results` in this process: starting a pool takes longer than training tiny runs."""
    rows = rows_of(groups)
    for row in rows:
        launch.execute(row.run)
    return Results(rows, scale)


@pytest.fixture(scope="session")
def _finished_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THESIS_RUNS", str(folder))
        launch.execute(TINY)
    return folder


@pytest.fixture
def finished(_finished_once, folders) -> Result:
    """The tiny run, finished: trained once for all tests, a copy for each of them."""
    shutil.copytree(_finished_once, folders / "runs")
    return load(TINY)


def interrupted(run: Run, after: int, checkpoints: int | None = None) -> Path:
    """The folder of a run that was stopped after so many epochs, with checkpoints up to there (or fewer)."""
    epoch, checkpoint = Trainer.epoch, store.Writer.checkpoint

    def stop(self):
        if self.finished_epochs == after:
            raise KeyboardInterrupt
        return epoch(self)

    def keep(self, epoch, state):
        if epoch <= (checkpoints or after):
            checkpoint(self, epoch, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "CHECKPOINT_SECONDS", -1)
        patch.setattr(Trainer, "epoch", stop)
        patch.setattr(store.Writer, "checkpoint", keep)
        with pytest.raises(KeyboardInterrupt):
            launch.execute(run)
    return store.runs_folder() / store.run_id(run)


def edit(folder: Path, **changes) -> None:
    """Give a finished run another summary, and the digests of its tables as they lie there now."""
    done = json.loads((folder / "done.json").read_text()) | changes
    del done["digest"]
    done["digests"] |= {path.name: files.digest(path.read_bytes()) for path in folder.glob("*.csv")}
    files.write_json(folder / "done.json", done)


def thesislib(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "thesislib", *arguments],
        capture_output=True, text=True, env=os.environ | environment, timeout=PATIENCE,
    )  # fmt: skip


def on_mounts(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A shell script that may mount file systems, which only it and what it starts can see."""
    apart = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-e", "-c")
    try:
        subprocess.run([*apart, "mount -t tmpfs none /mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody mount file systems for himself")
    command = [*apart, script, "sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=PATIENCE)


class Chapter:
    """The whole chapter at smoke scale, made by the command line."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"THESIS_RUNS": str(folder / "runs"), "THESIS_FIGURES": str(folder / "figures")}
        self.environment |= {"THESIS_JOBS": "2"}
        self.figures = folder / "figures" / "smoke"
        made = folder / "process.pickle"
        with files.lock(folder / "lock"):
            if not made.is_file():
                made.write_bytes(pickle.dumps(thesislib("figures", "--scale", "smoke", **self.environment)))
        self.process = pickle.loads(made.read_bytes())


@pytest.fixture(scope="session")
def chapter(tmp_path_factory) -> Chapter:
    """Made by the process that asks first; the others wait for it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # then each process has a folder in the one of all
        folder = folder.parent
    (folder / "chapter").mkdir(exist_ok=True)
    return Chapter(folder / "chapter")
