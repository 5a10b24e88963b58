"""Seconds and bytes as tables, each number beside the goal it is held against."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pandas as pd

from thesislib.system import machine

Rows = list[dict[str, object]]


def epochs(seconds: pd.Series, hills: Sequence[int]) -> Rows:
    """Rows a and b over the number of minima."""
    return [
        {
            "minima": k,
            "a: by hand, autograd": f"{seconds[f'a{k}']:.2f} s",
            "b: thesislib": f"{seconds[f'b{k}']:.2f} s",
            "a / b": f"{seconds[f'a{k}'] / seconds[f'b{k}']:.1f}",
            "a: each further minimum": _further(seconds, "a", hills, k),
            "b: each further minimum": _further(seconds, "b", hills, k),
        }
        for k in hills
    ]


def _further(seconds: pd.Series, row: str, hills: Sequence[int], now: int) -> str:
    """What each minimum since the line before costs, in percent of the epoch without any."""
    for before, after in pairwise(hills):
        if after == now:
            each = (seconds[f"{row}{after}"] - seconds[f"{row}{before}"]) / (after - before)
            return f"{100 * each / seconds[f'{row}0']:+.1f} %"
    return ""


def goals(seconds: pd.Series) -> Rows:
    """The ratios of rows a to d with what is aimed at."""
    s = seconds
    whole_a, whole_b = s["a0"] + s["a, evaluation"], s["b0"] + s["b, evaluation, logging, storing"]
    few, many = (s["b5"] - s["b1"]) / 4 / s["b0"], (s["b10"] - s["b5"]) / 5 / s["b0"]
    return [
        _goal("a / c, no minima: the most that a / b can be", s["a0"] / s["c"], ""),
        _goal("a / b, training part, no minima", s["a0"] / s["b0"], ">= 3.5"),
        _goal("a / b, training part, 5 minima", s["a5"] / s["b5"], ">= 4"),
        _goal("a / b, training part, no minima, a on one thread as b", s["a0, 1 thread"] / s["b0"], ""),
        _goal("a / b, whole epoch, no minima", whole_a / whole_b, ">= 6"),
        _goal("b / c: the steps over their matrix products alone", s["b0"] / s["c"], "<= 1.25"),
        _goal("b / d: over a plain loop on tensors, torch.nn.Linear", s["b0"] / s["d"], "<= 1.05"),
        _goal("b / d: over the same loop with our matrix product", s["b0"] / s["d, our product"], "<= 1.05"),
        _goal("each minimum from the first to the fifth, share of a step without", few, "<= 0.06"),
        _goal("each minimum beyond five, share of a step without", many, "<= 0.06"),
        _goal("reading a minimum twice, and nothing else, share of a step", s["reading"] / s["b0"], ""),
        _goal(
            "evaluation, logging and storing, share of the training part",
            s["b, evaluation, logging, storing"] / s["b0"],
            "<= 0.05",
        ),
        _goal("precision bf16 over fp32 (an option, no default)", s["b0"] / s["b0, bf16"], ""),
    ]


def step(seconds: pd.Series, steps: int) -> Rows:
    """What the parts of an MLP's step take when each runs alone, `seconds` being those of so many steps."""
    s = seconds
    parts = {
        "matrix products, row c (their weights stay in the cache)": s["c"],
        "taking a batch out of 60,000 digits": s["batches"],
        "the weights' update: momentum and L2 (weights, momentum and gradient stay in the cache)": s["update"],
        "everything once more on 8 digits and 16 hidden units: Python, autograd, loss, log": s["small"],
    }
    rest = "what is left: ReLU and bias of 128 x 512, and that nothing stays in the cache of a core from part to part"
    parts[rest] = s["b0"] - sum(parts.values())
    parts["a step of thesislib, row b"] = s["b0"]
    return [
        {
            "part": part,
            "ms": f"{1000 * value / steps:.2f}",
            "share": f"{value / s['b0']:.3f}",
            "of c": f"{value / s['c']:.2f}",
        }
        for part, value in parts.items()
    ]


def _goal(what: str, measured: float, aim: str) -> dict[str, object]:
    return {"ratio": what, "measured": f"{measured:.2f}" if measured > 0.2 else f"{measured:.3f}", "goal": aim}


def steps(seconds: pd.Series) -> Rows:
    """Row e."""
    rows = []
    for model in ("resnet20", "mobilenetv2"):
        base = seconds[f"{model}, 0 minima, fp32"]
        for case in (c for c in seconds.index if c.startswith(model)):
            rows.append(
                {
                    "network": case,
                    "step": f"{1000 * seconds[case]:.0f} ms",
                    "images / s": f"{128 / seconds[case]:.0f}",
                    "relative": f"{seconds[case] / base:.3f}",
                }
            )
        each = (seconds[f"{model}, 5 minima, fp32"] / base - 1) / 5
        rows.append({"network": f"{model}, each minimum", "relative": f"{100 * each:+.2f} % of a step (goal <= 0.5 %)"})
        gain = base / seconds[f"{model}, 0 minima, bf16"]
        rows.append({"network": f"{model}, bf16 over fp32", "relative": f"{gain:.2f} x (goal for ResNet-20 >= 1.9)"})
    batching = seconds["batching and augmentation"]
    share = f"{batching / seconds['resnet20, 0 minima, fp32']:.3f} of a ResNet-20 step (goal <= 0.02)"
    rows.append({"network": "batching and augmentation alone", "step": f"{1000 * batching:.1f} ms", "relative": share})
    return rows


def processes(
    grids: Iterable[tuple[float, float]], seconds: pd.Series, lists: dict[str, float],
    importing: Callable[..., float], figures: dict[str, float],
) -> Rows:  # fmt: skip
    """Rows f and g; `seconds` are those of rows a to d."""
    one, two = (sorted(times)[len(times) // 2] for times in zip(*grids, strict=True))
    whole = (seconds["a0"] + seconds["a, evaluation"]) / (seconds["b0"] + seconds["b, evaluation, logging, storing"])
    rows = [
        ("16 runs, 1 process", one, ""),
        ("16 runs, 2 processes", two, f"ratio {one / two:.2f}, goal >= 1.9"),
        ("a grid by hand, run after run, over ours by 2 processes", whole * one / two, "a ratio, goal >= 11"),
        ("import thesislib.trainer after torch", importing("thesislib.trainer", after="import torch"), "<= 0.3 s"),
        ("import thesislib.__main__ (the command line)", importing("thesislib.__main__"), ""),
        ("find 1,000 finished runs", lists["find"], "<= 1 s"),
        ("read their 80,000 rows", lists["read"], ""),
        ("make figures, nothing trained before: the first figure", figures["first"], "<= 60 s"),
        ("make figures, nothing trained before: all of it", figures["cold"], "<= 660 s"),
        ("make figures force=1, nothing to train", figures["warm"], "<= 60 s"),
        ("make figures, nothing changed", figures["current"], "<= 5 s"),
    ]
    return [{"what": what, "seconds": f"{seconds:.2f}", "goal": aim} for what, seconds, aim in rows]


def memory(peaks: dict[tuple[str, int], tuple[float, float]]) -> Rows:
    """Peak bytes over the number of minima; what each adds, against the fp32 vector that it is."""
    parameters = {"mlp": 535_818, "resnet34": 21_282_122}
    rows, (last_model, last_minima, last) = [], ("", 0, (0.0, 0.0))
    for (model, minima), both in peaks.items():
        row = {"network": model, "minima": minima}
        for name, peak, before in zip(("", ", freed memory given back"), both, last, strict=True):
            row[f"peak{name}"] = f"{peak / 1e6:.0f} MB"
            each = (peak - before) / (minima - last_minima) if model == last_model else 0
            factor = f" = {each / (4 * parameters[model]):.2f} x its vector"
            row[f"each further minimum{name}"] = f"{each / 1e6:.1f} MB{factor} (goal <= 1.2)" if each else ""
        rows.append(row)
        last_model, last_minima, last = model, minima, both
    return rows


MEMORY = "Peak resident memory of a run, storing included"
GOALS = "What the goals say"
STEP = "Where a step of the MLP goes"
STEPS = "One training step of 128 CIFAR-10 images, one core"
#: What a table needs to be understood.
NOTES = {
    GOALS: "A minimum of the MLP is a vector of 2.14 MB, read twice a step, for its distance and for its push. The row "
    '"reading" does only that, with vectors that were read long ago: a minimum cannot cost less. What it costs beyond '
    "that is what its vector drives out of a core's cache: weights, gradients and momentum (6.4 MB) come back slowly. "
    "Evaluation is 10,000 digits forwards, 10.7 GFLOP; the products of the training are 144 GFLOP: with b / c = 1.5 "
    "these 7.4 % of c are 5 % of b, before anything is logged. No a / b can exceed a / c.",
    STEP: "Each part alone, over and over. A step of row b reads and writes 2.1 MB of weights, as much momentum and "
    "as much gradient, about 15 MB in all with those of the products, which no core's cache holds. Each row is a "
    "median of its own, so that less than nothing may be left.",
    STEPS: "A minimum of ResNet-20 has 1.1 MB, one of MobileNetV2 8.9 MB: read twice at 10 GB/s they take 0.2 and "
    "1.8 ms, 0.05 % of a step. What the rows of ResNet-20 show beyond that is the noise of the "
    "machine. Those of MobileNetV2 show more.",
    MEMORY: "The allocator keeps freed blocks, and holes between them, unless it is told to give them back "
    "(glibc: MALLOC_MMAP_THRESHOLD_).",
}


def page(tables: dict[str, Rows], rounds: int) -> str:
    """All tables as one Markdown page, with the machine they were measured on and in how many rounds."""
    lines = [
        "# Benchmark",
        "",
        f"By `make bench` on {machine.cores()} cores of {_processor()}, Python {platform.python_version()}, "
        f"torch {version('torch')}; medians of {rounds} interleaved rounds. Row b runs on one thread, row a on all "
        "cores unless it says otherwise.",
    ]
    for title, rows in tables.items():
        lines += ["", f"## {title}", "", *([NOTES[title], ""] if title in NOTES else []), _markdown(rows)]
    return "\n".join([*lines, ""])


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _markdown(rows: Rows) -> str:
    table = pd.DataFrame(rows).fillna("").astype(str)
    lines = [" | ".join(table.columns), " | ".join("---" for _ in table.columns)]
    return "\n".join(f"| {line} |" for line in [*lines, *(" | ".join(row) for row in table.to_numpy())])
