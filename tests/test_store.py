import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import edit, interrupted, trained

from thesislib import datasets
from thesislib.runs import finished as finished_runs
from thesislib.runs import launch, slurm, store
from thesislib.system import files
from thesislib.system.errors import UserError
from thesislib.system.files import Broken, read_arrays, write_arrays
from thesislib.trainer import Trainer


def test_a_finished_run_reads_back(tiny, finished):
    again = finished
    assert again.summary == launch.execute(tiny).summary
    assert again.run == finished_runs.load_id(again.id).run == tiny
    assert list(again.history["epoch"]) == [1, 2, 3, 4, 5, 6]
    assert again.minimum_epochs == [2, 4, 6]
    last = again.arrays(2, "theta", "logits")
    assert np.array_equal(last["theta"], again.arrays("final", "theta")["theta"]), "a minimum at the end is the end"
    assert last["logits"].shape == (250, 10)
    labels = again.arrays("final", "labels")["labels"]
    assert (last["logits"].argmax(1) == labels).mean() == pytest.approx(again.summary["accuracy"])
    d = ((again.arrays(0, "theta")["theta"] - last["theta"]) ** 2).sum()
    assert again.summary["squared_distances"] == pytest.approx([d, again.history["d_1"].iloc[-1], 0], rel=1e-4)
    assert not (again.folder / "checkpoint.safetensors").exists()


def test_tensorboard_has_the_epochs(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.folder)).Reload()
    assert {"accuracy", "seconds", "d_0", "lr"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("accuracy")] == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in events.Scalars("accuracy")] == pytest.approx(list(finished.history["accuracy"]))


def test_a_finished_run_is_never_trained_again(tiny, finished, monkeypatch):
    monkeypatch.setattr("thesislib.trainer.Trainer.epoch", None)
    assert launch.execute(tiny).summary["epochs"] == 6


@pytest.mark.parametrize("broken", ["", "epoch,accuracy\n1,0.5\n", "nonsense\n", "epoch\n1\n1\n1\n1\n1\n1\n"])
def test_broken_metrics_are_one_line(finished, broken):
    (finished.folder / "metrics.csv").write_text(broken)
    with pytest.raises(UserError, match=r"metrics\.csv is broken .* delete") as error:
        _ = finished.history
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_line_cut_short_is_no_missing_value(finished, cut):
    path = finished.folder / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match="is broken"):
        _ = finished.history


def test_a_column_that_came_later_is_nan_in_older_runs(tiny, finished, capsys):
    before = finished.history
    lacking = before.drop(columns=["grad_norm", "d_1"])
    lacking.to_csv(finished.folder / "metrics.csv", index=False)
    edit(finished.folder)
    for _ in range(2):
        found = finished_runs.load(tiny).history
        assert found[["grad_norm", "d_1"]].isna().all(axis=None)
        assert found[lacking.columns].equals(lacking)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2, "once for each"
    assert all(name in line for name, line in zip(("grad_norm", "d_1"), said, strict=True))


def test_a_column_that_came_later_is_nan_in_runs_that_were_begun_before(tiny, folders, monkeypatch, capsys):
    """They go on without it; and who would begin with a prefix that lacks it trains that anew (EXTENDING, A column)."""
    begun, whole = tiny.replace(seed=1), launch.execute(tiny)
    interrupted(begun, after=4, checkpoints=3)
    monkeypatch.setattr(store, "COLUMNS", (*store.COLUMNS, "entropy"))
    epoch = Trainer.epoch
    monkeypatch.setattr(Trainer, "epoch", lambda self: epoch(self) | {"entropy": 0.5})
    history = launch.execute(begun).history
    assert list(history["epoch"]) == [1, 2, 3, 4, 5, 6]
    assert history["entropy"].isna().all()
    sibling = launch.execute(tiny.replace(strength=7.0)).history
    assert (sibling["entropy"] == 0.5).all()
    assert list(sibling["train_loss"][:2]) == list(whole.history["train_loss"][:2]), "the same prefix"


@pytest.mark.parametrize("name", ["done.json", "config.json", "final.safetensors"])
@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b"", b'{"run": {"width": -1}, "data": "", "revision": 1}'])
def test_other_broken_files_are_one_line(finished, name, content):
    (finished.folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is broken") as error:
        _ = finished_runs.load_id(finished.id).summary, finished.arrays("final")
    assert "\n" not in str(error.value)


def test_unwritable_folder(tiny, folders, monkeypatch):
    (folders / "file").write_text("")
    monkeypatch.setenv("THESIS_RUNS", str(folders / "file" / "runs"))
    with pytest.raises(UserError, match="cannot write runs"):
        launch.execute(tiny)


def test_a_broken_file_is_named_by_another_process_too(tiny, folders):
    """What it raises comes through a pipe, and is then what it was."""
    broken = Broken(Path("runs/x/config.json"), "half of it\nand more", "look at it")
    again = pickle.loads(pickle.dumps(broken))
    assert (str(again), again.path, again.why) == (str(broken), broken.path, "half of it")
    folder = interrupted(tiny, after=3, checkpoints=2)
    (folder / "checkpoint.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(UserError, match="checkpoint.safetensors is broken"):
        launch.train_missing([tiny], workers=1)


def test_bad_requests_leave_nothing_behind(tiny, folders):
    with pytest.raises(UserError):
        launch.execute(tiny.replace(train_size=5000))
    with pytest.raises(UserError, match="no finished run"):
        launch.execute(tiny.replace(start="0123456789ab:0"))
    assert not (folders / "runs").exists()


def test_clone_starts_from_the_minimum(tiny, finished):
    parent = finished
    clone = launch.execute(tiny.replace(start=f"{parent.id}:1", minimum_at_start=True, epochs=2))
    assert np.array_equal(clone.arrays(0, "theta")["theta"], parent.arrays(1, "theta")["theta"])
    assert clone.history["d_0"].iloc[0] == clone.history["d_init"].iloc[0]
    with pytest.raises(UserError, match="is a mlp-tiny on mnist5k, not a mlp"):
        launch.execute(tiny.replace(start=f"{parent.id}:1", model="mlp"))
    with pytest.raises(UserError, match="has no minimum 7"):
        launch.execute(tiny.replace(start=f"{parent.id}:7"))


def test_an_array_that_it_does_not_have_is_one_line(finished):
    """And no word of a broken file, or of deleting the run."""
    with pytest.raises(UserError, match="has no array 'thetas': choose from .*logits, theta") as error:
        finished.arrays(0, "thetas")
    assert "broken" not in str(error.value)


def test_a_diverged_run_keeps_its_rows(tiny):
    run = tiny.replace(lr=1e6)
    result = launch.execute(run)
    assert result.diverged
    assert 1 <= len(result.history) == result.summary["epochs"] < 6
    assert json.loads((result.folder / "done.json").read_text())["status"] == "diverged"
    assert store.is_done(run), "it would diverge again: it is done"


def test_results_are_tables(tiny, finished):
    groups = {"a": [tiny, tiny.replace(seed=1)], "b": [tiny.replace(strength=0)]}
    found = trained(groups)
    assert len(found.history) == 18
    assert list(found.final["label"]) == ["a", "a", "b"]
    table = found.table("accuracy")
    values = [row.result.summary["accuracy"] for row in found.only("a")]
    assert table["accuracy"][0] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert list(table["n"]) == [2, 1]


def test_dense_rows_survive_an_interruption(tiny, finished):
    """Rows of epochs that are trained again are there once: four were trained, the last checkpoint is of the third."""
    run = tiny.replace(dense_steps=6)
    whole = launch.execute(run)
    assert len(whole.steps) == 2 * 6
    shutil.rmtree(whole.folder)
    steps = (interrupted(run, after=4, checkpoints=3) / "steps.csv").read_text()
    assert steps.count("\n") == 1 + 6
    assert launch.execute(run).steps.equals(whole.steps)
    assert finished.steps.empty


def test_what_was_left_half_written_is_swept_up(finished, folders, photographs):
    """In the folders of runs, of data and of jobs: what is older than an hour, or what a lock says is left."""
    cluster = slurm.folder()
    left = {
        folders / "data": [".cifar10.npz.0123456789abcdef", ".cifar10.sha256.json.0123456789abcdef"],
        cluster: [".submitted.json.0123456789abcdef"],
    }
    cluster.mkdir()
    for folder, names in left.items():
        for name in (*names, ".mine.npz", ".notes.txt.0123456789abcdef"):
            (folder / name).write_bytes(b"half")
            os.utime(folder / name, (1e9, 1e9))
    new = folders / "data" / ".cifar10.npz.fedcba9876543210"
    new.write_bytes(b"half")
    datasets.load("cifar10")
    (cluster / "submitted.json").write_text(json.dumps({finished.id: vars(slurm.Sent("local", "x", "1", "log"))}))
    slurm.forget([finished.id])
    assert slurm.sent() == {}
    kept = {".mine.npz", ".notes.txt.0123456789abcdef"}
    assert {path.name for path in cluster.glob(".*")} == kept
    assert {path.name for path in (folders / "data").glob(".*")} == kept | {new.name}


def test_a_disk_that_refuses_arrays_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_arrays(tmp_path / "nowhere" / "x", {"x": np.zeros(1)})


def test_a_full_disk_is_named_and_nothing_half_stays(tmp_path):
    """A limit on the size of files is the nearest thing to a full disk."""
    code = (
        "import resource, signal, sys, pathlib, numpy as np\n"
        "from thesislib.system import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "path, content = pathlib.Path(sys.argv[1]), np.zeros(5000)\n"
        "ways = (lambda p, c: files.write(p, c.tobytes()), lambda p, c: files.write_arrays(p, {'x': c}),\n"
        "        lambda p, c: files.append(p, b'x' * 5000))\n"
        "for how in ways:\n"
        "    try: how(path, content)\n"
        "    except OSError as error: print(error.filename, error.strerror)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 3
    assert all(line.startswith(f"{tmp_path / 'x'} ") and "large" in line for line in said)
    assert [path.name for path in tmp_path.iterdir()] == ["x"], "what was appended, and no temporary file"


def test_arrays_may_be_read_by_whom_all_else_may(tmp_path):
    """By the group, say, that shares a folder of runs."""
    before = os.umask(0o027)
    try:
        files.write_arrays(tmp_path / "a.safetensors", {"x": np.zeros(3)})
        files.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_arrays_in_any_memory_order_read_back(tmp_path):
    x = np.arange(6.0).reshape(2, 3)
    write_arrays(tmp_path / "x", {"c": x, "f": np.asfortranarray(x), "t": x.T, "one": x[:, ::2], "scalar": np.array(7)})
    back = read_arrays(tmp_path / "x")
    assert np.array_equal(back["c"], x)
    assert np.array_equal(back["f"], x)
    assert np.array_equal(back["t"], x.T)
    assert np.array_equal(back["one"], x[:, ::2])
    assert back["scalar"] == 7
