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


def norm(state, x, name):
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


def residual(state, x, name, stride):
    """The two convolutions of a basic block."""
    y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
    y = F.conv2d(F.relu(norm(state, y, f"{name}.bn1")), state[f"{name}.conv2.weight"], padding=1)
    return norm(state, y, f"{name}.bn2")


def functional_resnet20(state, x):
    """ResNet-20 written down again from He et al. (2016), section 4.2, with option-A shortcuts."""
    x = F.relu(norm(state, F.conv2d(x, state["0.weight"], padding=1), "1"))
    for block in range(9):
        stride = 2 if block in (3, 6) else 1
        y = residual(state, x, f"{block + 3}", stride)
        if stride == 2:
            half = x[:, :, ::2, ::2]
            zeros = torch.zeros(len(x), half.shape[1] // 2, *half.shape[2:])
            x = torch.cat([zeros, half, zeros], 1)
        x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), state["14.weight"], state["14.bias"])


def functional_resnet34(state, x):
    """ResNet-34 from its table 1 and option B, but for the stem: 3x3, stride 1, no pooling."""
    x = F.relu(norm(state, F.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = residual(state, x, name, stride)
            if stride == 2:
                x = norm(state, F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=2), f"{name}.downsample.1")
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def with_statistics(model):
    """The model in evaluation mode with BatchNorm statistics that are not 0 and 1."""
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(("name", "functional"), [("resnet20", functional_resnet20), ("resnet34", functional_resnet34)])
@torch.no_grad()
def test_resnets_are_the_papers(name, functional):
    model, x = with_statistics(build(name, 0)), torch.randn(2, 3, 32, 32)
    assert torch.allclose(model(x), functional(model.state_dict(), x), rtol=1e-4, atol=1e-4)


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
