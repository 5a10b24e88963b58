"""Medians of interleaved repetitions: what else the machine does hits every case alike."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch


def interleaved(cases: dict[str, Callable[[], float]], repetitions: int) -> pd.Series:
    """Median seconds of each case; every case returns the seconds it took, all take turns, the first round is lost."""
    rows = [{name: case() for name, case in cases.items()} for _ in range(repetitions + 1)]
    return pd.DataFrame(rows[1:]).median()


def with_threads(threads: int, case: Callable[[], float]) -> Callable[[], float]:
    """The case on so many threads."""

    def run() -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return case()
        finally:
            torch.set_num_threads(before)

    return run
