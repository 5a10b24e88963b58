import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PATIENCE, TINY, interrupted, on_mounts

from thesislib.runs import launch, shared_prefix, store
from thesislib.system import files, machine
from thesislib.system.errors import UserError

LONG = TINY.replace(epochs=30, minima_every=7)
FLAGS = [f"--{k.replace('_', '-')}={v}" for k, v in LONG.model_dump(exclude_defaults=True).items()]


def numbers(result):
    table = pd.read_csv(result.folder / "metrics.csv", float_precision="round_trip")
    return table.drop(columns=["seconds", "train_seconds"])


def start(runs, checkpoint_seconds=0):
    """The command line training LONG, with a checkpoint after every epoch."""
    code = (
        "import sys; from thesislib import __main__; from thesislib.runs import launch; "
        f"launch.CHECKPOINT_SECONDS = {checkpoint_seconds}; sys.exit(__main__.main())"
    )
    command = [sys.executable, "-c", code, "run", *FLAGS]
    return subprocess.Popen(command, env=os.environ | {"THESIS_RUNS": str(runs)}, stderr=subprocess.PIPE)


def wait_for_epoch(folder, epoch):
    path = folder / store.run_id(LONG) / "metrics.csv"
    for _ in range(200 * PATIENCE):
        if path.exists() and path.read_text().count("\n") > epoch:
            return
        time.sleep(0.005)
    raise AssertionError(f"epoch {epoch} never came: {path.exists() and path.read_text()}")


def test_killed_runs_resume_to_the_bit(folders, monkeypatch):
    whole = launch.execute(LONG)
    killed = folders / "killed"
    for number, epoch in ((signal.SIGKILL, 1), (signal.SIGINT, 16)):
        process = start(killed)
        wait_for_epoch(killed, epoch)
        process.send_signal(number)
        assert process.wait() != 0
        assert not (killed / whole.id / "done.json").exists()
    assert (killed / whole.id / "checkpoint.safetensors").exists()
    monkeypatch.setenv("THESIS_RUNS", str(killed))
    resumed = launch.execute(LONG)
    assert resumed.folder != whole.folder
    pd.testing.assert_frame_equal(numbers(resumed), numbers(whole), check_exact=True)
    for name in ["final", *range(len(whole.minimum_epochs))]:
        a, b = resumed.arrays(name), whole.arrays(name)
        assert all(np.array_equal(a[key], b[key]) for key in a.keys() | b.keys())
    leftovers = {path.name for path in resumed.folder.iterdir()} - {path.name for path in whole.folder.iterdir()}
    assert all(name.startswith(("events", ".")) for name in leftovers)


def test_two_processes_train_a_run_once(folders):
    runs = folders / "runs"
    both = [start(runs), start(runs)]
    assert [process.wait() for process in both] == [0, 0]
    # Each training process opens a TensorBoard file of its own.
    assert len(list((runs / store.run_id(LONG)).glob("events*"))) == 1


def test_pool_trains_what_is_missing_and_survives_a_failure(finished):
    """A clone waits for its parent."""
    runs = [TINY.replace(seed=seed) for seed in range(4)]
    clone = TINY.replace(start=f"{store.run_id(runs[3])}:0", minimum_at_start=True)
    assert launch.missing([*runs, *runs]) == runs[1:]
    bad = TINY.replace(start="0123456789ab:0")
    with pytest.raises(UserError, match="^1 run failed: no finished run 0123456789ab"):
        launch.train_missing([clone, bad, *runs], workers=2)
    assert launch.missing([clone, *runs]) == []


def test_an_error_of_ours_leaves_its_traceback(folders, capfd, monkeypatch):
    """Here a checkpoint that lacks what a resumed run needs; once for all runs that fail alike."""
    origin = np.frombuffer(json.dumps(launch._origin()).encode(), np.uint8)
    for seed in range(2):
        with store.writing(TINY.replace(seed=seed)) as writer:
            writer.resume()
            writer.row(dict.fromkeys(store.COLUMNS, 0.0) | {"epoch": 1})
            writer.checkpoint(1, {"origin": origin})
    with pytest.raises(RuntimeError, match="2 runs failed: KeyError: 'theta'"):
        launch.train_missing([TINY.replace(seed=seed) for seed in range(2)], workers=1)
    assert capfd.readouterr().err.count("in _set_weights") == 1


def test_a_mistake_of_the_users_is_one_line_whatever_trains(folders, capfd):
    """And an error of ours among them is not passed off as his."""
    wrong = [TINY.replace(train_size=100_000, seed=seed) for seed in range(2)]
    says = "^2 runs failed: train_size: mnist5k has only 4000 images in this split, not 100000$"
    with pytest.raises(UserError, match=says):
        launch.results(wrong, workers=2)
    assert "Traceback" not in capfd.readouterr().err
    with store.writing(TINY) as writer:
        writer.resume()
        writer.row(dict.fromkeys(store.COLUMNS, 0.0) | {"epoch": 1})
        writer.checkpoint(1, {"origin": np.frombuffer(json.dumps(launch._origin()).encode(), np.uint8)})
    with pytest.raises(RuntimeError, match="1 run failed: train_size: mnist5k has.*; 1 run failed: KeyError: 'theta'"):
        launch.results([wrong[0], TINY], workers=1)


def die(*_):
    os._exit(1)


def test_processes_that_die_are_an_error_and_not_all_runs_are_tried(folders, monkeypatch):
    """As those that are out of memory, whatever they train; a run that needs one of these is left as well."""
    runs = [TINY.replace(seed=seed) for seed in range(5)]
    clone = TINY.replace(start=f"{store.run_id(runs[4])}:0", minimum_at_start=True)
    monkeypatch.setattr(launch, "_execute", die)
    with pytest.raises(RuntimeError) as error:
        launch.train_missing([*runs, clone], workers=1)
    died = [f"1 run failed: the process of run {store.run_id(run)} died, for lack of memory perhaps" for run in runs]
    assert str(error.value) == "; ".join(died[: launch.MOST_DEATHS])
    assert launch.missing([*runs, clone]) == [*runs, clone]


def train_but_for_one(run, _config):
    if run.seed == 1:
        while True:  # until it is killed
            (store.runs_folder() / f"pid-{os.getpid()}").touch()
            time.sleep(0.01)
    launch.execute(run)


def test_a_killed_process_takes_only_its_run_with_it(folders, monkeypatch):
    """Two processes: while one trains the first run, the other one is killed; the rest of the queue goes on."""
    runs = [TINY.replace(seed=seed) for seed in range(4)]
    monkeypatch.setattr(launch, "_execute", train_but_for_one)

    def kill():
        while not (found := [*(folders / "runs").glob("pid-*")]):
            time.sleep(0.01)
        os.kill(int(found[0].name.removeprefix("pid-")), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(RuntimeError, match=f"^1 run failed: the process of run {store.run_id(runs[1])} died, for lack"):
        launch.train_missing(runs, workers=2)
    assert launch.missing(runs) == [runs[1]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(folders, number):
    """A signal to the launcher alone must not leave processes that train on, or wait for ever."""
    code = (
        "import conftest\nfrom thesislib.runs import launch\n"
        "if __name__ == '__main__':\n"
        "    runs = [conftest.TINY.replace(seed=s, epochs=3000, minima_every=50) for s in range(20)]\n"
        "    launch.train_missing(runs, workers=2)\n"
    )
    script = folders / "launcher.py"
    script.write_text(code)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    process = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while len(list((folders / "runs").glob("*/metrics.csv"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=PATIENCE) != 0
    time.sleep(1)
    sizes = [[p.stat().st_size for p in (folders / "runs").glob("*/metrics.csv")] for _ in (0, time.sleep(1))]
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) == 2, "what was waiting was not begun"


def test_the_queue_keeps_the_order_but_for_what_runs_need(tiny):
    """Not beside one that trains the same prefix, not before the run that one is cut from or starts from."""
    whole, other, part = tiny, tiny.replace(strength=2), tiny.replace(epochs=4)
    apart, child = tiny.replace(seed=1), tiny.replace(seed=2, start=f"{store.run_id(tiny)}:0")
    queue = launch._Queue([part, child, whole, other, apart])
    assert queue.take() == whole
    assert queue.take() == apart, "the other one shares the prefix that is being trained"
    assert queue.take() == other, "rather twice than nothing to do"
    assert queue.take() is None, "the rest needs the first"
    for run in (apart, other, whole):
        queue.done(run)
    assert [queue.take(), queue.take(), queue.take()] == [part, child, None]


def test_a_run_does_not_go_on_with_another_rounding(tiny, monkeypatch):
    """Half a run of one processor and half of another is neither's; the run stays as it was."""
    folder = interrupted(tiny, after=3)
    before = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    here = machine.kind()
    monkeypatch.setattr(machine, "kind", lambda: "cpu of another maker")
    with pytest.raises(UserError, match=f"begun on 1 x {here}.*cannot go on with 1 x cpu of another maker"):
        launch.execute(tiny)
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    with pytest.raises(UserError):  # nor is another's prefix adopted: the key is another
        assert shared_prefix.find(shared_prefix.file_name(tiny, launch.hardware())) is None
        launch.execute(tiny)
    monkeypatch.setattr(machine, "kind", lambda: here)
    assert launch.execute(tiny).summary["versions"]["hardware"] == f"1 x {here}"


def test_a_full_disk_is_said_once_and_ends_all(folders):
    """A disk with room for two or three of eight runs."""
    mounted = 'mkdir "$1"; mount -t tmpfs -o size=700k none "$1"; shift'
    script = mounted + '; "$@" && code=0 || code=$?; echo $code; ls "$THESIS_RUNS" | wc -l'
    command = (sys.executable, "-m", "thesislib", "figures", "--scale", "smoke", "--section", "4-1_multiple_minima")
    full = str(folders / "full")
    done = on_mounts(script, full, *command, "--jobs", "1", THESIS_RUNS=full)
    code, begun = done.stdout.split()
    assert (code, int(begun) < 5) == ("2", True)
    said = [line for line in done.stderr.replace("\r", "\n").splitlines() if line and "run/s]" not in line]
    said = [line for line in said if not line.startswith("training:")]
    assert len(said) == 1
    assert said[0].startswith(f"thesislib: No space left on device: {full}/")


def test_who_waits_for_a_lock_says_for_whom(folders):
    code = (
        "import sys; from thesislib import __main__; from thesislib.system import files; "
        "files.PATIENCE = 0.1; sys.exit(__main__.main())"
    )
    with store.writing(TINY) as writer:
        flags = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.model_dump(exclude_defaults=True).items()]
        waiting = subprocess.Popen([sys.executable, "-c", code, "run", *flags], stderr=subprocess.PIPE, text=True)
        line = waiting.stderr.readline()
    assert line.startswith(f"thesislib: waiting for {writer.folder / 'lock'}, held by process {os.getpid()} on ")
    assert "delete this file" in line
    assert waiting.communicate(timeout=PATIENCE)[1] == ""
    assert waiting.returncode == 0
    assert store.is_done(TINY)


def test_a_lock_without_a_name_holds_nobody(folders):
    """Copied along with runs, or written by another program."""
    for content in (b"", b"1\n", b"\xff\x00", b"elsewhere\nx\n"):
        (folders / "lock").write_bytes(content)
        assert "left no name" in files._holder(folders / "lock")
        with files.lock(folders / "lock"):
            assert f"process {os.getpid()} on " in files._holder(folders / "lock")
