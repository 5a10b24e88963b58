"""The distance in function space: its gradient, its hills, and that a run with it is a run like any other."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, interrupted
from torch.nn import functional as F

from thesislib import kernels
from thesislib.config import Run
from thesislib.runs import launch, store
from thesislib.runs.finished import load
from thesislib.runs.growth import growth
from thesislib.system.errors import UserError
from thesislib.system.probe import BATCH, IMAGES, Probe, mixtures
from thesislib.trainer import Trainer

FUNCTION = TINY.replace(distance="function", strength=2.0, width=10.0)


@pytest.fixture
def there():
    """A network, a probe that has seen it at two places, and it at a third one; in float64."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)).double()
    probe = Probe(torch.rand(IMAGES, 1, 3, 4, dtype=torch.float64), kernels.find("rbf"), 3.0)
    places = []
    for _ in range(3):
        places.append(model[1].weight.detach().clone())
        probe.visit(model, "fp32")
        with torch.no_grad():
            model[1].weight += torch.randn(5, 12, dtype=torch.float64)
    return model, probe, places


@pytest.mark.parametrize("step", [0, 5, IMAGES // BATCH, 17])
def test_value_and_gradient_are_autograds(there, step):
    model, probe, places = there
    logits = model(probe.beside(torch.empty(0, 1, 3, 4, dtype=torch.float64), step))
    value, slope = probe.term(logits, step, height=0.7)
    weight = model[1].weight
    (found,) = torch.autograd.grad(slope, weight)
    begin = step * BATCH % IMAGES
    images = probe.images[begin : begin + BATCH].flatten(1)

    def p(weights):
        return F.softmax(images @ weights.T + model[1].bias, 1)

    expected = 0.7 * sum(torch.exp(-3.0 * (p(weight) - p(place)).square().sum(1).mean()) for place in places)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(expected, weight)
    assert torch.allclose(found, gradient, rtol=1e-10, atol=1e-14)
    assert gradient.norm() > 1e-3


def test_at_the_top_of_a_hill_there_is_no_push():
    """Where it is highest, as with the hills in weight space."""
    trainer = Trainer(FUNCTION)
    for _ in range(2):
        trainer.epoch()
    trainer.model.eval()
    trainer.model.zero_grad()
    logits = trainer.model(trainer.probe.images[:BATCH])
    value, slope = trainer.probe.term(logits, 0, height=2.0)
    assert value.item() == pytest.approx(2.0, rel=1e-6)
    slope.backward()
    assert max(p.grad.abs().max().item() for p in trainer.model.parameters()) < 1e-6


def test_it_drives_predictions_apart_and_not_the_weights():
    """Against none, and against hills in weight space."""

    def ends(**fields):
        trainer = Trainer(TINY.replace(epochs=60, minima_every=40, **fields))
        probe = Probe(mixtures(trainer.train_images), trainer.minima.kernel, 1.0)
        for epoch in range(60):
            trainer.epoch()
            if epoch == 39:
                probe.visit(trainer.model, "fp32")
        trainer.model.eval()
        with torch.no_grad():
            p = trainer.model(probe.images).softmax(1)
        return trainer.minima.distances(trainer.flat.theta)[0], (p - probe.visited[0]).square().sum(1).mean().item()

    plain, weights = ends(strength=0.0), ends(strength=100.0, width=0.01)
    function = ends(strength=0.5, width=10.0, distance="function")
    assert function[1] > 2 * plain[1]
    assert function[0] < weights[0] / 10


def test_until_the_first_minimum_it_is_a_plain_run():
    with_term, plain = Trainer(FUNCTION), Trainer(TINY.replace(strength=0.0))
    for _ in range(2):
        first, second = with_term.epoch(), plain.epoch()
        assert first["train_loss"] == second["train_loss"]
    assert torch.equal(with_term.flat.theta, plain.flat.theta)
    assert with_term.epoch()["train_loss"] != plain.epoch()["train_loss"]


def test_the_hills_share_the_strength():
    one, all_of_it = Trainer(FUNCTION), Trainer(FUNCTION.replace(share=False))
    terms = [[trainer.epoch()["term"] for _ in range(6)] for trainer in (one, all_of_it)]
    assert terms[0][:4] == terms[1][:4], "one hill"
    assert terms[0][4] < terms[1][4], "two"
    assert max(terms[0]) <= 2.0


def test_a_resumed_run_ends_to_the_bit_where_the_other_one_did(folders, monkeypatch):
    launch.execute(FUNCTION)
    expected = load(FUNCTION).arrays("final")["theta"]
    monkeypatch.setenv("THESIS_RUNS", str(folders / "again"))
    interrupted(FUNCTION, after=5)
    launch.execute(FUNCTION)
    assert np.array_equal(load(FUNCTION).arrays("final")["theta"], expected)


def test_mixtures_lie_between_two_images():
    images = torch.arange(6.0).view(3, 1, 1, 2)
    split = SimpleNamespace(labels=torch.arange(3), take=lambda index: (images[index], index))
    mixed = mixtures(split, seed=1, count=200)
    assert mixed.shape == (200, 1, 1, 2)
    assert torch.allclose(mixed[..., 1] - mixed[..., 0], torch.ones(200, 1, 1)), "shares of one image and another"
    assert mixed.min() >= 0
    assert mixed.max() <= 5
    assert len(mixed.unique()) > 200
    assert torch.equal(mixed, mixtures(split, seed=1, count=200))


def test_old_ids_stay():
    assert store.run_id(TINY) == store.run_id(TINY.replace(distance="weights"))
    assert store.run_id(TINY) != store.run_id(FUNCTION)
    assert np.isnan(growth(FUNCTION)), "N is of hills in weight space"


@pytest.mark.parametrize(
    "fields", [{"hill_at": "origin"}, {"push": "random"}, {"minima": "merge"}, {"cross_entropy": False}]
)
def test_what_it_does_not_go_with_is_refused(fields):
    with pytest.raises(UserError, match="distance function is for minima multiple"):
        Run(**Run(distance="function", minima="multiple").model_dump() | fields)


def test_several_processes_are_refused(monkeypatch):
    """Each would have all of its images beside a share of the batch."""
    monkeypatch.setattr("thesislib.system.probe.parallel.size", lambda: 2)
    with pytest.raises(UserError, match="one process: start the run without torchrun"):
        Trainer(FUNCTION)
