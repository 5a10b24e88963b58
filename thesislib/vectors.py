"""The operations on long vectors that the distance term is made of, with as little memory traffic as there can be.

On the CPU what a hill costs is the reading of vectors of P numbers. numba's loops read each minimum once for its
distance and once for its push, block by block, so that everything else stays in the cache; torch's operations would
read and write all of it several times. On a GPU torch's own operations do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor

#: Where numba's loops are used.
FUSED_DEVICES = ("cpu",)

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


def squared_distances(a: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """||a - row||^2, [C], of a vector [P] and C rows [P]."""
    if not rows:
        return a.new_zeros(0)
    if a.device.type in FUSED_DEVICES:
        return torch.from_numpy(_squared_distances(a.numpy(), _addresses(a, rows))).to(a.dtype)
    return torch.stack([torch.dot(a - row, a - row) for row in rows])


def add_differences(outs: Sequence[Tensor], a: Tensor, rows: Sequence[Tensor], factors: Tensor) -> None:
    """Add sum_c factors_c (a - row_c) in place to contiguous tensors that, end to end, are as long as a [P]."""
    if not rows:
        return
    # The difference is formed, not expanded into products: just after a minimum it is far smaller than a and row.
    flats = [out.view(-1) for out in outs]
    if a.device.type not in FUSED_DEVICES:
        for row, factor in zip(rows, factors, strict=True):
            for flat, piece in zip(flats, (a - row).split([flat.numel() for flat in flats]), strict=True):
                flat.addcmul_(piece, factor)
        return
    if len(factors) != len(rows) or sum(flat.numel() for flat in flats) != a.numel():
        raise ValueError(f"{len(rows)} rows take as many factors, and tensors of {a.numel()} numbers in all")
    start, addresses = 0, _addresses(a, rows)
    for flat in flats:
        _add_differences(flat.numpy(), a.numpy(), addresses, factors.numpy(), start)
        start += flat.numel()


def inner_products(vectors: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products [K, K], float64, of K long vectors, each given as the same sequence of contiguous pieces."""
    pieces = [tuple(piece.view(-1) for piece in some) for some in zip(*vectors, strict=True)]
    if pieces[0][0].device.type in FUSED_DEVICES:
        lower = torch.from_numpy(sum(_inner_products(tuple(x.numpy() for x in some)) for some in pieces))
        return lower + lower.tril(-1).T
    return sum(torch.stack([torch.stack([torch.dot(x, y) for y in some]) for x in some]).double() for some in pieces)


def _addresses(a: Tensor, rows: Sequence[Tensor]) -> np.ndarray:
    """Where the rows lie in memory, [C]. Raises ValueError unless each of them is a vector like `a`."""
    for row in rows:
        if (row.shape, row.dtype, row.device) != (a.shape, a.dtype, a.device) or not row.is_contiguous():
            raise ValueError(f"each row must be contiguous, {a.dtype} and {list(a.shape)}, as the first vector is")
    return np.array([row.data_ptr() for row in rows])
