from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from thesislib.analysis.alignment import STARTS, align, hidden_units, permuted
from thesislib.flat import FlatParameters
from thesislib.models import build, mlp
from thesislib.system.errors import UserError

#: Number of groups: hidden layers; inner channels of the blocks and the channels that stages add to the residual
#: stream (ResNet-20: 9 + 3; ResNet-34 with projections: 16 + 4); MobileNetV2: stem, 17 expansions less the one that the
#: first block lacks, 7 stages, the last layer.
GROUPS = {"mlp": 2, "resnet20": 12, "resnet32": 18, "resnet34": 20, "mobilenetv2": 26}


def images(name, count=4):
    return torch.randn(count, 1, 28, 28) if name.startswith("mlp") else torch.randn(count, 3, 32, 32)


def network(name, seed):
    model = mlp(32, 16) if name == "mlp-small" else build(name, seed, (1, 28, 28) if name == "mlp" else (3, 32, 32))
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):  # every channel its own, or a wrong order would not show
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model, FlatParameters(model)


def shuffled(theta, model, seed):
    rng = np.random.default_rng(seed)
    return permuted(theta, model, [rng.permutation(len(units)) for units in hidden_units(model)])


@pytest.mark.parametrize("name", GROUPS)
def test_a_permuted_network_computes_the_same(name):
    """In training mode: BatchNorm's statistics are those of the batch and need not be permuted."""
    model, flat = network(name, 0)
    x, theta = images(name), flat.theta.numpy().copy()
    with torch.no_grad():
        before = model(x)
        assert len(hidden_units(model)) == GROUPS[name]
        other = shuffled(theta, model, 1)
        assert (other != theta).mean() > 0.9
        flat.theta.copy_(torch.from_numpy(other))
        torch.testing.assert_close(model(x), before, atol=2e-3, rtol=1e-3)
        # What is equal above is not so by its insensitivity: two units of one group, in one parameter only.
        k, axis, _ = hidden_units(model)[0].places[0]
        parameter = list(model.parameters())[k]
        parameter.copy_(parameter.flip(axis))
        assert (model(x) - before).abs().max() > 0.05


@pytest.mark.parametrize(
    ("name", "seed"),
    [("mlp-small", seed) for seed in range(5)] + [("resnet20", 0), ("resnet20", 1), ("mobilenetv2", 0)],
)
def test_a_permuted_copy_aligns_back(name, seed):
    model, flat = network(name, seed)
    theta, x = flat.theta.numpy().copy(), images(name)
    with torch.no_grad():
        outputs = model(x)
        # Ten searches of MobileNetV2's take forty seconds, and the first finds it.
        starts = 1 if name == "mobilenetv2" else STARTS
        aligned = align(shuffled(theta, model, seed), theta, model, starts)
        assert ((aligned - theta) ** 2).sum() < 1e-8
        flat.theta.copy_(torch.from_numpy(aligned))
        assert torch.equal(model(x), outputs)


@pytest.mark.parametrize("name", ["mlp-small", "resnet20"])
def test_alignment_never_leads_away_and_keeps_the_function(name):
    (model, flat), (_, other) = network(name, 0), network(name, 1)
    theta, target, x = flat.theta.numpy().copy(), other.theta.numpy(), images(name)
    with torch.no_grad():
        before = model(x)
        aligned = align(theta, target, model)
        assert ((aligned - target) ** 2).sum() < ((theta - target) ** 2).sum()
        flat.theta.copy_(torch.from_numpy(aligned))
        torch.testing.assert_close(model(x), before, atol=1e-3, rtol=1e-3)


def test_of_several_starts_the_nearest_is_taken():
    """Where a descent ends depends on where it begins: ten find what the first one alone does not."""
    distances = []
    for starts in (1, 3, 10):
        found = []
        for seed in range(4):
            (model, flat), (_, other) = network("mlp-small", 2 * seed), network("mlp-small", 2 * seed + 1)
            theta, target = flat.theta.numpy(), other.theta.numpy()
            found.append(((align(theta, target, model, starts) - target) ** 2).sum())
        distances.append(found)
    one, three, ten = np.array(distances)
    assert (three <= one).all()
    assert (ten <= three).all()
    assert (ten < one).any()


def test_units_that_join_the_pixels_stay():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer, self.last = nn.Linear(8, 5), nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(x + self.outer(self.inner(x)))

    (inner,) = hidden_units(Residual())
    assert len(inner) == 5


def test_what_it_cannot_follow_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, groups=2))
    with pytest.raises(UserError, match="GroupNorm"):
        hidden_units(model)
    with pytest.raises(UserError, match="groups=2"):
        hidden_units(deepcopy(model[::2]))
    with pytest.raises(ValueError, match="12730 weights are not"):
        align(np.zeros(12730), np.zeros(12730), mlp(512, 256))


def test_a_layer_that_is_used_twice_is_named():
    """Its units would have to keep the order of two places at once."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again, self.last = nn.Linear(8, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.last(torch.tanh(self.again(self.again(self.first(x)))))

    with pytest.raises(UserError, match="again.weight is used more than once"):
        hidden_units(Twice())


class Net(nn.Module):
    """With tied or frozen layers, functions or methods between them."""

    def __init__(self, tied=False, frozen=None, shift=None):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        if tied:
            self.b.weight = self.a.weight
        if frozen:
            getattr(self, frozen).requires_grad_(False)
        self.shift = shift

    def forward(self, x):
        x = x.flatten(1)
        if self.shift is not None:
            x = x + self.shift if self.shift != "length" else x * len(x)
        return self.c(torch.relu(self.b(self.a(x)).relu()))


def test_tied_weights_are_named():
    """Their units would have to keep the order of two places at once."""
    with pytest.raises(UserError, match="b.weight is used more than once"):
        hidden_units(Net(tied=True))


@pytest.mark.parametrize(("frozen", "free"), [(None, [8, 8]), ("a", [8]), ("b", []), ("c", [8])])
def test_units_of_frozen_weights_stay(frozen, free):
    """And the network computes the same, from what is trained of it."""
    torch.manual_seed(0)
    model = Net(frozen=frozen)
    assert [len(units) for units in hidden_units(model)] == free
    trained = [p for p in model.parameters() if p.requires_grad]
    theta = parameters_to_vector(trained).detach().numpy()
    images = torch.randn(5, 8)
    before = model(images)
    moved = permuted(theta, model, [np.random.default_rng(0).permutation(8) for _ in free])
    assert bool(free) == (moved != theta).any()
    vector_to_parameters(torch.from_numpy(moved), trained)
    torch.testing.assert_close(model(images), before)
    np.testing.assert_allclose(align(moved, theta, model), theta)


@pytest.mark.parametrize("shift", [1.0, "length"])
def test_what_no_graph_can_follow_is_one_line(shift):
    with pytest.raises(UserError, match="cannot tell which units may change places"):
        hidden_units(Net(shift=shift))


def test_pooling_keeps_channels_in_their_places():
    """The small network of docs/EXTENDING.md."""
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.Tanh(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5 * 25, 3),
    )  # fmt: skip
    assert [len(units) for units in hidden_units(model)] == [6, 5]


def test_pixels_of_a_channel_go_with_it():
    """Where a fully connected layer sees several of each channel, as in the small network of docs/EXTENDING.md."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6 * 9, 3))
    flat, x = FlatParameters(model), torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        before = model(x)
        theta = flat.theta.numpy().copy()
        moved = shuffled(theta, model, 1)
        flat.theta.copy_(torch.from_numpy(moved))
        torch.testing.assert_close(model(x), before)
    assert (moved != theta).any()
