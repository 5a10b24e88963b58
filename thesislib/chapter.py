"""The results chapter: train what the notebooks need, then execute them side by side through papermill."""

from __future__ import annotations

import ast
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from thesislib import export, launch, sections
from thesislib.config import UserError


def notebooks_folder() -> Path:
    """The folder of the notebooks, beside the package."""
    return Path(__file__).resolve().parents[1] / "notebooks"


def parameters_of(section: str) -> dict[str, Any]:
    """Names and default values in a notebook's parameters cell."""
    # Imported here: papermill takes a second, and listing runs does not need it.
    from papermill import inspect_notebook

    found = inspect_notebook(str(notebooks_folder() / f"{section}.ipynb"))
    return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}


def execute(scale: str, chosen: Iterable[str] = (), parameters: dict[str, Any] | None = None) -> bool:
    """Make the figures of the chosen sections (all if none is chosen); True if every notebook ran through.

    Prints a line a notebook. Raises UserError, before anything is trained, for an unknown section, scale or
    parameter, a value of another type than the notebook's own, or missing data.
    """
    chosen, parameters = list(chosen) or list(sections.SECTIONS), parameters or {}
    for section in chosen:
        sections.groups(section, scale)  # refuses unknown names
    given = _fitting(chosen, parameters)
    groups = [sections.groups(s, scale, **_run_parameters(s, given[s])) for s in chosen]
    begin = time.perf_counter()
    failed = 0
    try:
        launch.train_missing(run for group in groups for runs in group.values() for run in runs)
    except RuntimeError as failure:  # the notebooks that have all their runs can still be made
        failed = 1
        print(f"FAILED training                 {failure}", flush=True)
    trained = time.perf_counter()
    folder = export.figures_folder(scale)
    folder.mkdir(parents=True, exist_ok=True)
    done = 0
    # Runs are there: a notebook only reads and draws, in its own kernel.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        futures = {
            pool.submit(_papermill, section, folder, {**given[section], "scale": scale}): section for section in chosen
        }
        for future in as_completed(futures):
            seconds, error = future.result()
            failed, done = failed + bool(error), done + (not error)
            print(
                f"{'FAILED' if error else 'ok    '} {futures[future]:<24} {error or f'{seconds:5.1f} s'}",
                flush=True,
            )
    book = export.book(folder)
    drawn = len(list(folder.glob("*.pgf")))
    print(
        f"{done} of {len(chosen)} notebooks, {drawn} figures in {folder} ({book.name} shows all); "
        f"training {trained - begin:.0f} s, notebooks {time.perf_counter() - trained:.0f} s"
    )
    return not failed


def _fitting(chosen: list[str], parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook, defaults replaced; one that no chosen notebook knows is refused."""
    # papermill itself only warns of an unknown parameter and goes on.
    known = {section: parameters_of(section) for section in chosen}
    for name, value in parameters.items():
        defaults = [defaults[name] for defaults in known.values() if name in defaults]
        if not defaults or name == "scale":
            names = sorted({n for defaults in known.values() for n in defaults} - {"scale"})
            raise UserError(f"unknown parameter {name!r}: {', '.join(chosen)} know {', '.join(names)}")
        for default in defaults:
            kinds = (int, float) if isinstance(default, float) else type(default)
            if default is not None and (
                not isinstance(value, kinds) or isinstance(value, bool) > isinstance(default, bool)
            ):
                raise UserError(f"parameter {name} must be like {default!r}, not {value!r}")
    return {s: defaults | {n: v for n, v in parameters.items() if n in defaults} for s, defaults in known.items()}


def _run_parameters(section: str, values: dict[str, Any]) -> dict[str, Any]:
    """Those of a notebook's parameters that decide which runs it asks for."""
    return {name: value for name, value in values.items() if name in sections.parameter_names(section)}


def _papermill(section: str, folder: Path, parameters: dict[str, Any]) -> tuple[float, str]:
    """Execute one notebook; seconds, and the error (empty if none) with the cell it came from."""
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    begin, error = time.perf_counter(), ""
    # A kernel is spoken to over sockets in a private folder: over TCP every local user could listen.
    private = tempfile.TemporaryDirectory(prefix="kernel-")
    sockets = {"transport": "ipc", "ip": f"{private.name}/socket"}
    try:
        execute_notebook(
            notebooks_folder() / f"{section}.ipynb",
            folder / f"{section}.ipynb",
            parameters,
            kernel_name="python3",
            cwd=notebooks_folder(),
            progress_bar=False,
            log_output=False,
            # Kernels that are shut down log an interrupt as an error.
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            config=Config({"KernelManager": sockets}),
        )
    except PapermillExecutionError as failure:
        error = f"cell {failure.cell_index}: {failure.ename}: {failure.evalue} (see {folder / section}.ipynb)"
    finally:
        private.cleanup()
    return time.perf_counter() - begin, error
