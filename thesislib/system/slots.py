"""What an optimiser remembers of each parameter, as arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from thesislib.system.vectors import to_numpy


def arrays(optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """Its momentum and the like by name, "<parameter>.<slot>"; on the CPU views of what training goes on to change."""
    state = optimizer.state_dict()["state"]
    return {f"{p}.{slot}": to_numpy(value) for p in state for slot, value in state[p].items() if value is not None}


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give it back what `arrays` took; before the first step there is nothing."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, slot = name.split(".")
        state.setdefault(int(parameter), {})[slot] = value
    if state:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
