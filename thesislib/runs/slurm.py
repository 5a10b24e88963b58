"""Many runs through submitit: as a Slurm array, or as processes of this machine that outlive the terminal.

runs/cluster/submitted.json   where each run was last sent, by its id
             <launch>/        submitit's logs (<job>_0_log.out, .err), pickled tasks and results of one launch
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import RootModel
from tqdm.auto import tqdm

from thesislib.config import Run
from thesislib.runs import launch, store
from thesislib.system import files, machine
from thesislib.system.errors import UserError

Cluster = Literal["local", "slurm"]

#: Options of sbatch that say which job is whose, and how it is told to stop.
OURS = frozenset({"job_name", "array", "output", "error", "signal", "requeue", "open_mode"})
#: Seconds between two looks at what is finished.
POLL_SECONDS = 2.0
#: Seconds between two questions to Slurm while one watches, for days perhaps: all users share its controller.
ASK_SECONDS = 30.0
#: Seconds before the time limit at which Slurm tells a task to stop. Runs save themselves every few seconds anyway.
NOTICE_SECONDS = 60
#: Tasks of a Slurm array, if nobody says how many.
MOST_TASKS = 64

_FOR_EVER = 100_000.0  # hours


@dataclass(frozen=True)
class Resources:
    """What is asked for; the defaults fit small runs on a CPU."""

    tasks: int | None = None  # size of the array (None: up to 64); of a local task, processes (neither: one a core)
    cpus: int | None = None  # of a task, so runs at a time (None: 1)
    gpus: int = 0  # of Slurm's; local processes take turns at those that are visible
    hours: float = 24.0  # of Slurm's; a local task works until it is done
    partition: str | None = None
    sbatch: dict[str, str] = field(default_factory=dict)  # further options, such as account or qos


@dataclass(frozen=True)
class Sent:
    """Where a run was sent."""

    cluster: Cluster
    name: str  # of the launch: job numbers begin anew when a cluster is set up again, names do not
    job: str
    log: str

    def ended_by_itself(self) -> bool:
        """Whether the job came to its end, well or badly, and was not killed."""
        return Path(self.log.removesuffix("log.err") + "result.pkl").is_file()


class _Submitted(RootModel[dict[str, Sent]]):
    """submitted.json."""


class Task:
    """Trains its share of the runs, as many at a time as it has cores.

    `number` is its place in the array, by which tasks take turns at the GPUs that they see.

    submitit calls `checkpoint` on preemption and before the time is up, and puts what it returns back into the
    queue; a task that Slurm itself requeues begins with the same runs. Either way finished ones are skipped and the
    one under way resumes, so that nothing has to be saved here.
    """

    def __init__(self, runs: list[Run], workers: int, environment: dict[str, str], number: int) -> None:
        self.runs, self.workers, self.environment, self.number = runs, workers, environment, number

    def __call__(self) -> None:
        """Train what is missing."""
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            os.setsid()  # neither Ctrl-C nor the end of the terminal is meant for us
            with contextlib.suppress(OSError):  # Linux may share processors among sessions: `nice` is then theirs
                Path("/proc/self/autogroup").write_text(str(os.nice(0)))
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # submitit hides all GPUs from a task that asks for none
        os.environ.update(self.environment)
        launch.train_missing(self.runs, self.workers, first_worker=self.number * self.workers)

    def checkpoint(self) -> Any:
        """The same task again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def folder() -> Path:
    """Where what belongs to jobs lies: runs/cluster/."""
    return store.runs_folder() / "cluster"


def sent() -> dict[str, Sent]:
    """Where runs were last sent, by run id. Raises UserError if the file that says so is broken, or cannot be read."""
    path = folder() / "submitted.json"
    if not path.exists():
        return {}
    try:
        return files.read_json(path, _Submitted).root
    except files.Broken as error:
        raise files.Broken(path, error.why, "delete it once no job is on its way") from None


def forget(identities: Iterable[str]) -> None:
    """Where these runs were sent is of no interest any more: they were deleted."""
    if gone := sent().keys() & set(identities):
        with files.lock(folder() / "lock"):
            _note({identity: where for identity, where in sent().items() if identity not in gone})


def _note(where: dict[str, Sent]) -> None:
    """Write down where runs were last sent; the caller holds the folder's lock."""
    files.sweep(folder(), r"submitted\.json", older=0)
    files.write(folder() / "submitted.json", _Submitted(where).model_dump_json(indent=1).encode())


def submit(runs: Iterable[Run], cluster: Cluster, resources: Resources) -> list[Run]:
    """Send the runs that are neither done nor on their way; returns those sent.

    Prints a line for each job that has ended without all of its runs. Raises UserError if the cluster refuses.
    """
    if "%" in str(folder()):
        raise UserError(f"{folder()}: a folder with a % in its name cannot be launched from: Slurm replaces it")
    if cluster == "slurm":
        _queue()  # says so if there is no Slurm
    files.make_writable(folder(), "jobs", "THESIS_RUNS")
    with files.lock(folder() / "lock"):
        before, missing = sent(), launch.missing(runs)
        # Runs that were copied from a cluster bring its jobs along, which nobody here can ask about.
        active = _active((before[i] for i in map(store.run_id, missing) if i in before), there=cluster == "slurm")
        # Asked once more: one may have been finished, and its job gone, in between.
        todo = [run for run in launch.missing(missing) if before.get(store.run_id(run)) not in active]
        _tell(map(store.run_id, todo), before, "sent again")
        if todo:
            _note(before | _send(todo, cluster, resources))
    return todo


def _send(runs: list[Run], cluster: Cluster, resources: Resources) -> dict[str, Sent]:
    # Imported here: only who sends needs it.
    import submitit

    name = f"thesislib-{secrets.token_hex(3)}"
    launched = folder() / name
    families = launch.families(runs)
    if cluster == "slurm":
        count, workers, hours = min(len(families), resources.tasks or MOST_TASKS), resources.cpus or 1, resources.hours
    else:
        # One task, whose processes share a queue: separate ones would each train the prefix that their runs share.
        # Nobody shares this machine's queue, and submitit would start a task six times at most.
        given = resources.tasks or resources.cpus
        workers = (resources.tasks or 1) * (resources.cpus or 1) if given else machine.cores()
        count, hours = 1, _FOR_EVER
    # Dealt out in turn: the first seeds and sections are done first, by all tasks together.
    shares = [[run for family in families[k::count] for run in family] for k in range(count)]
    files.settle_folders()
    kept = ("THESIS_RUNS", "THESIS_DATA", "PYTHONPATH", *(("CUDA_VISIBLE_DEVICES",) if cluster == "local" else ()))
    environment = {variable: os.environ[variable] for variable in kept if variable in os.environ}
    tasks = [Task(share, workers, environment, number) for number, share in enumerate(shares)]
    try:
        # Tasks are pickles, which whoever reads them executes: nobody else may put one there.
        launched.mkdir(mode=0o700)
        # Time-outs are requeued as often as it takes: every one of them got some epochs done.
        executor = submitit.AutoExecutor(launched, cluster=cluster, slurm_max_num_timeout=10_000)
        executor.update_parameters(
            name=name, timeout_min=round(60 * hours), cpus_per_task=resources.cpus or 1,
            gpus_per_node=resources.gpus, slurm_partition=resources.partition, slurm_signal_delay_s=NOTICE_SECONDS,
            slurm_additional_parameters={"requeue": True} | resources.sbatch,
        )  # fmt: skip
        # submitit prints what sbatch says, and raises it too.
        with _deaf(), _outside_of_jobs(), redirect_stderr(io.StringIO()):
            array = executor.submit_array(tasks)
    except (subprocess.CalledProcessError, submitit.core.utils.FailedJobError, RuntimeError, OSError) as error:
        raise UserError(f"{cluster} refuses the jobs: {_last_line(error)}") from None
    for task in launched.glob("*.pkl"):
        task.chmod(0o600)
    return {
        store.run_id(run): Sent(cluster, name, job.job_id, str(job.paths.stderr))
        for share, job in zip(shares, array, strict=True)
        for run in share
    }


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started here ignore Ctrl-C and the end of the terminal, as a cluster's do.

    Nor do they keep our output open: who reads it, as `ssh` and `tee` do, would wait for their end.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    nothing, streams = os.open(os.devnull, os.O_RDWR), {stream: os.dup(stream) for stream in (1, 2)}
    try:
        for stream in streams:
            os.dup2(nothing, stream)
        yield
    finally:
        for stream, ours in streams.items():
            os.dup2(ours, stream)
            os.close(ours)
        os.close(nothing)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """What is sent from within a job of Slurm's has nothing of that job: its memory, tasks, place in a group."""
    from submitit.helpers import clean_env

    # The user's own: where Slurm's configuration is, and defaults for sbatch.
    kept = {k: v for k, v in os.environ.items() if k == "SLURM_CONF" or k.startswith("SBATCH_")}
    with clean_env():
        os.environ.update(kept)
        yield


def on_their_way(runs: Iterable[Run], there: bool = True) -> dict[Run, Sent]:
    """The runs that are not done and whose job waits or works, with that job. Raises as `_active` does."""
    where = sent()
    todo = {run: where[store.run_id(run)] for run in launch.missing(runs) if store.run_id(run) in where}
    active = _active(todo.values(), there)
    return {run: job for run, job in todo.items() if job in active}


def stop(runs: Iterable[Run]) -> int:
    """End the jobs on which these runs are on their way, with whatever else they train; how many jobs.

    What they have begun resumes when it is sent again. Raises UserError if Slurm does not answer.
    """
    jobs = set(on_their_way(runs).values())
    for job in jobs:
        if job.cluster == "slurm":
            _ask_slurm("scancel", job.job)
            continue
        for process in _processes(job):
            with contextlib.suppress(psutil.Error):  # it has ended
                for one in (process, *process.children(recursive=True)):
                    one.kill()  # submitit's processes do not hear SIGTERM
    slurms = any(job.cluster == "slurm" for job in jobs)
    while _active(jobs):
        time.sleep(POLL_SECONDS / (1 if slurms else 10))  # nobody asks a cluster's controller five times a second
    return len(jobs)


def watch(runs: list[Run]) -> int:
    """Show progress until no run is on its way any more; prints what failed; how many are not done."""
    # Once: a network of one's own may be edited while its runs are on their way.
    identities, asked = list(dict.fromkeys(map(store.run_id, runs))), -math.inf

    def unfinished() -> list[str]:
        return [identity for identity in identities if not (store.runs_folder() / identity / "done.json").is_file()]

    with tqdm(total=len(identities), desc="on the cluster", unit="run") as bar:
        while left := unfinished():
            bar.update(len(identities) - len(left) - bar.n)
            where = sent()
            jobs = {where[identity] for identity in left if identity in where}
            patience = ASK_SECONDS if any(job.cluster == "slurm" for job in jobs) else 0.0
            if time.monotonic() - asked >= patience:
                asked = time.monotonic()
                if not _active(jobs):
                    break
            time.sleep(POLL_SECONDS)
        left = unfinished()  # what was finished while one asked
        bar.update(len(identities) - len(left) - bar.n)
    _tell(left, sent(), "launch sends them again")
    return len(left)


def _tell(identities: Iterable[str], where: dict[str, Sent], then: str) -> None:
    """Print a line for each job that has ended without these runs: they failed, or it was killed before their turn."""
    jobs: dict[tuple[Sent, bool], list[str]] = {}
    for identity in identities:
        if job := where.get(identity):
            failed = job.ended_by_itself() or store.is_run(store.runs_folder() / identity)
            jobs.setdefault((job, failed), []).append(identity)
    for (job, failed), some in jobs.items():
        which = f"run {some[0]}" if len(some) == 1 else f"{len(some)} runs"
        if failed:
            print(f"FAILED {which} of job {job.job}: see {job.log}", flush=True)
        else:
            print(f"job {job.job} was stopped before it began {which}: {then}", flush=True)


def _active(jobs: Iterable[Sent], there: bool = True) -> set[Sent]:
    """Those that wait or run. Raises UserError if Slurm does not answer though it should be `there`."""
    jobs, waiting = set(jobs), set()
    if any(job.cluster == "slurm" for job in jobs):
        try:
            waiting = _queue()
        except UserError:
            if there:
                raise
    return {job for job in jobs if ((job.job, job.name) in waiting if job.cluster == "slurm" else _processes(job))}


def _queue() -> set[tuple[str, str]]:
    """(job, name) of all that waits or runs on Slurm. Raises UserError if Slurm does not answer."""
    lines = _ask_slurm("squeue", "--me", "--array", "--noheader", "--format", "%i %j").splitlines()
    return {tuple(line.split(maxsplit=1)) for line in lines if " " in line}


def _ask_slurm(*command: str) -> str:
    """What one of Slurm's commands prints. Raises UserError if it is not there, or Slurm does not answer."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise UserError(f"Slurm is not installed here: no command {command[0]} (--cluster local needs none)") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"Slurm does not answer: {_last_line(error)}") from None


def _processes(job: Sent) -> list[psutil.Process]:
    """submitit's processes of a local job, first that which started the others; they have the launch in their commands.

    The others train on if the first one, whose number is the job's, was killed.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended, or is somebody else's
            words = process.cmdline()
            if any("submitit." in word for word in words) and any(job.name in word for word in words):
                found.append(process)
    return sorted(found, key=lambda process: process.pid != int(job.job))


def _last_line(error: Exception) -> str:
    """The last line of what a failed command said."""
    text = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    text = text.decode() if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
