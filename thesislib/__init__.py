"""Force a neural network to explore the loss landscape: visited minima become hills in the loss.

    import thesislib as tl

    runs = tl.section("2-2_strength", scale="laptop", strengths=[1, 10])
    figure = tl.plot.curves(runs, ["accuracy", "d_0"])
    tl.save(figure, "2-2_strength", runs)

`tl.train` takes runs of one's own, `tl.runs()` lists those on disk, `tl.DistanceTerm` goes into any training loop.
"""

from importlib import import_module
from typing import Any

#: The public names, each with the module that has it; modules are imported when a name is first used.
_PUBLIC = {
    "Run": "config",
    "Trainer": "trainer",
    "DistanceTerm": "minima",
    "UserError": "system.errors",
    "section": "experiments.sections",
    "train": "experiments.own",
    "runs": "runs",
    "explore": "app.explore",
    "plot": "plots.plot",
    "save": "plots.save",
    "table": "plots.save",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_PUBLIC[name]}")
    # `section` there is what sections are declared by.
    return module if name in ("plot", "runs") else getattr(module, {"section": "results"}.get(name, name))


def __dir__() -> list[str]:
    return [*_PUBLIC]
