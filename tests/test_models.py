import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thesislib.models import Linear, PadShortcut, build
from thesislib.system import fast
from thesislib.system.precision import predict

#: [C, H, W] of the images that a network of the thesis is for, where they are not CIFAR's.
IMAGES = {"mlp": (1, 28, 28)}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", 535_818),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet34", 21_282_122),
        ("mobilenetv2", 2_296_922),
    ],
)
def test_parameter_counts(name, parameters):
    model = build(name, 0, IMAGES.get(name, (3, 32, 32)))
    assert sum(p.numel() for p in model.parameters()) == parameters
    size = (2, 1, 28, 28) if name == "mlp" else (2, 3, 32, 32)
    assert model(torch.randn(size)).shape == (2, 10)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_linear_equals_torch(monkeypatch):
    monkeypatch.setattr(fast, "_ONEDNN", torch.ops.mkldnn._linear_pointwise)  # also where MKL's is the faster one
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
    model = build("mlp", 5, (1, 28, 28))
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator stays as it was"
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert not torch.equal(model[1].weight, build("mlp", 6, (1, 28, 28))[1].weight)


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


def functional_mobilenet(state, x):
    """MobileNetV2 written down again from the table in the thesis, with a shortcut wherever the stride is 1."""

    def conv(x, name, norm_name, size=1, stride=1, groups=1):
        return norm(state, F.conv2d(x, state[f"{name}.weight"], None, stride, size // 2, 1, groups), norm_name)

    x, layer, before = F.relu(conv(x, "0", "1", size=3)), 3, 32
    for expansion, channels, blocks, first in (
        (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for stride in (first, *[1] * (blocks - 1)):
            part = f"{layer}.residual"
            y = F.relu(conv(x, f"{part}.0", f"{part}.1"))
            y = F.relu(conv(y, f"{part}.3", f"{part}.4", size=3, stride=stride, groups=expansion * before))
            y = conv(y, f"{part}.6", f"{part}.7")
            if stride == 1:
                y = y + (x if before == channels else conv(x, f"{layer}.shortcut.0", f"{layer}.shortcut.1"))
            x, layer, before = y, layer + 1, channels
    x = F.avg_pool2d(F.relu(conv(x, f"{layer}", f"{layer + 1}")), 4).flatten(1)
    return F.linear(x, state[f"{layer + 5}.weight"], state[f"{layer + 5}.bias"])


@pytest.mark.parametrize(
    ("name", "functional"),
    [("resnet20", functional_resnet20), ("resnet34", functional_resnet34), ("mobilenetv2", functional_mobilenet)],
)
@torch.no_grad()
def test_networks_are_those_of_their_tables(name, functional):
    model, x = with_statistics(build(name, 0)), torch.randn(2, 3, 32, 32)
    assert torch.allclose(model(x), functional(model.state_dict(), x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "gain", "spread"),
    [
        ("resnet20", 2, 2),  # He et al. (2015): normal, variance 2 / fan in
        ("resnet32", 2, 2),
        ("resnet34", 1 / 3, 0.8),  # PyTorch's default: uniform, variance 1 / (3 fan in)
        ("mobilenetv2", 1 / 3, 0.8),
        ("mlp", 1 / 3, 0.8),
    ],
)
def test_initial_variances_layer_by_layer(name, gain, spread):
    """Within five standard deviations of the sample's variance, `spread` / n in units of the true one squared."""
    layers = [m for m in build(name, 0).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == {"resnet20": 20, "resnet32": 32, "resnet34": 37, "mobilenetv2": 58, "mlp": 3}[name]
    for layer in layers:
        w, fan_in = layer.weight, layer.weight[0].numel()
        assert w.var().item() == pytest.approx(gain / fan_in, rel=5 * math.sqrt(spread / w.numel())), layer
        assert abs(w.mean().item()) < 5 * math.sqrt(gain / fan_in / w.numel())
        if layer.bias is not None:
            assert layer.bias.abs().max() <= fan_in**-0.5


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2"])
@torch.no_grad()
def test_bf16_is_fp32_rounded(name):
    model, x = with_statistics(build(name, 0)), torch.randn(16, 3, 32, 32)
    rounded, exact = predict(model, x, "bf16"), model(x)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


def test_shortcuts_without_parameters_take_every_second_pixel():
    """And the gradient lies in memory as the image does, or what meets it is slow."""
    x = torch.randn(2, 4, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    out = PadShortcut()(x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2]) and out.shape == (2, 8, 3, 3)
    assert not out[:, :2].any() and not out[:, 6:].any()
    expected = torch.zeros_like(x)
    expected[:, :, ::2, ::2] = 2 * x.detach()[:, :, ::2, ::2]
    assert torch.equal(gradient, expected)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_bf16_by_rounding_is_autocasts(monkeypatch):
    """Where bf16 has no fast instructions products of rounded numbers take its place: values and gradients agree."""
    model, x, y = build("resnet20", 0), torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    found = {}
    for name, supported in (("autocast", True), ("rounded", False)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda supported=supported: supported)
        model.zero_grad()
        logits = predict(model, x, "bf16")
        F.cross_entropy(logits, y).backward()
        found[name] = logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    logits = predict(model, x, "fp32")
    F.cross_entropy(logits, y).backward()
    exact = logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])
    for native, rounded, true in zip(found["autocast"], found["rounded"], exact, strict=True):
        off, by_rounding = (native - true).norm() / true.norm(), (rounded - true).norm() / true.norm()
        assert 0 < by_rounding < 1.5 * off, "no farther from fp32 than autocast"
        assert (native - rounded).norm() / true.norm() < 1.5 * off
