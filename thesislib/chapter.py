"""The results chapter: train what the notebooks need, then execute them side by side through papermill."""

from __future__ import annotations

import ast
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from thesislib import ensembles, export, launch, machine, sections
from thesislib.config import UserError
from thesislib.results import Results
from thesislib.store import Groups


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
    groups = {s: sections.groups(s, scale, **_run_parameters(s, given[s])) for s in chosen}
    _make_folders_absolute()
    for needed in groups.values():
        launch.missing(run for runs in needed.values() for run in runs)  # says so if data are missing
    begin, folder = time.perf_counter(), export.make_folder(scale)
    errors = _train(groups)
    trained = time.perf_counter()
    # Runs are there: a notebook only reads and draws, in its own kernel.
    ready = [section for section in chosen if section not in errors]
    with machine.pool_of(machine.cores()) as pool, machine.stopped_by_interrupt(pool):
        futures = {
            pool.submit(_papermill, section, folder, {**given[section], "scale": scale}): section for section in ready
        }
        for future in as_completed(futures):
            seconds, error = future.result()
            if error:
                errors[futures[future]] = error
            print(f"{'FAILED' if error else 'ok    '} {futures[future]:<24} {error or f'{seconds:5.1f} s'}", flush=True)
    for section in chosen:
        if section not in errors and section != "9_claims":  # all of the others' runs: its table is the verdicts
            export.table(Results.load(groups[section]).final, section, scale)
    book = export.book(folder)
    drawn = len(list(folder.glob("*.pgf")))
    print(
        f"{len(chosen) - len(errors)} of {len(chosen)} notebooks, {drawn} figures in {folder} ({book.name} shows all); "
        f"training {trained - begin:.0f} s, notebooks {time.perf_counter() - trained:.0f} s"
    )
    return not errors


def _make_folders_absolute() -> None:
    """Kernels work in notebooks/: a folder that was given relative to here must be the same one there."""
    for name in ("THESIS_RUNS", "THESIS_DATA", "THESIS_FIGURES"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())


def _train(groups: dict[str, Groups]) -> dict[str, str]:
    """Train what the sections need; an error for each section that still lacks runs, printed as well."""
    runs = {section: [run for group in labelled.values() for run in group] for section, labelled in groups.items()}
    try:
        launch.train_missing(sections.in_order(groups))
    except RuntimeError as failure:
        print(f"FAILED training: {failure}", flush=True)
    lacking = {section: len(launch.missing(needed)) for section, needed in runs.items()}
    errors = {section: f"{count} runs are missing" for section, count in lacking.items() if count}
    for section, error in errors.items():
        print(f"FAILED {section:<24} {error}", flush=True)
    return errors


def _fitting(chosen: list[str], parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook, defaults replaced; one that no chosen notebook knows is refused."""
    # papermill itself only warns of an unknown parameter and goes on.
    known = {section: parameters_of(section) for section in chosen}
    for name, value in parameters.items():
        defaults = [defaults[name] for defaults in known.values() if name in defaults]
        if not defaults or name == "scale":
            names = sorted({n for defaults in known.values() for n in defaults} - {"scale"})
            raise UserError(f"unknown parameter {name!r}: {', '.join(chosen)} know {', '.join(names)}")
        if name == "smoothing" and isinstance(value, int) and value < 1:
            raise UserError(f"parameter smoothing must be 1 epoch (none) or more, not {value}")
        if name == "images" and value is not None and (type(value) is not int or value < 1):
            raise UserError(f"parameter images must be a whole number from 1, not {value!r}")
        if name == "average":
            ensembles.check(value)
        for default in defaults:
            kinds = (int, float) if isinstance(default, float) else type(default)
            like = "neither true nor false" if default is None else f"like {default!r}"
            fits = default is None or isinstance(value, kinds)
            if not fits or isinstance(value, bool) > isinstance(default, bool):
                raise UserError(f"parameter {name} must be {like}, not {value!r}")
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
        reason = f"{failure.ename}: {failure.evalue}".splitlines()[0]
        error = f"cell {failure.cell_index}: {reason} (see {folder / section}.ipynb)"
    except Exception as failure:  # a kernel that did not start or died; the other notebooks go on
        error = f"{type(failure).__name__}: {failure}".splitlines()[0]
    finally:
        private.cleanup()
    return time.perf_counter() - begin, error
