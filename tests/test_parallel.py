"""One run on two processes (torchrun, gloo) against the same run on one."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PATIENCE, interrupted, write_photographs

from thesislib.config import Run
from thesislib.runs import launch, store
from thesislib.runs.identity import digest
from thesislib.system import parallel
from thesislib.system.errors import UserError
from thesislib.system.files import read_arrays
from thesislib.trainer import Trainer

#: 20 steps, a minimum after the 8th, 16th; 4 steps an epoch.
MLP = Run(
    train_size=512, test_size=251, model="mlp-tiny", lr=0.1, epochs=5, minima_every=2, minima="multiple", strength=5,
    dense_steps=20,
)  # fmt: skip
#: Every control of the term: hills elsewhere, a push in a random direction.
CONTROLS = [
    MLP.replace(hill_at="mean", cycle=2, member_epochs=1),
    MLP.replace(hill_at="random"),
    MLP.replace(hill_at="origin"),
    MLP.replace(push="random"),
    MLP.replace(strength_schedule="first-half", cycle=2),
]
#: A small learning rate: rounding differs, and with a large one such a network on few images soon blows it up.
CONV = Run(
    data="cifar10", model="resnet20", train_size=32, test_size=7, batch_size=16, augment=True, lr=1e-4, epochs=3,
    minima_every=1, minima="multiple",
)  # fmt: skip

#: What each of the processes does that torchrun starts: trains the runs, prints nothing, stores what it has; then
#: one BatchNorm of each kind alone.
SCRIPT = """
import sys
import numpy as np
import torch
from torch import nn
from thesislib.system import parallel
from thesislib.config import Run
from thesislib.runs.identity import digest
from thesislib.trainer import Trainer
torch.set_num_threads(1)
with parallel.together("cpu"):
    for run in map(Run.model_validate_json, sys.argv[1:]):
        trainer = Trainer(run)
        rows = [trainer.epoch() for _ in range(run.epochs)]
        names = ("train_loss", "grad_norm", "accuracy", "d_init", "d_0")
        rows = np.array([[row.get(name, -1.0) for name in names] for row in rows])
        dense = np.array([row["loss"] for row in trainer.dense])
        np.savez(f"{digest(run, '')}-{parallel.rank()}.npz", **trainer.snapshot(), rows=rows, dense=dense,
                 minima=torch.stack(trainer.minima.visited).numpy())
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        torch.manual_seed(0)
        x, y = torch.randn(2, 8, 3, *[4] * int(kind.__name__[-2]), dtype=torch.float64)
        layer = kind(3, dtype=torch.float64)
        parallel.share_batch_statistics(layer)
        own = parallel.share(8)
        part = x[own].clone().requires_grad_()
        out = layer(part)
        (out * y[own]).mean().backward()
        gradients = [layer.weight.grad, layer.bias.grad]
        parallel.average(gradients)
        np.savez(f"{kind.__name__}-{parallel.rank()}.npz", out=out.detach(), x=part.grad / parallel.size(),
                 weight=gradients[0], bias=gradients[1], mean=layer.running_mean, var=layer.running_var)
"""

#: Trains a run and keeps its folder as it was after three epochs.
KEEPING = """
import shutil
import sys
from thesislib.config import Run
from thesislib.runs import launch, store
from thesislib.system import parallel
from thesislib.trainer import Trainer
run, epoch = Run.model_validate_json(sys.argv[1]), Trainer.epoch
folder = store.runs_folder() / store.run_id(run)
def keep(trainer):
    if trainer.finished_epochs == 3 and parallel.rank() == 0:
        shutil.copytree(folder, folder.parent / "after-3")
    return epoch(trainer)
launch.CHECKPOINT_SECONDS, Trainer.epoch = -1, keep
launch.execute(run)
"""


def torchrun(processes, *arguments, cwd=None):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        *arguments,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=cwd)


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """What both of two processes have at the end, by name: a run's, or a kind of BatchNorm."""
    folder = tmp_path_factory.mktemp("two")
    write_photographs(folder)
    (folder / "script.py").write_text(SCRIPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THESIS_DATA", str(folder))
        done = torchrun(2, "script.py", *(run.model_dump_json() for run in (MLP, *CONTROLS, CONV)), cwd=folder)
    assert done.returncode == 0, done.stderr
    return lambda name: [dict(np.load(folder / f"{name}-{rank}.npz")) for rank in range(2)]


@pytest.mark.parametrize(
    "run", [MLP, *CONTROLS, CONV], ids=["mlp", "mean", "random", "origin", "push", "first-half", "resnet20"]
)
def test_two_processes_are_one(run, on_two, photographs):
    one = Trainer(run)
    rows = [one.epoch() for _ in range(run.epochs)]
    first, second = on_two(digest(run, ""))
    assert all(np.array_equal(first[name], second[name]) for name in first), "both processes have the same"
    alone = one.snapshot()
    assert first["logits"].shape == alone["logits"].shape
    for name, array in alone.items():
        tolerance = {"theta": 1e-5}.get(name, 1e-3)
        assert np.abs(first[name] - array).max() < tolerance, name
    assert np.allclose(first["minima"], torch.stack(one.minima.visited).numpy(), atol=1e-5)
    assert first["rows"][:, 0] == pytest.approx([row["train_loss"] for row in rows], rel=1e-4)
    assert first["dense"] == pytest.approx([row["loss"] for row in one.dense], rel=1e-3)
    assert first["rows"][:, 1] == pytest.approx([row["grad_norm"] for row in rows], rel=1e-3)
    assert first["rows"][:, 3] == pytest.approx([row["d_init"] for row in rows], rel=1e-3)
    assert first["rows"][:, 4] == pytest.approx([row.get("d_0", -1.0) for row in rows], rel=1e-3)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_batchnorm_sees_the_whole_batch(dimensions, on_two):
    kind = getattr(torch.nn, f"BatchNorm{dimensions}d")
    parts = on_two(kind.__name__)
    torch.manual_seed(0)
    x, y = torch.randn(2, 8, 3, *[4] * dimensions, dtype=torch.float64)
    x.requires_grad_()
    layer = kind(3, dtype=torch.float64)
    out = layer(x)
    (out * y).mean().backward()
    assert np.allclose(np.concatenate([p["out"] for p in parts]), out.detach(), rtol=1e-12, atol=1e-12)
    assert np.allclose(np.concatenate([p["x"] for p in parts]), x.grad, rtol=1e-12, atol=1e-12)
    expected = {
        "weight": layer.weight.grad, "bias": layer.bias.grad, "mean": layer.running_mean, "var": layer.running_var
    }  # fmt: skip
    for name, value in expected.items():
        assert all(np.allclose(p[name], value, rtol=1e-12, atol=1e-12) for p in parts), name


def flags(run):
    fields = run.model_dump(exclude_defaults=True).items()
    return [part for name, value in fields for part in (f"--{name.replace('_', '-')}", str(value))]


def test_another_number_of_processes_is_refused(folders):
    """Two processes begin; one process is refused, two go on and end where the undisturbed run of two ends.

    Of these two only the first one writes and prints.
    """
    folder = store.runs_folder() / store.run_id(MLP)
    script = folders / "whole.py"
    script.write_text(KEEPING)
    whole = torchrun(2, str(script), MLP.model_dump_json())
    assert whole.returncode == 0, whole.stderr
    assert len(launch.load(MLP).history) == MLP.epochs
    assert len(list(folder.glob("events.*"))) == 1
    expected = read_arrays(folder / "final.safetensors")["theta"]
    shutil.rmtree(folder)
    (folder.parent / "after-3").rename(folder)
    with pytest.raises(UserError, match=r"begun on 2 x cpu"):
        launch.execute(MLP)
    resumed = torchrun(2, "-m", "thesislib", "run", *flags(MLP))
    assert resumed.returncode == 0, resumed.stderr
    assert len(resumed.stdout.splitlines()) == 1
    assert np.array_equal(read_arrays(folder / "final.safetensors")["theta"], expected)


def test_two_processes_do_not_go_on_from_one():
    checkpoint = interrupted(MLP, after=1) / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    done = torchrun(2, "-m", "thesislib", "run", *flags(MLP))
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("thesislib: ")]
    assert len(lines) == 1
    assert "was begun on 1 x cpu" in lines[0]
    assert "cannot go on with 2 x cpu" in lines[0]
    assert checkpoint.read_bytes() == before


def test_processes_meet_again_and_again(tmp_path):
    """As in a script that trains several runs: each time at new addresses, not at those of the time before."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\nfrom thesislib.system import parallel\n"
        "for k in range(20):\n"
        "    with parallel.together('cpu'):\n"
        "        mean = torch.tensor([float(parallel.rank() + k)])\n"
        "        parallel.average([mean])\n"
        "        assert mean.item() == k + 0.5\n"
    )
    done = torchrun(2, str(script))
    assert done.returncode == 0, done.stderr


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 2)
    with pytest.raises(UserError, match="^batch_size: 127 cannot be shared out among 2 processes"):
        Trainer(MLP.replace(batch_size=127)).epoch()


def test_a_batchnorm_without_running_statistics_is_refused(monkeypatch):
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3, track_running_stats=False))
    parallel.share_batch_statistics(model)  # alone it is torch's own affair
    monkeypatch.setattr(parallel, "size", lambda: 2)
    with pytest.raises(UserError, match="track_running_stats=False is for one process"):
        parallel.share_batch_statistics(model)
