"""`launch` as local processes, which outlive the terminal: what is sent, seen, stopped and told of them."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import psutil
import pytest
from conftest import TINY, thesislib
from jobs import LONG, runs_of, sent_job, until, worker_of

from thesislib.runs import launch, listing, slurm, store
from thesislib.runs.slurm import Resources
from thesislib.system.errors import UserError

pytestmark = pytest.mark.long


def test_nice_is_kept_in_a_session_of_its_own():
    """Else a training in the background takes half the machine wherever Linux shares it among sessions."""
    if not Path("/proc/self/autogroup").is_file():
        pytest.skip("this Linux does not share processors among sessions")
    nice = min(19, os.nice(0) + 1)  # a little: at 19 it would wait for the other tests to leave it a processor
    code = "import os; os.nice(1); from jobs import LONG, slurm; slurm.submit([LONG], 'local', slurm.Resources())"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent, env=os.environ)
    worker = until("worker", lambda: worker_of(LONG))
    assert worker.nice() == nice
    assert Path(f"/proc/{worker.pid}/autogroup").read_text().split()[-1] == str(nice)
    psutil.Process(int(sent_job(LONG).job)).kill()
    until("end of the worker", lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_nobody_else_can_put_a_task_in_place_of_ours(monkeypatch):
    """Tasks are pickles: whoever reads one executes what is in it."""
    run, before = TINY.replace(epochs=1), os.umask(0)
    try:
        slurm.submit([run], "local", Resources())
    finally:
        os.umask(before)
    assert slurm.watch([run]) == 0
    folder = Path(sent_job(run).log).parent
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert {oct(path.stat().st_mode & 0o777) for path in folder.glob("*submitted.pkl")} == {"0o600"}


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--tasks", "0"), ("--cpus", "0"), ("--hours", "0"), ("--hours", "0.005"), ("--hours", "inf"), ("--hours", "nan")],
)
def test_nothing_of_a_resource_is_refused(flag, value):
    done = thesislib("launch", "--scale", "smoke", flag, value)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert flag in done.stderr


def test_runs_copied_from_a_cluster_train_here(monkeypatch, tmp_path):
    """Their jobs came along, but there is nobody to ask about them."""
    run = TINY.replace(epochs=1)
    slurm.folder().mkdir(parents=True)
    there = {store.run_id(run): {"cluster": "slurm", "name": "x", "job": "1_0", "log": "log"}}
    (slurm.folder() / "submitted.json").write_text(json.dumps(there))
    monkeypatch.setattr(slurm, "_queue", lambda: (_ for _ in ()).throw(UserError("Slurm does not answer")))
    assert slurm.submit([run], "local", Resources()) == [run]
    assert slurm.watch([run]) == 0


def test_a_local_launch_does_not_train_shared_prefixes_twice():
    """Its processes have one queue: while two train a prefix each, the others that share it wait.

    But the last run of all: rather than leave a process idle, it is begun beside one that trains its prefix, which
    happens where a process takes long to start.
    """
    runs = [TINY.replace(seed=seed, strength=strength) for seed in (0, 1) for strength in (1, 2)]
    assert slurm.submit(runs, "local", Resources(tasks=2)) == runs
    assert slurm.watch(runs) == 0
    assert len({sent_job(run) for run in runs}) == 1
    seconds = [launch.load(run).history["seconds"][:2].tolist() for run in runs]
    assert seconds[0] == seconds[1] or seconds[2] == seconds[3]
    assert seconds[0] != seconds[2]


def pid_of(run):
    """The process that trains a run now: its lock says so."""
    lock = store.runs_folder() / store.run_id(run) / "lock"
    return int(lock.read_text().split()[0]) if lock.is_file() and lock.stat().st_size else 0


def test_a_worker_of_a_local_launch_that_is_killed_is_named_and_the_rest_goes_on(capsys):
    """As by a system that has no memory left; what waits in the queue is trained, and the run when it is sent again."""
    runs = [LONG.replace(epochs=400, minima_every=150), *(TINY.replace(seed=seed) for seed in range(4))]
    slurm.submit(runs, "local", Resources(tasks=2))
    until("epochs", lambda: listing.epochs(runs[0], store.Config.of(runs[0]).folder))
    os.kill(pid_of(runs[0]), signal.SIGKILL)
    assert slurm.watch(runs) == 1
    assert launch.missing(runs) == runs[:1]
    assert f"FAILED run {store.run_id(runs[0])} of job" in capsys.readouterr().out
    assert f"the process of run {store.run_id(runs[0])} died" in Path(sent_job(runs[0]).log).read_text()
    assert slurm.submit(runs, "local", Resources()) == runs[:1]
    assert slurm.watch(runs) == 0


def test_a_local_task_whose_controller_was_killed_is_known_and_can_be_stopped():
    """It trains on: nothing is sent twice, `list` counts it, and `launch --stop` ends it, with all its processes."""
    runs = runs_of("1_baseline")
    long = [run.replace(epochs=3000, minima_every=1000) for run in runs]
    slurm.submit(long, "local", Resources())
    worker = until("worker", lambda: worker_of(long[0]))
    until("epochs", lambda: listing.epochs(long[0], store.Config.of(long[0]).folder))
    controller = psutil.Process(int(sent_job(long[0]).job))
    task = worker.parent()
    controller.kill()
    until("end of it", lambda: not controller.is_running() or controller.status() == psutil.STATUS_ZOMBIE)
    assert list(slurm.on_their_way(long)) == launch.missing(long) != []
    assert slurm.submit(long, "local", Resources()) == []
    assert slurm.stop(long) == 1
    for process in (task, worker):
        until("end of it", lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)  # noqa: B023
    assert slurm.on_their_way(long) == {}
    assert not store.is_done(long[0])
    assert slurm.stop(long) == 0


def test_list_counts_what_is_on_its_way_and_stop_ends_it():
    chosen = ("--scale", "smoke", "--section", "1_baseline")
    runs = runs_of("1_baseline")
    with contextlib.ExitStack() as held:
        for run in runs:  # until we let them, they wait
            held.enter_context(store.writing(run))
        assert "sent 3 runs" in thesislib("launch", *chosen, "--no-wait").stdout
        assert "3 of those missing are on their way" in thesislib("list", *chosen).stdout
        assert thesislib("launch", *chosen, "--stop").stdout.startswith("stopped 1 jobs")
        assert "on their way" not in thesislib("list", *chosen).stdout
    assert launch.missing(runs) == runs


@pytest.mark.parametrize("visible", [None, "1,0"])
def test_local_tasks_see_the_gpus_that_we_see(visible, monkeypatch):
    """submitit itself hides all of them from tasks that ask for none."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    run = LONG.replace(seed=7)
    slurm.submit([run], "local", Resources())
    worker = until("worker", lambda: worker_of(run))
    assert worker.environ().get("CUDA_VISIBLE_DEVICES") == visible
    for process in (psutil.Process(int(sent_job(run).job)), worker.parent()):
        process.kill()
    until("end of the worker", lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_local_tasks_outlive_their_launcher():
    command = ("launch", "--scale", "smoke", "--section", "1_baseline", "--tasks", "2")
    done = thesislib(*command, "--no-wait")
    assert done.returncode == 0, done.stderr
    assert "sent 3 runs" in done.stdout
    runs = runs_of("1_baseline")
    until("finished runs", lambda: not launch.missing(runs))
    assert thesislib(*command).stdout.startswith("sent 0 runs")


def test_local_tasks_outlive_the_terminal():
    """The launcher, showing progress, has a terminal of its own; closing it ends the launcher and nothing else."""
    ours, its = os.openpty()
    command = [sys.executable, "-m", "thesislib", "launch", "--scale", "smoke", "--section", "1_baseline"]

    def at_its_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup

    launcher = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, start_new_session=True, preexec_fn=at_its_terminal
    )
    os.close(its)
    until("sent runs", slurm.sent)
    os.close(ours)
    assert launcher.wait(60) != 0
    runs = runs_of("1_baseline")
    assert launch.missing(runs), "the tasks still had work"
    until("finished runs", lambda: not launch.missing(runs))
