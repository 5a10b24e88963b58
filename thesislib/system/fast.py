"""Faster ways on a CPU for what `vectors`, `models` and `precision` do; without this file they use torch's own.

What a hill costs is the reading of vectors of P numbers. numba's loops read each minimum once for its distance and
once for its push, block by block, so that everything else stays in the cache; torch's operations would read and write
all of it several times. Matrix products of the MLP are oneDNN's where those beat MKL's, products in bf16 are made
from fp32's where the processor has none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

#: Numbers for which numba's loops are compiled.
_DTYPES = (torch.float32, torch.float64)

#: Sums may be reordered, which is what lets them use vector instructions. NaN and infinity keep their meaning: a
#: diverged run must be seen as such.
_COMPILED = {"fastmath": {"reassoc", "nsz", "contract"}, "nogil": True}
#: So many numbers of each row in turn. They are few, so that the processor fetches all rows at once; with 4096 it
#: waits for one row after another, and a hill costs twice the time (AMD EPYC, five and ten hills in a step of the MLP).
_BLOCK = 128


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, compiled once and kept on disk where there is a folder for it."""
    try:
        return numba.njit(cache=True, **_COMPILED)(function)
    except RuntimeError:  # neither beside this file nor in the user's home: compiled in each process, some seconds
        return numba.njit(**_COMPILED)(function)


@intrinsic
def _at(_typing: Any, address: types.Integer) -> tuple[Any, Callable[..., Any]]:
    """An address as a pointer."""
    # Rows are given by address because a tuple of arrays would be compiled anew for each number of them: 0.4 s and
    # nearly 1 MB of machine code, more than a third of a minimum of the MLP.

    def pointer(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), pointer


@_compiled
def _squared_distances(a: np.ndarray, rows: np.ndarray) -> np.ndarray:
    totals = np.zeros(rows.size)  # float64 over blocks, or the rounding of fp32 would grow with P
    for start in range(0, a.size, _BLOCK):
        x = a[start : start + _BLOCK]
        for c in range(rows.size):
            y = numba.carray(_at(rows[c]), a.size, a.dtype)[start : start + _BLOCK]
            block = a.dtype.type(0)
            for i in range(x.size):
                difference = x[i] - y[i]
                block += difference * difference
            totals[c] += block
    return totals


@_compiled
def _add_differences(out: np.ndarray, a: np.ndarray, rows: np.ndarray, factors: np.ndarray, offset: int) -> None:
    for start in range(0, out.size, _BLOCK):
        o, x = out[start : start + _BLOCK], a[offset + start : offset + start + _BLOCK]
        for c in range(rows.size):
            row, factor = numba.carray(_at(rows[c]), a.size, a.dtype), factors[c]
            y = row[offset + start : offset + start + _BLOCK]
            for i in range(o.size):
                o[i] += factor * (x[i] - y[i])


@_compiled
def _inner_products(rows: tuple[np.ndarray, ...]) -> np.ndarray:
    totals = np.zeros((len(rows), len(rows)))
    for start in range(0, rows[0].size, _BLOCK):
        for a in range(len(rows)):
            x = rows[a][start : start + _BLOCK]
            for b in range(a + 1):
                y = rows[b][start : start + _BLOCK]
                block = x.dtype.type(0)
                for i in range(x.size):
                    block += x[i] * y[i]
                totals[a, b] += block
    return totals


def serves(vector: Tensor) -> bool:
    """Whether these loops are for such vectors."""
    return vector.device.type == "cpu" and vector.dtype in _DTYPES


def squared_distances(a: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """As `vectors.squared_distances`, of one row at least."""
    return torch.from_numpy(_squared_distances(a.numpy(), _addresses(a, rows))).to(a.dtype)


def add_differences(flats: Sequence[Tensor], a: Tensor, rows: Sequence[Tensor], factors: Tensor) -> None:
    """As `vectors.add_differences`, to vectors."""
    if len(factors) != len(rows) or sum(flat.numel() for flat in flats) != a.numel():
        raise ValueError(f"{len(rows)} rows take as many factors, and tensors of {a.numel()} numbers in all")
    start, addresses = 0, _addresses(a, rows)
    for flat in flats:
        _add_differences(flat.numpy(), a.numpy(), addresses, factors.numpy(), start)
        start += flat.numel()


def inner_products(pieces: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """As `vectors.inner_products`, of pieces that are vectors, each given of all K."""
    lower = torch.from_numpy(sum(_inner_products(tuple(x.numpy() for x in some)) for some in pieces))
    return lower + lower.tril(-1).T


def _addresses(a: Tensor, rows: Sequence[Tensor]) -> np.ndarray:
    """Where the rows lie in memory, [C]. Raises ValueError unless each of them is a vector like `a`."""
    for row in rows:
        if (row.shape, row.dtype, row.device) != (a.shape, a.dtype, a.device) or not row.is_contiguous():
            raise ValueError(f"each row must be contiguous, {a.dtype} and {list(a.shape)}, as the first vector is")
    return np.array([row.data_ptr() for row in rows])


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


class _Rounded(torch.autograd.Function):
    """Numbers rounded to bf16, and their gradients; both stay fp32 tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.bfloat16().float()


#: Of functions that multiply two tensors, and sum up: the names of these.
_PRODUCTS = {
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d, F.conv3d), ("input", "weight")),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), ("input", "weight")),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__), ("input", "other")),
    **dict.fromkeys((torch.mm, Tensor.mm, torch.bmm, Tensor.bmm), ("input", "mat2")),
}


class _RoundedProducts(TorchFunctionMode):
    """Convolutions and products of bf16 numbers, summed up in fp32: what autocast does, by fp32's instructions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        factors = [_Rounded.apply(factor) for factor in args[:2]]
        named = dict(kwargs or {})
        named |= {name: _Rounded.apply(named[name]) for name in _PRODUCTS[func] if name in named}
        return _Rounded.apply(func(*factors, *args[2:], **named))


def autocast() -> AbstractContextManager:
    """bf16 on this CPU: torch's own, or by fp32's instructions where the processor has none for it."""
    # Without AVX-512 oneDNN's convolutions in bf16 take eight times as long as those in fp32 (AMD EPYC, ResNet-20).
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16) if native else _RoundedProducts()
