"""Networks, kernels and data of one's own, without editing the package."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, interrupted, thesislib

from thesislib import datasets, models
from thesislib.analysis import ensembles
from thesislib.analysis.evaluator import Evaluator
from thesislib.batches import Images, splits
from thesislib.config import Run
from thesislib.experiments import own as experiments_own
from thesislib.runs import archive, cache, launch, listing, progress, store
from thesislib.runs.finished import load_id, read_config
from thesislib.runs.growth import growth
from thesislib.runs.results import Results
from thesislib.system import own
from thesislib.system.errors import UserError
from thesislib.trainer import Trainer

NETWORK = """
import random

import numpy as np
import torch
from torch import nn

def small_cnn(shape, classes, width=4):
    channels, height, side = shape
    layers = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * width, classes))

def nothing(shape, classes):
    return 3

def too_wide(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes + 1))

def stumbles(shape, classes):
    return nn.Linear(shape[5], classes)

letter = "x"

def alone(shape):
    return nn.Flatten()

class Tired(nn.Linear):
    def __init__(self, shape, classes):
        super().__init__(784, classes)
    def forward(self, images):
        if self.training: raise ValueError("no more")
        return super().forward(images.flatten(1))

def forgets(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, classes))

def half_frozen(shape, classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, classes))
    model[1].requires_grad_(False)
    return model

def quarter_frozen(shape, classes):
    model = half_frozen(shape, classes)
    nn.init.constant_(model[1].weight, 0.1)
    nn.init.zeros_(model[1].bias)
    return model

class Projected(nn.Linear):
    def __init__(self, shape, classes):
        super().__init__(8, classes)
        self.register_buffer("directions", torch.randn(784, 8))
    def forward(self, images):
        return super().forward(images.flatten(1) @ self.directions)

class Centred(nn.Module):
    # subtracts what it remembers of all images that it has seen in training
    def __init__(self, shape, classes):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(784), nn.Linear(784, classes)
        self.register_buffer("seen", torch.zeros(784))
    def forward(self, images):
        images = images.flatten(1)
        if self.training:
            self.seen.lerp_(images.detach().mean(0), 0.1)
        return self.head(self.norm(images) - self.seen)

def lazy(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def double(shape, classes):
    return too_wide(shape, classes - 1).double()

def half(shape, classes):
    return too_wide(shape, classes - 1).bfloat16()

def weight_normed(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(784, classes)))

class Noisy(nn.Linear):
    # noise, and initial weights, of numpy
    def __init__(self, shape, classes):
        super().__init__(784, classes)
        self.weight.data += torch.from_numpy(np.random.randn(classes, 784)).float() / 99
    def forward(self, images):
        images = images.flatten(1)
        noise = np.random.randn(*images.shape) * random.random() if self.training else np.zeros(images.shape)
        return super().forward(images + torch.from_numpy(noise).float())

class Clamped(nn.Linear):
    # puts other tensors in place of its weights while it trains
    def __init__(self, shape, classes):
        super().__init__(784, classes)
    def forward(self, images):
        if self.training:
            self.weight.data = self.weight.data.clamp(-0.1, 0.1)
        return super().forward(images.flatten(1))

class Plain(nn.Linear):
    def __init__(self, shape, classes):
        super().__init__(784, classes)
    def forward(self, images):
        return super().forward(images.flatten(1))

class Auxiliary(Plain):
    def forward(self, images):
        return (super().forward(images), images) if self.training else super().forward(images)

class Counted(Plain):
    def forward(self, images):
        return super().forward(images).long()

class Growing(Plain):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.register_buffer("seen", torch.zeros(0))
    def forward(self, images):
        if self.training:
            self.seen = torch.cat([self.seen, images.mean()[None]])
        return super().forward(images)

class Rounded(Plain):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.register_buffer("scale", torch.ones(1, dtype=torch.bfloat16))

class Captured(Plain):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.compute = lambda images: Plain.forward(self, images)
    def forward(self, images):
        return self.compute(images)

class Shifted(Plain):
    # changes its input
    def forward(self, images):
        images -= 0.5
        return super().forward(images)

class Copied(Plain):
    def forward(self, images):
        return super().forward(images - 0.5)

class Few(Plain):
    def forward(self, images):
        assert len(images) <= 128, "too many"
        return super().forward(images)
"""
KERNEL = """
import torch

def laplace(d, w):
    return torch.exp(-torch.sqrt(w * d + 1e-6))
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """mynet.py and mykernels.py in the working folder."""
    (tmp_path / "mynet.py").write_text(NETWORK)
    (tmp_path / "mykernels.py").write_text(KERNEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWN = TINY.replace(model="mynet:small_cnn", kernel="mykernels:laplace", epochs=3, minima_every=1)


@pytest.mark.parametrize("model", ["mynet:forgets", "mynet:Noisy"])
def test_dropout_depends_on_nothing_but_the_run(model, modules, folders):
    """Not on what the process drew or trained before, nor on where the run was interrupted; and not always the same."""
    run = TINY.replace(model=model, epochs=4, minima_every=2, statistics_images=512)
    alone = launch.execute(run).history.drop(columns=["seconds", "train_seconds"])
    store.delete(store.runs_folder() / store.run_id(run))
    torch.rand(7), np.random.rand(7)
    before, numpys = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    launch.execute(run.replace(seed=1))
    interrupted(run, after=3)
    again = launch.execute(run).history.drop(columns=["seconds", "train_seconds"])
    pd.testing.assert_frame_equal(again, alone, check_exact=True)
    assert torch.random.get_rng_state().equal(before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)
    trainers = [Trainer(run), Trainer(run)]
    trainers[1].finished_epochs = 1  # the same weights, batches and rate, but the masks of another epoch
    first, second = (trainer.epoch()["train_loss"] for trainer in trainers)
    assert first != second


def test_weights_that_leave_the_vector_while_it_trains_are_noticed(modules):
    """Minima, distances and hills would be of weights that nobody trains."""
    with pytest.raises(UserError, match="given other tensors"):
        Trainer(TINY.replace(model="mynet:Clamped")).epoch()


def test_frozen_weights_must_not_be_drawn(modules):
    """They are stored nowhere: who builds the network anew would have another seed's."""
    with pytest.raises(UserError, match=r"1\.weight is frozen, but drawn at random"):
        models.build("mynet:half_frozen", 0, (1, 28, 28), 10)
    run = TINY.replace(model="mynet:quarter_frozen")
    parent = launch.execute(run)
    child = Trainer(run.replace(seed=1, start=f"{parent.id}:final"), start=parent.arrays("final"))
    assert child.evaluate()[1] == pytest.approx(parent.summary["accuracy"])
    found = Evaluator(run.replace(seed=1)).at(parent.arrays("final", "theta")["theta"])
    assert found.test_accuracy == pytest.approx(parent.summary["accuracy"])


def test_weights_alone_say_nothing_where_buffers_are_drawn(modules):
    run = TINY.replace(model="mynet:Projected", epochs=1)
    assert launch.execute(run).summary["epochs"] == 1
    with pytest.raises(UserError, match="its buffer directions is drawn at random"):
        Evaluator(run)


def test_what_a_network_remembers_is_evaluated_stored_and_resumed(modules):
    """Beside BatchNorm's statistics, which are collected anew before each evaluation."""
    run = TINY.replace(model="mynet:Centred", epochs=3, statistics_images=256)
    whole = Trainer(run)
    whole.epoch()
    state, minima = {k: v.copy() for k, v in whole.state().items()}, []
    assert torch.equal(whole.evaluated.seen, whole.model.seen)
    assert np.array_equal(whole.snapshot()["buffer.seen"], whole.model.seen.numpy())
    resumed = Trainer(run)
    resumed.restore(1, state, minima)
    first, second = whole.epoch(), resumed.epoch()
    assert {k: v for k, v in first.items() if "seconds" not in k} == pytest.approx(
        {k: v for k, v in second.items() if "seconds" not in k}, abs=0, nan_ok=True
    )
    with pytest.raises(UserError, match="its buffer seen changes as it trains"):
        Evaluator(run)


def test_the_bar_counts_on_when_a_network_is_edited(modules):
    """A run's folder is that of when the training began; a module that is gone meanwhile ends nobody's training."""
    interrupted(OWN, after=2)
    with progress.Bar([OWN], shown=False) as bar:
        training, counted = launch.Training(None, [OWN], bar), []
        training.running[None] = OWN
        (modules / "mynet.py").unlink()
        bar._bar.update = counted.append
        training.end([])
    assert counted == [2]


def test_own_network_and_kernel_train_and_resume_by_their_text(modules):
    result = launch.execute(OWN)
    assert result.history["d_0"].iloc[-1] > 0
    assert launch.execute(OWN).id == result.id
    (modules / "mynet.py").write_text(NETWORK.replace("width=4", "width=5"))
    assert store.run_id(OWN) != result.id, "a changed network is never taken for the old one"
    other = launch.execute(OWN)
    assert len(other.arrays("final")["theta"]) > len(result.arrays("final")["theta"])
    (modules / "mykernels.py").write_text(KERNEL.replace("1e-6", "1e-5"))
    assert store.run_id(OWN) not in (result.id, other.id)
    assert (result.folder / "model.py").read_text() == NETWORK
    assert (result.folder / "kernel.py").read_text() == KERNEL


def test_a_run_of_a_network_that_has_changed_is_still_a_run(modules):
    """Its folder says by which text it goes; what starts from it must have the same."""
    result = launch.execute(OWN)
    start = TINY.replace(model=OWN.model, start=f"{result.id}:final", epochs=1, minima_every=None)
    assert launch.execute(start).history["accuracy"].iloc[-1] > 0
    (modules / "mynet.py").write_text(NETWORK.replace("width=4", "width=5"))
    with pytest.raises(UserError, match="mynet:small_cnn has changed"):
        launch.execute(start.replace(seed=1))


@pytest.mark.parametrize("name", ["model.py", "kernel.py"])
def test_texts_are_packed_and_unpacked_as_they_were_trained(modules, folders, monkeypatch, name):
    """One that was damaged, edited or exchanged goes neither into an archive nor out of one."""
    path = launch.execute(OWN.replace(epochs=1)).folder / name
    archive.pack([OWN.replace(epochs=1)], folders / "runs.zip")
    text = path.read_text()
    for changed in (text + "# mine", None):
        path.write_text(changed) if changed else path.unlink()
        with pytest.raises(UserError, match=f"nothing packed: run {path.parent.name}: {name} is broken"):
            archive.pack([OWN.replace(epochs=1)], folders / "other.zip")
    with zipfile.ZipFile(folders / "runs.zip") as file:
        parts = {part: file.read(part) for part in file.namelist()}
    with zipfile.ZipFile(folders / "edited.zip", "w") as file:
        for part, content in parts.items():
            file.writestr(part, content.replace(b"import", b"IMPORT") if part.endswith(name) else content)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "elsewhere"))
    with pytest.raises(UserError, match=f"holds no archived runs .*{name} is broken: its digest is another"):
        archive.unpack(folders / "edited.zip")
    assert not store.runs_folder().exists()
    assert archive.unpack(folders / "runs.zip").new == 1
    assert (store.runs_folder() / path.parent.name / name).read_text() == text


def test_a_text_of_a_run_that_has_none_of_its_own_is_not_packed(folders):
    (launch.execute(TINY).folder / "model.py").write_text("mine")
    with pytest.raises(UserError, match="model.py is broken: this run has no model of one's own"):
        archive.pack([TINY], folders / "runs.zip")


TANH = """
from torch import nn

def squash():
    return nn.Tanh()

class Net(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(784, 8), squash(), nn.Linear(8, classes))
"""
NET = TINY.replace(model="mynet:Net", epochs=4, minima_every=2)


def train_while(monkeypatch, change, run=NET, when=1):
    """Train a run and do something after so many epochs."""
    epoch = Trainer.epoch

    def changed(self):
        row = epoch(self)
        if self.finished_epochs == when:
            change()
        return row

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "epoch", changed)
        return launch.execute(run)


def test_a_network_that_is_edited_while_it_trains_is_still_the_old_one(modules, folders, monkeypatch):
    """Its folder, its text and the prefix that it keeps; who trains the new one gets the new one's numbers."""
    path, relu = modules / "mynet.py", TANH.replace("Tanh", "ReLU")
    path.write_text(relu)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "alone"))
    alone = launch.execute(NET).history.drop(columns=["seconds", "train_seconds"])
    monkeypatch.setenv("THESIS_RUNS", str(folders / "runs"))
    path.write_text(TANH)
    identity = store.run_id(NET)
    old = train_while(monkeypatch, lambda: path.write_text(relu))
    assert old.id == identity
    assert (old.folder / "model.py").read_text() == TANH
    new = launch.execute(NET.replace(strength=2))
    assert new.id != identity
    new = new.history.drop(columns=["seconds", "train_seconds"])
    pd.testing.assert_frame_equal(new.head(2).drop(columns="strength"), alone.head(2).drop(columns="strength"))
    assert not new["train_loss"].head(2).equals(old.history["train_loss"].head(2))
    launch.execute(NET)
    short = NET.replace(epochs=2)
    assert launch.execute(short).history["train_loss"].equals(alone["train_loss"].head(2)), "nor is one cut from it"


def test_a_comment_while_it_trains_loses_nothing(modules, monkeypatch):
    (modules / "mynet.py").write_text(TANH)
    result = train_while(monkeypatch, lambda: (modules / "mynet.py").write_text(TANH + "# mine"))
    assert (result.summary["status"], result.summary["epochs"]) == ("finished", 4)


def test_all_of_a_list_are_trained_as_they_were_asked_for(modules, monkeypatch):
    """Those that had not begun when the network was edited say so; a Results has the ids of its beginning."""
    (modules / "mynet.py").write_text(TANH)
    runs = [NET.replace(seed=seed) for seed in range(2)]
    first, second = (store.Config.of(run) for run in runs)
    launch.execute(runs[0], first)
    (row,) = launch.results(runs[:1])
    (modules / "mynet.py").write_text(TANH.replace("Tanh", "ReLU"))
    with pytest.raises(UserError, match="^mynet:Net was changed just when a run of it was to begin: start it again$"):
        launch.execute(runs[1], second)
    assert not second.folder.exists()
    assert row.result.folder == first.folder
    with pytest.raises(UserError, match="of another text: mynet:Net has changed"):
        cache.arrays("x", [row.result], lambda: {"n": 1.0})


def test_a_text_that_is_edited_between_its_name_and_its_loading_is_refused(modules, monkeypatch):
    (modules / "mynet.py").write_text(TANH)
    load = own.load
    monkeypatch.setattr(own, "load", lambda name: (modules / "mynet.py").write_text(TANH + "#") and load(name))
    with pytest.raises(UserError, match="mynet:Net was changed just when"):
        launch.execute(NET)
    assert not list(store.runs_folder().glob("*"))


def test_an_edit_before_the_description_is_written_breaks_nothing(modules):
    (modules / "mynet.py").write_text(TANH)
    own.load(NET.model)
    with store.writing(NET) as writer:
        (modules / "mynet.py").write_text(TANH + "#")
        writer.resume()
    assert read_config(writer.folder).run == NET
    assert (writer.folder / "model.py").read_text() == TANH


def test_of_two_texts_of_one_second_and_length_the_later_one_is_loaded(modules, monkeypatch):
    """Python's own bytecode is of the earlier one. A network that was made by it keeps what it calls."""
    path = modules / "mynet.py"
    path.write_text(TANH)
    os.utime(path, (1e9, 1e9))
    monkeypatch.syspath_prepend(modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    __import__("mynet")
    made = own.load(NET.model)
    path.write_text(TANH.replace("Tanh", "ReLU"))
    os.utime(path, (1e9, 1e9))
    assert type(own.load(NET.model)((1, 28, 28), 10)[2]) is torch.nn.ReLU
    assert type(made((1, 28, 28), 10)[2]) is torch.nn.Tanh


def test_data_that_are_replaced_while_a_run_trains(folders, monkeypatch):
    """The run is of those that it was begun with; one whose data change before they are read does not begin."""
    path = folders / "data" / "bright.npz"
    dataset(path)
    run = Run(data="bright", model="mlp-tiny", epochs=2, minima_every=1)
    before = datasets.fingerprint("bright")
    result = train_while(monkeypatch, lambda: dataset(path, n=700), run)
    assert read_config(result.folder).data == before
    config = store.Config.of(run)
    dataset(path, n=800)
    with pytest.raises(UserError, match="^dataset bright was changed just when a run of it was to begin"):
        launch.execute(run, config)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nowhere:net", "no module nowhere"),
        ("mynet:net", "mynet has no function or class net"),
        ("mynet:letter", "mynet has no function or class letter"),
        ("mynet:nothing", "must return an nn.Module, not int"),
        ("mynet:too_wide", r"output \[B, 10\] expected, but for two images it is \[2, 11\]"),
        ("mynet:lazy", "1.weight is lazy: give its layer all sizes"),
        ("mynet:double", "1.weight is torch.float64: it must be float32"),
        ("mynet:half", "1.weight is torch.bfloat16: it must be float32"),
        ("mynet:weight_normed", "RuntimeError: Only Tensors created"),
        ("mynet:stumbles", r"IndexError: tuple index out of range \(mynet.py, line 20\)"),
        ("mynet:alone", r"mynet:alone: it is called with \(shape, classes\): too many positional arguments"),
        ("mynet:Tired", r"mynet:Tired: ValueError: no more \(mynet.py, line 31\)"),
        ("mynet:Auxiliary", r"output \[B, 10\] expected, but for two images it is tuple"),
        ("mynet:Counted", "logits are real numbers, not torch.int64"),
        ("mynet:Growing", "a buffer changes its shape while it trains"),
        ("mynet:Rounded", "the buffer scale is torch.bfloat16, which files do not have"),
        ("mynet:Captured", "a copy of it computes with its weights, as a lambda does that names self"),
    ],
)
def test_what_is_no_network_is_one_line(modules, model, says):
    with pytest.raises(UserError, match=says):
        launch.execute(TINY.replace(model=model))
    assert not list(store.runs_folder().glob("*/done.json"))


@pytest.mark.parametrize("fields", [{"batch_size": 1, "train_size": 8}, {"minimum_at_start": True, "test_size": 250}])
def test_what_a_network_cannot_do_is_its_own_mistake(modules, fields):
    """Also where torch's layers say so, and before the first epoch."""
    model = "mynet:forgets" if "batch_size" in fields else "mynet:Few"
    with pytest.raises(UserError, match=r"a BatchNorm cannot do with one|AssertionError: too many \(mynet.py"):
        launch.execute(TINY.replace(model=model, **fields))
    assert not list(store.runs_folder().glob("*/done.json"))


def test_checking_a_network_leaves_it_as_it_was(modules):
    """Its weights, its statistics, and what is drawn behind it."""
    found = []
    for check in (True, False):
        torch.manual_seed(0)
        make = own.load("mynet:forgets")
        model = own.network("mynet:forgets", (1, 28, 28), 10) if check else make((1, 28, 28), 10)
        found.append([*(x.clone() for x in model.state_dict().values()), torch.rand(3)])
    assert all(one.equal(other) for one, other in zip(*found, strict=True))


def test_a_module_with_an_error_is_one_line(modules):
    (modules / "mynet.py").write_text("def small_cnn(shape, classes)\n")
    with pytest.raises(UserError, match=r"SyntaxError: expected ':' \(mynet.py, line 1\)"):
        launch.execute(OWN)


def test_a_module_beside_the_package_is_found_from_a_notebook(modules, monkeypatch):
    """Notebooks work in a folder of their own. A run whose module is gone is still a row of the table."""
    beside, elsewhere = modules / "repository", modules / "notebooks"
    for folder in (beside, elsewhere):
        folder.mkdir()
    for name in ("mynet.py", "mykernels.py"):
        (modules / name).rename(beside / name)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(own, "ROOT", beside)
    identity = launch.execute(OWN.replace(epochs=1, minima_every=1)).id
    for name in ("mynet", "mykernels"):
        sys.modules.pop(name, None)
    sys.path.remove(str(beside))
    monkeypatch.setattr(own, "ROOT", elsewhere)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(beside)])
    (row,) = listing.table().to_dict("records")
    assert (row["id"], row["status"], row["network"]) == (identity, "finished", OWN.model)
    with pytest.raises(UserError, match="of a text that is not there: mynet:small_cnn: no module mynet in "):
        load_id(identity)


def test_from_the_command_line_and_in_a_pool(modules):
    """Other processes, started in another folder, find the module too."""
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in OWN.model_dump(exclude_defaults=True).items()]
    done = thesislib("run", *flags, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == store.run_id(OWN)
    launch.train_missing([OWN.replace(seed=1)], workers=1)
    assert store.is_done(OWN.replace(seed=1))
    elsewhere = modules / "elsewhere"
    elsewhere.mkdir()
    code = "from thesislib.system import own; print(own.source('mynet:small_cnn') != '')"
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True)
    assert done.stdout.strip() == "True", "PYTHONPATH was set for what is started from here"


def dataset(path, n=600, size=(12, 10), channels=None, classes=3, **changed):
    """Images whose mean brightness tells their class."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", n), ("test", n // 2)):
        y = rng.integers(0, classes, count)
        shape = (count, *size, *([channels] if channels else []))
        bright = 60 * (y + 1).reshape(-1, *[1] * (len(shape) - 1))
        arrays |= {f"x_{split}": (bright + rng.integers(0, 40, shape)).astype(np.uint8), f"y_{split}": y}
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays | changed)
    return arrays | changed


@pytest.mark.parametrize("channels", [None, 2])
def test_own_data_are_counted_and_normalised(folders, channels):
    arrays = dataset(folders / "data" / "bright.npz", channels=channels)
    known = datasets.facts("bright")
    assert known[:4] == ((channels or 1, 12, 10), 3, 600, 300)
    x = arrays["x_train"].reshape(600, 12, 10, channels or 1) / 255
    assert known.mean == pytest.approx(x.mean((0, 1, 2)).tolist())
    assert known.std == pytest.approx(x.std((0, 1, 2)).tolist())
    train, _ = splits(Run(data="bright"), torch.device("cpu"))
    images, _ = train.take(torch.arange(600))
    assert images.mean().abs() < 1e-4
    assert images.std().item() == pytest.approx(1, abs=0.02)
    result = launch.execute(Run(data="bright", model="mlp-tiny", epochs=4, minima_every=2, lr=0.05))
    assert result.history["accuracy"].iloc[-1] > 0.9
    assert result.arrays("final")["logits"].shape == (300, 3)
    assert datasets.test_images(Run(data="bright", test_size=100)) == 100


def test_runs_on_own_data_are_drawn_where_the_data_are_not(folders, monkeypatch):
    """As an archive brings them, or runs that are copied with the note; notes and archives of before have no facts."""
    path = folders / "data" / "bright.npz"
    dataset(path, channels=2)
    run = Run(data="bright", model="mlp-tiny", epochs=4, minima_every=2, lr=0.05, minima="multiple", strength=10)
    launch.execute(run)
    here, known = Results({"hill": [run]}), datasets.facts("bright")
    table, scores = here.table("accuracy"), ensembles.table(here)
    assert table["N"].item()
    archive.pack([run], folders / "runs.zip")
    note = path.with_suffix(".sha256.json").read_bytes()
    parts = {}
    with zipfile.ZipFile(folders / "runs.zip") as file:
        parts = {part: file.read(part) for part in file.namelist()}
    for name, without in (("before", "facts.json"), ("wrong", "")):
        with zipfile.ZipFile(folders / f"{name}.zip", "w") as file:
            for part, content in parts.items():
                if part != without:
                    file.writestr(part, content.replace(b'"classes": 3', b'"classes": 0'))
    monkeypatch.setenv("THESIS_RUNS", str(folders / "elsewhere"))
    for come_by in ("the archive", "the archive of before, then this one", "the note"):
        monkeypatch.setenv("THESIS_DATA", str(folders / come_by))
        if come_by == "the note":
            (folders / come_by).mkdir()
            (folders / come_by / "bright.sha256.json").write_bytes(note)
        elif "before" in come_by:
            archive.unpack(folders / "before.zip")
            with pytest.raises(UserError, match="no dataset bright"):
                Results({"hill": [run]}).table("accuracy")
        archive.unpack(folders / "runs.zip")
        assert datasets.facts("bright") == known
        there = Results({"hill": [run]})
        pd.testing.assert_frame_equal(there.table("accuracy"), table)
        pd.testing.assert_frame_equal(ensembles.table(there), scores)
    with pytest.raises(UserError, match=r"holds no archived runs .*facts.json: bright.classes"):
        archive.unpack(folders / "wrong.zip")


def test_a_note_of_before_is_completed(folders):
    path = folders / "data" / "bright.npz"
    dataset(path)
    name, note = datasets.fingerprint("bright"), path.with_suffix(".sha256.json")
    content = {key: value for key, value in json.loads(note.read_text()).items() if key in ("sha256", "stamp")}
    note.write_text(json.dumps(content))
    assert datasets.fingerprint("bright") == name
    known = datasets.facts("bright")
    path.unlink()
    assert (datasets.fingerprint("bright"), datasets.facts("bright")) == (name, known)


def test_other_data_have_other_facts(folders):
    path = folders / "data" / "bright.npz"
    dataset(path)
    assert (datasets.fingerprint("bright") != "", datasets.facts("bright").train) == (True, 600)
    dataset(path, n=700)
    assert datasets.facts("bright").train == 700
    assert datasets.fingerprint("bright") and datasets.facts("bright").train == 700


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"x_train": np.zeros((600, 12, 10), np.float32)},
            "images must be uint8 .N, H, W. or .N, H, W, C., not",
        ),
        (
            {"x_test": np.zeros((300, 9, 9), np.uint8)},
            r"as large as those of x_train \[600, 12, 10\], not uint8 \[300, 9",
        ),
        ({"x_train": np.zeros((600, 3, 12, 10), np.uint8)}, r"have their channels in front: write \[N, H, W, C\]"),
        ({"y_test": np.full(300, 7)}, "labels must be from 0 to 2, not 7 as in y_test"),
        ({"y_train": np.full(600, -1)}, "labels must be from 0 on, not -1 as in y_train"),
        ({"y_train": np.array(["cat"] * 600, object)}, "they hold Python objects: images must be uint8, labels int"),
        ({"y_train": np.full(600, 4_000_000_000)}, "labels must be from 0 to 99999, not 4000000000 as in y_train"),
        (
            {"y_train": np.full(600, 1), "y_test": np.full(300, 1)},
            "y_train has no label 0 but has 1: number the classes from 0 on, without a gap",
        ),
        (
            {"y_train": np.arange(600) % 3 * 5},
            "y_train has no label 1 but has 10: number the classes from 0 on, without a gap",
        ),
        ({"y_train": np.zeros(600)}, "labels must be 600 integers, not float64"),
        ({"y_train": np.zeros(5, int)}, "labels must be 600 integers"),
    ],
)
def test_what_is_no_dataset_is_one_line(folders, changed, says):
    dataset(folders / "data" / "bright.npz", **changed)
    with pytest.raises(UserError, match=says):
        launch.execute(Run(data="bright", model="mlp-tiny", epochs=1))


def test_data_that_are_not_there_are_one_line():
    with pytest.raises(UserError, match="no dataset letters: put x_train, y_train, x_test, y_test into .*letters.npz"):
        launch.execute(Run(data="letters"))


def test_any_network_for_any_data(photographs):
    """A ResNet for digits, an MLP for photographs."""
    digits = TINY.replace(model="resnet20", train_size=128, test_size=50, epochs=1)
    assert launch.execute(digits).arrays("final")["logits"].shape == (50, 10)
    mlp = TINY.replace(data="cifar10", model="mlp-tiny", train_size=64, test_size=64, batch_size=32, epochs=1)
    assert len(launch.execute(mlp).arrays("final")["theta"]) == 3072 * 16 + 16 + 16 * 10 + 10
    assert Images(torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2), datasets.KNOWN["mnist"]).images.shape[1] == 1
    assert models.build("mlp-tiny", 0, (2, 5, 5), 4)(torch.zeros(1, 2, 5, 5)).shape == (1, 4)


def test_a_name_of_ones_own_has_a_colon():
    assert own.is_own("a.b:c")
    assert not own.is_own("mlp")


def test_code_that_cannot_be_read_is_one_line(modules):
    """A package with a mistake in it; a module in another encoding that says so, or does not."""
    (modules / "badpkg").mkdir()
    (modules / "badpkg" / "__init__.py").write_text("def f(:\n")
    (modules / "badpkg" / "net.py").write_text("")
    with pytest.raises(UserError, match=r"badpkg.net:f: SyntaxError: .*__init__.py, line 1"):
        own.digest("badpkg.net:f")
    text = "# Gr\xf6\xdfe\ndef f(d, w):\n    return 1 / (1 + w * d)\n"
    (modules / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n" + text.encode("latin-1"))
    assert "Größe" in own.source("latin:f")
    (modules / "unsaid.py").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="unsaid:f: SyntaxError: invalid or missing encoding"):
        own.source("unsaid:f")


def test_settings_that_do_not_fit_are_one_line():
    """A seed among a setting's fields, seeds that are none; a single run needs no list."""
    for name in ("seed", "seeds"):
        with pytest.raises(UserError, match=f"a: {name} is no field here: .* seeds=\\[3\\]"):
            experiments_own.rows({"a": {name: 3}}, "smoke")
    with pytest.raises(
        UserError, match="^seeds: write how many, such as 3, or which, such as .3, 4., all below 900, not -1"
    ):
        experiments_own.rows({"a": {"strength": 0}}, "smoke", seeds=-1)
    (row,) = experiments_own.rows({"a": TINY}, "smoke")
    assert (row.run, row.label) == (TINY, "a")
    for given in ([{"strength": 1}], {"a": 5}, {"a": [TINY, 5]}, 5):
        with pytest.raises(UserError, match="is no tl.Run: give runs, or labels with runs or fields"):
            experiments_own.train(given, scale="smoke")
    for given in ([TINY], {"a": TINY}):
        with pytest.raises(UserError, match="seeds are for labels that have fields"):
            experiments_own.train(given, seeds=3)
    for given in ([], {}):
        with pytest.raises(UserError, match="there is no run to train"):
            experiments_own.train(given)
    with pytest.raises(UserError, match="a: there is no field strenght: is it strength?"):
        experiments_own.rows({"a": {"strenght": 0}}, "smoke")
    for field in ("self", 5, "cycles"):
        with pytest.raises(UserError, match=f"a: there is no field {field}: "):
            experiments_own.rows({"a": {field: 1}}, "smoke")
    with pytest.raises(UserError, match="'smok' is none: choose from smoke, "):
        experiments_own.rows({"a": {"strength": 0}}, "smok")
    for label in ("_mine", "", None, 3):
        with pytest.raises(UserError, match="a label must be a text that does not begin with _, not "):
            experiments_own.rows({label: TINY}, "smoke")
    for scale in ("../evil", "", ".hidden", "a/b"):
        with pytest.raises(UserError, match="the name of a scale is made of letters"):
            experiments_own.train([TINY], scale)


def test_a_strength_without_a_hill_is_refused():
    """Whole runs too: the baseline would be trained again under another name. One that was not given is no mistake."""
    late = TINY.replace(minima_every=9)
    for given in (late.replace(strength=10), {"late": [late.replace(strength=10)]}):
        with pytest.raises(UserError, match="so there is no hill: give a smaller minima_every"):
            experiments_own.train(given)
    with pytest.raises(UserError, match="no minimum comes, .*, so there is no hill: give minima_every, or strength 0"):
        experiments_own.train(TINY.replace(strength=10, minima_every=None))
    launch.execute(late.replace(epochs=1))
    assert experiments_own.train(late.replace(epochs=1)).final["epoch"].tolist() == [1]


def test_one_run_needs_no_list(tiny, finished):
    assert experiments_own.train(tiny).final["epoch"].tolist() == [tiny.epochs]
    with pytest.raises(UserError, match="no runs"):
        experiments_own.train(tiny).where(label="x").table("accuracy")


def test_n_is_not_known_of_a_kernel_of_ones_own(modules):
    """Its slope at the top is not -w: `laplace` is a thousand times as steep."""
    assert growth(TINY) > 0
    assert np.isnan(growth(OWN))


def test_a_network_may_change_its_input(modules):
    """Each batch is its own: nothing comes out otherwise than if it worked on a copy."""
    found = []
    for name in ("Shifted", "Copied"):
        run = TINY.replace(model=f"mynet:{name}", distance="function", width=1.0, strength=5, epochs=4, minima_every=1)
        trainer = Trainer(run)
        found.append([[row["term"], row["train_loss"], row["accuracy"]] for row in (trainer.epoch() for _ in range(4))])
    assert found[0] == found[1]
    assert found[0][-1][0] > 0


def test_a_network_that_exits_is_one_line(modules):
    (modules / "mynet.py").write_text("def leaves(shape, classes):\n    raise SystemExit('bye')\n")
    with pytest.raises(UserError, match=r"mynet:leaves: SystemExit: bye \(mynet.py, line 2\)"):
        models.build("mynet:leaves", 0, (1, 28, 28), 10)


def test_a_formula_that_figures_cannot_have_is_one_line_before_training():
    for label in (r"$\lVert\theta\rVert$", r"$\frac{1$", r"$\num{1}$"):
        with pytest.raises(UserError, match="has a formula that matplotlib cannot write") as error:
            experiments_own.rows({label: [TINY]}, "own")
        assert "\n" not in str(error.value)
    assert experiments_own.rows({"$5 a run": [TINY], r"$\theta_c$": [TINY]}, "own")
