"""The notebooks of the results: train what they need, then execute them side by side through papermill."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from thesislib.app import chapter, numbers, prose
from thesislib.experiments import sections
from thesislib.plots import save
from thesislib.runs import launch
from thesislib.runs.results import Results, Row
from thesislib.system import machine
from thesislib.system.errors import UserError, printable
from thesislib.system.files import FULL, ROOT, settle_folders

#: Notebooks that are no sections of the thesis: they train what they draw, and their defaults are what stands in them.
EXPLORATORY = ("0_first_steps", "0_own_question")

#: Seconds that a cell may take: long, but a notebook that waits for somebody must end.
CELL_SECONDS = 24 * 3600

#: In front of the names of folders that a kernel has for itself, and how long the path before that may be: a socket's
#: whole path has room for 107 bytes.
_PRIVATE, _LONGEST = "thesis-kernel-", 75


def notebooks_folder() -> Path:
    """The folder of the notebooks, beside the package."""
    return ROOT / "notebooks"


def chapter_sections() -> list[prose.Section]:
    """What the notebooks of the chapter's sections say, in their order; 0_explore is none of them."""
    return [prose.read(notebooks_folder() / f"{name}.ipynb") for name in sections.SECTIONS if name[0] != "0"]


def in_notebook(section: str) -> dict[str, Any]:
    """Names and values in a notebook's parameters cell, as the file has it now; a value that is no plain one as code.

    Raises UserError if the file is missing or broken.
    """
    path = notebooks_folder() / f"{section}.ipynb"
    try:
        cells = json.loads(path.read_text())["cells"]
        tagged = ("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        lines = ast.parse(next(tagged, "")).body
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it draws section {section}") from None
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise UserError(f"{path}: line {error.lineno} of the parameters cell is no Python: {text}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no notebook ({error}): was it left half merged?") from None
    found: dict[str, Any] = {}
    for line in lines:
        match line:
            case ast.Assign([ast.Name(name)], code) | ast.AnnAssign(ast.Name(name), _, ast.expr() as code):
                found[name] = code
                with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                    found[name] = ast.literal_eval(code)
            case _:
                raise UserError(f"{path}: in the parameters cell write name = value, not {ast.unparse(line)}")
    return found


def parameters_of(section: str, given: Iterable[str] = ()) -> dict[str, Any]:
    """Names and default values of a notebook's parameters: the section's, and the notebook's own of further ones.

    JupyterLab saves a notebook by itself, so what somebody tried there must not change the thesis' figure: a line is
    printed for each parameter that the notebook has otherwise, unless it is `given` anyway. Raises UserError for a
    further one that is no plain value.
    """
    drawing = {name: field.default for name, field in sections.Drawing.model_fields.items()}
    defaults = {} if section in EXPLORATORY else drawing | sections.parameters(section)
    own = in_notebook(section)
    for name, value in own.items():
        code = ast.unparse(value) if isinstance(value, ast.expr) else repr(value)
        if name not in defaults and isinstance(value, ast.expr):
            path = notebooks_folder() / f"{section}.ipynb"
            raise UserError(f"{path}: the default of {name} must be a plain value such as 0.1, not {code}")
        differs = value != (known := defaults.get(name, value)) or isinstance(value, bool) != isinstance(known, bool)
        if differs and name not in given:
            said = f"its notebook has {name} = {code}, used is the default {known!r}"
            print(printable(f"{section}: {said} (-p {name}=... takes another)"), flush=True)
    return {name: defaults.get(name, value) for name, value in own.items() if name != "scale"}


def _values(chosen: list[str], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook, defaults replaced; one that no chosen notebook knows is refused."""
    # papermill itself only warns of an unknown parameter and goes on.
    values = {section: parameters_of(section, given) for section in chosen}
    if unknown := sorted(given.keys() - {name for known in values.values() for name in known}):
        names = sorted({name for known in values.values() for name in known})
        raise UserError(f"unknown parameter {unknown[0]!r}: {', '.join(chosen)} know {', '.join(names)}")
    return {s: known | {n: value for n, value in given.items() if n in known} for s, known in values.items()}


def execute(scale: str, chosen: Iterable[str] = (), given: dict[str, Any] | None = None) -> bool:
    """Make the figures of the chosen notebooks (all if none is chosen); True if every one of them ran through.

    `given` are parameters that take the place of the defaults. Prints a line a notebook. Raises UserError, before
    anything is trained, for an unknown section, scale or parameter, a value that does not fit, or missing data;
    OSError if the disk is full.
    """
    chosen = list(chosen) or [*EXPLORATORY, *sections.SECTIONS]
    values = _values(chosen, given or {})
    sections.rows("0_explore", scale)  # refuses an unknown scale, if nothing below does
    rows = {s: sections.rows(s, scale, **sections.check(s, values[s])) for s in chosen if s not in EXPLORATORY}
    settle_folders()  # kernels work in notebooks/
    _delete_abandoned()
    launch.missing(row.run for some in rows.values() for row in some)  # says so if data are missing
    begin, folder = time.perf_counter(), save.make_folder(scale)
    before = _stamps(folder)
    errors = _train(rows)
    trained = time.perf_counter()
    # Runs are there: a notebook only reads and draws, in its own kernel. The landscape takes longest, so it begins.
    ready = sorted((s for s in chosen if s not in errors), key=lambda s: s != "6_gradients_and_valleys")
    with machine.pool_of(machine.cores()) as pool:
        futures = {pool.submit(_papermill, s, folder, values[s] | {"scale": scale}): s for s in ready}
        for future in as_completed(futures):
            seconds, error = future.result()
            if error:
                errors[futures[future]] = error
            print(f"{'FAILED' if error else 'ok    '} {futures[future]:<24} {error or f'{seconds:5.1f} s'}", flush=True)
    for section in rows.keys() - errors.keys() - {"9_claims"}:  # all of the others' runs: its table is the verdicts
        runs = Results(rows[section], scale, section)
        columns = prose.columns(prose.read(notebooks_folder() / f"{section}.ipynb"))
        save.table(runs.for_csv(), section, runs, columns)
    # Others that lie there are of other parameters, perhaps, or of a section that failed.
    drawn = sorted(path for path, stamp in _stamps(folder).items() if before.get(path) != stamp)
    document = save.document(folder, drawn)
    read = chapter_sections()
    columns = {section.name: prose.columns(section) for section in read}
    save.write(folder, "numbers.tex", numbers.numbers(folder, columns).encode())
    save.write(folder, "captions.tex", chapter.captions(folder, read).encode())
    print(
        f"{len(chosen) - len(errors)} of {len(chosen)} notebooks, "
        f"{len(drawn)} figures in {folder} ({document.name} shows them); "
        f"training {trained - begin:.0f} s, notebooks {time.perf_counter() - trained:.0f} s"
    )
    return not errors


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Of each figure in a folder, what changes when it is drawn anew."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("*.pgf")}


def _train(rows: dict[str, list[Row]]) -> dict[str, str]:
    """Train what the sections need; an error for each section that still lacks runs, printed as well."""
    try:
        launch.train_missing(sections.in_order(row for some in rows.values() for row in some))
    except RuntimeError as failure:
        print(f"FAILED training: {failure}", flush=True)
    lacking = {section: len(launch.missing(row.run for row in some)) for section, some in rows.items()}
    errors = {section: f"{count} runs are missing" for section, count in lacking.items() if count}
    for section, error in errors.items():
        print(f"FAILED {section:<24} {error}", flush=True)
    return errors


def _papermill(section: str, folder: Path, parameters: dict[str, Any]) -> tuple[float, str]:
    """Execute one notebook; seconds, and the error (empty if none) with the cell it came from.

    Raises OSError if the disk is full.
    """
    from papermill import PapermillExecutionError, execute_notebook

    begin, error = time.perf_counter(), ""
    os.environ.pop("JPY_SESSION_NAME", None)  # of a notebook that started all this: nobody looks at this one
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of cells that it cannot read; here they are
    with _kernel_folder() as private:
        executed = private / "executed.ipynb"
        try:
            execute_notebook(
                _verbatim(notebooks_folder() / f"{section}.ipynb"),
                _verbatim(executed),
                parameters,
                kernel_name="python3",
                cwd=notebooks_folder(),
                progress_bar=False,
                log_output=False,
                start_timeout=300,
                execution_timeout=CELL_SECONDS,
                **_private_kernel(private),
            )
        except PapermillExecutionError as failure:
            reason = printable(f"{failure.ename}: {failure.evalue}".splitlines()[0])
            error = f"cell {failure.cell_index}: {reason} (see {folder / section}.ipynb)"
        except Exception as failure:  # a kernel that did not start or died; the other notebooks go on
            error = printable(f"{type(failure).__name__}: {failure}".splitlines()[0])
        for code in FULL:
            if os.strerror(code) in error:  # the other notebooks would only say it again
                raise OSError(code, os.strerror(code), str(folder))
        if executed.is_file():  # and whole: papermill has ended
            notebook = json.loads(executed.read_text())
            notebook["metadata"]["papermill"]["output_path"] = str(folder / f"{section}.ipynb")
            save.write(folder, f"{section}.ipynb", json.dumps(notebook, indent=1, ensure_ascii=False).encode())
    return time.perf_counter() - begin, error


def _verbatim(path: Path) -> str:
    """A path for papermill, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _private_kernel(private: Path) -> dict[str, Any]:
    """nbclient's options for a kernel of this very interpreter, with nothing of the user's in it.

    A kernel named python3 may be anybody's (JUPYTER_PATH, hubs), and a profile can hold anything, such as a debugger
    that waits at a failing cell. It is spoken to over sockets in this folder: over TCP every local user could listen.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default
    from traitlets.config import Config

    class Own(AsyncKernelManager):
        @default("kernel_spec_manager")
        def _own(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[])  # which leaves the interpreter's

    manager = {"transport": "ipc", "ip": str(private / "s"), "connection_file": str(private / "connection.json")}
    quiet = "--IPKernelApp.log_level=CRITICAL"  # kernels that are shut down log an interrupt as an error
    nothing = ["--InteractiveShellApp.exec_PYTHONSTARTUP=False", "--InteractiveShell.pdb=False"]
    vectors = "--InlineBackend.figure_formats={'png', 'svg'}"  # for the report
    return {
        "kernel_manager_class": Own,
        "config": Config({"KernelManager": manager}),
        "extra_arguments": [quiet, *nothing, vectors, f"--ipython-dir={private}"],
    }


@contextmanager
def _kernel_folder() -> Iterator[Path]:
    """A folder for all that a kernel and its notebook leave, which only this user can read; gone afterwards."""
    folder = tempfile.TemporaryDirectory(prefix=_PRIVATE, dir=_temporary(), ignore_cleanup_errors=True)
    # The lock tells `_delete_abandoned` that somebody works here.
    with folder as name, FileLock(Path(name, "lock")):
        yield Path(name)


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
