"""Random numbers that depend on nothing but a key, whatever was drawn before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch


def seed_of(*key: str | int) -> int:
    """A seed of 64 bits that belongs to the `key`."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let what draws from the global generators of torch, numpy or Python, as dropout does, draw what the seed says.

    They go on afterwards as if nothing had been drawn.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def drawn_by(*key: str | int) -> AbstractContextManager[None]:
    """The same with a seed that belongs to the `key`."""
    return seeded(seed_of(*key))


def drawing(key: Callable[..., tuple[str | int, ...]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The same for a whole function, whose arguments `key` makes a key of."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def drawn(*arguments: Any, **named: Any) -> Any:
            with drawn_by(*key(*arguments, **named)):
                return function(*arguments, **named)

        return drawn

    return decorate
