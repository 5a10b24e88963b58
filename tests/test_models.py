import pytest
import torch
from torch import nn

from thesislib.models import Linear, build


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", 535_818),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet34", 21_282_122),
        ("mobilenetv2", 2_236_682),
    ],
)
def test_parameter_counts(name, parameters):
    model = build(name, seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    size = (2, 1, 28, 28) if name == "mlp" else (2, 3, 32, 32)
    assert model(torch.randn(size)).shape == (2, 10)


def test_linear_equals_torch():
    torch.manual_seed(0)
    ours, theirs = Linear(70, 50), nn.Linear(70, 50)
    theirs.load_state_dict(ours.state_dict())
    x, y = torch.randn(33, 70, requires_grad=True), torch.randn(33, 50)
    for layer in (ours, theirs):
        (layer(x) * y).sum().backward()
        layer.x_grad, x.grad = x.grad, None
    for a, b in ((ours(x), theirs(x)), (ours.x_grad, theirs.x_grad), (ours.weight.grad, theirs.weight.grad)):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
    assert torch.allclose(ours.bias.grad, theirs.bias.grad)
    assert ours.double()(x.double()).dtype == torch.float64, "other types take torch's own way"


def test_initial_weights_are_torchs_and_the_seeds():
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Linear(784, 512), nn.Linear(512, 256), nn.Linear(256, 10))
    state = torch.random.get_rng_state()
    model = build("mlp", seed=5)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator stays as it was"
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert not torch.equal(model[1].weight, build("mlp", seed=6)[1].weight)
