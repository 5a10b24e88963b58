"""`launch`: on a real Slurm, started here, and as local processes."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import networks
import psutil
import pytest
import slurm as one_node
from conftest import PATIENCE, TINY, thesislib

from thesislib.experiments import sections
from thesislib.runs import launch, listing, slurm, store
from thesislib.runs.slurm import Resources
from thesislib.system.errors import UserError

#: Long enough (some ten seconds) to be disturbed after its first checkpoint.
LONG = TINY.replace(epochs=1000, minima_every=400, train_size=2000)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if why := one_node.missing():
        pytest.skip(why)
    with one_node.Slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def on_slurm(cluster, monkeypatch):
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


def until(what, there, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < end, f"no {what} after {seconds} seconds"
        time.sleep(0.2)
    return found


def runs_of(section):
    return list(dict.fromkeys(row.run for row in sections.rows(section, "smoke")))


def weights(run):
    """All that was stored of a run's networks: its minima and its end."""
    folder = store.runs_folder() / store.run_id(run)
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors") if not path.name.startswith("beg")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The long run's files, trained in one go."""
    before = os.environ.get("THESIS_RUNS")
    os.environ["THESIS_RUNS"] = str(tmp_path_factory.mktemp("undisturbed"))
    try:
        launch.execute(LONG)
        return weights(LONG)
    finally:
        os.environ.pop("THESIS_RUNS") if before is None else os.environ.update(THESIS_RUNS=before)


def sent_job(run):
    return slurm.sent()[store.run_id(run)]


def checkpoint_of(run):
    return store.runs_folder() / store.run_id(run) / "checkpoint.safetensors"


def worker_of(run):
    """The process that trains on behalf of the job that the run was sent with; None if it has ended."""
    lines = {p: " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])}  # a zombie has none
    tasks = [p for p, line in lines.items() if "submitit.core._submit" in line and sent_job(run).name in line]
    try:
        children = [child for task in tasks for child in task.children(recursive=True)]
        return next((child for child in children if "spawn_main" in " ".join(child.cmdline())), None)
    except psutil.NoSuchProcess:
        return None


def test_an_array_trains_what_is_missing_and_only_that(on_slurm):
    """Eight runs, one of them trained before: an array of four, some of whose tasks train two."""
    runs = runs_of("4-1_multiple_minima")
    launch.execute(runs[0])
    command = ("launch", "--scale", "smoke", "--section", "4-1_multiple_minima", "--cluster", "slurm", "--tasks", "4")
    first = thesislib(*command)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("sent 7 runs; 7 are on their way")
    assert not launch.missing(runs)
    numbers = [sent.job for sent in slurm.sent().values()]
    assert sorted(numbers.count(job) for job in set(numbers)) == [1, 2, 2, 2]
    assert {job.split("_")[1] for job in numbers} == {"0", "1", "2", "3"}
    assert len({job.split("_")[0] for job in numbers}) == 1, "one array"
    assert thesislib(*command).stdout.startswith("sent 0 runs; 0 are on their way")


def test_what_waits_or_works_is_not_sent_twice(on_slurm):
    assert slurm.submit([LONG], "slurm", Resources()) == [LONG]
    assert slurm.submit([LONG], "slurm", Resources()) == []
    assert list(slurm.on_their_way([LONG])) == [LONG]
    assert slurm.stop([LONG]) == 1
    assert slurm.on_their_way([LONG]) == {}


@pytest.mark.parametrize("how", ["requeued", "preempted", "timed-out"])
def test_a_requeued_run_resumes_to_the_bit(on_slurm, undisturbed, how, capsys):
    """By Slurm itself; by submitit, when a more urgent job wants the node or when Slurm announces the end of the time.

    The last one is the announcement alone, in the sixth of an hour before which submitit takes all of them for that.
    """
    slurm.submit([LONG], "slurm", Resources(hours=0.16 if how == "timed-out" else 24.0))
    job = sent_job(LONG).job
    until("checkpoint", checkpoint_of(LONG).exists)
    if how == "requeued":
        on_slurm.run("scontrol", "requeue", job)
    elif how == "preempted":
        on_slurm.run(
            "sbatch", "--partition", "urgent", "--cpus-per-task", "4", "--output", "/dev/null", "--wrap", "sleep 2"
        )
    else:
        on_slurm.run("scancel", "--signal=USR2", job)
    assert slurm.watch([LONG]) == 0
    assert sent_job(LONG).job == job, "the same job"
    assert "Restarts=1" in on_slurm.run("scontrol", "show", "job", job)
    assert how == "requeued" or f"job is {how}" in Path(sent_job(LONG).log).read_text()
    assert weights(LONG) == undisturbed


def test_a_killed_task_is_named_with_its_log_and_sent_again(on_slurm, undisturbed, capsys):
    slurm.submit([LONG], "slurm", Resources())
    until("checkpoint", checkpoint_of(LONG).exists)
    until("worker", lambda: worker_of(LONG)).send_signal(signal.SIGKILL)
    assert slurm.watch([LONG]) == 1
    log = Path(sent_job(LONG).log)
    said = f"FAILED run {store.run_id(LONG)} of job {sent_job(LONG).job}: see {log}"
    assert said in capsys.readouterr().out
    assert f"the process of run {store.run_id(LONG)} died" in log.read_text()
    assert slurm.submit([LONG], "slurm", Resources()) == [LONG]
    assert said in capsys.readouterr().out
    assert slurm.watch([LONG]) == 0
    assert weights(LONG) == undisturbed


def test_a_job_may_send_jobs(on_slurm, monkeypatch):
    """What Slurm and a framework tell a job of its own is not for those that it sends."""
    own = {"SLURM_JOB_ID": "1", "SLURM_MEM_PER_CPU": "1", "SLURM_MEM_PER_NODE": "1", "SLURM_CPU_BIND": "map_cpu:99"}
    for name, value in (own | {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)
    run = TINY.replace(seed=11)
    assert slurm.submit([run], "slurm", Resources()) == [run]
    assert slurm.watch([run]) == 0
    assert os.environ["SLURM_MEM_PER_CPU"] == "1", "ours is as it was"


def test_a_network_of_ones_own_is_found_by_a_job(on_slurm, tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(Path(networks.__file__).read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(sys, "path", list(sys.path))
    run = TINY.replace(model="mynet:small", epochs=1, minima_every=1)
    assert slurm.submit([run], "slurm", Resources()) == [run]
    monkeypatch.chdir("/")
    assert slurm.watch([run]) == 0
    assert (launch.load(run).folder / "model.py").is_file()


def test_nice_is_kept_in_a_session_of_its_own():
    """Else a training in the background takes half the machine wherever Linux shares it among sessions."""
    if not Path("/proc/self/autogroup").is_file():
        pytest.skip("this Linux does not share processors among sessions")
    nice = min(19, os.nice(0) + 3)  # a little: at 19 it would wait for the other tests to leave it a processor
    code = "import os; os.nice(3); from test_slurm import *; slurm.submit([LONG], 'local', Resources())"
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


def test_a_wrong_partition_is_one_line(on_slurm):
    done = thesislib("launch", "--scale", "smoke", "--cluster", "slurm", "--partition", "nowhere")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "slurm refuses the jobs" in done.stderr
    assert "partition" in done.stderr
    assert slurm.sent() == {}


def test_no_slurm_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = thesislib("launch", "--scale", "smoke", "--cluster", "slurm")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "local" in done.stderr


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


def test_slurm_is_asked_seldom_however_long_one_watches(finished, monkeypatch, capsys):
    """What is finished is seen at once all the same; a network's text, of which ids are made, is read once."""
    first, second, third = runs = [TINY.replace(seed=seed) for seed in (1, 2, 3)]
    slurm.folder().mkdir(parents=True)
    job = {"cluster": "slurm", "name": "x", "job": "1_0", "log": "log"}
    ids = [store.run_id(run) for run in runs]
    (slurm.folder() / "submitted.json").write_text(json.dumps(dict.fromkeys(ids, job)))
    now, asked, ends = [0.0], [], {100: ids[0], 3601: ids[1]}

    def sleep(seconds):
        now[0] += seconds
        for end in [end for end in ends if end <= now[0]]:
            folder = store.runs_folder() / ends.pop(end)
            folder.mkdir()
            (folder / "done.json").write_text("{}")

    def queue():
        asked.append(now[0])
        return {("1_0", "x")} if now[0] < 7200 else set()

    counted = []
    monkeypatch.setattr(slurm.time, "sleep", sleep)
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(slurm, "_queue", queue)
    monkeypatch.setattr(store, "run_id", lambda run, of=store.run_id: counted.append(run) or of(run))
    assert slurm.watch([first, second]) == 0
    assert 3601 <= now[0] <= 3601 + slurm.POLL_SECONDS, "not when Slurm is asked for the next time"
    assert len(counted) == 2
    assert slurm.watch(runs) == 1, "the job ends without the third"
    assert 7200 <= now[0] <= 7200 + 2 * slurm.ASK_SECONDS
    assert len(asked) <= 2 + now[0] / 30
    assert f"job 1_0 was stopped before it began run {ids[2]}" in capsys.readouterr().out


def test_what_failed_is_told_by_job(monkeypatch, capsys):
    """A job that was killed before it began a run says nothing about that run."""
    runs = [TINY.replace(seed=seed) for seed in range(7)]
    ids = [store.run_id(run) for run in runs]
    slurm.folder().mkdir(parents=True)
    logs = {number: str(slurm.folder() / f"{number}_0_log.err") for number in "123"}
    jobs = {number: slurm.Sent("local", "thesislib-gone", number, log) for number, log in logs.items()}
    (slurm.folder() / "1_0_result.pkl").touch()  # it came to its end
    sent = dict(zip(ids, (jobs[name] for name in "1112333"), strict=True))
    (slurm.folder() / "submitted.json").write_text(json.dumps({i: vars(job) for i, job in sent.items()}))
    with store.writing(runs[6]) as writer:
        writer.resume()
    monkeypatch.setattr(slurm, "_send", lambda *_: {})
    assert slurm.submit(runs, "local", Resources()) == runs
    assert capsys.readouterr().out.splitlines() == [
        f"FAILED 3 runs of job 1: see {jobs['1'].log}",
        f"job 2 was stopped before it began run {ids[3]}: sent again",
        "job 3 was stopped before it began 2 runs: sent again",
        f"FAILED run {ids[6]} of job 3: see {jobs['3'].log}",
    ]


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
