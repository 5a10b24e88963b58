"""Ensembles, barriers and planes of mean members: the weights averaged over the end of each cycle (member_epochs)."""

import numpy as np
import pytest
import torch
from conftest import trained

from thesislib.analysis import barriers, ensembles, planes, predictions
from thesislib.analysis.evaluator import Evaluator
from thesislib.config import Run
from thesislib.runs import launch
from thesislib.system.errors import UserError
from thesislib.trainer import Trainer

#: Convolutions with BatchNorm on noise, four epochs in two cycles.
PHOTOGRAPHS = Run(
    data="cifar10", model="networks:small", train_size=48, test_size=16, batch_size=8, augment=True, lr=0.1, cycle=2,
    epochs=4, minima_every=2, minima="multiple", strength=5, width=0.1, member_epochs=2,
)  # fmt: skip


@pytest.fixture
def run(tiny) -> Run:
    """Three cycles of two epochs of four steps; members are the means of the last epoch."""
    return tiny.replace(cycle=2, member_epochs=1, strength=5)


def weights_on_the_way(run):
    """theta [P], float64, after every step of a run, trained once more."""
    trainer, thetas = Trainer(run), []
    step = trainer.optimizer.step

    def recorded():
        step()
        thetas.append(trainer.flat.theta.double().numpy().copy())

    trainer.optimizer.step = recorded
    for _ in range(run.epochs):
        trainer.epoch()
    return np.stack(thetas)


@pytest.mark.parametrize("last", [1, 2])
def test_they_are_means_of_the_live_weights(run, last):
    result = launch.execute(run.replace(member_epochs=last))
    thetas = weights_on_the_way(result.run).reshape(3, 8, -1)  # by cycle; every step is measured
    found = ensembles.snapshots(result, "theta", "mean")
    assert found.shape == ensembles.snapshots(result, "theta").shape
    assert np.allclose(found, thetas[:, -4 * last :].mean(1), rtol=0, atol=2e-7)
    assert not np.allclose(found, ensembles.snapshots(result, "theta"), atol=1e-4)
    logits, evaluator = ensembles.snapshots(result, which="mean"), Evaluator(result.run)
    for member, theta in zip(logits, found, strict=True):
        assert np.allclose(member, evaluator.logits_of(theta, [evaluator.test.images])[0], atol=1e-5)


@pytest.mark.parametrize("images", [None, 24])
def test_of_a_batchnorm_they_have_statistics_of_their_own(photographs, monkeypatch, images):
    """Those of the training images, augmented, at the mean's weights, not those that run along with the live ones.

    An evaluator at these weights finds the same, if it crops the images alike.
    """
    monkeypatch.setattr(Trainer, "_crops", lambda self: torch.Generator().manual_seed(self.run.seed))
    run = PHOTOGRAPHS.replace(statistics_images=images)
    result = launch.execute(run)
    thetas = weights_on_the_way(run).reshape(2, 12, -1)
    found = ensembles.snapshots(result, "theta", "mean")
    assert np.allclose(found, thetas.mean(1), rtol=0, atol=2e-7)
    evaluator = Evaluator(run, batch_size=run.batch_size)
    for k, logits in enumerate(ensembles.snapshots(result, which="mean")):
        assert np.allclose(logits, evaluator.logits_of(found[k], [evaluator.test.images])[0], atol=1e-4)
        stored = result.arrays(f"member-{k}")
        names = [name for name in stored if name.endswith("running_mean")]
        assert names
        assert not np.allclose(stored[names[0]], result.arrays(k)[names[0]], atol=1e-3)


def test_scores_are_those_of_the_mean_members(run):
    results = trained({"a": [run]})
    (row,) = results
    alone = row.result.history["accuracy_mean"].dropna().to_numpy()
    table, growth = ensembles.table(results, which="mean"), ensembles.by_count(results, which="mean")
    assert np.array_equal(ensembles.each(results, which="mean")["accuracy"], alone)
    assert table["accuracy_last"].item() == alone[-1]
    assert table["accuracy_mean"].item() == pytest.approx(alone.mean())
    assert growth["accuracy"].iloc[0] == alone[0]
    assert growth["accuracy"].iloc[-1] == table["accuracy_ensemble"].item()
    assert predictions.of_ensembles(results, "hits", which="mean").mean() == table["accuracy_ensemble"].item()
    two = ensembles.table(results, last=2, which="mean")
    assert (table["members"].item(), two["members"].item()) == (3, 2)
    assert two["accuracy_mean"].item() == pytest.approx(alone[1:].mean())


def test_the_last_ones_of_independent_runs_are_members(run):
    runs = [run.replace(seed=seed, minima_every=None) for seed in (0, 1)]
    results = [launch.execute(run) for run in runs]
    both = ensembles.members(results, what="theta", which="mean")
    for theta, result in zip(both, results, strict=True):
        assert np.array_equal(theta, result.arrays("member-2", "theta")["theta"])


def test_barriers_between_them(run):
    results = trained({"a": [run]})
    (row,) = results
    history = row.result.history.set_index("epoch")
    along = barriers.lines(results, points=3, which="mean")
    for pair, (first, last) in enumerate(((2, 4), (4, 6))):
        rows = along[along["pair"] == pair]
        assert rows["test_loss"].iloc[0] == pytest.approx(history["test_loss_mean"][first], rel=1e-5)
        assert rows["test_accuracy"].iloc[-1] == history["accuracy_mean"][last]
    curve = barriers.bezier_curves(results, epochs=1, points=3, which="mean")
    assert curve["line"].iloc[0] == pytest.approx(along["train_loss"].iloc[0], rel=1e-5)
    thetas = ensembles.snapshots(row.result, "theta", "mean")
    d = ((thetas[-1].astype(float) - thetas[0]) ** 2).sum()
    assert barriers.aligned(results, which="mean")["d"].item() == pytest.approx(d, rel=1e-5)


@pytest.mark.parametrize("hill_at", ["weights", "mean", "origin"])
def test_the_plane_through_them(run, hill_at):
    results = trained({"a": [run.replace(hill_at=hill_at, width=0.05)]})
    (row,) = results
    arrays, live = (planes.plane(results, images=100, points=7, which=which) for which in ("mean", "live"))
    for which, found in (("mean", arrays), ("live", live)):
        thetas = ensembles.snapshots(row.result, "theta", which).astype(float)
        sides = [np.linalg.norm(found["minima"][k] - found["minima"][0]) for k in (1, 2)]
        assert sides == pytest.approx([np.linalg.norm(thetas[k] - thetas[0]) for k in (1, 2)], rel=1e-5)
        assert found["path"].shape == (6, 3)
    assert arrays["path"][1, 2] > 1e-3, "the live weights lie beside the plane of the means"
    assert live["path"][1, 2] < 1e-2
    # The hills that are drawn are those that pushed on the way to the third member.
    trainer = Trainer(row.run)
    for _ in range(4):
        trainer.epoch()
    three = torch.from_numpy(ensembles.snapshots(row.result, "theta", "mean")[:3])
    through = planes.Plane(*three)
    y, x = 2, 3
    value, _ = trainer.minima.factors(through.at(arrays["xs"][x], arrays["ys"][y]), row.run.strength)
    assert arrays["hills"][y, x] == pytest.approx(value.item(), rel=1e-4)


def test_hills_that_are_not_stored_are_not_drawn(run):
    results = trained({"a": [run.replace(hill_at="random")]})
    with pytest.raises(UserError, match="hills at random places"):
        planes.plane(results, images=100, points=3)
    with pytest.raises(UserError, match="three minima"):
        planes.strongest(results)


def test_live_members_keep_the_files_that_they_had(run):
    results = trained({"a": [run]})
    (row,) = results

    def look(**which):
        ensembles.table(results, **which)
        ensembles.by_count(results, **which)
        barriers.lines(results, points=3, **which)
        return {path.name for path in row.result.folder.glob("derived-*")}

    before = look()
    assert look(which="live") == before
    assert len(look(which="mean") - before) == 3


def test_what_is_not_there_is_one_line(tiny, run):
    plain = launch.execute(tiny)
    with pytest.raises(UserError, match=r"has no mean members: train it with member_epochs"):
        ensembles.snapshots(plain, which="mean")
    with pytest.raises(UserError, match="which must be one of live, mean, last mean, not 'men'"):
        ensembles.snapshots(plain, which="men")
    with pytest.raises(UserError, match="has 2 mean members: a plane takes three"):
        planes.plane(trained({"a": [run.replace(epochs=5)]}), which="mean")


def test_a_cycle_in_which_it_diverged_has_no_member(run):
    result = launch.execute(run.replace(lr=30, epochs=40, cycle=1))
    assert result.diverged
    found = ensembles.snapshots(result, which="mean")
    assert len(found) == result.summary["epochs"] - 1
    assert np.isfinite(found).all()
