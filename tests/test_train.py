import math
import sys

import numpy as np
import pytest
import torch
from conftest import term_of
from torch.nn import functional as F

from thesislib.analysis.evaluator import Evaluator
from thesislib.config import Run
from thesislib.models import network
from thesislib.runs.store import COLUMNS
from thesislib.system import steplog
from thesislib.system.errors import UserError
from thesislib.system.vectors import radial_and_angular, to_numpy
from thesislib.trainer import Trainer

TIMES = {"seconds", "train_seconds"}


def copied(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def rows_of(trainer, epochs):
    return [{k: v for k, v in trainer.epoch().items() if k not in TIMES} for _ in range(epochs)]


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_same_run_same_numbers(tiny):
    a, b = Trainer(tiny), Trainer(tiny)
    assert rows_of(a, 6) == rows_of(b, 6)
    assert same(a.snapshot(), b.snapshot())
    assert rows_of(Trainer(tiny.replace(seed=1)), 1) != rows_of(Trainer(tiny), 1)
    assert rows_of(Trainer(tiny.replace(seed=1, init_seed=0)), 1) != rows_of(Trainer(tiny), 1), (
        "another order of batches"
    )


def test_rows_have_the_columns(tiny):
    trainer = Trainer(tiny)
    assert set(trainer.epoch()) == set(COLUMNS)
    assert set(trainer.epoch()) == {*COLUMNS, "d_0"}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "ngd"])
@pytest.mark.parametrize("minima", ["multiple", "merge"])
@pytest.mark.parametrize("epoch", [1, 2, 5])
def test_resumed_equals_uninterrupted_to_the_bit(tiny, optimizer, minima, epoch):
    run = tiny.replace(optimizer=optimizer, minima=minima, lr=0.01, minimum_at_start=True)
    whole = Trainer(run)
    begin = copied(whole.snapshot())
    kept = [begin]
    for _ in range(epoch):
        before = len(whole.minima.visited)
        whole.epoch()
        if len(whole.minima.visited) > before:
            kept.append(copied(whole.snapshot()))
    resumed = Trainer(run)
    resumed.restore(epoch, whole.state(), kept)
    assert rows_of(resumed, 6 - epoch) == rows_of(whole, 6 - epoch)
    assert same(resumed.snapshot(), whole.snapshot())
    assert same(resumed.state(), whole.state())


def reference(run, epochs):
    """The thesis' way: the whole loss through autograd, torch's optimiser on a list of parameters."""
    adam = {"lr": run.lr, "betas": (run.momentum, 0.999), "weight_decay": run.weight_decay}
    trainer = Trainer(run)  # for its data and its order of batches
    model = network(run)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, run.lr, run.momentum, weight_decay=run.weight_decay)
    if run.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters, **adam)
    flat = lambda: torch.nn.utils.parameters_to_vector(parameters)  # noqa: E731
    minima = []
    for epoch in range(1, epochs + 1):
        for x, y in trainer.train_images.shuffled(run.batch_size, trainer.generator):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            for c in minima:
                d = ((flat() - c) ** 2).sum()
                loss = loss + run.strength / len(minima) * torch.exp(-run.width * d)
            loss.backward()
            optimizer.step()
        if epoch in run.minimum_epochs:
            minima.append(flat().detach().clone())
    return flat().detach(), [((flat() - c) ** 2).sum().item() for c in minima]


@pytest.mark.parametrize("values", [{}, {"optimizer": "adam", "lr": 1e-3, "momentum": 0.5}], ids=["sgd", "adam"])
def test_the_engine_is_the_thesis_loop(tiny, values):
    run = tiny.replace(strength=5, width=1e-1, **values)
    theta, distances = reference(run, 6)
    trainer = Trainer(run)
    rows_of(trainer, 6)
    assert (trainer.flat.theta - theta).norm() / theta.norm() < 1e-4
    assert trainer.minima.distances(trainer.flat.theta.detach()) == pytest.approx(distances, rel=1e-3, abs=1e-6)


def test_strength_0_only_records(tiny):
    off, never = Trainer(tiny.replace(strength=0)), Trainer(tiny.replace(minima_every=None))
    rows_of(off, 6)
    rows_of(never, 6)
    assert torch.equal(off.flat.theta, never.flat.theta)
    assert len(off.minima.visited) == 3


def test_the_term_pushes_away(tiny):
    near, far = Trainer(tiny.replace(strength=0)), Trainer(tiny.replace(strength=10, width=0.1))
    assert rows_of(far, 6)[-1]["d_0"] > 2 * rows_of(near, 6)[-1]["d_0"]


def test_logged_numbers_are_what_they_say(tiny):
    run = tiny.replace(minima_every=1, minima="single", epochs=2, momentum=0, weight_decay=0)
    trainer = Trainer(run)
    trainer.epoch()
    start = trainer.flat.theta.detach().clone()
    row = trainer.epoch()
    trainer.model.eval()
    images, labels = next(trainer.test_images.in_order(250)), trainer.test_images.labels
    with torch.no_grad():
        logits = trainer.model(images)
    assert row["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert row["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert row["d_0"] == pytest.approx(((trainer.flat.theta - start) ** 2).sum().item(), rel=1e-5)
    assert 0 < row["term"] <= run.strength, "mean of s k(d) over the steps"
    assert -1 <= row["grad_cosine"] <= 1
    assert row["lr"] == run.lr


def test_the_norm_of_the_gradient_is_autograds(tiny):
    trainer = Trainer(tiny.replace(train_size=128, epochs=1))
    x, y = trainer.train_images.take(torch.randperm(128, generator=torch.Generator().manual_seed(tiny.seed)))
    gradient = torch.autograd.grad(F.cross_entropy(trainer.model(x), y), list(trainer.model.parameters()))
    row = trainer.epoch()
    assert row["grad_norm"] == pytest.approx(torch.cat([g.flatten() for g in gradient]).norm().item(), rel=1e-5)
    assert math.isnan(row["grad_cosine"]), "one step has no angle"


@pytest.mark.parametrize(("at_most", "measured"), [(64, [0, 1, 2, 3]), (2, [1, 3]), (1, [3])])
def test_the_gradient_is_measured_at_evenly_spread_steps(tiny, monkeypatch, at_most, measured):
    """lr this small leaves the weights where they are: every step's norm can be computed beforehand."""
    run = tiny.replace(lr=1e-30, momentum=0, epochs=1)
    trainer, norms = Trainer(run), []
    generator = torch.Generator().manual_seed(run.seed)
    for x, y in trainer.train_images.shuffled(run.batch_size, generator):
        gradient = torch.autograd.grad(F.cross_entropy(trainer.model(x), y), list(trainer.model.parameters()))
        norms.append(torch.cat([g.flatten() for g in gradient]).norm().item())
    monkeypatch.setattr("thesislib.system.steplog.MEASURED_STEPS", at_most)
    assert trainer.epoch()["grad_norm"] == pytest.approx(np.mean([norms[k] for k in measured]), rel=1e-5)


def test_the_norm_of_a_normalised_step_is_the_learning_rate(tiny):
    run = tiny.replace(optimizer="ngd", momentum=0, weight_decay=0, lr=0.01, epochs=1, train_size=128)
    trainer = Trainer(run)
    assert trainer.epoch()["d_init"] == pytest.approx(0.01**2, rel=1e-4)


def test_a_normalised_step_is_that_of_the_whole_loss(tiny):
    """Also beside a hill that pushes harder than the data."""
    run = tiny.replace(optimizer="ngd", momentum=0, weight_decay=0, lr=0.1, train_size=128, minima_every=1)
    trainer = Trainer(run.replace(strength=1e4, width=1.0))
    rows_of(trainer, 2)
    before = trainer.flat.theta.clone()
    row = trainer.epoch()
    assert row["term_norm"] > 10 * row["grad_norm"]
    assert (trainer.flat.theta - before).norm().item() == pytest.approx(0.1, rel=1e-4)


def test_a_row_has_the_strength_of_its_epoch(tiny):
    run = tiny.replace(strength=3, strength_schedule="pulse", pulse=1, cycle=2, epochs=4)
    assert [row["strength"] for row in rows_of(Trainer(run), 4)] == [3, 0, 3, 0]


def test_the_term_alone_walks_away(tiny):
    run = tiny.replace(cross_entropy=False, minimum_at_start=True, minima="single", weight_decay=1e-2, strength=10)
    rows = rows_of(Trainer(run), 3)
    assert rows[-1]["grad_norm"] == 0
    assert rows[-1]["d_0"] > 0
    assert rows[0]["d_0"] == rows[0]["d_init"]


def test_a_diverging_run_says_so(tiny):
    trainer = Trainer(tiny.replace(lr=1e6, optimizer="sgd"))
    row = trainer.epoch()
    while not trainer.diverged and trainer.finished_epochs < 6:
        row = trainer.epoch()
    assert trainer.diverged
    assert not np.isfinite(row["train_loss"] + row["d_init"])


def test_a_last_step_that_explodes_is_noticed_at_once(tiny):
    """Its loss was a number still; what it leads to is no minimum."""
    trainer = Trainer(tiny.replace(train_size=128, lr=1e29, weight_decay=1e11, minima_every=1))
    row = trainer.epoch()
    assert np.isfinite(row["train_loss"])
    assert not np.isfinite(row["d_init"])
    assert trainer.diverged
    assert trainer.minima.visited == []


def test_batchnorm_statistics_travel(tiny, monkeypatch, photographs):
    """On real convolutions: they are no part of theta, and they are part of state and snapshot."""
    fields = {"data": "cifar10", "model": "resnet20", "train_size": None, "test_size": None, "augment": True}
    run = tiny.replace(**fields, batch_size=32, epochs=2, minima_every=1)
    whole = Trainer(run)
    whole.epoch()
    state, minimum = copied(whole.state()), copied(whole.snapshot())
    assert len(minimum["theta"]) == 269_722
    assert any(name.endswith("running_mean") for name in minimum)
    whole.epoch()
    resumed = Trainer(run)
    resumed.restore(1, state, [minimum])
    resumed.epoch()
    assert same(resumed.snapshot(), whole.snapshot())


def test_the_steps_after_each_minimum_are_logged(tiny):
    """Eight steps an epoch of four: two epochs after each minimum, which come every third epoch."""
    run = tiny.replace(minima_every=3, epochs=7, dense_steps=7, strength=5)
    trainer, plain = Trainer(run), Trainer(run.replace(dense_steps=0))
    rows, dense = [], []
    for _ in range(run.epochs):
        rows.append(trainer.epoch())
        dense += trainer.dense
    assert [row["d"] for row in dense if row["step"] == 0] == [0, 0], "to the last minimum, where it is"
    assert [(row["minimum"], row["step"], row["epoch"]) for row in dense] == [
        (k, step, 3 * (k + 1) + 1 + step // 4) for k in (0, 1) for step in range(7 if k == 0 else 4)
    ]
    same = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
    assert str(same) == str(rows_of(plain, run.epochs)), "looking changes nothing"
    first = dense[0]
    assert (first["d"], first["term_norm"], first["term_cosine"]) == (0, 0, 0), "flat on the very top"
    assert first["term"] == run.strength
    by_step = [row["d"] for row in dense if row["minimum"] == 0]
    assert by_step == sorted(by_step)
    assert all(-1 <= row["term_cosine"] <= 1 for row in dense)


def test_a_start_is_given_or_not_asked_for(tiny):
    """A trainer knows no folders: without the arrays it would begin with other weights, and say nothing."""
    start = Trainer(tiny.replace(seed=7)).snapshot()
    elsewhere = tiny.replace(start="0123456789ab:0")
    trainer = Trainer(elsewhere, start=start)
    assert np.array_equal(trainer.snapshot()["theta"], start["theta"])
    assert np.array_equal(trainer.initial, start["theta"]), "what d_init is measured from"
    for run, arrays in ((elsewhere, None), (tiny, start)):
        with pytest.raises(UserError, match="give its arrays as start"):
            Trainer(run, start=arrays)


@pytest.mark.parametrize(("steps", "measured"), [(468, 66), (156, 78), (31, 31), (127, 127), (128, 64)])
def test_gradients_are_measured_at_64_to_127_steps_of_an_epoch(steps, measured):
    """Of MNIST, of scale cifar, of scale laptop, and of the longest and the shortest epoch that differ most."""
    log = steplog.StepLog(steps)
    assert sum(map(log.is_measured, range(steps))) == measured


def test_later_steps_are_logged_less_often(monkeypatch):
    """As dense as a logarithmic axis shows: every step, then one of two, then one of three; angles stay those of it."""
    monkeypatch.setattr(steplog, "EVERY_STEP", 4)
    log = steplog.StepLog(100, since=0, dense=17)
    assert [step for step in range(100) if log.is_dense(step)] == [0, 1, 2, 3, 4, 6, 9, 12]
    later = steplog.StepLog(100, since=6, dense=17)
    assert [step for step in range(100) if later.is_dense(step)] == [0, 3, 6], "the same steps in a later epoch"


def test_logged_angles_are_autograds(tiny):
    run = tiny.replace(
        minimum_at_start=True, minima="single", dense_steps=2, train_size=256, epochs=1, strength=50, lr=0.5
    )
    trainer, twin = Trainer(run), Trainer(run)
    generator = torch.Generator().manual_seed(run.seed)
    (x0, y0), (x1, y1) = twin.train_images.shuffled(run.batch_size, generator)
    trainer.epoch()
    parameters = list(twin.model.parameters())

    def gradient(x, y):
        return torch.cat([g.flatten() for g in torch.autograd.grad(F.cross_entropy(twin.model(x), y), parameters)])

    first = gradient(x0, y0)
    twin.flat.theta.sub_(run.lr * (first + run.weight_decay * twin.flat.theta))
    second, (_, push) = gradient(x1, y1), term_of(twin.minima, twin.flat.theta, run.strength)
    row = trainer.dense[1]
    assert row["grad_norm"] == pytest.approx(second.norm().item(), rel=1e-4)
    assert row["term_norm"] == pytest.approx(push.norm().item(), rel=1e-3)
    assert row["term_cosine"] == pytest.approx(F.cosine_similarity(second, push, dim=0).item(), abs=1e-4)
    assert row["grad_cosine"] == pytest.approx(F.cosine_similarity(first, second + push, dim=0).item(), abs=1e-4)


def test_swa_is_the_mean_of_the_weights(tiny):
    run = tiny.replace(minima_every=None, swa_from=3, epochs=6)
    trainer, plain = Trainer(run), Trainer(run.replace(swa_from=None))
    weights = []
    for epoch in range(1, 7):
        row, live = trainer.epoch(), plain.epoch()
        assert torch.equal(trainer.flat.theta, plain.flat.theta), "averaging changes nothing of the training"
        assert (row["test_loss"] == live["test_loss"]) == (epoch <= 3), "the mean of one is itself"
        weights += [trainer.flat.theta.clone()] if epoch >= 3 else []
    mean = torch.stack(weights).mean(0)
    assert np.allclose(trainer.snapshot()["theta"], mean, atol=1e-6)
    plain.flat.theta.copy_(mean)
    assert plain.evaluate()[0] == pytest.approx(row["test_loss"], rel=1e-4)


def test_swa_resumes_to_the_bit(tiny):
    run = tiny.replace(minima_every=None, swa_from=2, epochs=6)
    whole, resumed = Trainer(run), Trainer(run)
    rows_of(whole, 4)
    resumed.restore(4, copied(whole.state()), [])
    assert rows_of(resumed, 2) == rows_of(whole, 2)
    assert same(resumed.snapshot(), whole.snapshot())


def test_swa_collects_batchnorm_statistics_of_the_mean(photographs):
    run = Run(data="cifar10", model="networks:small", batch_size=32, swa_from=1, epochs=2)
    trainer = Trainer(run)
    rows_of(trainer, 2)
    probe = Evaluator(run, batch_size=32)
    (logits,) = probe.logits_of(trainer.snapshot()["theta"], [probe.test.images])
    assert np.allclose(logits, trainer.logits, atol=1e-4)


PHOTOGRAPHS = {
    "data": "cifar10", "model": "networks:small", "train_size": 48, "test_size": 16, "batch_size": 8, "augment": True,
    "lr": 0.1, "cycle": 2, "epochs": 4, "minima_every": 2, "minima": "multiple", "strength": 5, "width": 0.1,
}  # fmt: skip
STORED = {"statistics_images": 24, "member_epochs": 1, "step_losses": True, "dense_steps": 4}


def test_what_is_stored_besides_changes_no_training(photographs):
    """Statistics are collected in a copy: weights, running statistics and losses are those of the plain run."""
    plain, more = Trainer(Run(**PHOTOGRAPHS)), Trainer(Run(**PHOTOGRAPHS | STORED))
    for _ in range(4):
        one, two = plain.epoch(), more.epoch()
        assert (one["accuracy"], one["test_loss"]) == (two["accuracy_running"], two["test_loss_running"])
        assert one["train_loss"] == two["train_loss"] == pytest.approx(more.losses[-1].mean(), rel=1e-6)
        assert one["test_loss"] != two["test_loss"], "the statistics make a difference"
        assert (one["d_init"], one.get("d_0")) == (two["d_init"], two.get("d_0"))
    state = plain.state()
    assert all(np.array_equal(state[name], more.state()[name]) for name in state)
    assert np.stack(more.losses).shape == (4, 6)


def test_re_estimated_statistics_are_those_of_the_weights(photographs):
    """Twice the stem's weights are the same function to a BatchNorm that knows its statistics."""
    trainer = Trainer(Run(**PHOTOGRAPHS | STORED))
    trainer.epoch()
    logits = trainer.logits.clone()
    trainer.flat.pieces(trainer.flat.theta)[0].mul_(2)
    trainer.evaluate()
    assert torch.allclose(trainer.logits, logits, rtol=1e-2, atol=1e-2)
    running = trainer._logits(trainer.model)
    assert not torch.allclose(running, logits, rtol=1e-1, atol=1e-1)


def test_a_stored_minimum_has_the_statistics_it_was_evaluated_with(photographs):
    trainer = Trainer(Run(**PHOTOGRAPHS | STORED))
    trainer.epoch()
    kept = copied(trainer.snapshot())
    other = Trainer(Run(**PHOTOGRAPHS))
    other._set_weights(kept)
    other.evaluate()
    assert torch.equal(other.logits, trainer.logits)


@pytest.mark.parametrize("last", [1, 2])
def test_a_member_is_the_mean_of_the_weights_at_the_end_of_its_cycle(tiny, last):
    trainer = Trainer(tiny.replace(cycle=2, epochs=4, member_epochs=last))
    weights, step = [], trainer.optimizer.step

    def recorded():
        step()
        weights.append(trainer.flat.theta.double().clone())

    trainer.optimizer.step = recorded
    for epoch in range(1, 5):
        row = trainer.epoch()
        assert bool(trainer.member) == ("accuracy_mean" in row) == (epoch % 2 == 0)
        if trainer.member:
            mean = torch.stack(weights[-4 * last :]).mean(0)  # four steps an epoch, each of them counts
            assert np.allclose(trainer.member["theta"], mean, atol=1e-6)
            evaluator = Evaluator(trainer.run)
            (logits,) = evaluator.logits_of(mean.float(), [evaluator.test.images])
            assert np.allclose(trainer.member["logits"], logits, atol=1e-4)
            right = trainer.member["logits"].argmax(1) == to_numpy(trainer.test_images.labels)
            assert row["accuracy_mean"] == right.mean()


def test_a_member_is_the_mean_over_steps_of_its_own(tiny, monkeypatch):
    """Of an epoch of many steps, evenly spread ones: here every second one, however many the log measures."""
    monkeypatch.setattr("thesislib.schedules.AVERAGED_STEPS", 2)
    monkeypatch.setattr("thesislib.system.steplog.MEASURED_STEPS", 1)
    trainer = Trainer(tiny.replace(cycle=1, epochs=1, member_epochs=1))
    weights, step = [], trainer.optimizer.step

    def recorded():
        step()
        weights.append(trainer.flat.theta.double().clone())

    trainer.optimizer.step = recorded
    trainer.epoch()
    assert np.allclose(trainer.member["theta"], (weights[1] + weights[3]) / 2, atol=1e-6)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_all_of_it_resumes_to_the_bit(photographs, epoch):
    run = Run(**PHOTOGRAPHS | STORED | {"member_epochs": 2})
    whole, kept = Trainer(run), []
    for _ in range(epoch):
        before = len(whole.minima.visited)
        whole.epoch()
        if len(whole.minima.visited) > before:
            kept.append(copied(whole.snapshot()))
    resumed = Trainer(run)
    resumed.restore(epoch, copied(whole.state()), kept)
    for _ in range(epoch, 4):
        one, two = ({k: v for k, v in trainer.epoch().items() if k not in TIMES} for trainer in (whole, resumed))
        assert one == pytest.approx(two, rel=0, abs=0, nan_ok=True)
        assert same(whole.member, resumed.member)
        assert same(whole.snapshot(), resumed.snapshot())
    assert np.array_equal(np.stack(whole.losses), np.stack(resumed.losses))


def test_filters_that_change_length_and_filters_that_turn(photographs):
    flat = Trainer(Run(**PHOTOGRAPHS | {"model": "resnet20"})).flat
    a, b = flat.theta.clone(), flat.theta.clone()
    stem = flat.pieces(b)[0]
    stem *= 3
    norms = flat.pieces(a)[0].flatten(1).norm(dim=1)
    assert radial_and_angular(flat.pieces(b), flat.pieces(a)) == pytest.approx(
        ((4 * norms**2).sum().item(), 0), rel=1e-5, abs=1e-4
    )
    stem.copy_(flat.pieces(a)[0].flip(1))  # another direction, the same length
    total = (b - a).double().square().sum().item()
    assert radial_and_angular(flat.pieces(b), flat.pieces(a)) == pytest.approx((0, total), rel=1e-5, abs=1e-6)
    c = torch.randn_like(a)
    filters = sum(
        (x - y).double().square().sum() for x, y in zip(flat.pieces(a), flat.pieces(c), strict=True) if x.ndim == 4
    )
    assert sum(radial_and_angular(flat.pieces(a), flat.pieces(c))) == pytest.approx(filters.item(), rel=1e-6)


def test_rows_know_the_parts_of_the_distance(photographs):
    trainer = Trainer(Run(**PHOTOGRAPHS | {"model": "resnet20"}))
    rows = [trainer.epoch() for _ in range(4)]
    assert "d_0_radial" not in rows[0]
    assert rows[1]["d_0_radial"] == rows[1]["d_0_angular"] == 0
    for row in rows[2:]:  # at the second minimum they are to the first one still
        assert 0 < row["d_0_radial"] + row["d_0_angular"] < row["d_0"]


FROZEN = """
from torch import nn

def frozen(shape, classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, classes))
    nn.init.constant_(model[1].weight, 0.1)
    nn.init.zeros_(model[1].bias)
    model[1].requires_grad_(False)
    return model
"""


def test_averaged_weights_are_the_trainable_ones(tiny, tmp_path, monkeypatch):
    """As everywhere: a layer that is frozen is no part of theta."""
    (tmp_path / "frozen.py").write_text(FROZEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr("sys.path", [*sys.path])
    trainer = Trainer(tiny.replace(model="frozen:frozen", minima_every=None, swa_from=1, epochs=2))
    assert len(trainer.snapshot()["theta"]) == len(trainer.flat.theta) == 90
    trainer.epoch()
    assert np.array_equal(trainer.snapshot()["theta"], trainer.flat.theta), "the mean of one"
