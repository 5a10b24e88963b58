"""The results chapter: train what the notebooks need, then execute them side by side through papermill."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from thesislib.analysis import ensembles
from thesislib.experiments import sections
from thesislib.plots import save
from thesislib.runs import launch
from thesislib.runs.results import Results
from thesislib.runs.store import Groups
from thesislib.system import machine
from thesislib.system.errors import UserError, printable
from thesislib.system.fields import LARGEST_COUNT
from thesislib.system.files import ABANDONED, FULL, ROOT, settle_folders, write

#: The chapter's values of those parameters that the sections' functions have no defaults for.
DRAWN = {"smoothing": 1, "images": None, "average": "probabilities"}
EXPLORED = {
    "strength": 100.0, "width": None, "kernel": "rbf", "minima": "multiple", "minima_every": None, "share": True,
    "lr_schedule": "constant", "strength_schedule": "constant", "weight_decay": 1e-3, "epochs": None, "start": None,
}  # fmt: skip

#: Seconds that a cell may take: long, but a notebook that waits for somebody must end.
CELL_SECONDS = 24 * 3600

#: In front of the names of folders that a kernel has for itself, and how long the path before that may be: a socket's
#: whole path has room for 107 bytes.
_PRIVATE, _LONGEST = "thesis-kernel-", 75


def notebooks_folder() -> Path:
    """The folder of the notebooks, beside the package."""
    return ROOT / "notebooks"


class _Code(str):
    """A default that is no plain value, as it is written."""

    __slots__ = ()
    __repr__ = str.__str__


def in_notebook(section: str) -> dict[str, Any]:
    """Names and values in a notebook's parameters cell, as the file has it now. Raises UserError if it is broken."""
    path = notebooks_folder() / f"{section}.ipynb"
    try:
        cells = json.loads(path.read_text())["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        lines = ast.parse("".join("".join(cell["source"]) for cell in tagged[:1])).body
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it draws section {section}") from None
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise UserError(f"{path}: line {error.lineno} of the parameters cell is no Python: {text}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no notebook ({error}): was it left half merged?") from None
    found: dict[str, Any] = {}
    for line in lines:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        if not isinstance(line, ast.Assign | ast.AnnAssign) or not all(isinstance(t, ast.Name) for t in targets):
            raise UserError(f"{path}: in the parameters cell write name = value, not {ast.unparse(line)}")
        try:
            value = ast.literal_eval(line.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            value = _Code(ast.unparse(line.value))
        found |= {target.id: value for target in targets}
    return found


def of_chapter(section: str) -> dict[str, Any]:
    """The chapter's own values of a section's parameters, whatever somebody tried in its notebook.

    JupyterLab saves a notebook by itself; what is drawn as the thesis' figure must not follow from that.
    """
    function = sections.SECTIONS[section]
    signature = inspect.signature(function).parameters.values()
    explored = EXPLORED if function is sections.explore else {}
    return DRAWN | explored | {p.name: p.default for p in signature if p.default is not p.empty}


def parameters_of(section: str, given: Iterable[str] = ()) -> dict[str, Any]:
    """Names and default values of a notebook's parameters: the chapter's, and the notebook's own of further ones.

    Prints a line for each one that the notebook has otherwise, unless it is `given` anyway. Raises UserError for a
    further one that is no plain value.
    """
    own, chapters = in_notebook(section), of_chapter(section)
    for name, value in own.items():
        if name not in chapters and isinstance(value, _Code):
            path = notebooks_folder() / f"{section}.ipynb"
            raise UserError(f"{path}: the default of {name} must be a plain value such as 0.1, not {value}")
        if name in chapters and name not in given and not _same(value, chapters[name]):
            said = f"its notebook has {name} = {value!r}, used is the chapter's {chapters[name]!r}"
            print(printable(f"{section}: {said} (-p {name}=... takes another)"), flush=True)
    return {name: chapters.get(name, value) for name, value in own.items()}


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; True is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def execute(scale: str, chosen: Iterable[str] = (), parameters: dict[str, Any] | None = None) -> bool:
    """Make the figures of the chosen sections (all if none is chosen); True if every notebook ran through.

    Prints a line a notebook. Raises UserError, before anything is trained, for an unknown section, scale or
    parameter, a value of another type than the chapter's own, or missing data; OSError if the disk is full.
    """
    chosen, parameters = list(chosen) or list(sections.SECTIONS), parameters or {}
    for section in chosen:
        sections.groups(section, scale)  # refuses unknown names
    given = _fitting(chosen, parameters)
    groups = {s: sections.groups(s, scale, **_run_parameters(s, given[s])) for s in chosen}
    settle_folders()  # kernels work in notebooks/
    _delete_abandoned()
    for needed in groups.values():
        launch.missing(run for runs in needed.values() for run in runs)  # says so if data are missing
    begin, folder = time.perf_counter(), save.make_folder(scale)
    before = _stamps(folder)
    errors = _train(groups)
    trained = time.perf_counter()
    # Runs are there: a notebook only reads and draws, in its own kernel.
    ready = [section for section in chosen if section not in errors]
    with machine.pool_of(machine.cores()) as pool:
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
            save.table(Results.load(groups[section]).final, section, scale)
    # Others that lie there are of other parameters, perhaps, or of a section that failed.
    drawn = sorted(path for path, stamp in _stamps(folder).items() if before.get(path) != stamp)
    book = save.book(folder, drawn)
    print(
        f"{len(chosen) - len(errors)} of {len(chosen)} notebooks, "
        f"{len(drawn)} figures in {folder} ({book.name} shows them); "
        f"training {trained - begin:.0f} s, notebooks {time.perf_counter() - trained:.0f} s"
    )
    return not errors


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Of each figure in a folder, what changes when it is drawn anew."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("*.pgf")}


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
    known = {section: parameters_of(section, parameters) for section in chosen}
    for name, value in parameters.items():
        defaults = [defaults[name] for defaults in known.values() if name in defaults]
        if not defaults or name == "scale":
            names = sorted({n for defaults in known.values() for n in defaults} - {"scale"})
            raise UserError(f"unknown parameter {name!r}: {', '.join(chosen)} know {', '.join(names)}")
        if isinstance(value, int) and value > LARGEST_COUNT:
            raise UserError(f"parameter {name} must be {LARGEST_COUNT} or less, not {value}")
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
    """Execute one notebook; seconds, and the error (empty if none) with the cell it came from.

    Raises OSError if the disk is full.
    """
    from papermill import PapermillExecutionError, execute_notebook

    begin, error = time.perf_counter(), ""
    with _kernel_folder() as private:
        executed = private / "executed.ipynb"
        try:
            execute_notebook(
                _verbatim(notebooks_folder() / f"{section}.ipynb"),
                _verbatim(executed),
                parameters,
                kernel_name=_PRIVATE,
                cwd=notebooks_folder(),
                progress_bar=False,
                log_output=False,
                start_timeout=300,
                execution_timeout=CELL_SECONDS,
                config=_private_kernel(private),
            )
        except PapermillExecutionError as failure:
            reason = printable(f"{failure.ename}: {failure.evalue}".splitlines()[0])
            error = f"cell {failure.cell_index}: {reason} (see {folder / section}.ipynb)"
            if number := re.match(r"\[Errno (\d+)\]", failure.evalue):
                _stop_if_full(OSError(int(number[1]), os.strerror(int(number[1])), str(folder)))
        except Exception as failure:  # a kernel that did not start or died; the other notebooks go on
            _stop_if_full(failure)
            error = printable(f"{type(failure).__name__}: {failure}".splitlines()[0])
        if executed.is_file():  # and whole: papermill has ended
            notebook, path = json.loads(executed.read_text()), folder / f"{section}.ipynb"
            notebook["metadata"]["papermill"]["output_path"] = str(path)
            write(path, json.dumps(notebook, indent=1, ensure_ascii=False).encode())
    return time.perf_counter() - begin, error


def _stop_if_full(failure: Exception) -> None:
    """Raise what the other notebooks would only say again."""
    if isinstance(failure, OSError) and failure.errno in FULL:
        raise failure


def _verbatim(path: Path) -> str:
    """A path for papermill, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _private_kernel(private: Path) -> Any:
    """Papermill's configuration for a kernel of this very interpreter, with nothing of the user's in it.

    A kernel named python3 may be anybody's (JUPYTER_PATH, hubs), and a profile can hold anything, such as a debugger
    that waits at a failing cell. It is spoken to over sockets in this folder: over TCP every local user could listen.
    """
    from traitlets.config import Config

    specification = {
        "argv": [
            *(sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"),
            "--IPKernelApp.log_level=CRITICAL",  # kernels that are shut down log an interrupt as an error
            *("--InteractiveShellApp.exec_PYTHONSTARTUP=False", "--InteractiveShell.pdb=False"),
        ],
        **{"display_name": "thesislib", "language": "python", "env": {"IPYTHONDIR": str(private / "ipython")}},
    }
    home = private / "kernels" / _PRIVATE
    home.mkdir(parents=True)
    (home / "kernel.json").write_text(json.dumps(specification))
    manager = {"transport": "ipc", "ip": str(private / "s"), "connection_file": str(private / "connection.json")}
    return Config({"KernelManager": manager})


@contextmanager
def _kernel_folder() -> Iterator[Path]:
    """A folder for all that a kernel and its notebook leave, which only this user can read; gone afterwards."""
    private = Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=_temporary()))
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = str(private)
    try:
        with FileLock(private / "lock"):  # tells `_delete_abandoned` that somebody works here
            yield private
    finally:
        os.environ.pop("JUPYTER_PATH") if before is None else os.environ.update(JUPYTER_PATH=before)
        shutil.rmtree(private, ignore_errors=True)


def _temporary() -> Path:
    """A folder for temporary files whose path is short enough for sockets. Raises UserError if there is none."""
    places = [Path(p) for p in (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/tmp") if p]
    for place in places:
        if len(os.fsencode(place)) <= _LONGEST and os.access(place, os.W_OK):
            return place
    raise UserError(f"{places[0]} is too long a path for sockets: set TMPDIR to one of {_LONGEST} bytes or fewer")


def _delete_abandoned() -> None:
    """Delete this user's kernel folders whose process was killed: nobody holds their lock."""
    for folder in _temporary().glob(f"{_PRIVATE}*"):
        with contextlib.suppress(OSError, Timeout):  # somebody else's, in use, or gone by now
            if folder.stat().st_uid != os.getuid() or time.time() - folder.stat().st_mtime < 60:
                continue  # younger ones may have no lock yet
            with FileLock(folder / "lock").acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)


def delete(scale: str) -> tuple[list[str], list[str]]:
    """Delete what was drawn at a scale; names of the files that went, and of those that stay because they are not ours.

    Ours are figures with the provenance that `save.save` writes, executed notebooks, tables that these wrote, and
    figures.tex. Runs (runs.zip) stay.
    """
    folder = save.figures_folder(scale)
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    figures, tables, ours = set(), {*sections.SECTIONS}, {"figures.tex"}
    for path in there:
        if path.suffix == ".json" and _read(path).get("scale") == scale and "runs" in _read(path):
            figures.add(path.stem)
        elif path.suffix == ".ipynb" and "papermill" in _read(path)["metadata"]:
            ours.add(path.name)
            tables.update(re.findall(r"save\.table\(\w+, .\"([\w-]+)", path.read_text()))
    ours |= {f"{name}{kind}" for name in figures for kind in (".pdf", ".png", ".pgf", ".json")}
    ours |= {f"{name}.csv" for name in tables | figures}
    gone, left = [], []
    for path in there:
        # Side images of a .pgf have a number, what a killed process left a dot and a suffix.
        name = re.sub(r"-\d{3}\.png$", ".png", re.sub(rf"^\.(.+)\.{ABANDONED}$", r"\1", path.name))
        if {path.name, name} & ours and path.is_file():
            path.unlink()
            gone.append(path.name)
        else:
            left.append(path.name)
    if there and not left:
        with contextlib.suppress(OSError):  # a link to a folder elsewhere
            folder.rmdir()
    return gone, left


def _read(path: Path) -> dict[str, Any]:
    """A JSON object with metadata; empty if the file is no such thing."""
    try:
        return {"metadata": {}} | json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return {"metadata": {}}
