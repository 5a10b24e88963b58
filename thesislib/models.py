"""The networks of the thesis; the convolutional ones are built from torchvision's blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: oneDNN's matrix product in fp32, which torch itself uses for bf16 only. On AMD's AVX-512 it is twice as fast
#: as MKL's (which torch uses for fp32): 209 against 103 GFLOP/s on one core.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b^T (+ bias) for fp32 matrices on the CPU; transposed views are fine."""
    return _ONEDNN(a, b, bias, "none", [], "")


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
        if _ONEDNN is None or x.device.type != "cpu" or x.dtype != torch.float32:
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


MODELS = {"mlp": lambda: mlp(512, 256), "mlp-tiny": lambda: mlp(16)}


def build(name: str, seed: int) -> nn.Module:
    """The network `name` with initial weights drawn from `seed`; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name]()
