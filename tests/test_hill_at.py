"""Where a hill is put, and pushes that are none of a hill's: the controls of "is it the hill?"."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import interrupted, term_of
from torch.nn import functional as F

from thesislib.config import Run
from thesislib.runs import launch, store
from thesislib.runs.growth import growth
from thesislib.system.errors import UserError
from thesislib.system.files import read_arrays
from thesislib.system.vectors import RunningMean, turned
from thesislib.trainer import Trainer

TIMES = ["seconds", "train_seconds"]
#: Each new value, on a run of three cycles of two epochs with a minimum at the end of each.
VALUES = [
    {"hill_at": "mean", "member_epochs": 1},
    {"hill_at": "mean", "member_epochs": 2, "minima": "merge", "merge": "widen"},
    {"hill_at": "random"},
    {"hill_at": "origin"},
    {"hill_at": "random", "push": "random", "minima": "single"},
    {"push": "random"},
    {"strength_schedule": "first-half"},
]
IDS = [" ".join(str(value) for value in values.values()) for values in VALUES]


@pytest.fixture
def run(tiny) -> Run:
    return tiny.replace(cycle=2, strength=5, width=1e-2)


def trained(run, epochs):
    trainer = Trainer(run)
    return trainer, [trainer.epoch() for _ in range(epochs)]


def test_a_vector_turned_is_as_long_and_points_anywhere():
    vector = torch.randn(40_000)
    one, again, other = (turned(vector, *key) for key in (("hill", 0, 1), ("hill", 0, 1), ("hill", 0, 2)))
    assert torch.equal(one, again)
    assert one.dtype == vector.dtype
    for a in (one, other):
        assert a.double().norm().item() == pytest.approx(vector.double().norm().item(), rel=1e-7)
    # Cosines of independent directions are normal with deviation 1 / sqrt(P) = .005.
    cosines = [F.cosine_similarity(a, b, dim=0).abs().item() for a, b in ((one, other), (one, vector), (other, vector))]
    assert max(cosines) < 0.025
    first = torch.stack([turned(torch.tensor([3.0, 0, 0, 4]), k) for k in range(2000)])
    assert first.mean(0).abs().max() < 5 * 5 / 2 / 2000**0.5, "no direction is preferred"
    assert first.square().mean(0).numpy() == pytest.approx(25 / 4, rel=0.1)
    assert not turned(torch.zeros(9), 1).any()


def test_a_running_mean_is_the_mean():
    rows = torch.randn(5, 100)
    mean = RunningMean(rows[0])
    for row in rows:
        mean.add(row)
    assert torch.allclose(mean.theta, rows.mean(0), atol=1e-6)
    mean.count = 0
    mean.add(rows[3])
    assert torch.equal(mean.theta, rows[3]), "begun anew"


@pytest.mark.parametrize("minima", ["single", "multiple", "merge"])
@pytest.mark.parametrize("values", [{"hill_at": "random"}, {"hill_at": "origin"}, {}], ids=str)
def test_places_of_hills(run, values, minima):
    trainer, rows = trained(run.replace(minima=minima, merge="mean", **values), 6)
    visited, places = trainer.minima.visited, trainer.minima.places
    assert len(visited) == len(places) == (1 if minima == "single" else 3)
    for k, (minimum, place) in enumerate(zip(visited, places, strict=True)):
        if not values:
            assert place is minimum, "one vector in memory"
        elif values["hill_at"] == "origin":
            assert not place.any()
        else:
            here, there = ((x - trainer.initial).double().square().sum().item() for x in (minimum, place))
            assert there == pytest.approx(here, rel=1e-6)
            assert F.cosine_similarity(minimum - trainer.initial, place - trainer.initial, dim=0).abs() < 0.1
        # Distances are those to the visited minimum, whatever is there.
        d = (trainer.flat.theta - minimum).double().square().sum().item()
        assert rows[-1][f"d_{k}"] == pytest.approx(d, rel=1e-6)
        assert rows[2 * k + 1][f"d_{k}"] == 0
    if values == {"hill_at": "random"}:
        assert len({place[0].item() for place in places}) == len(places), "each minimum has a place of its own"
    hill = trainer.minima.hills[0]
    assert torch.allclose(hill, torch.stack(places).mean(0) if minima == "merge" else places[0], atol=1e-6)


@pytest.mark.parametrize("last", [1, 2])
def test_a_hill_at_the_mean_is_at_the_mean_member(run, last):
    trainer, members = Trainer(run.replace(hill_at="mean", member_epochs=last)), []
    for _ in range(6):
        trainer.epoch()
        members += [trainer.member["theta"].copy()] if trainer.member else []
    assert len(members) == 3
    for member, place, minimum in zip(members, trainer.minima.places, trainer.minima.visited, strict=True):
        assert np.array_equal(place, member)
        assert not torch.equal(place, minimum)


@pytest.mark.parametrize("kernel", ["rbf", "tanh"])
@pytest.mark.parametrize("values", VALUES[:4], ids=IDS[:4])
def test_the_gradient_is_autograds_at_the_hills_place(run, values, kernel):
    """What a step adds to the gradient, against autograd on the term as the thesis writes it."""
    trainer, _ = trained(run.replace(kernel=kernel, **values), 4)
    minima, theta = trainer.minima, trainer.flat.theta.double().requires_grad_()
    k = {"rbf": lambda d: torch.exp(-minima.hill_width * d), "tanh": lambda d: 1 - torch.tanh(minima.hill_width * d)}
    hills = [hill.double() for hill in minima.hills]
    expected = sum(5 / len(hills) * k[kernel](((theta - hill) ** 2).sum()) for hill in hills)
    (derivative,) = torch.autograd.grad(expected, theta)
    value, gradient = term_of(minima, trainer.flat.theta, 5.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient - derivative).norm() / derivative.norm() < 1e-5


def test_a_random_push_is_as_long_as_the_hills_at_every_step(run, monkeypatch):
    """Of each step: what was added to cross-entropy's gradient, against the closed form at these weights."""
    trainer, _ = trained(run.replace(push="random", minima="multiple"), 4)
    before, pushes, step = {}, [], trainer.optimizer.step
    factors = trainer.minima.factors

    def seen(theta, strength):
        before["ce"] = torch.cat([g.flatten() for g in trainer.flat.gradients])
        value, of = factors(theta, strength)
        before["hill"] = torch.zeros_like(theta)
        trainer.minima.add_gradient(theta, of, [before["hill"]])
        return value, of

    def recorded():
        total = torch.cat([g.flatten() for g in trainer.flat.gradients])
        pushes.append((total - before["ce"], before["hill"]))
        step()

    trainer.optimizer.step = recorded
    monkeypatch.setattr(trainer.minima, "factors", seen)
    row = trainer.epoch()
    assert len(pushes) == 4
    for push, hill in pushes:
        assert push.norm().item() == pytest.approx(hill.norm().item(), rel=1e-4)
        assert F.cosine_similarity(push, hill, dim=0).abs() < 0.05
    for (a, _), (b, _) in zip(pushes[:-1], pushes[1:], strict=True):
        assert F.cosine_similarity(a, b, dim=0).abs() < 0.05, "another direction at every step"
    assert row["term_norm"] == pytest.approx(np.mean([hill.norm().item() for _, hill in pushes]), rel=1e-4)


def test_full_strength_in_the_first_half_of_each_cycle(run):
    _, rows = trained(run.replace(strength_schedule="first-half"), 6)
    assert [row["strength"] for row in rows] == [5, 0] * 3
    assert [row["term"] > 0 for row in rows] == [False, False, True, False, True, False]


@pytest.mark.parametrize("after", [2, 3, 5])
@pytest.mark.parametrize("values", VALUES, ids=IDS)
def test_killed_and_continued_is_the_same_to_the_bit(run, folders, monkeypatch, values, after):
    run = run.replace(**values)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "alone"))
    whole = launch.execute(run)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "runs"))
    folder = interrupted(run, after)
    for beginning in folder.glob("beginning-*"):  # it goes on from its own checkpoint
        beginning.unlink()
    resumed = launch.execute(run)
    pd.testing.assert_frame_equal(
        whole.history.drop(columns=TIMES), resumed.history.drop(columns=TIMES), check_exact=True
    )
    for name in ("final", *range(len(whole.minimum_epochs))):
        one, two = whole.arrays(name), resumed.arrays(name)
        assert all(np.array_equal(one[key], two[key]) for key in one.keys() | two.keys())


@pytest.mark.parametrize("values", VALUES, ids=IDS)
def test_a_control_goes_on_from_the_prefix_that_it_shares(run, folders, monkeypatch, values):
    """Nothing of it acts before the first minimum: the thesis' run keeps the prefix, to the bit."""
    run = run.replace(**values)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "alone"))
    alone = launch.execute(run)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "runs"))
    first = run.replace(hill_at="weights", push="hill", strength_schedule="constant", minima="multiple")
    launch.execute(first)
    trained, epoch = [], Trainer.epoch
    monkeypatch.setattr(Trainer, "epoch", lambda self: trained.append(1) or epoch(self))
    together = launch.execute(run)
    assert len(trained) == 4
    pd.testing.assert_frame_equal(
        alone.history.drop(columns=TIMES), together.history.drop(columns=TIMES), check_exact=True
    )
    assert np.array_equal(alone.arrays("final")["theta"], together.arrays("final")["theta"])


def test_minima_know_the_mean_member_of_their_cycle(run):
    """Hills at means, a minimum every second cycle: each has its own cycle's mean, not another one's."""
    run = run.replace(hill_at="mean", member_epochs=1, minima_every=4, epochs=8)
    folder = launch.execute(run).folder
    stored = {path.stem: read_arrays(path) for path in folder.glob("m*-*.safetensors")}
    assert sorted(stored) == ["member-0", "member-1", "member-2", "member-3", "minimum-0", "minimum-1"]
    first, second = store.minima_of(run, stored, 8)
    assert np.array_equal(first["mean"], stored["member-1"]["theta"])
    assert np.array_equal(second["mean"], stored["member-3"]["theta"])
    assert len(store.minima_of(run, stored, 7)) == 1
    assert "mean" not in store.minima_of(run.replace(hill_at="origin"), stored, 8)[0]


def test_another_seed_is_another_place(run):
    one, two = (trained(run.replace(hill_at="random", seed=seed, init_seed=0), 2)[0] for seed in (0, 1))
    places = [trainer.minima.places[0] - trainer.initial for trainer in (one, two)]
    assert F.cosine_similarity(*places, dim=0).abs() < 0.1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hill_at": "mean", "minima_every": 10}, "hill_at mean puts hills at mean members: give member_epochs"),
        ({"hill_at": "mean", "member_epochs": 5, "minima_every": 7}, "each minimum must be at the end of a cycle"),
        ({"hill_at": "mean", "member_epochs": 5, "minimum_at_start": True}, "each minimum must be at the end"),
        ({"hill_at": "mean", "member_epochs": 1, "cycle": 1, "epochs": 10**9, "offset": 3, "minima_every": 2}, "end"),
        ({"hill_at": "moon"}, "hill_at: input should be 'weights', 'mean', 'random' or 'origin'"),
        ({"push": "pull"}, "push: input should be 'hill' or 'random'"),
    ],
)
def test_a_mistake_is_one_line(fields, words):
    with pytest.raises(UserError) as error:
        Run(**fields)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_hill_at_the_mean_grows_as_one_at_the_weights(run):
    """N is known for it, and for no hill that is elsewhere or pushes elsewhere."""
    at_mean = run.replace(hill_at="mean", member_epochs=1)
    assert growth(at_mean) == growth(run) > 0
    for values in ({"hill_at": "random"}, {"hill_at": "origin"}, {"push": "random"}):
        assert np.isnan(growth(run.replace(**values)))


def test_a_random_push_is_another_one_at_every_step_of_every_epoch(run):
    trainer, _ = trained(run.replace(push="random"), 4)
    _, factors = trainer.minima.factors(trainer.flat.theta, 5.0)

    def push(epoch, step):
        trainer.finished_epochs = epoch
        return torch.cat([piece.flatten() for piece in trainer._push(factors, step)])

    first = push(4, 0)
    assert torch.equal(push(4, 0), first)
    for other in (push(5, 0), push(4, 1)):
        assert F.cosine_similarity(first, other, dim=0).abs() < 0.05
