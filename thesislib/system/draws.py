"""Random numbers that depend on nothing but a key, whatever was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch


def seed_of(*key: str | int) -> int:
    """A seed of 64 bits that belongs to the `key`."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")


@contextmanager
def drawn_by(*key: str | int) -> Iterator[None]:
    """Let what draws from torch's global generator, as dropout does, draw what belongs to the `key`.

    The generator goes on afterwards as if nothing had been drawn.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(*key))
        yield


def drawing(key: Callable[..., tuple[str | int, ...]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The same for a whole function, whose arguments `key` makes a key of."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def drawn(*arguments: Any, **named: Any) -> Any:
            with drawn_by(*key(*arguments, **named)):
                return function(*arguments, **named)

        return drawn

    return decorate
