"""Hills that do not see how long filters are: closed form against autograd, and what it must not depend on."""

import numpy as np
import pytest
import torch
from conftest import interrupted, term_of
from torch import nn
from torch.nn import functional as F

import thesislib as tl
from thesislib.config import Run
from thesislib.runs import launch
from thesislib.runs.finished import load
from thesislib.runs.growth import growth
from thesislib.system.errors import UserError

#: A network with BatchNorm on noise: what matters is its filters.
CONV = Run(
    data="cifar10", model="resnet20", train_size=32, test_size=7, batch_size=16, lr=0.01, epochs=3, minima_every=1,
    minima="multiple", distance="filters", strength=10.0, width=0.1,
)  # fmt: skip


def small():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()


def normalised(parameters):
    """By the definition: each filter over its length, end to end with all other weights."""
    parts = [F.normalize(p.flatten(1), dim=1, eps=0.0) if p.ndim == 4 else p for p in parameters]
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("kernel", ["rbf", "tanh"])
def test_value_and_gradient_are_autograds(kernel):
    model = small()
    term = tl.DistanceTerm(model, kernel, strength=3.0, width=0.05, distance="filters")
    places = []
    for _ in range(3):
        term.visit()
        places.append(normalised(model.parameters()).detach())
        term.flat.theta.add_(torch.randn_like(term.flat.theta), alpha=0.3)
    k = {"rbf": lambda d: torch.exp(-0.05 * d), "tanh": lambda d: 1 - torch.tanh(0.05 * d)}[kernel]
    here = normalised(model.parameters())
    expected = sum(k((here - place).square().sum()) for place in places)  # strength 3, shared by 3
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    value, gradient = term_of(term.minima, term.flat.theta, 3.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(gradient, torch.cat([g.flatten() for g in gradients]), rtol=1e-9, atol=1e-13)
    model(torch.randn(4, 2, 6, 6, dtype=torch.float64)).square().sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    assert term.add_gradient().item() == pytest.approx(expected.item(), rel=1e-12)
    for p, was, push in zip(model.parameters(), before, gradients, strict=True):
        assert torch.allclose(p.grad - was, push, rtol=1e-6, atol=1e-10)


def test_the_length_of_filters_does_not_matter_and_is_not_pushed():
    model = small()
    term = tl.DistanceTerm(model, strength=1.0, width=0.1, distance="filters")
    plain = tl.DistanceTerm(small(), strength=1.0, width=0.1)
    for each in (term, plain):
        each.visit()
        each.flat.theta.add_(torch.sin(torch.arange(len(each.flat.theta))), alpha=0.5)
    value, push = term_of(term.minima, term.flat.theta, 1.0)
    for filters, along in zip(term.flat.pieces(term.flat.theta), term.flat.pieces(push), strict=True):
        if filters.ndim == 4:
            turned = (filters * along).flatten(1).sum(1)
            assert turned.abs().max() < 1e-12, "at right angles"
            assert along.flatten(1).norm(dim=1).min() > 1e-6
    with torch.no_grad():
        for each in (term, plain):
            each.flat.pieces(each.flat.theta)[0][1].mul_(7)
    longer, smaller = term_of(term.minima, term.flat.theta, 1.0)
    assert longer.item() == pytest.approx(value.item(), rel=1e-12)
    assert torch.allclose(7 * smaller[18:36], push[18:36]), "a filter that is 7 times as long turns a 7th as fast"
    assert plain.minima.factors(plain.flat.theta, 1.0)[0] < value / 2, "in weight space it is far"


def test_a_filter_of_zeros_is_no_division_by_zero():
    term = tl.DistanceTerm(small(), distance="filters")
    term.visit()
    with torch.no_grad():
        term.flat.pieces(term.flat.theta)[0][0].zero_()
    value, push = term_of(term.minima, term.flat.theta, 1.0)
    assert torch.isfinite(value)
    assert torch.isfinite(push).all()
    assert not term.flat.pieces(push)[0][0].any()
    assert term.flat.pieces(push)[0][1].abs().max() < 1, "the others are not touched"


def test_a_run_trains_resumes_to_the_bit_and_has_an_id_of_its_own(photographs, folders, monkeypatch):
    launch.execute(CONV)
    result = load(CONV)
    assert (result.history["term"].iloc[1:] > 0).all()
    assert np.isnan(growth(CONV))
    expected = result.arrays("final")["theta"]
    weights = CONV.replace(distance="weights")
    launch.execute(weights)
    assert not np.array_equal(load(weights).arrays("final")["theta"], expected)
    monkeypatch.setenv("THESIS_RUNS", str(folders / "again"))
    interrupted(CONV, after=2)
    launch.execute(CONV)
    assert np.array_equal(load(CONV).arrays("final")["theta"], expected)


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(UserError, match="distance filters is for networks with convolutions"):
        tl.DistanceTerm(nn.Linear(3, 2), distance="filters")
    with pytest.raises(UserError, match="distance filters is for networks with BatchNorm, not for mlp"):
        Run(distance="filters")
