"""The networks of the thesis; the convolutional ones are built from torchvision's blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _onednn_product() -> Callable[..., Tensor] | None:
    """oneDNN's matrix product in fp32, which torch itself uses for bf16 only; None where MKL's is the faster one.

    One core, products of the MLP: with AVX-512 of AMD's it is twice as fast as MKL's (209 against 103 GFLOP/s), with
    AVX-512 of Intel's an epoch takes a seventh longer than with MKL's, and with AVX2 alone a tenth.
    """
    cpuinfo = Path("/proc/cpuinfo")
    amd = cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()
    if not amd or torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_ONEDNN = _onednn_product()


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b^T (+ bias) for fp32 matrices on the CPU; transposed views are fine."""
    return F.linear(a, b, bias) if _ONEDNN is None else _ONEDNN(a, b, bias, "none", [], "")


class _FastLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        x_grad = _product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        return x_grad, _product(grad.t(), x.t()), grad.sum(0)


class Linear(nn.Linear):
    """nn.Linear with the faster of the two fp32 matrix products that a CPU build of torch has."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, in] -> [B, out]."""
        ours = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if _ONEDNN is None or not ours:
            return F.linear(x, self.weight, self.bias)
        return _FastLinear.apply(x, self.weight, self.bias)


def mlp(*hidden: int, inputs: int = 784, classes: int = 10) -> nn.Sequential:
    """Fully connected ReLU network on flattened images, PyTorch's default initialisation.

    `mlp(512, 256)` is the thesis' MNIST network, 784-512-256-10 with 535,818 parameters.
    """
    sizes = (inputs, *hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for n, m in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [Linear(n, m), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, Linear(sizes[-1], classes))


class PadShortcut(nn.Module):
    """Option A of He et al. (2016): every second pixel, new channels zero, no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 2C, H/2, W/2]."""
        channels = x.shape[1]
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, channels // 2, channels - channels // 2))


def cifar_resnet(blocks: int, classes: int = 10) -> nn.Module:
    """ResNet-(6 blocks + 2) for 32x32 images (He et al. 2016, section 4.2), option-A shortcuts.

    3 stages of 16, 32 and 64 channels; `cifar_resnet(5)` is ResNet-32 with 464,154 parameters.
    """
    from torchvision.models.resnet import BasicBlock

    layers: list[nn.Module] = [
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
    ]
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(blocks):
            shrinks = stage > 0 and block == 0
            before = channels // 2 if shrinks else channels
            layers.append(BasicBlock(before, channels, 1 + shrinks, PadShortcut() if shrinks else None))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def resnet34(classes: int = 10) -> nn.Module:
    """torchvision's ResNet-34 with a stem for 32x32 images: 3x3, stride 1, no pooling; 21,282,122 parameters."""
    from torchvision.models import resnet34 as imagenet_resnet34

    model = imagenet_resnet34(num_classes=classes)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def mobilenet_v2(classes: int = 10) -> nn.Module:
    """torchvision's MobileNetV2 for 32x32 images: stem and 24-channel stage with stride 1; 2,236,682 parameters."""
    # Thesis: 2,296,922 parameters, with a 1x1 convolution on each shortcut where the channels change.
    from torchvision.models import MobileNetV2

    settings = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    model = MobileNetV2(num_classes=classes, inverted_residual_setting=settings, dropout=0.0)
    model.features[0][0].stride = (1, 1)
    return model


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "mlp": lambda classes: mlp(512, 256, classes=classes),
    "mlp-tiny": lambda classes: mlp(16, classes=classes),
    "resnet20": lambda classes: cifar_resnet(3, classes),
    "resnet32": lambda classes: cifar_resnet(5, classes),
    "resnet34": resnet34,
    "mobilenetv2": mobilenet_v2,
}


def build(name: str, seed: int, classes: int = 10) -> nn.Module:
    """The network `name` with initial weights drawn from `seed`; torch's global generator stays as it was."""
    # torchvision takes three seconds to import: the convolutional networks ask for it themselves.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](classes)


def predict(model: nn.Module, images: Tensor, precision: Literal["fp32", "bf16"]) -> Tensor:
    """Logits [B, C] in fp32 of images [B, C, H, W], products and convolutions in the precision."""
    if precision == "fp32":
        return model(images)
    # Convolutions in bf16 are fastest with the channels innermost; the weights stay as theta has them.
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16):
        return model(images).float()
