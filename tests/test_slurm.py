"""`launch` on a real Slurm, started here."""

import json
import os
import signal
from pathlib import Path

import networks
import pytest
import slurm as one_node
from conftest import TINY, thesislib
from jobs import LONG, runs_of, sent_job, until, worker_of

from thesislib.runs import launch, slurm, store
from thesislib.runs.slurm import Resources

pytestmark = pytest.mark.long


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


def checkpoint_of(run):
    return store.runs_folder() / store.run_id(run) / "checkpoint.safetensors"


def test_an_array_trains_what_is_missing_and_only_that(on_slurm):
    """Nine runs, one of them trained before: an array of four, whose tasks train two each."""
    runs = runs_of("4-1_multiple_minima")
    launch.execute(runs[0])
    command = ("launch", "--scale", "smoke", "--section", "4-1_multiple_minima", "--cluster", "slurm", "--tasks", "4")
    first = thesislib(*command)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("sent 8 runs; 8 are on their way")
    assert not launch.missing(runs)
    numbers = [sent.job for sent in slurm.sent().values()]
    assert sorted(numbers.count(job) for job in set(numbers)) == [2, 2, 2, 2]
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
    run = TINY.replace(model="mynet:small", epochs=1, minima_every=1)
    assert slurm.submit([run], "slurm", Resources()) == [run]
    monkeypatch.chdir("/")
    assert slurm.watch([run]) == 0
    assert (launch.load(run).folder / "model.py").is_file()


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
