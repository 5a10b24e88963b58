"""Long vectors on any device; sums over them on a CPU in one pass over memory, by `fast`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from thesislib.system import draws

try:
    from thesislib.system import fast
except (ImportError, OSError):  # no numba, or an llvmlite whose library does not load
    fast = None  # torch's own operations give the same up to rounding, which `machine.kind` names


def squared_distances(a: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """||a - row||^2, [C], of a vector [P] and C rows [P]."""
    if not rows:
        return a.new_zeros(0)
    if fast and fast.serves(a):
        return fast.squared_distances(a, rows)
    return torch.stack([torch.dot(a - row, a - row) for row in rows])


def add_differences(outs: Sequence[Tensor], a: Tensor, rows: Sequence[Tensor], factors: Tensor) -> None:
    """Add sum_c factors_c (a - row_c) in place to contiguous tensors that, end to end, are as long as a [P]."""
    flats = [out.view(-1) for out in outs]
    if rows and fast and fast.serves(a):
        fast.add_differences(flats, a, rows, factors)
        return
    # The difference is formed, not expanded into products: just after a minimum it is far smaller than a and row.
    for row, factor in zip(rows, factors, strict=True):
        for flat, piece in zip(flats, (a - row).split([flat.numel() for flat in flats]), strict=True):
            flat.addcmul_(piece, factor)


def inner_products(vectors: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products [K, K], float64, of K long vectors, each given as the same sequence of contiguous pieces."""
    pieces = [tuple(piece.view(-1) for piece in some) for some in zip(*vectors, strict=True)]
    if fast and fast.serves(pieces[0][0]):
        return fast.inner_products(pieces)
    return sum(torch.stack([torch.stack([torch.dot(x, y) for y in some]) for x in some]).double() for some in pieces)


def norms_and_cosines(gradients: list[Tensor], push: list[Tensor], last: list[Tensor]) -> Tensor:
    """Norms of the cross-entropy's gradient and of the term's, and two cosines, [4], float64.

    The first is between the two gradients; the second between their sum, where the step wants to go now, and the
    `last` step's. Each is given as one tensor a parameter. An empty `push` is no term: its norm and cosine are 0;
    without a `last` the second cosine is nan.
    """
    vectors = {0: gradients} | ({1: push} if push else {}) | ({2: last} if last else {})
    at = torch.tensor(list(vectors))
    # One pass over all of them: the sum's products follow from those of its parts.
    dot = torch.zeros(3, 3, dtype=torch.float64, device=gradients[0].device)
    dot[at[:, None], at] = inner_products(list(vectors.values()))
    of_sum = (dot[0, 0] + 2 * dot[0, 1] + dot[1, 1]).clamp_min(0)  # rounding may make it negative
    cosines = (dot[0, 1], dot[0, 0] * dot[1, 1]), (dot[0, 2] + dot[1, 2], of_sum * dot[2, 2])
    term_cosine, last_cosine = (product / squares.sqrt().clamp_min(1e-30) for product, squares in cosines)
    if not last:
        last_cosine = last_cosine + math.nan
    return torch.stack((dot[0, 0].sqrt(), dot[1, 1].sqrt(), term_cosine, last_cosine))


class RunningMean:
    """The running mean `theta` [P] of vectors along the way, `count` of them (0: begin anew)."""

    def __init__(self, first: Tensor) -> None:
        self.theta, self.count = first.clone(), 0

    def add(self, theta: Tensor) -> None:
        """Take a further vector [P] into the mean."""
        self.count += 1
        self.theta.lerp_(theta, 1 / self.count)


def turned(vector: Tensor, *key: str | int) -> Tensor:
    """A vector [P] as long as this one in a random direction, uniform on the sphere: the `key`'s, on any device."""
    generator = torch.Generator().manual_seed(draws.seed_of(*key))
    other = torch.randn(vector.shape, dtype=vector.dtype, generator=generator).to(vector.device)
    length, drawn = (torch.linalg.vector_norm(x, dtype=torch.float64) for x in (vector, other))
    return other.mul_(length / drawn)


def radial_and_angular(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[float, float]:
    """How far filters differ in length, and in direction: parts of ||a - b||^2, of weights given a tensor a parameter.

    Sums over filters of (|a| - |b|)^2 and of the rest of ||a - b||^2, 2 |a| |b| (1 - cos). A BatchNorm undoes the
    first. What is no convolution's weight has a part in neither.
    """
    radial = angular = 0.0
    for x, y in zip(a, b, strict=True):
        if x.ndim != 4:
            continue
        x, y = x.double().flatten(1), y.double().flatten(1)
        # |x| - |y| without the cancellation of two nearly equal lengths.
        lengths = ((x - y) * (x + y)).sum(1) / (x.norm(dim=1) + y.norm(dim=1)).clamp_min(1e-30)
        radial += lengths.square().sum().item()
        angular += ((x - y).square().sum(1) - lengths.square()).clamp_min(0).sum().item()
    return radial, angular


def no_vector(tensors: Sequence[Tensor]) -> str:
    """Why parameters cannot be laid end to end in one vector; empty if they can."""
    if not tensors:
        return "no trainable parameters"
    if any(isinstance(x, UninitializedParameter) for x in tensors):
        return "parameters without a shape yet: give lazy layers all sizes"
    for what in ("device", "dtype"):
        if len(kinds := sorted({str(getattr(x, what)) for x in tensors})) > 1:
            return f"parameters of several {what}s: {', '.join(kinds)}; make them one first"
    if not tensors[0].is_floating_point():
        return f"parameters of {tensors[0].dtype}: they must be real numbers"
    if tensors[0].dtype == torch.float16:
        return "parameters of torch.float16, in which a squared distance ends at 65504: train with autocast instead"
    if _overlap(tensors):
        return "parameters that share memory: tie them as one, other.weight = layer.weight"
    return ""


def _overlap(tensors: Sequence[Tensor]) -> bool:
    """Whether some of these tensors lie in the same memory, in part at least."""
    ends: dict[int, list[tuple[int, int]]] = {}
    for x in (x for x in tensors if x.numel() and x.data_ptr()):
        length = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        spans = ends.setdefault(x.untyped_storage().data_ptr(), [])
        spans.append((x.storage_offset(), x.storage_offset() + length))
    return any(end > start for spans in ends.values() for (_, end), (start, _) in pairwise(sorted(spans)))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as an array: on the CPU a view of it."""
    return tensor.detach().cpu().numpy()


def from_numpy(array: np.ndarray) -> Tensor:
    """A copy of an array as a tensor on the CPU."""
    return torch.from_numpy(array.copy())
