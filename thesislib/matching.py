"""The same network in disguise? Hidden units may be permuted without changing what a network computes.

Weight matching (Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin", section 3.2): permute one network's units, layer by
layer, until its weights lie as near to another's as they can.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

Layers = list[tuple[np.ndarray, np.ndarray]]


def layers_of(theta: np.ndarray, sizes: tuple[int, ...]) -> Layers:
    """Weights [out, in] and biases [out] of a fully connected network of these sizes, from theta [P]."""
    layers, start = [], 0
    for n, m in zip(sizes[:-1], sizes[1:], strict=True):
        weight = theta[start : start + n * m].reshape(m, n)
        layers.append((weight, theta[start + n * m : start + n * m + m]))
        start += n * m + m
    if start != len(theta):
        raise ValueError(f"{len(theta)} weights are not a fully connected network of sizes {sizes}")
    return layers


def vector_of(layers: Layers) -> np.ndarray:
    """theta [P] of layers."""
    return np.concatenate([part.ravel() for layer in layers for part in layer])


def permuted(theta: np.ndarray, sizes: tuple[int, ...], permutations: list[np.ndarray]) -> np.ndarray:
    """theta [P] with the units of each hidden layer in another order; computes the same function."""
    layers = layers_of(theta, sizes)
    out = []
    before = np.arange(sizes[0])
    for (weight, bias), order in zip(layers, [*permutations, np.arange(sizes[-1])], strict=True):
        out.append((weight[order][:, before], bias[order]))
        before = order
    return vector_of(out)


def align(theta: np.ndarray, target: np.ndarray, sizes: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """theta [P] with its hidden units permuted so that it lies near `target` [P].

    Coordinate descent: given the other layers' permutations, the best one of a layer is a linear assignment; layers
    take turns in random order until nothing changes. Every change brings theta nearer to the target.
    """
    rng = np.random.default_rng(seed)
    a, b = layers_of(target.astype(np.float64), sizes), layers_of(theta.astype(np.float64), sizes)
    orders = [np.arange(m) for m in sizes[1:-1]]
    while True:
        changed = False
        for k in rng.permutation(len(orders)):
            before = orders[k - 1] if k > 0 else np.arange(sizes[0])
            after = orders[k + 1] if k + 1 < len(orders) else np.arange(sizes[k + 2])
            (weight_a, bias_a), (weight_b, bias_b) = a[k], b[k]
            gain = weight_a @ weight_b[:, before].T + np.outer(bias_a, bias_b)
            gain += a[k + 1][0].T @ b[k + 1][0][after]
            _, order = linear_sum_assignment(gain, maximize=True)
            units = np.arange(len(order))
            if gain[units, order].sum() > gain[units, orders[k]].sum() + 1e-9:
                orders[k], changed = order, True
        if not changed:
            return permuted(theta, sizes, orders)
