"""The networks of the thesis, with its initial weights; the ResNets are built from torchvision's blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor, nn
from torch.nn import functional as F

from thesislib.config import Run
from thesislib.datasets import facts
from thesislib.system import draws, own
from thesislib.system.vectors import fast

Linear = fast.Linear if fast else nn.Linear

#: [C, H, W] of an image.
Shape = tuple[int, int, int]


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
        # A mean of one pixel: the gradient of [::2, ::2] has other strides than x, which slows a step by a twentieth.
        halved = F.avg_pool2d(x, 1, stride=2)
        return F.pad(halved, (0, 0, 0, 0, channels // 2, channels - channels // 2))


def cifar_resnet(blocks: int, classes: int = 10, channels: int = 3) -> nn.Module:
    """ResNet-(6 blocks + 2) for 32x32 images (He et al. 2016, section 4.2), option-A shortcuts.

    3 stages of 16, 32 and 64 channels; `cifar_resnet(5)` is ResNet-32 with 464,154 parameters. All weights of
    convolutions and of the linear layer are He-normal (fan in, He et al. 2015), biases are PyTorch's default.
    """
    from torchvision.models.resnet import BasicBlock

    layers: list[nn.Module] = [*conv_bn(channels, 16, 3), nn.ReLU(inplace=True)]
    for stage, width in enumerate((16, 32, 64)):
        for block in range(blocks):
            shrinks = stage > 0 and block == 0
            before = width // 2 if shrinks else width
            layers.append(BasicBlock(before, width, 1 + shrinks, PadShortcut() if shrinks else None))
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return model


def resnet34(classes: int = 10, channels: int = 3) -> nn.Module:
    """ResNet-34 (He et al. 2016) with a stem for 32x32 images: 3x3, stride 1, no pooling; 21,282,122 parameters.

    torchvision's network with PyTorch's default initial weights, as in the thesis.
    """
    from torchvision.models import resnet34 as imagenet_resnet34

    model = imagenet_resnet34(num_classes=classes)
    model.conv1, model.maxpool = nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.Identity()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    return model


def conv_bn(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the image's size at stride 1, and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018) as the thesis has it: ReLU, and shortcuts wherever the stride is 1.

    A 1x1 convolution to `expansion` times the channels (also where that is 1), a depthwise 3x3, a 1x1 to `outputs`.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.residual = nn.Sequential(
            *conv_bn(inputs, hidden), nn.ReLU(inplace=True),
            *conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU(inplace=True),
            *conv_bn(hidden, outputs),
        )  # fmt: skip
        self.shortcut = None
        if stride == 1:
            self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(*conv_bn(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y = self.residual(x)
        return y if self.shortcut is None else y + self.shortcut(x)


def mobilenet_v2(classes: int = 10, channels: int = 3) -> nn.Module:
    """MobileNetV2 for 32x32 images as in the thesis: 2,296,922 parameters, PyTorch's default initial weights."""
    layers: list[nn.Module] = [*conv_bn(channels, 32, 3), nn.ReLU(inplace=True)]
    before = 32
    for expansion, outputs, blocks, first_stride in (
        (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(blocks):
            layers.append(InvertedResidual(before, outputs, expansion, 1 if block else first_stride))
            before = outputs
    head = [*conv_bn(320, 1280), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(1280, classes))


#: Networks by name, for images of [C, H, W] and so many classes. Read only: a name means one network, or runs of
#: another one would be stored as its.
MODELS: Mapping[str, Callable[[Shape, int], nn.Module]] = MappingProxyType(
    {
        "mlp": lambda shape, classes: mlp(512, 256, inputs=math.prod(shape), classes=classes),
        "mlp-tiny": lambda shape, classes: mlp(16, inputs=math.prod(shape), classes=classes),
        "resnet20": lambda shape, classes: cifar_resnet(3, classes, shape[0]),
        "resnet32": lambda shape, classes: cifar_resnet(5, classes, shape[0]),
        "resnet34": lambda shape, classes: resnet34(classes, shape[0]),
        "mobilenetv2": lambda shape, classes: mobilenet_v2(classes, shape[0]),
    }
)


def build(name: str, seed: int, shape: Shape = (3, 32, 32), classes: int = 10) -> nn.Module:
    """The network `name`, of MODELS or "module:name" of one's own, with initial weights drawn from `seed`.

    Global generators stay as they were. Raises UserError if one's own is no network for such images.
    """
    # torchvision takes three seconds to import: the convolutional networks ask for it themselves.
    with draws.seeded(seed):
        if not own.is_own(name):
            return MODELS[name](shape, classes)
        return own.network(name, shape, classes)


def network(run: Run, seed: int | None = None) -> nn.Module:
    """The network of a run, with initial weights of its own seed or of another one."""
    known, own_seed = facts(run.data), run.seed if run.init_seed is None else run.init_seed
    return build(run.model, own_seed if seed is None else seed, known.shape, known.classes)
