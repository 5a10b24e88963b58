"""Many runs: each in one process with one thread, as many at a time as there are cores."""

from __future__ import annotations

import json
import platform
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from thesislib.config import Run
from thesislib.datasets import facts
from thesislib.runs import progress, shared_prefix, store
from thesislib.runs.finished import Result, load, load_id
from thesislib.runs.results import Labelled, Results, Row, rows_of
from thesislib.system import machine, own
from thesislib.system.errors import UserError
from thesislib.system.files import FULL, make_writable

if TYPE_CHECKING:
    from thesislib.trainer import Trainer

#: A run can lose this many seconds of work, plus the epoch under way, when it is killed.
CHECKPOINT_SECONDS = 5.0

#: After so many processes that died in a row no further run is begun: it is not the run that they die of.
MOST_DEATHS = 3


def execute(run: Run, config: store.Config | None = None) -> Result:
    """Train one run in this process unless it is done, resuming it if it was interrupted.

    Under torchrun all processes call this and train it together; the first one reads and writes. `config` is what the
    run was when it was asked for (None: as of now). Raises UserError if its network, kernel or data are others by now;
    once it trains, they may be edited.
    """
    config = config or store.Config.of(run)
    # Several processes must agree on what there is to do: they ask the first one, once they have met.
    if not machine.under_torchrun() and (config.folder / "done.json").is_file():
        return load(run, config.folder)
    # Imported here: what only reads finished runs must not pay for torch.
    from thesislib.system import parallel

    with machine.repeatable(), machine.without_denormals(), parallel.together(machine.device()):
        config = parallel.from_first(config)
        with own.blamed(config.run.model, config.run.kernel):
            _train(config)
        parallel.from_first(None)  # wait until it is written
    return load(run, config.folder)


def _train(config: store.Config) -> None:
    from thesislib.system import parallel
    from thesislib.system.vectors import to_numpy
    from thesislib.trainer import Trainer

    run = config.run
    trainer = Trainer(run, machine.device(), start_arrays(run) if run.start else None)
    config.check_loaded()

    def whole_state() -> dict[str, np.ndarray]:
        return trainer.state() | {"origin": np.frombuffer(json.dumps(_origin()).encode(), np.uint8)}

    with store.writing(run, config) if parallel.rank() == 0 else nullcontext() as writer:
        if parallel.from_first(writer and writer.done):  # another process finished it while we waited
            return
        begun = parallel.from_first(writer and _begin(run, writer))
        if begun is None:
            return
        epoch, state, minima = begun
        if state:
            _check_origin(config.folder, json.loads(state.pop("origin").tobytes()))
            trainer.restore(epoch, state, minima)
        elif run.minimum_at_start and writer:
            writer.arrays("minimum-0", trainer.snapshot())
        saved = monotonic()
        while trainer.finished_epochs < run.epochs and not trainer.diverged:
            before = len(trainer.minima.visited)
            row = trainer.epoch()
            if writer is None:
                continue
            _write_epoch(writer, trainer, row, before)
            if before == 0 and trainer.minima.visited:
                shared_prefix.keep(run, writer, whole_state(), trainer.snapshot(), hardware())
            unfinished = trainer.finished_epochs < run.epochs and not trainer.diverged
            if monotonic() - saved > CHECKPOINT_SECONDS and unfinished:
                writer.checkpoint(trainer.finished_epochs, whole_state())
                saved = monotonic()
        if writer:
            if run.step_losses:
                writer.arrays("losses", {"train_loss": np.stack(trainer.losses)})
            final = trainer.snapshot() | {"labels": to_numpy(trainer.test_images.labels)}
            versions = {"python": platform.python_version()} | _origin()
            writer.finish("diverged" if trainer.diverged else "finished", final, versions)


def _write_epoch(writer: store.Writer, trainer: Trainer, row: dict[str, float], before: int) -> None:
    """What the last epoch brought: its row, its steps, a mean member, a minimum beside the `before` earlier ones."""
    writer.row(row)
    writer.steps(trainer.dense)
    if trainer.member and not trainer.diverged:
        writer.arrays(f"member-{trainer.run.member_ends.index(trainer.finished_epochs)}", trainer.member)
    if len(trainer.minima.visited) > before:
        writer.arrays(f"minimum-{before}", trainer.snapshot())


def _begin(run: Run, writer: store.Writer) -> tuple[int, dict[str, np.ndarray], list] | None:
    """Epoch, state and minima to go on from: the run's own checkpoint, or what another one reached for it.

    None if there is nothing to train: the run was cut from a longer one.
    """
    resumed = writer.resume()
    if resumed[1]:
        return resumed
    return None if shared_prefix.cut(run, writer, hardware()) else shared_prefix.adopt(run, writer, hardware())


def hardware() -> str:
    """What a run is trained on, as far as it decides the rounding: number of processes, kind of device."""
    from thesislib.system import parallel

    return f"{parallel.size()} x {machine.kind()}"


def _origin() -> dict[str, str]:
    """What decides how a run's numbers are rounded."""
    return {"torch": version("torch"), "hardware": hardware()}


def _check_origin(folder: Path, before: dict[str, str]) -> None:
    """Raise UserError if a run that was begun there would go on here with another rounding."""
    if before != (now := _origin()):
        was, here = (f"{origin['hardware']}, torch {origin['torch']}" for origin in (before, now))
        raise UserError(
            f"run {folder.name} was begun on {was} and cannot go on with {here}, which rounds differently: "
            f"go on there (processes: torchrun --nproc-per-node), or delete {folder}"
        )


def start_arrays(run: Run) -> dict[str, np.ndarray]:
    """Weights and buffers that the run's start, "ID:K", names. Raises UserError if they do not fit its network."""
    identity, which = run.start.split(":")
    parent = load_id(identity)
    if (parent.run.model, facts(parent.run.data)[:2]) != (run.model, facts(run.data)[:2]):
        theirs, ours = (f"{one.model} on {one.data}" for one in (parent.run, run))
        raise UserError(f"start: run {identity} is a {theirs}, not a {ours}")
    return parent.arrays(which)


def missing(runs: Iterable[Run]) -> list[Run]:
    """The distinct runs that are not done, in the order in which they are given."""
    return [run for run in dict.fromkeys(runs) if not store.is_done(run)]


def families(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs in their order, each with those that can be cut from it (`shared_prefix`), the longest first."""
    runs, of = list(runs), {}
    for run in sorted(runs, key=lambda run: -run.epochs):
        of[run] = next((of[whole] for whole in shared_prefix.longer(run) if whole in of), [])
        of[run].append(run)
    return list({id(of[run]): of[run] for run in runs}.values())


def results(
    runs: Iterable[Row] | Iterable[Run] | Labelled,
    workers: int | None = None,
    scale: str = "own",
    section: str = "",
) -> Results:
    """The results of rows or of labelled runs; those that are missing are trained first."""
    rows = [replace(row) for row in rows_of(runs)]
    # Their ids are of now: what is edited while they train makes no others of them.
    _ = [row.id for row in rows]
    train_missing([row.run for row in rows], workers)
    return Results(rows, scale, section)


def train_missing(
    runs: Iterable[Run], workers: int | None = None, first_worker: int = 0, stop: Event | None = None
) -> None:
    """Train what is missing in a pool of processes, with a progress bar, in the order of the runs (see _Queue).

    Who gives a `stop` shows the progress himself: once it is set, KeyboardInterrupt ends all work, which then resumes.

    Raises UserError if runs fail by mistakes of the user's or errors of the disk, RuntimeError if one fails otherwise
    or its process dies. The other runs finish all the same, unless the disk is full (OSError) or MOST_DEATHS processes
    die in a row, and what is finished is kept. Errors of ours leave their traceback on stderr. `first_worker` is the
    first process' number among this machine's.
    """
    todo = missing(runs)
    if not todo:
        return
    make_writable(store.runs_folder(), "runs", "THESIS_RUNS")
    workers = min(workers or machine.cores(), len(todo))
    with machine.ProcessesApart(workers, first_worker) as processes, progress.Bar(todo, shown=stop is None) as bar:
        training = Training(processes, todo, bar)
        while training.begin(workers):
            ended = wait(training.running, timeout=progress.POLL_SECONDS, return_when=FIRST_COMPLETED).done
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            training.end(ended)
    if training.failed:
        raise (RuntimeError if training.failed_by_us else UserError)(training.failed)


class Training:
    """Runs that are trained by some processes, in the order of the runs (see _Queue), and shown by a bar."""

    def __init__(self, processes: machine.ProcessesApart, runs: Sequence[Run], bar: progress.Bar) -> None:
        #: Runs that are not finished, or have failed; those under way.
        self.left, self.running = set(runs), dict[Future, Run]()
        self._processes, self._bar, self._queue = processes, bar, _Queue(runs)
        # Of now: all are trained as they were asked for, or say that their network, kernel or data have changed.
        self._configs = {run: store.Config.of(run) for run in runs}
        self._deaths, self._failures = 0, Counter[str]()  # deaths in a row
        #: Whether one failed otherwise than by a mistake of the user's or an error of the disk.
        self.failed_by_us = False

    @property
    def waiting(self) -> bool:
        """Whether there are runs that have not been begun."""
        return bool(self._queue.waiting) and self._deaths < MOST_DEATHS

    @property
    def failed(self) -> str:
        """How many runs failed, and why; empty if none did."""
        reasons = self._failures.items()
        return "; ".join(f"{count} run{'s' if count > 1 else ''} failed: {reason}" for reason, count in reasons)

    def begin(self, most: int) -> bool:
        """Begin runs until so many are under way, or none can be begun; whether any are under way."""
        while self.waiting and len(self.running) < most and (run := self._queue.take()):
            self.running[self._processes.submit(_execute, run, self._configs[run])] = run
        return bool(self.running)

    def end(self, ended: Iterable[Future]) -> None:
        """Take note of those that have ended, well or badly. Raises OSError if the disk is full."""
        for future in [future for future in ended if future in self.running]:
            self._queue.done(run := self.running.pop(future))
            self._bar.done(run)
            if error := future.exception():
                self._fail(run, error)
            else:
                self.left.discard(run)
            self._deaths = self._deaths + 1 if isinstance(error, BrokenProcessPool) else 0
        self._bar.update({run: self._configs[run].folder for run in self.running.values()})

    def _fail(self, run: Run, error: BaseException) -> None:
        if isinstance(error, OSError) and error.errno in FULL:
            raise error  # no other run would get farther
        self.failed_by_us |= not isinstance(error, UserError | OSError)
        if isinstance(error, BrokenProcessPool):
            reason = f"the process of run {self._configs[run].folder.name} died, for lack of memory perhaps"
        elif isinstance(error, UserError | OSError):
            reason = str(error)
        elif (reason := f"{type(error).__name__}: {error}") not in self._failures:
            tqdm.write("".join(traceback.format_exception(error)), file=sys.stderr)
        self._failures[reason] += 1


def _execute(run: Run, config: store.Config) -> None:
    """`execute` for a pool: the result stays on disk instead of crossing a pipe."""
    execute(run, config)


class _Queue:
    """Runs in their order, but each after those that it needs, and not beside one that trains the prefix they share.

    A run that starts from another one's minimum comes after it, and so does one that can be cut from a longer one. Two
    runs that share their first epochs, side by side, would both train them: others go first if there are any.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.waiting = dict.fromkeys(runs)
        self._open = set(runs)  # waiting or running
        self._running: set[Run] = set()
        kind = hardware()
        self._prefixes = {run: shared_prefix.file_name(run, kind) for run in runs}
        parents = {store.run_id(run): {run} for run in runs}
        self._after = {
            run: self._open.intersection(shared_prefix.longer(run))
            | (parents.get(run.start.split(":")[0], set()) if run.start else set())
            for run in runs
        }

    def take(self) -> Run | None:
        """The next run, None if all that wait need one that is still running."""
        ready = [run for run in self.waiting if not self._after[run] & self._open]
        trained_now = {self._prefixes[run] for run in self._running} - {None}
        busy = {name for name in trained_now if not shared_prefix.find(name)}
        chosen = next((run for run in ready if self._prefixes[run] not in busy), ready[0] if ready else None)
        if chosen is not None:
            del self.waiting[chosen]
            self._running.add(chosen)
        return chosen

    def done(self, run: Run) -> None:
        """A run has ended, well or badly: others may follow."""
        self._open.discard(run)
        self._running.discard(run)
