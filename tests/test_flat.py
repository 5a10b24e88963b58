import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thesislib.flat import FlatParameters
from thesislib.models import build
from thesislib.system.errors import UserError


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def shares_memory(flat, model):
    ends = [flat.theta.data_ptr(), flat.theta.data_ptr() + 4 * flat.theta.numel()]
    return all(ends[0] <= p.data_ptr() < ends[1] for p in model.parameters())


def test_views_share_memory_after_100_steps_and_after_load():
    model = small()
    flat = FlatParameters(model)
    optimizer = torch.optim.SGD(flat.parameters, lr=0.1, momentum=0.9, fused=True)
    for _ in range(100):
        model.zero_grad()
        F.cross_entropy(model(torch.randn(8, 6)), torch.randint(3, (8,))).backward()
        optimizer.step()
    for _ in range(2):
        assert shares_memory(flat, model)
        assert torch.equal(torch.cat([p.detach().flatten() for p in model.parameters()]), flat.theta)
        model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})


def test_batchnorm_statistics_are_no_parameters():
    flat = FlatParameters(small())
    assert flat.theta.numel() == 6 * 5 + 5 + 5 + 5 + 5 * 3 + 3
    assert FlatParameters(build("resnet20", 0)).theta.numel() == 269_722


def test_weights_that_share_memory_are_one_parameter_or_refused():
    """Laid end to end, they would be two."""
    tied = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(3, 4))
    tied[1].weight.data = tied[0].weight.data.t()
    with pytest.raises(UserError, match="parameters that share memory: tie them as one"):
        FlatParameters(tied)
    tied[1].weight = tied[2].weight
    assert len(FlatParameters(tied).theta) == 4 * 3 + 3 + 3 * 4 + 4 + 4
    assert len(FlatParameters(tied).theta) == 4 * 3 + 3 + 3 * 4 + 4 + 4, "views into one vector do not overlap"


def test_complex_weights_are_refused():
    with pytest.raises(UserError, match="parameters of torch.complex64: they must be real numbers"):
        FlatParameters(nn.Linear(3, 2, dtype=torch.complex64))


def test_frozen_parameters_stay_outside():
    model = small()
    model[0].requires_grad_(False)
    assert FlatParameters(model).theta.numel() == 5 + 5 + 5 * 3 + 3


def test_a_step_is_torchs_step_on_every_parameter():
    batches = [(torch.randn(8, 6), torch.randint(3, (8,))) for _ in range(20)]
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
    ours, theirs = small(), small()
    flat = FlatParameters(ours)
    mine = torch.optim.SGD(flat.parameters, fused=True, **settings)
    other = torch.optim.SGD(theirs.parameters(), foreach=False, fused=False, **settings)
    for x, y in batches:
        ours.zero_grad()
        F.cross_entropy(ours(x), y).backward()
        mine.step()
        other.zero_grad()
        F.cross_entropy(theirs(x), y).backward()
        other.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_was_never_differentiated_has_gradient_zero():
    flat = FlatParameters(small())
    assert not torch.cat([g.flatten() for g in flat.gradients]).any()
