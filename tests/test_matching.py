import numpy as np
import pytest
import torch

from thesislib.flat import FlatParameters
from thesislib.matching import align, layers_of, permuted, vector_of
from thesislib.models import mlp

SIZES = (784, 32, 16, 10)


def network(seed):
    torch.manual_seed(seed)
    model = mlp(*SIZES[1:-1])
    return model, FlatParameters(model)


def shuffled(theta, seed):
    rng = np.random.default_rng(seed)
    return permuted(theta, SIZES, [rng.permutation(m) for m in SIZES[1:-1]])


def test_layers_round_trip():
    _, flat = network(0)
    theta = flat.theta.numpy()
    assert np.array_equal(vector_of(layers_of(theta, SIZES)), theta)
    with pytest.raises(ValueError, match="sizes"):
        layers_of(theta, (784, 10))


def test_a_permuted_network_computes_the_same():
    model, flat = network(0)
    x = torch.randn(20, 1, 28, 28)
    before = model(x)
    theta = shuffled(flat.theta.numpy(), 1)
    assert not np.array_equal(theta, flat.theta.numpy())
    flat.theta.copy_(torch.from_numpy(theta))
    assert torch.allclose(model(x), before, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_permuted_copy_aligns_back(seed):
    model, flat = network(seed)
    theta = flat.theta.numpy().copy()
    x = torch.randn(20, 1, 28, 28)
    outputs = model(x)
    aligned = align(shuffled(theta, seed), theta, SIZES)
    assert ((aligned - theta) ** 2).sum() < 1e-8
    flat.theta.copy_(torch.from_numpy(aligned))
    assert torch.equal(model(x), outputs)


def test_alignment_never_leads_away_and_keeps_the_function():
    (model, flat), (_, other) = network(0), network(1)
    theta, target = flat.theta.numpy().copy(), other.theta.numpy()
    x = torch.randn(20, 1, 28, 28)
    before = model(x)
    aligned = align(theta, target, SIZES)
    assert ((aligned - target) ** 2).sum() < ((theta - target) ** 2).sum()
    flat.theta.copy_(torch.from_numpy(aligned))
    assert torch.allclose(model(x), before, atol=1e-5)
