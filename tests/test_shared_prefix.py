import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import edit, interrupted

from thesislib.config import Run
from thesislib.runs import launch, shared_prefix, store
from thesislib.trainer import Trainer


def epochs_trained(monkeypatch):
    """A list that grows with every epoch that is trained, not adopted."""
    trained, epoch = [], Trainer.epoch
    monkeypatch.setattr(Trainer, "epoch", lambda self: trained.append(1) or epoch(self))
    return trained


def same(one, two):
    drop = ["seconds", "train_seconds"]
    pd.testing.assert_frame_equal(one.history.drop(columns=drop), two.history.drop(columns=drop), check_exact=True)
    members = [f"member-{k}" for k in range(len(one.run.member_ends))]
    for which in ("final", *range(len(one.minimum_epochs)), *members):
        a, b = one.arrays(which), two.arrays(which)
        assert all(np.array_equal(a[key], b[key]) for key in a.keys() | b.keys())
    assert np.array_equal(one.step_losses, two.step_losses)
    pd.testing.assert_frame_equal(one.steps, two.steps)


@pytest.mark.parametrize(
    "other",
    [
        {"strength": 7.0, "width": 0.1, "kernel": "tanh"},
        {"strength": 0, "epochs": 3},
        {"minima": "merge", "merge": "widen", "share": False},
        {"minima": "single", "strength_schedule": "pulse", "strength": 3, "cycle": 4},
        {"dense_steps": 5, "lr_schedule": "cosine"},
        {"member_epochs": 1, "cycle": 1, "step_losses": True, "strength": 4},
        {"member_epochs": 1, "cycle": 2, "strength": 4, "hill_at": "mean", "push": "random"},
        {"member_epochs": 2, "cycle": 3, "step_losses": True, "strength": 4},
    ],
)
def test_a_shared_prefix_changes_no_bit(tiny, folders, monkeypatch, other):
    # What does not belong to the term is the same in both.
    first = tiny.replace(**{k: v for k, v in other.items() if k not in shared_prefix.WITHOUT_EFFECT})
    run = tiny.replace(**other)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "alone"))
    alone = launch.execute(run)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "runs"))
    launch.execute(first)
    trained = epochs_trained(monkeypatch)
    together = launch.execute(run)
    assert len(trained) == run.epochs - 2, "the two epochs before the first minimum were there"
    same(together, alone)
    assert len(together.step_losses) == (run.epochs if run.step_losses else 0)


@pytest.mark.parametrize("other", [{"seed": 1}, {"lr": 0.2}, {"weight_decay": 0}, {"minima_every": 3}, {"momentum": 0}])
def test_what_matters_from_the_start_is_not_shared(tiny, finished, monkeypatch, other):
    trained = epochs_trained(monkeypatch)
    run = tiny.replace(**other)
    launch.execute(run)
    assert len(trained) == run.epochs


def test_a_run_that_ends_at_its_first_minimum_is_whole(tiny, finished):
    result = launch.execute(tiny.replace(epochs=2))
    assert result.arrays("final", "logits")["logits"].shape == (250, 10)


#: Fields that do change what comes before the first minimum.
WITH_EFFECT = {
    *("data", "train_size", "test_size", "augment", "augmented_test", "model", "seed", "init_seed", "start"),
    *("batch_size", "optimizer", "lr", "momentum", "weight_decay", "cross_entropy", "swa_from", "precision"),
    *("validation", "member_epochs", "statistics_images", "step_losses", "distance"),
    *("cycle", "lr_schedule", "lr_step", "lr_gamma", "offset", "minima_every", "minimum_at_start"),
}


def test_every_field_was_thought_of():
    """Whoever adds a field has to say here whether it may differ among runs that share a prefix."""
    assert set(Run.model_fields) == shared_prefix.WITHOUT_EFFECT | WITH_EFFECT
    assert not shared_prefix.WITHOUT_EFFECT & WITH_EFFECT


def test_a_broken_prefix_is_not_used(tiny, finished):
    (path,) = finished.folder.glob("beginning-*")
    path.write_bytes(path.read_bytes()[:100])
    assert launch.execute(tiny.replace(strength=2)).summary["epochs"] == 6


def test_a_run_that_was_begun_before_a_column_keeps_no_prefix(tiny, folders, monkeypatch):
    """It goes on without the column, but nobody could go on from it; with the column there is another file."""
    epoch = Trainer.epoch
    with monkeypatch.context() as earlier:
        earlier.setattr(store, "COLUMNS", tuple(name for name in store.COLUMNS if name != "d_init"))
        earlier.setattr(Trainer, "epoch", lambda self: {k: v for k, v in epoch(self).items() if k != "d_init"})
        folder, before = interrupted(tiny, after=1), shared_prefix.file_name(tiny, "x")
    assert shared_prefix.file_name(tiny, "x") != before
    assert launch.execute(tiny).history["d_init"].isna().all()
    assert not list(folder.glob("beginning-*"))


@pytest.mark.parametrize("other", [{"minima_every": None}, {"minimum_at_start": True}, {"minima_every": 50}])
def test_runs_without_a_prefix(tiny, other):
    assert not list(launch.execute(tiny.replace(**other)).folder.glob("beginning-*"))


def test_a_finished_grid_may_lose_them(tiny, folders):
    first, second = launch.execute(tiny), launch.execute(tiny.replace(strength=2))
    assert len(list(first.folder.glob("beginning-*"))) == 1
    assert not list(second.folder.glob("beginning-*")), "one is enough"
    shutil.rmtree(first.folder)
    assert launch.execute(tiny.replace(strength=3)).summary["epochs"] == 6


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lr_schedule": "cosine", "cycle": 2, "strength": 0},
        {"minima": "merge", "merge": "recursive"},
        {"strength_schedule": "pulse", "strength": 3, "cycle": 2},
        {"minimum_at_start": True},
        {"dense_steps": 3},
        {
            **{"model": "resnet20", "data": "cifar10", "train_size": 32, "test_size": 32, "batch_size": 16},
            **{"augment": True, "statistics_images": 16, "member_epochs": 1, "cycle": 2, "step_losses": True},
        },
    ],
)
def test_a_shorter_run_is_cut_from_a_longer_one(tiny, folders, monkeypatch, fields, photographs):
    run = tiny.replace(**{"epochs": 4, "minima_every": 2} | fields)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "alone"))
    alone = launch.execute(run)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "runs"))
    whole = launch.execute(run.replace(epochs=6))
    trained = epochs_trained(monkeypatch)
    part = launch.execute(run)
    assert not trained
    same(part, alone)
    assert part.summary["squared_distances"] == alone.summary["squared_distances"]
    assert part.history["seconds"].equals(whole.history["seconds"][:4]), "of the run that was trained"


def test_what_cannot_be_cut_is_trained(tiny, finished, monkeypatch):
    whole = finished
    trained = epochs_trained(monkeypatch)
    for run in (tiny.replace(epochs=5), tiny.replace(epochs=4, minima="single"), tiny.replace(epochs=4, dense_steps=3)):
        assert tiny not in shared_prefix.longer(run)
        launch.execute(run)
        assert trained
        trained.clear()
    for name, cut in (("minimum-1", 100), ("final", None)):  # broken; archived without weights
        path = whole.folder / f"{name}.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:cut]) if cut else path.unlink()
        part = launch.execute(tiny.replace(epochs=4))
        assert len(trained) == 2, "it goes on from the prefix that it shares"
        trained.clear()
        path.write_bytes(content)
        shutil.rmtree(part.folder)
    edit(whole.folder, versions=whole.summary["versions"] | {"hardware": "2 x cuda"})
    launch.execute(tiny.replace(epochs=4))
    assert len(trained) == 2, "other hardware rounds differently"


def test_a_run_goes_with_the_longer_one_that_it_is_cut_from(tiny, monkeypatch):
    other, part = tiny.replace(seed=1), tiny.replace(epochs=4)
    assert launch.families([tiny, other, part]) == [[tiny, part], [other]]
    launch.train_missing([part, tiny, other], workers=1)
    whole, short = launch.load(tiny), launch.load(part)
    assert short.history["seconds"].equals(whole.history["seconds"][:4])


def test_shared_epochs_are_counted_once(tiny, folders):
    siblings = [tiny, tiny.replace(strength=2), tiny.replace(strength=3, epochs=4)]
    here = launch.hardware()
    assert shared_prefix.epochs([tiny, tiny.replace(seed=1)], here) == 12
    assert shared_prefix.epochs(siblings, here) == 6 + 4 + 2
    assert shared_prefix.epochs([*siblings, tiny.replace(epochs=2)], here) == 12 + 2, (
        "one that ends there is trained itself"
    )
    assert shared_prefix.epochs([*siblings, tiny.replace(epochs=4)], here) == 12, "one is cut from another"


def test_what_lies_on_disk_is_not_counted(tiny, finished):
    half, here, folder = tiny.replace(epochs=4), launch.hardware(), finished.folder
    assert shared_prefix.epochs([tiny.replace(strength=2)], here) == 4, "from the first minimum on"
    assert shared_prefix.epochs([tiny.replace(strength=2)], "2 x cuda") == 6, "which rounds differently"
    assert shared_prefix.epochs([half], here) == 0
    # An archived run came without weights: nothing can be cut from it, and it saves nobody an epoch.
    (folder / "final.safetensors").unlink()
    assert shared_prefix.epochs([half], here) == 4 - 2
    next(folder.glob("beginning-*")).unlink()
    assert shared_prefix.epochs([half, tiny.replace(strength=2)], here) == 4 + 6 - 2


@pytest.mark.parametrize("every", [1, 2, 3, None])
def test_a_run_can_be_cut_where_a_longer_one_stored_a_minimum(tiny, every):
    """From one that ends at a minimum itself and is twice as long at most."""
    for epochs in range(1, 9):
        run = tiny.replace(epochs=epochs, minima_every=every)
        others = [run.replace(epochs=e) for e in range(epochs + 1, 2 * epochs + 1)]
        expected = [w for w in others if {epochs, w.epochs} <= set(w.minimum_epochs)]
        assert list(shared_prefix.longer(run)) == expected


def test_a_run_of_the_greatest_length_has_no_longer_ones(tiny):
    for fields in ({"epochs": 10**9, "minima_every": 10**9}, {"epochs": 10**6, "minima_every": 1000}):
        assert list(shared_prefix.longer(tiny.replace(**fields))) == []
    assert len(list(shared_prefix.longer(tiny.replace(epochs=999, minima_every=1)))) == 1
