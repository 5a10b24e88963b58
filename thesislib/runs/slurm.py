"""Many runs through submitit: as a Slurm array, or as processes of this machine that outlive the terminal.

runs/cluster/<name>/ has submitit's logs (<job>_0_log.out, .err) and pickled tasks of one launch.
"""

from __future__ import annotations

import io
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from thesislib.runs import jobs, launch, store
from thesislib.system import machine
from thesislib.config import Run
from thesislib.system.errors import UserError
from thesislib.system.files import lock, make_writable, settle_folders
from thesislib.runs.jobs import Cluster, Sent

#: Options of sbatch that say which job is whose, and how it is told to stop.
OURS = frozenset({"job_name", "array", "output", "error", "signal", "requeue", "open_mode"})
#: Seconds between two looks at what is finished.
POLL_SECONDS = 2.0
#: Seconds before the time limit at which Slurm tells a task to stop. Runs save themselves every few seconds anyway.
NOTICE_SECONDS = 60


@dataclass(frozen=True)
class Resources:
    """What one task of the array asks for; the defaults fit small runs on a CPU."""

    tasks: int | None = None  # size of the array; None: a core each (local), or up to 64 (Slurm)
    cpus: int = 1
    gpus: int = 0  # of Slurm's; local tasks take turns at those that are visible
    hours: float = 24.0  # of Slurm's; a local task works until it is done
    partition: str | None = None
    sbatch: dict[str, str] = field(default_factory=dict)  # further options, such as account or qos


class Task:
    """Trains its share of the runs, one after another (or as many at a time as it has cores).

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
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # submitit hides all GPUs from a task that asks for none
        os.environ.update(self.environment)
        launch.train_missing(self.runs, self.workers, first_worker=self.number * self.workers)

    def checkpoint(self) -> Any:
        """The same task again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(runs: Iterable[Run], cluster: Cluster, resources: Resources) -> list[Run]:
    """Send the runs that are neither done nor on their way; returns those sent.

    Prints a line for each run that was sent before, is not on its way any more and is not done: it failed.
    Raises UserError if the cluster refuses.
    """
    if cluster == "slurm":
        jobs.queue()  # says so if there is no Slurm
    make_writable(jobs.folder(), "jobs", "THESIS_RUNS")
    with lock(jobs.folder() / "lock"):
        before, missing = jobs.read(), launch.missing(runs)
        # Runs that were copied from a cluster bring its jobs along, which nobody here can ask about.
        active = jobs.active((before[i] for i in map(store.run_id, missing) if i in before), there=cluster == "slurm")
        todo = []
        for run in launch.missing(missing):  # once more: one may have been finished, and its job gone, in between
            sent = before.get(store.run_id(run))
            if sent in active:
                continue
            if sent is not None:
                print(f"FAILED run {store.run_id(run)} of job {sent.job}: see {sent.log}", flush=True)
            todo.append(run)
        if todo:
            name = f"thesislib-{secrets.token_hex(3)}"
            jobs.note(before | _send(todo, cluster, resources, name))
    return todo


def _send(runs: list[Run], cluster: Cluster, resources: Resources, name: str) -> dict[str, Sent]:
    # Imported here: only who sends needs it.
    import submitit

    folder = jobs.folder() / name
    most = 64 if cluster == "slurm" else max(1, machine.cores() // resources.cpus)
    # The longest runs come first, dealt out in turn: tasks take about the same time.
    families = launch.families(runs)
    count = min(len(families), resources.tasks or most)
    shares = [[run for family in families[k::count] for run in family] for k in range(count)]
    settle_folders()
    environment = {name: os.environ[name] for name in _FOLDERS if os.environ.get(name)}
    if cluster == "local" and "CUDA_VISIBLE_DEVICES" in os.environ:
        environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    work = [Task(share, resources.cpus, environment, number) for number, share in enumerate(shares)]
    # Nobody shares a local queue, and submitit would start a task there six times at most.
    hours = resources.hours if cluster == "slurm" else _FOR_EVER
    try:
        # Tasks are pickles, which whoever reads them executes: nobody else may put one there.
        folder.mkdir(mode=0o700)
        # Time-outs are requeued as often as it takes: every one of them got some epochs done.
        executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=10_000)
        executor.update_parameters(
            name=name, timeout_min=round(60 * hours), cpus_per_task=resources.cpus,
            gpus_per_node=resources.gpus, slurm_partition=resources.partition, slurm_signal_delay_s=NOTICE_SECONDS,
            slurm_additional_parameters={"requeue": True} | resources.sbatch,
        )  # fmt: skip
        # submitit prints what sbatch says, and raises it too.
        with _deaf(), _outside_of_jobs(), redirect_stderr(io.StringIO()):
            array = executor.submit_array(work)
    except (subprocess.CalledProcessError, submitit.core.utils.FailedJobError, RuntimeError, OSError) as error:
        raise UserError(f"{cluster} refuses the jobs: {jobs.last_line(error)}") from None
    for task in folder.glob("*.pkl"):
        task.chmod(0o600)
    logs = [str(job.paths.stderr) for job in array]
    return {
        store.run_id(run): Sent(cluster, name, job.job_id, log)
        for share, job, log in zip(shares, array, logs, strict=True)
        for run in share
    }


_FOLDERS = ("THESIS_RUNS", "THESIS_DATA")
_FOR_EVER = 100_000.0  # hours


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started here ignore Ctrl-C and the end of the terminal, as a cluster's do."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
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


def on_their_way(runs: Iterable[Run]) -> list[Run]:
    """The runs that are not done and whose job waits or works."""
    sent = jobs.read()
    todo = [run for run in launch.missing(runs) if store.run_id(run) in sent]
    active = jobs.active(sent[store.run_id(run)] for run in todo)
    return [run for run in todo if sent[store.run_id(run)] in active]


def watch(runs: list[Run]) -> int:
    """Show progress until no run is on its way any more; prints what failed; how many did."""
    with tqdm(total=len(runs), desc="on the cluster", unit="run") as bar:
        while waiting := on_their_way(runs):
            bar.update(len(runs) - len(waiting) - bar.n)
            time.sleep(POLL_SECONDS)
        failed = launch.missing(runs)
        bar.update(len(runs) - len(failed) - bar.n)
    sent = jobs.read()
    for run in failed:
        print(f"FAILED run {store.run_id(run)}: see {sent[store.run_id(run)].log}", flush=True)
    return len(failed)
