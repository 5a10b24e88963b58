"""The notebooks of the results: train what they need, and execute each through papermill as soon as its runs are there.

A notebook whose figures are current (`current`) is not executed again.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from thesislib.app import chapter, current, numbers, prose
from thesislib.experiments import own, sections
from thesislib.plots import save
from thesislib.runs import launch, progress, store
from thesislib.runs.results import Results, Row
from thesislib.system import machine
from thesislib.system.errors import UserError, printable
from thesislib.system.files import FULL, ROOT, make_writable, settle_folders

#: Notebooks that are no sections of the thesis: they train what they draw, and their defaults are what stands in them.
EXPLORATORY = ("0_first_steps", "0_own_question")

#: Its notebook computes for minutes, and shares that out among processes of its own.
LONG = "6_gradients_and_valleys"

#: Sections whose runs are trained last, while LONG is executed: their own notebooks take seconds.
LATE = ("4-2_merged_minima", "5_warm_restarts", "8_cost")

#: Seconds that a cell may take: long, but a notebook that waits for somebody must end.
CELL_SECONDS = 24 * 3600

#: In front of the names of folders that a kernel has for itself, and how long the path before that may be: a socket's
#: whole path has room for 107 bytes.
_PRIVATE, _LONGEST = "thesis-kernel-", 60


def notebooks_folder() -> Path:
    """The folder of the notebooks, beside the package."""
    return ROOT / "notebooks"


def chapter_sections() -> list[prose.Section]:
    """What the notebooks of the chapter's sections say, in their order; 0_explore is none of them."""
    return [prose.read(notebooks_folder() / f"{name}.ipynb") for name in sections.SECTIONS if name[0] != "0"]


def write_numbers(folder: Path, chapter: list[prose.Section], language: str | None = None) -> Path:
    """Write numbers.tex, in a `language`, from the tables that lie in a folder of figures; its path."""
    columns = {section.name: prose.columns(section) for section in chapter}
    save.write(folder, "numbers.tex", numbers.numbers(folder, columns, language).encode())
    return folder / "numbers.tex"


def written_parameters(section: str) -> dict[str, Any]:
    """Names and values in a notebook's parameters cell, as the file has it now; a value that is no plain one as code.

    Raises UserError if the file is missing or broken.
    """
    path = notebooks_folder() / f"{section}.ipynb"
    if not path.is_file():
        raise UserError(f"{path} is missing: it draws section {section}")
    cells = prose.cells(path)
    try:
        lines = ast.parse(next((cell.source for cell in cells if "parameters" in cell.tags), "")).body
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise UserError(f"{path}: line {error.lineno} of the parameters cell is no Python: {text}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the parameters cell is no Python: {error}") from None
    code = "".join(cell.source for cell in cells if cell.kind == "code")
    if section in sections.SECTIONS and f'"{section}"' not in code:  # it would draw, and overwrite, another one
        raise UserError(f'{path}: no cell asks for its section: write tl.section("{section}", ...)')
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
    own = written_parameters(section)
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
        choice = f"choose from {', '.join(names)}" if names else f"there are none in {' and '.join(chosen)}"
        raise UserError(f"unknown parameter {unknown[0]!r}: {choice}")
    return {s: known | {n: value for n, value in given.items() if n in known} for s, known in values.items()}


@dataclass(frozen=True)
class Task:
    """A notebook that is to be executed: its parameters, and the labelled runs that it needs."""

    section: str
    parameters: dict[str, Any]
    rows: list[Row]

    def made_of(self) -> dict[str, str]:
        """What decides what it draws, as of now (`current.ingredients`)."""
        return current.ingredients(notebooks_folder() / f"{self.section}.ipynb", self.parameters, self.rows)


@dataclass(frozen=True)
class Drawn:
    """What came of a notebook: the names of its files or the error, and whether it was executed by this call."""

    files: list[str]
    error: str = ""
    executed: bool = True
    seconds: float = 0.0

    @property
    def figures(self) -> list[str]:
        """The names of its figures for LaTeX."""
        return [name for name in self.files if name.endswith(".pgf")]


def execute(scale: str, chosen: Iterable[str] = (), given: dict[str, Any] | None = None, force: bool = False) -> bool:
    """Make the figures of the chosen notebooks; True if every one of them is there.

    If none is chosen they are those usual at the scale. A notebook whose figures are current is left as it is, unless
    `force` is set. `given` are parameters that take the place of the defaults. Prints a line for each notebook that is
    executed. Raises UserError, before anything is trained, for an unknown section, scale or parameter, a value that
    does not fit, or missing data; OSError if the disk is full.
    """
    values = _values(list(dict.fromkeys(chosen)) or [*sections.usual(scale), *EXPLORATORY], given or {})
    sections.rows("0_explore", scale)  # refuses an unknown scale, if nothing below does
    tasks = [Task(section, known | {"scale": scale}, _rows(section, scale, known)) for section, known in values.items()]
    read = chapter_sections()  # says so if one is broken
    settle_folders()  # kernels work in notebooks/
    _delete_abandoned()
    launch.missing(row.run for task in tasks for row in task.rows)  # says so if data are missing
    begin, folder = time.perf_counter(), save.make_folder(scale)
    there = {task.section: current.written(folder, task.section, task.made_of()) for task in tasks if not force}
    drawn = {section: Drawn(files, executed=False) for section, files in there.items() if files is not None}
    if todo := [task for task in tasks if task.section not in drawn]:
        drawn |= _work(todo, folder, force)
    # Others that lie there are of other parameters, perhaps, or of a section that failed.
    document = save.document(folder, sorted({folder / name for one in drawn.values() for name in one.figures}))
    write_numbers(folder, read)
    save.write(folder, "captions.tex", chapter.captions(folder, read).encode())
    new = [one for one in drawn.values() if one.executed and not one.error]
    failed = [section for section, one in drawn.items() if one.error]
    left = len(drawn) - len(new) - len(failed)
    print(
        f"{len(new)} of {len(drawn)} notebooks, {sum(len(one.figures) for one in new)} figures in {folder} "
        f"({document.name} shows them), {time.perf_counter() - begin:.0f} s"
        + f"; {left} were current, so left as they are" * bool(left)
        + f"; FAILED: {', '.join(failed)}" * bool(failed)
    )
    return not failed


def _rows(section: str, scale: str, values: dict[str, Any]) -> list[Row]:
    """The labelled runs that a notebook needs; none of an exploratory one whose parameters do not say so."""
    if section not in EXPLORATORY:
        return sections.rows(section, scale, **sections.check(section, values))
    with contextlib.suppress(UserError, ValueError, KeyError, TypeError, AttributeError):  # it will say so itself
        return own.rows(values["settings"], scale, values["seeds"])
    return []


def _work(tasks: list[Task], folder: Path, force: bool) -> dict[str, Drawn]:
    """Train what the notebooks need, and execute each as soon as its runs are there; what came of each.

    As many processes are at work as there are cores (`machine.cores`), those that train and those that draw together.
    """
    cores, in_turn = machine.cores(), sorted(tasks, key=lambda task: task.section in LATE)
    # Each beside the longer run that it is cut from: a section early in the chapter would else wait for a late one.
    families = launch.families(launch.missing(row.run for task in in_turn for row in task.rows))
    runs = [run for family in families for run in family]
    if runs:
        make_writable(store.runs_folder(), "runs", "THESIS_RUNS")
    with (
        _kernel_folder() as private,
        machine.ProcessesApart(cores) as trainers,
        machine.ProcessesApart(cores) as kernels,
        progress.Bar(runs, shown=bool(runs)) as bar,
    ):
        training, drawing = launch.Training(trainers, runs, bar), _Drawing(kernels, tasks, folder, private, force)
        while True:
            drawing.begin(training, cores)
            training.begin(cores - drawing.processes)
            if not training.running and not drawing.running:
                break
            futures = {*training.running, *drawing.running}
            ended = wait(futures, timeout=progress.POLL_SECONDS, return_when=FIRST_COMPLETED).done
            training.end(ended)
            drawing.end(ended)
    if training.failed:
        print(f"FAILED training: {training.failed}", flush=True)
    return drawing.drawn | {task.section: drawing.lacking(task, training) for task in drawing.waiting}


class _Drawing:
    """Notebooks that are executed by some processes, each in a kernel of its own."""

    def __init__(
        self, processes: machine.ProcessesApart, tasks: list[Task], folder: Path, private: Path, force: bool
    ) -> None:
        self.waiting, self.drawn = list(tasks), dict[str, Drawn]()
        self.running: dict[Future[Drawn], tuple[Task, int]] = {}
        self._processes, self._fixed = processes, (folder, private, force)

    @property
    def processes(self) -> int:
        """How many processes are at work."""
        return sum(processes for _, processes in self.running.values())

    def begin(self, training: launch.Training, cores: int) -> None:
        """Begin those whose runs are there, as long as a core is free."""
        for task in self._ready(training):
            if self.processes + len(training.running) >= cores:
                break
            self.waiting.remove(task)
            alone = not (self.waiting or self.running or training.waiting or training.running)
            processes = 1 if task.section != LONG else cores if alone else max(1, cores // 2)
            self.running[self._processes.submit(_draw, task, *self._fixed, processes)] = task, processes

    def _ready(self, training: launch.Training) -> list[Task]:
        """Those whose runs are there, LONG first; those that need none after the first figure."""
        ready = [task for task in self.waiting if training.left.isdisjoint(row.run for row in task.rows)]
        ready = [task for task in ready if task.rows or self.drawn or not training.waiting]
        return sorted(ready, key=lambda task: task.section != LONG)

    def end(self, ended: Iterable[Future[Drawn]]) -> None:
        """Take note of those that have ended, well or badly, and say so. Raises OSError if the disk is full."""
        for future in [future for future in ended if future in self.running]:
            section = self.running.pop(future)[0].section
            try:
                self.drawn[section] = future.result()
            except BrokenProcessPool:
                self.drawn[section] = Drawn([], "its process died, for lack of memory perhaps")
            except UserError as error:  # a notebook that became unreadable, say: the others go on
                self.drawn[section] = Drawn([], str(error))
            _say(section, self.drawn[section])

    def lacking(self, task: Task, training: launch.Training) -> Drawn:
        """What came of a notebook that could not be begun."""
        count = len(training.left.intersection(row.run for row in task.rows))
        drawn = Drawn([], f"{count} runs are missing")
        _say(task.section, drawn)
        return drawn


def _say(section: str, drawn: Drawn) -> None:
    if drawn.executed:
        ended = drawn.error or f"{drawn.seconds:5.1f} s"
        tqdm.write(f"{'FAILED' if drawn.error else 'ok    '} {section:<24} {ended}")  # above the bar, if there is one
        sys.stdout.flush()


def _draw(task: Task, folder: Path, private: Path, force: bool, processes: int) -> Drawn:
    """Execute a notebook, in a process of its own, and write down of what it was made and which files it wrote.

    It may start so many processes. Raises OSError if the disk is full.
    """
    section = task.section
    log = private / f"{section}.written"
    os.environ |= {machine.JOBS: str(processes), save.LOG: str(log)}
    with save.writing(folder, section):
        made_of = task.made_of()
        if not force and (files := current.written(folder, section, made_of)) is not None:
            return Drawn(files, executed=False)  # by somebody else, meanwhile
        seconds, error = _papermill(section, folder, task.parameters, private)
        if error:
            return Drawn([], error)
        try:
            _table(task)
        except UserError as failure:
            return Drawn([], str(failure))
        # What changed meanwhile may stand in the figures or not: they are then current for nobody.
        files = current.note(folder, section, made_of if made_of == task.made_of() else {}, log)
    return Drawn(files, seconds=seconds)


def _table(task: Task) -> None:
    """Write the table of a section's runs; not of the claims', which are the others': its table is the verdicts."""
    if task.section in sections.SECTIONS and task.section != "9_claims":
        runs = Results(task.rows, task.parameters["scale"], task.section)
        columns = prose.columns(prose.read(notebooks_folder() / f"{task.section}.ipynb"))
        save.table(runs.for_csv(), task.section, runs, columns)


def _papermill(
    section: str, folder: Path, parameters: dict[str, Any], private: Path | None = None
) -> tuple[float, str]:
    """Execute one notebook; seconds, and the error (empty if none) with the cell it came from.

    `private` is a folder for what its kernel leaves (None: one of its own). Raises OSError if the disk is full.
    """
    from papermill import PapermillExecutionError, execute_notebook

    begin, error = time.perf_counter(), ""
    os.environ.pop("JPY_SESSION_NAME", None)  # of a notebook that started all this: nobody looks at this one
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of cells that it cannot read; here they are
    with _kernel_folder(private) as private:
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
            notebook = json.loads(executed.read_bytes())
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
def _kernel_folder(inside: Path | None = None) -> Iterator[Path]:
    """A folder for all that a kernel and its notebook leave, which only this user can read; gone afterwards.

    It lies `inside` another such folder, or for itself.
    """
    name = {"dir": inside, "prefix": ""} if inside else {"dir": _temporary(), "prefix": _PRIVATE}
    folder = tempfile.TemporaryDirectory(**name, ignore_cleanup_errors=True)
    # The lock tells `_delete_abandoned` that somebody works here.
    with folder as name, FileLock(Path(name, "lock")):
        try:
            yield Path(name)
        except BaseException:
            _end_kernels(Path(name))
            raise


def _end_kernels(folder: Path) -> None:
    """End the kernels that work in a folder: one that is just starting does not yet see that nobody waits for it."""
    import psutil

    option = f"--ipython-dir={folder}"
    found = psutil.process_iter(["cmdline"])
    left = [kernel for kernel in found if any(word.startswith(option) for word in kernel.info["cmdline"] or ())]
    for kernel in left:
        with contextlib.suppress(psutil.Error):  # it has ended by itself
            kernel.kill()
    psutil.wait_procs(left, timeout=5)


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
