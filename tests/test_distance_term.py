"""The distance term in a loop that is not ours."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thesislib.minima import DistanceTerm
from thesislib.system.errors import UserError


def cnn():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32, 10)).double()


def batches(steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield torch.randn(16, 3, 8, 8, generator=generator).double(), torch.randint(10, (16,), generator=generator)


def laplace(d, w):
    return torch.exp(-torch.sqrt(w * d + 1e-3))


KERNELS = {
    "rbf": lambda d, w: torch.exp(-w * d),
    "tanh": lambda d, w: 1 - torch.tanh(w * d),
    laplace: laplace,
}


@pytest.mark.parametrize("kernel", KERNELS, ids=["rbf", "tanh", "own"])
@pytest.mark.parametrize("share", [True, False])
def test_a_cnn_under_adam_goes_autograds_way(kernel, share):
    """Two hills, the first at the start; the whole loss through autograd against six lines around a loop."""
    ours, theirs = cnn(), cnn()
    one, other = (torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3) for model in (ours, theirs))
    term = DistanceTerm(ours, kernel=kernel, strength=10, width=0.1, share=share)
    hills, k = [], KERNELS[kernel]
    for step, (x, y) in enumerate(batches(12)):
        if step in (0, 5):
            term.visit()
            hills.append([p.detach().clone() for p in theirs.parameters()])
        one.zero_grad()
        F.cross_entropy(ours(x), y).backward()
        value = term.add_gradient()
        one.step()
        other.zero_grad()
        distances = [sum(((p - c) ** 2).sum() for p, c in zip(theirs.parameters(), h, strict=True)) for h in hills]
        expected = sum(10 / (len(hills) if share else 1) * k(d, 0.1) for d in distances)
        (F.cross_entropy(theirs(x), y) + expected).backward()
        other.step()
        assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-7, atol=1e-9)
    last = [sum(((p - c) ** 2).sum().item() for p, c in zip(theirs.parameters(), h, strict=True)) for h in hills]
    assert term.distances() == pytest.approx(last, rel=1e-7)
    assert min(last) > 0.1


def test_the_strength_may_change_and_0_adds_nothing():
    model = nn.Linear(3, 2)
    term = DistanceTerm(model, strength=0, width=0.1)
    term.visit()
    with torch.no_grad():
        model.weight.add_(0.1)
    model(torch.ones(1, 3)).sum().backward()
    before = model.weight.grad.clone()
    assert term.add_gradient() == 0
    assert torch.equal(model.weight.grad, before)
    term.strength = 2.0
    value = term.add_gradient()
    d = 6 * 0.1**2
    assert value.item() == pytest.approx(2 * torch.tensor(-0.1 * d).exp().item())
    push = model.weight.grad - before
    assert torch.allclose(push, -2 * 0.1 * value * torch.full((2, 3), 0.1)), "downhill is away from it"


@pytest.mark.parametrize("model", ["mlp", None, list(nn.Linear(2, 1).parameters())])
def test_what_is_no_network_is_one_line(model):
    with pytest.raises(UserError, match="an nn.Module is needed, not (str|NoneType|list)"):
        DistanceTerm(model)


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    term = DistanceTerm(model)
    term.visit()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert term.distances() == [0.0]
    model(torch.ones(1, 3)).sum().backward()
    term.add_gradient()
    assert model[0].weight.grad is None


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.double(),
        lambda model: setattr(model.weight, "data", model.weight.data.clone()),
        lambda model: model.requires_grad_(False),
        lambda model: model.to_empty(device="cpu"),
        lambda model: setattr(model, "weight", nn.Parameter(model.weight.data.clone())),
        lambda model: model.register_parameter("more", nn.Parameter(torch.zeros(2))),
    ],
    ids=["cast", "other tensors", "frozen", "emptied", "another parameter", "one more"],
)
def test_weights_that_are_other_tensors_are_noticed(change):
    model = nn.Linear(3, 2)
    term = DistanceTerm(model)
    term.visit()
    change(model)
    for use in (term.add_gradient, term.visit, term.distances):
        with pytest.raises(UserError, match="make it anew"):
            use()


def test_one_that_thaws_is_noticed():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    term = DistanceTerm(model)
    model[0].requires_grad_(True)
    with pytest.raises(UserError, match="unfrozen"):
        term.distances()


@pytest.mark.parametrize("settings", [{}, {"minima": "merge", "merge": "widen"}, {"minima": "merge"}, {"share": False}])
def test_hills_go_on_from_a_stored_state(settings, tmp_path):
    """Through torch.save, in another network: the same value and gradient to the bit."""

    def made():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, DistanceTerm(model, strength=3.0, width=0.1, **settings)

    model, term = made()
    for _ in range(3):
        term.visit()
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
    term.strength = 5.0
    torch.save({"network": model.state_dict(), "term": term.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt")
    other, again = made()
    other.load_state_dict(state["network"])
    again.load_state_dict(state["term"])
    assert again.add_gradient() == term.add_gradient() > 0
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad.equal(two.grad)
    assert again.distances() == term.distances()
    with pytest.raises(UserError, match="another network: this one has 20 weights"):
        DistanceTerm(nn.Linear(4, 4)).load_state_dict(state["term"])
    for wrong, found in (({}, "nothing"), (state, "network, term"), ([1], "list"), (None, "NoneType")):
        with pytest.raises(UserError, match=f"state has strength and visited, not {found}"):
            again.load_state_dict(wrong)


@pytest.mark.parametrize("copy", [pickle.dumps, deepcopy])
def test_a_copy_is_refused(copy):
    with pytest.raises(UserError, match="store its state_dict"):
        copy(DistanceTerm(nn.Linear(3, 2)))


@pytest.mark.parametrize("strength", [float("nan"), -1.0, float("inf"), "tall", None, [1.0]])
def test_a_strength_set_later_is_a_number(strength):
    """What is wrong changes nothing, hills of a stored state neither."""
    term = DistanceTerm(nn.Linear(3, 2), strength=7)
    term.visit()
    with pytest.raises(UserError, match="^strength: input should be"):
        term.strength = strength
    with pytest.raises(UserError, match="^strength: input should be"):
        term.load_state_dict({"strength": strength, "visited": []})
    assert (term.strength, len(term.distances())) == (7, 1)


def test_without_a_hill_a_loop_is_as_without_the_term():
    """Also for weights that the loss does not reach: an optimiser decays those that have a gradient, be it 0."""
    ends = []
    for with_term in (True, False):
        torch.manual_seed(0)
        model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        term = DistanceTerm(model) if with_term else None
        model["used"](torch.ones(1, 3)).square().sum().backward()
        assert term is None or term.add_gradient() == 0
        optimizer.step()
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(map(torch.equal, *ends))


def test_gradients_with_a_graph_get_the_term_too():
    """As of optimisers of second order, which differentiate them once more."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    term = DistanceTerm(model, strength=10, width=0.1)
    term.visit()
    with torch.no_grad():
        model.weight += 0.1
    loss = model(torch.ones(1, 3)).pow(4).sum()
    loss.backward(create_graph=True)
    before = [p.grad.detach().clone() for p in model.parameters()]
    (second,) = torch.autograd.grad(model.weight.grad.sum(), model.weight, retain_graph=True)
    term.add_gradient()
    push = term.flat.pieces(term.gradient(term.minima.factors(term.flat.theta, term.strength)[1]))
    for p, old, added in zip(model.parameters(), before, push, strict=True):
        torch.testing.assert_close(p.grad.detach(), old + added)
    assert torch.autograd.grad(model.weight.grad.sum(), model.weight)[0].equal(second)


def test_sparse_gradients_get_the_term_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Linear(3, 2))
    term = DistanceTerm(model, strength=10, width=0.1)
    term.visit()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    model(torch.tensor([1, 2])).sum().backward()
    before = model[0].weight.grad.to_dense().clone()
    value = term.add_gradient()
    # d = 27: all of the 9 x 3 weights moved by 1
    assert value.item() == pytest.approx(10 * np.exp(-0.1 * 27))
    expected = before - 2 * 0.1 * value  # times theta - theta_c, which is 1
    torch.testing.assert_close(model[0].weight.grad, expected)


def test_mixed_devices_and_types_are_one_line():
    mixed = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, device="meta"))
    with pytest.raises(UserError, match="several devices: cpu, meta"):
        DistanceTerm(mixed)
    mixed = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).double())
    with pytest.raises(UserError, match="several dtypes"):
        DistanceTerm(mixed)
    with pytest.raises(UserError, match="no trainable parameters"):
        DistanceTerm(nn.ReLU())
    with pytest.raises(UserError, match="without a shape yet: give lazy layers all sizes"):
        DistanceTerm(nn.LazyLinear(2))
    with pytest.raises(UserError, match="of torch.float16, in which a squared distance ends at 65504"):
        DistanceTerm(nn.Linear(3, 2).half())


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        ("cone", "choose from rbf, tanh, or module:name"),
        (lambda d, w: 1.0, "must give a value for each d, as a Tensor, not float"),
        (lambda d, w: np.exp(-w * d.detach().numpy()), "must give a value for each d, as a Tensor, not ndarray"),
        (lambda d, w: d.sum(), "must give a value for each d"),
        (lambda d, w: torch.ones_like(d), "must depend on d: it has no slope"),
        (lambda d, w: d / d, "must be a number, also at d = 0"),
        (lambda d: d, r"it is called with \(d, w\): too many positional arguments"),
        (None, "a kernel must be a function"),
        (lambda d, w: torch.exp(1j * w * d), "real numbers"),
        (lambda d, w: torch.softmax(-w * d, 0), "must take each d on its own"),
        (lambda d, w: torch.round(torch.exp(-w * d)) + 0 * d, "slope 0 at d = 0, 1 and 10"),
        (lambda d, w: torch.exp(-torch.sqrt(w * d)), "no slope at d = 0"),
    ],
)
def test_what_is_no_kernel_is_one_line(kernel, says):
    with pytest.raises(UserError, match=says):
        DistanceTerm(nn.Linear(3, 2), kernel=kernel)


@pytest.mark.parametrize(
    "kernel", [lambda d, w: -torch.exp(-w * d), lambda d, w: w * d, lambda d, w: 5 * torch.exp(-w * d)]
)
def test_a_kernel_that_is_no_hill_warns(kernel):
    with pytest.warns(UserWarning, match="no hill of height 1: at d = 0, 1 and 10, w = 1 it is"):
        DistanceTerm(nn.Linear(3, 2), kernel=kernel)


def test_half_precision_takes_torchs_way():
    model = nn.Linear(3, 2).bfloat16()
    term = DistanceTerm(model, strength=1, width=1)
    term.visit()
    model(torch.ones(1, 3).bfloat16()).sum().backward()
    assert term.add_gradient() == 1


def test_values_are_taken_as_they_are_read():
    """As a configuration file has them: a text that is a number is that number, and "no" is no."""
    model = torch.nn.Linear(3, 2)
    term = DistanceTerm(model, strength="10", width="0.1", share="no")
    term.visit()
    term.visit()
    model(torch.ones(1, 3)).sum().backward()
    assert term.add_gradient().item() == pytest.approx(20)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"distance": "function"}, "distance must be weights or filters, not 'function'"),
        ({"minima": "Single"}, "should be 'single', 'multiple' or 'merge', not 'Single'"),
        ({"merge": "median"}, "should be 'recursive', 'mean' or 'widen', not 'median'"),
        ({"width": 0}, "width: input should be greater than 0, not 0"),
        ({"strength": -1}, "strength: input should be greater than or equal to 0, not -1"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(given, says):
    with pytest.raises(UserError, match=says):
        DistanceTerm(torch.nn.Linear(3, 2), **given)


def test_a_state_takes_the_place_of_the_hills_that_are_there():
    """Of a wide hill too: its width is that of what was loaded."""
    model = nn.Linear(3, 2)
    term = DistanceTerm(model, width=0.1, minima="merge", merge="widen")
    term.visit()
    state = term.state_dict()
    for _ in range(2):
        with torch.no_grad():
            model.weight.add_(1.0)
        term.visit()
    assert term.minima.hill_width == pytest.approx(1 / (10 + 6)), "the middle of three, each 6 from the next"
    term.load_state_dict(state)
    assert term.distances() == pytest.approx([6 * 2**2])
    assert term.minima.hill_width == 0.1


def test_a_strength_may_fade_away():
    """Along a schedule that falls by a factor it comes below what fp32 has."""
    term = DistanceTerm(nn.Linear(3, 2))
    for k in range(800):
        term.strength = 10 * 0.9**k
    assert term.strength == 0
    assert not term.acts


def test_a_kernel_may_compute_in_double_precision():
    found = []
    for kernel in (lambda d, w: torch.exp(-w * d), lambda d, w: torch.exp(-w * d.double())):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        term = DistanceTerm(model, kernel=kernel, strength=2, width=0.1)
        term.visit()
        with torch.no_grad():
            model.weight.add_(0.1)
        model(torch.ones(1, 3)).sum().backward()
        found.append((term.add_gradient(), model.weight.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("visited", [None, [None], "abc", [[1.0] * 8], [torch.zeros(5)]])
def test_a_state_that_is_none_is_one_line(visited):
    term = DistanceTerm(nn.Linear(3, 2))
    with pytest.raises(UserError, match="these hills are of another network: this one has 8 weights"):
        term.load_state_dict({"strength": 1.0, "visited": visited})
    for some in ([np.zeros(8, np.float32)], (torch.zeros(8),), torch.zeros(1, 8)):
        term.load_state_dict({"strength": 1.0, "visited": some})
        assert len(term.distances()) == 1
