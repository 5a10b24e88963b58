"""Many runs: each in one process with one thread, as many at a time as there are cores."""

from __future__ import annotations

import platform
import sys
import traceback
from collections.abc import Iterable
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from importlib.metadata import version
from time import monotonic

import numpy as np
from tqdm.auto import tqdm

from thesislib import beginnings, machine, store
from thesislib.config import Run, UserError
from thesislib.files import FULL, make_writable
from thesislib.results import Result, Results, load, load_id

#: A run can lose this many seconds of work, plus the epoch under way, when it is killed.
CHECKPOINT_SECONDS = 5.0


def execute(run: Run) -> Result:
    """Train one run in this process unless it is done, resuming it if it was interrupted.

    Under torchrun all processes call this and train it together; the first one reads and writes.
    """
    # Several processes must agree on what there is to do: they ask the first one, once they have met.
    if not machine.under_torchrun() and store.is_done(run):
        return load(run)
    # Imported here: what only reads finished runs must not pay for torch.
    from thesislib import parallel

    machine.make_repeatable()
    with machine.without_denormals(), parallel.together(machine.device()):
        _train(run)
        parallel.from_first(None)  # wait until it is written
    return load(run)


def _train(run: Run) -> None:
    from thesislib import parallel
    from thesislib.train import Trainer

    trainer = Trainer(run, machine.device(), start_arrays(run) if run.start else None)

    def whole_state() -> dict[str, np.ndarray]:
        return trainer.state() | {"processes": np.array([parallel.size()])}

    with store.writing(run) if parallel.rank() == 0 else nullcontext() as writer:
        if parallel.from_first(writer and writer.done):  # another process finished it while we waited
            return
        begun = parallel.from_first(writer and _begin(run, writer))
        if begun is None:
            return
        epoch, state, minima = begun
        if state:
            _check_processes(run, int(state.pop("processes", np.ones(1))[0]), parallel.size())
            trainer.restore(epoch, state, minima)
        elif run.minimum_at_start and writer:
            writer.minimum(0, trainer.snapshot())
        saved = monotonic()
        while trainer.finished_epochs < run.epochs and not trainer.diverged:
            before = len(trainer.minima.visited)
            row = trainer.epoch()
            if writer is None:
                continue
            writer.row(row)
            writer.steps(trainer.dense)
            if len(trainer.minima.visited) > before:
                writer.minimum(before, trainer.snapshot())
                if before == 0:
                    beginnings.keep(run, writer, whole_state(), trainer.snapshot(), hardware())
            unfinished = trainer.finished_epochs < run.epochs and not trainer.diverged
            if monotonic() - saved > CHECKPOINT_SECONDS and unfinished:
                writer.checkpoint(trainer.finished_epochs, whole_state())
                saved = monotonic()
        if writer:
            versions = {"python": platform.python_version(), "torch": version("torch"), "hardware": hardware()}
            final = trainer.snapshot() | {"labels": trainer.labels()}
            writer.finish("diverged" if trainer.diverged else "finished", final, versions)


def _begin(run: Run, writer: store.Writer) -> tuple[int, dict[str, np.ndarray], list] | None:
    """Epoch, state and minima to go on from: the run's own checkpoint, or what another one reached for it.

    None if there is nothing to train: the run was cut from a longer one.
    """
    resumed = writer.resume()
    if resumed[1]:
        return resumed
    return None if beginnings.cut(run, writer, hardware()) else beginnings.adopt(run, writer, hardware())


def hardware() -> str:
    """What a run is trained on, as far as it decides the rounding: number of processes and kind of device."""
    from thesislib import parallel

    return f"{parallel.size()} x {machine.device().split(':')[0]}"


def _check_processes(run: Run, before: int, now: int) -> None:
    """Raise UserError if a run would go on with another number of processes: it would round differently."""
    if before != now:
        raise UserError(
            f"run {store.run_id(run)} was begun by {before} processes and cannot go on with {now}: "
            f"use torchrun --nproc-per-node {before}, or delete {store.runs_folder() / store.run_id(run)}"
        )


def start_arrays(run: Run) -> dict[str, np.ndarray]:
    """Weights and buffers that the run's start, "ID:K", names. Raises UserError if they do not fit its network."""
    identity, which = run.start.split(":")
    parent = load_id(identity)
    if (parent.run.model, parent.run.classes) != (run.model, run.classes):
        raise UserError(f"--start: run {identity} is a {parent.run.model} on {parent.run.data}, not a {run.model}")
    return parent.arrays(which)


def missing(runs: Iterable[Run]) -> list[Run]:
    """The distinct runs that are not done, longest first."""
    distinct = {store.run_id(run): run for run in runs}
    todo = [run for run in distinct.values() if not store.is_done(run)]
    return sorted(todo, key=lambda run: -run.epochs * (run.train_size or 10**9))


def families(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs, longest first, each with those behind it that can be cut from it (`beginnings`)."""
    of: dict[Run, list[Run]] = {}
    for run in runs:
        of[run] = next((of[whole] for whole in beginnings.longer(run) if whole in of), [])
        of[run].append(run)
    return list({id(family): family for family in of.values()}.values())


def train_missing(runs: Iterable[Run], workers: int | None = None, first_worker: int = 0) -> None:
    """Train what is missing in a pool of processes, with a progress bar. Raises RuntimeError if a run fails.

    The other runs finish all the same, unless a process dies or the disk is full (OSError), and what is finished is
    kept. Errors of ours, not of the user's or the disk's, leave their traceback on stderr. `first_worker` is the first
    process' number among those of all pools of this machine.
    """
    todo = missing(runs)
    if not todo:
        return
    make_writable(store.runs_folder(), "runs", "THESIS_RUNS")
    failures: dict[str, int] = {}
    died = False
    with (
        machine.pool_of(min(workers or machine.cores(), len(todo)), first_worker) as pool,
        tqdm(total=len(todo), desc="training", unit="run") as bar,
        machine.stopped_by_interrupt(pool),
    ):
        for wave in _waves(todo):
            for future in as_completed([pool.submit(_execute, run) for run in wave]):
                bar.update()
                if error := future.exception():
                    if isinstance(error, OSError) and error.errno in FULL:
                        raise error  # no other run would get farther
                    died = died or isinstance(error, BrokenProcessPool)
                    reason, trace = _reason(error)
                    if trace and reason not in failures:
                        tqdm.write(trace, file=sys.stderr)
                    failures[reason] = failures.get(reason, 0) + 1
            if died:  # of memory, perhaps: this pool takes no further runs
                break
    if failures:
        raise RuntimeError("; ".join(f"{count} runs failed: {reason}" for reason, count in failures.items()))


def _reason(error: BaseException) -> tuple[str, str]:
    """What to say of a run that failed, and the traceback if the error is neither the user's nor the disk's."""
    if isinstance(error, UserError | OSError | BrokenProcessPool):
        return str(error), ""
    return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))


def results(groups: store.Groups, workers: int | None = None) -> Results:
    """The results of labelled runs; those that are missing are trained first."""
    train_missing([run for runs in groups.values() for run in runs], workers)
    return Results.load(groups)


def _waves(todo: list[Run]) -> list[list[Run]]:
    """Runs that start from another run's minimum, or are the beginning of a longer one, come after it."""
    waves, rest = [], todo
    while rest:
        waiting = {store.run_id(run) for run in rest}
        ready = [
            run
            for run in rest
            if (not run.start or run.start.split(":")[0] not in waiting)
            and waiting.isdisjoint(store.run_id(whole) for whole in beginnings.longer(run))
        ]
        waves.append(ready)
        rest = [run for run in rest if run not in ready]
    return waves


def _execute(run: Run) -> None:
    """`execute` for a pool: the result stays on disk instead of crossing a pipe."""
    execute(run)
