import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from thesislib import models
from thesislib.models import Linear, build, predict


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


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_linear_equals_torch(monkeypatch):
    monkeypatch.setattr(models, "_ONEDNN", torch.ops.mkldnn._linear_pointwise)  # also where MKL's is the faster one
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


def functional_resnet20(state, x):
    """ResNet-20 written down again from He et al. (2016), section 4.2, with option-A shortcuts."""

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.relu(norm(F.conv2d(x, state["0.weight"], padding=1), "1"))
    for block in range(9):
        name, stride = f"{block + 3}", 2 if block in (3, 6) else 1
        y = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
        y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
        if stride == 2:
            half = x[:, :, ::2, ::2]
            zeros = torch.zeros(len(x), half.shape[1] // 2, *half.shape[2:])
            x = torch.cat([zeros, half, zeros], 1)
        x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), state["14.weight"], state["14.bias"])


def with_statistics(model):
    """The model in evaluation mode with BatchNorm statistics that are not 0 and 1."""
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@torch.no_grad()
def test_resnet20_is_the_papers():
    model, x = with_statistics(build("resnet20", 0)), torch.randn(2, 3, 32, 32)
    assert torch.allclose(model(x), functional_resnet20(model.state_dict(), x), atol=1e-4)


@torch.no_grad()
def test_resnet34_is_torchvisions_with_another_stem():
    model, x = with_statistics(build("resnet34", 0)), torch.randn(2, 3, 32, 32)
    theirs = torchvision.models.resnet34(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(model.state_dict())
    assert torch.allclose(model(x), theirs.eval()(x), atol=1e-5)


@torch.no_grad()
def test_mobilenet_is_torchvisions_with_two_strides_less():
    model, x = with_statistics(build("mobilenetv2", 0)), torch.randn(2, 3, 32, 32)
    theirs = torchvision.models.mobilenet_v2(num_classes=10)
    theirs.load_state_dict(model.state_dict())
    theirs.features[0][0].stride = theirs.features[2].conv[1][0].stride = (1, 1)
    assert torch.allclose(model(x), theirs.eval()(x), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2"])
@torch.no_grad()
def test_bf16_is_fp32_rounded(name):
    model, x = with_statistics(build(name, 0)), torch.randn(16, 3, 32, 32)
    rounded, exact = predict(model, x, "bf16"), model(x)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05
