"""Many runs through submitit: as a Slurm array, or as processes of this machine that outlive the terminal.

runs/cluster/<name>/        one folder a launch: submitit's logs (<job>_0_log.out, .err) and pickled tasks
runs/cluster/submitted.json run id -> the job that it was last sent with
"""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock
from tqdm.auto import tqdm

from thesislib import launch, machine, store
from thesislib.config import Run, UserError
from thesislib.files import make_writable, write

Cluster = Literal["local", "slurm"]

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


@dataclass(frozen=True)
class Sent:
    """Where a run was sent."""

    cluster: Cluster
    name: str  # of the launch: job numbers begin anew when a cluster is set up again, names do not
    job: str
    log: str


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
        _queue()  # says so if there is no Slurm
    make_writable(_folder(), "jobs", "THESIS_RUNS")
    with FileLock(_folder() / "lock"):
        before, missing = _read(), launch.missing(runs)
        # Runs that were copied from a cluster bring its jobs along, which nobody here can ask about.
        active = _active((before[i] for i in map(store.run_id, missing) if i in before), there=cluster == "slurm")
        todo = []
        for run in missing:
            sent = before.get(store.run_id(run))
            if sent in active:
                continue
            if sent is not None:
                print(f"FAILED run {store.run_id(run)} of job {sent.job}: see {sent.log}", flush=True)
            todo.append(run)
        if todo:
            name = f"thesislib-{secrets.token_hex(3)}"
            jobs = _send(todo, cluster, resources, name)
            _note(before | jobs)
    return todo


def _send(runs: list[Run], cluster: Cluster, resources: Resources, name: str) -> dict[str, Sent]:
    # Imported here: only who sends needs it.
    import submitit

    folder = _folder() / name
    most = 64 if cluster == "slurm" else max(1, machine.cores() // resources.cpus)
    # The longest runs come first, dealt out in turn: tasks take about the same time.
    families = launch.families(runs)
    count = min(len(families), resources.tasks or most)
    shares = [[run for family in families[k::count] for run in family] for k in range(count)]
    environment = {k: str(Path(v).absolute()) for k, v in os.environ.items() if k in _FOLDERS and v}
    if cluster == "local" and "CUDA_VISIBLE_DEVICES" in os.environ:
        environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    work = [Task(share, resources.cpus, environment, number) for number, share in enumerate(shares)]
    # Nobody shares a local queue, and submitit would start a task there six times at most.
    hours = resources.hours if cluster == "slurm" else _FOR_EVER
    try:
        # Time-outs are requeued as often as it takes: every one of them got some epochs done.
        executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=10_000)
        executor.update_parameters(
            name=name, timeout_min=round(60 * hours), cpus_per_task=resources.cpus,
            gpus_per_node=resources.gpus, slurm_partition=resources.partition, slurm_signal_delay_s=NOTICE_SECONDS,
            slurm_additional_parameters={"requeue": True} | resources.sbatch,
        )  # fmt: skip
        with _deaf(), redirect_stderr(io.StringIO()):  # submitit prints what sbatch says, and raises it too
            jobs = executor.submit_array(work)
    except (subprocess.CalledProcessError, submitit.core.utils.FailedJobError, RuntimeError, OSError) as error:
        raise UserError(f"{cluster} refuses the jobs: {_last_line(error)}") from None
    logs = [str(job.paths.stderr) for job in jobs]
    return {
        store.run_id(run): Sent(cluster, name, job.job_id, log)
        for share, job, log in zip(shares, jobs, logs, strict=True)
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


def on_their_way(runs: Iterable[Run]) -> list[Run]:
    """The runs that are not done and whose job waits or works."""
    sent = _read()
    todo = [run for run in launch.missing(runs) if store.run_id(run) in sent]
    active = _active(sent[store.run_id(run)] for run in todo)
    return [run for run in todo if sent[store.run_id(run)] in active]


def watch(runs: list[Run]) -> int:
    """Show progress until no run is on its way any more; prints what failed; how many did."""
    with tqdm(total=len(runs), desc="on the cluster", unit="run") as bar:
        while waiting := on_their_way(runs):
            bar.update(len(runs) - len(waiting) - bar.n)
            time.sleep(POLL_SECONDS)
        failed = launch.missing(runs)
        bar.update(len(runs) - len(failed) - bar.n)
    sent = _read()
    for run in failed:
        print(f"FAILED run {store.run_id(run)}: see {sent[store.run_id(run)].log}", flush=True)
    return len(failed)


def forget(identities: Iterable[str]) -> None:
    """Where these runs were sent is of no interest any more: they were deleted."""
    if not _read():
        return
    gone = set(identities)
    with FileLock(_folder() / "lock"):
        _note({i: sent for i, sent in _read().items() if i not in gone})


def _folder() -> Path:
    return store.runs_folder() / "cluster"


def _read() -> dict[str, Sent]:
    try:
        return {i: Sent(**sent) for i, sent in json.loads((_folder() / "submitted.json").read_text()).items()}
    except FileNotFoundError:
        return {}


def _note(sent: dict[str, Sent]) -> None:
    content = {i: asdict(one) for i, one in sent.items()}
    write(_folder() / "submitted.json", json.dumps(content, indent=1).encode())


def _active(sent: Iterable[Sent], there: bool = True) -> set[Sent]:
    """Those whose job waits or runs. Raises UserError if Slurm does not answer though it should be `there`."""
    sent, queue = set(sent), set()
    if any(s.cluster == "slurm" for s in sent):
        try:
            queue = _queue()
        except UserError:
            if there:
                raise
    return {s for s in sent if ((s.job, s.name) in queue if s.cluster == "slurm" else _alive(s))}


def _queue() -> set[tuple[str, str]]:
    """(job, name) of all that waits or runs on Slurm. Raises UserError if Slurm does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--format", "%i %j"]
    try:
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        raise UserError("Slurm is not installed here: no command squeue (--cluster local needs none)") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"Slurm does not answer: {_last_line(error)}") from None
    return {tuple(line.split(maxsplit=1)) for line in lines if " " in line}


def _alive(sent: Sent) -> bool:
    """Whether a local job's process is there; its command line has the launch's name in it."""
    try:
        process = psutil.Process(int(sent.job))
        return process.status() != psutil.STATUS_ZOMBIE and any(sent.name in word for word in process.cmdline())
    except psutil.Error:
        return False


def _last_line(error: Exception) -> str:
    text = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    text = text.decode() if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
