"""Is it the same network, its units in another order? Permuting hidden units changes nothing of what it computes.

Weight matching (Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin", section 3.2): permute one network's units until its
weights lie as near to another's as they can. Units are hidden neurons or channels. Which of them may change places, and
what has to move with them, is read off the network's graph, so that shortcuts and BatchNorm need no special treatment.
"""

from __future__ import annotations

import itertools
import operator
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import fx, nn
from torch.nn import functional as F

from thesislib.models import PadShortcut
from thesislib.system.errors import UserError

#: Descents of which the nearest is taken.
STARTS = 10
#: A descent ends where a round brings less than this share of the squared distance. The MLP's would go on for three
#: times as many rounds, for a thousandth of it; starts differ by as little.
LITTLE = 1e-4
#: Labels of places that are no hidden unit: pixels and classes, which stay where they are, and zeros.
_FIXED, _ZERO = -1, -2
#: They treat each channel on its own and do not care which one it is.
_CHANNELWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Flatten, nn.Identity, nn.Dropout,
)  # fmt: skip
_CHANNELWISE_FUNCTIONS = (
    torch.flatten, torch.relu, torch.tanh, torch.sigmoid, F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.tanh,
    F.sigmoid, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d,
    "flatten", "relu", "tanh", "sigmoid", "contiguous",  # methods
)  # fmt: skip


@dataclass(frozen=True)
class Units:
    """N hidden units that may change places: where each one sits in the parameters.

    `places` holds a parameter's number, one of its axes, and the units' positions on it, [N, R].
    """

    places: tuple[tuple[int, int, np.ndarray], ...]

    def __len__(self) -> int:
        return len(self.places[0][2])

    def likeness(self, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
        """Inner products [N, N] of all that belongs to each unit, in the parameters a (rows) and b (columns)."""
        total = np.zeros((len(self), len(self)))
        for k, axis, positions in self.places:
            total += _rows(a[k], axis, positions) @ _rows(b[k], axis, positions).T
        return total

    def permute(self, parameters: list[np.ndarray], order: np.ndarray) -> None:
        """Put unit order[i] where unit i is, in place."""
        for k, axis, positions in self.places:
            index = np.arange(parameters[k].shape[axis])
            index[positions] = positions[order]
            parameters[k] = parameters[k].take(index, axis)


def _rows(parameter: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    """[N, everything of each unit]."""
    return np.moveaxis(parameter.take(positions.ravel(), axis), axis, 0).reshape(len(positions), -1)


def hidden_units(model: nn.Module) -> list[Units]:
    """The groups of units of a network that may change places among themselves, in the order of the network.

    Units that an addition joins are one unit. With option-A shortcuts a stage's new channels are a group of their own,
    for they may not change places with the old ones. Raises UserError at a layer that it does not know.
    """
    axes = _label_axes(model)
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for key, labels in axes.items():
        for unit in set(labels.tolist()) - {_FIXED, _ZERO}:
            found[unit].append(key)
    # Units may change places if they sit in the same parameters.
    groups: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for unit in sorted(found):
        groups[tuple(found[unit])].append(unit)
    return [
        Units(tuple((*key, np.stack([np.flatnonzero(axes[key] == unit) for unit in units])) for key in keys))
        for keys, units in groups.items()
    ]


def _label_axes(model: nn.Module) -> dict[tuple[int, int], np.ndarray]:
    """For every parameter's number and axis: which unit, or _FIXED or _ZERO, sits at each of its positions."""
    # By identity: tied weights have two names. Those that are frozen have negative numbers.
    trained = {id(p): k for k, p in enumerate(p for p in model.parameters() if p.requires_grad)}
    frozen = {id(p): -1 - k for k, p in enumerate(p for p in model.parameters() if not p.requires_grad)}
    numbers = {name: (trained | frozen)[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    fresh = itertools.count()
    axes: dict[tuple[int, int], np.ndarray] = {}
    channels: dict[fx.Node, np.ndarray] = {}  # of what each step of the forward pass returns

    def note(name: str, axis: int, labels: np.ndarray) -> None:
        if name in numbers:
            if (numbers[name], axis) in axes:
                raise UserError(f"cannot tell which units may change places: {name} is used more than once")
            axes[numbers[name], axis] = labels

    def rename(old: np.ndarray, new: np.ndarray) -> None:
        names = dict(zip(old.tolist(), new.tolist(), strict=True))
        for places in (axes, channels):
            for key, labels in places.items():
                places[key] = np.array([names.get(label, label) for label in labels.tolist()])

    try:
        nodes = _Tracer().trace(model).nodes
    except (fx.proxy.TraceError, RuntimeError, TypeError) as error:
        raise UserError(f"cannot tell which units may change places: {str(error).splitlines()[0]}") from error
    for node in nodes:
        what = model.get_submodule(node.target) if node.op == "call_module" else node.target
        before = [channels[argument] for argument in node.args if isinstance(argument, fx.Node)]
        if node.op == "placeholder":
            channels[node] = np.array([_FIXED])
        elif node.op == "output":
            classes = before[0][before[0] >= 0]
            rename(classes, np.full_like(classes, _FIXED))
        elif isinstance(what, nn.Linear) or (isinstance(what, nn.Conv2d) and what.groups == 1):
            outputs, inputs = what.weight.shape[:2]
            channels[node] = np.array(list(itertools.islice(fresh, outputs)))
            note(f"{node.target}.weight", 0, channels[node])
            note(f"{node.target}.bias", 0, channels[node])
            # Pixels of one channel are several inputs of a fully connected layer.
            note(f"{node.target}.weight", 1, np.repeat(before[0], inputs // len(before[0])))
        elif isinstance(what, _CHANNELWISE) or what in _CHANNELWISE_FUNCTIONS or _is_depthwise(what):
            channels[node] = before[0]
            note(f"{node.target}.weight", 0, before[0])
            note(f"{node.target}.bias", 0, before[0])
        elif isinstance(what, PadShortcut):
            zeros = np.full(len(before[0]) // 2, _ZERO)
            channels[node] = np.concatenate((zeros, before[0], zeros))
        elif what in (operator.add, operator.iadd) and len(before) == 2:
            less, more = np.minimum(*before), np.maximum(*before)
            joined = less != _ZERO  # what is joined with something fixed is fixed
            channels[node] = np.where(joined, less, more)
            rename(more[joined], less[joined])
        else:
            raise UserError(f"cannot tell which units may change places in {node.target}: {what}")
    for key in [key for key in axes if key[0] < 0]:  # stored nowhere, so its units stay where they are
        labels = axes.pop(key)
        rename(labels[labels >= 0], np.full_like(labels[labels >= 0], _FIXED))
    return axes


def _is_depthwise(layer: object) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not list(module.children())


def permuted(theta: np.ndarray, model: nn.Module, orders: Sequence[np.ndarray]) -> np.ndarray:
    """theta [P] with each group of `hidden_units` in another order; computes the same function."""
    parameters = _pieces(theta, model)
    for units, order in zip(hidden_units(model), orders, strict=True):
        units.permute(parameters, order)
    return np.concatenate([piece.ravel() for piece in parameters])


def align(theta: np.ndarray, target: np.ndarray, model: nn.Module, starts: int = STARTS, seed: int = 0) -> np.ndarray:
    """theta [P] with its hidden units permuted so that it lies near `target` [P]; both are weights of `model`.

    The nearest of several descents: the first begins with the units as they lie, each further one in a random order,
    for where a descent ends depends on where it begins. It is never farther than theta is.
    """
    rng = np.random.default_rng(seed)
    goal, pieces, groups = _pieces(target, model), _pieces(theta, model), hidden_units(model)
    best, least = pieces, _squared_distance(pieces, goal)
    for start in range(starts):
        parameters = list(pieces)
        if start:
            for units in groups:
                units.permute(parameters, rng.permutation(len(units)))
        if (distance := _descend(parameters, goal, groups, rng)) < least:
            best, least = parameters, distance
    return np.concatenate([piece.ravel() for piece in best])


def _descend(
    parameters: list[np.ndarray], goal: list[np.ndarray], groups: Sequence[Units], rng: np.random.Generator
) -> float:
    """Permute units, in place, until a round over all groups brings little; the squared distance to the goal.

    Given the other groups' orders, the best one of a group is a linear assignment; groups take turns in random order.
    """
    last = np.inf
    while (distance := _squared_distance(parameters, goal)) < (1 - LITTLE) * last:
        last = distance
        for k in rng.permutation(len(groups)):
            _, order = linear_sum_assignment(groups[k].likeness(goal, parameters), maximize=True)
            groups[k].permute(parameters, order)
    return distance


def _squared_distance(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    return float(sum(np.square(one - other, dtype=np.float64).sum() for one, other in zip(a, b, strict=True)))


def _pieces(theta: np.ndarray, model: nn.Module) -> list[np.ndarray]:
    """theta [P], shaped as the parameters."""
    shapes = [tuple(p.shape) for p in model.parameters() if p.requires_grad]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    if ends[-1] != len(theta):
        raise ValueError(f"{len(theta)} weights are not those of a network with {ends[-1]}")
    return [piece.reshape(shape) for piece, shape in zip(np.split(theta, ends[:-1]), shapes, strict=True)]
