import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import trained

from thesislib.runs import launch, results, store
from thesislib.system.errors import UserError
from thesislib.system.files import read_arrays, write_arrays


def test_a_finished_run_reads_back(tiny):
    result = launch.execute(tiny)
    again = results.load(tiny)
    assert again.summary == result.summary
    assert again.run == results.load_id(again.id).run == tiny
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


def test_tensorboard_has_the_epochs(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = launch.execute(tiny)
    events = EventAccumulator(str(result.folder)).Reload()
    assert {"accuracy", "seconds", "d_0", "lr"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("accuracy")] == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in events.Scalars("accuracy")] == pytest.approx(list(result.history["accuracy"]))


def test_a_finished_run_is_never_trained_again(tiny, monkeypatch):
    launch.execute(tiny)
    monkeypatch.setattr("thesislib.train.Trainer.epoch", None)
    assert launch.execute(tiny).summary["epochs"] == 6


@pytest.mark.parametrize(
    "broken", ["", "epoch,accuracy\n1,0.5\n", "epoch\n1\n2\nx\n", "nonsense\n", "epoch\n1\n1\n1\n1\n1\n1\n"]
)
def test_broken_metrics_are_one_line(tiny, broken):
    result = launch.execute(tiny)
    (result.folder / "metrics.csv").write_text(broken)
    with pytest.raises(UserError, match=r"metrics\.csv is broken .* delete") as error:
        _ = results.load(tiny).history
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_line_cut_short_is_no_missing_value(tiny, cut):
    path = launch.execute(tiny).folder / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match="is broken"):
        _ = results.load(tiny).history


@pytest.mark.parametrize("name", ["done.json", "config.json", "final.safetensors"])
@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b"", b'{"run": {"width": -1}, "data": "", "revision": 1}'])
def test_other_broken_files_are_one_line(tiny, name, content):
    result = launch.execute(tiny)
    (result.folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is broken") as error:
        _ = results.load_id(result.id).summary, results.load(tiny).arrays("final")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["", "epoch\n1\n2\n3\n", None])
def test_lost_rows_start_the_run_again(tiny, damage):
    """After a power cut the checkpoint may be there and its rows not: the numbers must not have a hole."""
    from thesislib.train import Trainer

    whole = launch.execute(tiny)
    run = tiny.replace(seed=1)
    with store.writing(run) as writer:
        writer.resume()
        trainer = Trainer(run)
        writer.row(trainer.epoch())
        writer.checkpoint(1, trainer.state())
    metrics = writer.folder / "metrics.csv"
    metrics.unlink() if damage is None else metrics.write_text(damage)
    assert len(launch.execute(run).history) == 6
    assert not list(whole.folder.glob(".*"))


def test_unwritable_folder(tiny, folders, monkeypatch):
    (folders / "file").write_text("")
    monkeypatch.setenv("THESIS_RUNS", str(folders / "file" / "runs"))
    with pytest.raises(UserError, match="cannot write runs"):
        launch.execute(tiny)


def test_bad_requests_leave_nothing_behind(tiny, folders):
    with pytest.raises(UserError):
        launch.execute(tiny.replace(train_size=5000))
    with pytest.raises(UserError, match="no finished run"):
        launch.execute(tiny.replace(start="0123456789ab:0"))
    assert not (folders / "runs").exists()


def test_clone_starts_from_the_minimum(tiny):
    parent = launch.execute(tiny)
    clone = launch.execute(tiny.replace(start=f"{parent.id}:1", minimum_at_start=True, epochs=2))
    assert np.array_equal(clone.arrays(0, "theta")["theta"], parent.arrays(1, "theta")["theta"])
    assert clone.history["d_0"].iloc[0] == clone.history["d_init"].iloc[0]
    with pytest.raises(UserError, match="is a mlp-tiny on mnist5k, not a mlp"):
        launch.execute(tiny.replace(start=f"{parent.id}:1", model="mlp"))
    with pytest.raises(UserError, match="has no minimum 7"):
        launch.execute(tiny.replace(start=f"{parent.id}:7"))


def test_a_diverged_run_keeps_its_rows(tiny):
    run = tiny.replace(lr=1e6)
    result = launch.execute(run)
    assert result.diverged
    assert 1 <= len(result.history) == result.summary["epochs"] < 6
    assert json.loads((result.folder / "done.json").read_text())["status"] == "diverged"
    assert store.is_done(run), "it would diverge again: it is done"


def test_results_are_tables(tiny):
    groups = {"a": [tiny, tiny.replace(seed=1)], "b": [tiny.replace(strength=0)]}
    found = trained(groups)
    assert len(found.history) == 18
    assert list(found.final["label"]) == ["a", "a", "b"]
    table = found.table("accuracy")
    values = [r.summary["accuracy"] for r in found["a"]]
    assert table["accuracy"][0] == f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}"
    assert list(table["n"]) == [2, 1]


def test_dense_rows_survive_an_interruption(tiny, monkeypatch):
    """Rows of epochs that are trained again are there once."""
    run = tiny.replace(dense_steps=6)
    monkeypatch.setattr(launch, "CHECKPOINT_SECONDS", -1)
    whole = launch.execute(run).steps
    assert len(whole) == 2 * 6
    other = run.replace(seed=1)
    twin = launch.execute(other).steps
    (launch.load(other).folder / "done.json").unlink()
    from thesislib.train import Trainer

    trainer = Trainer(other)
    with store.writing(other) as writer:  # as if killed after four epochs, the last checkpoint after three
        writer.resume()
        for epoch in range(1, 5):
            visited = len(trainer.minima.visited)
            writer.row(trainer.epoch())
            writer.steps(trainer.dense)
            if len(trainer.minima.visited) > visited:
                writer.minimum(visited, trainer.snapshot())
            if epoch == 3:
                writer.checkpoint(epoch, trainer.state())
    assert launch.execute(other).steps.equals(twin)
    assert launch.execute(tiny).steps.empty


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
        "def append(path, content):\n"
        "    with files.appending(path) as file: file.write('x' * 5000)\n"
        "for how in (lambda p, c: files.write(p, c.tobytes()), lambda p, c: files.write_arrays(p, {'x': c}), append):\n"
        "    try: how(path, content)\n"
        "    except OSError as error: print(error.filename, error.strerror)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 3
    assert all(line.startswith(f"{tmp_path / 'x'} ") and "large" in line for line in said)
    assert [path.name for path in tmp_path.iterdir()] == ["x"], "what was appended, and no temporary file"


def test_arrays_in_any_memory_order_read_back(tmp_path):
    x = np.arange(6.0).reshape(2, 3)
    write_arrays(tmp_path / "x", {"c": x, "f": np.asfortranarray(x), "t": x.T, "one": x[:, ::2], "scalar": np.array(7)})
    back = read_arrays(tmp_path / "x")
    assert np.array_equal(back["c"], x)
    assert np.array_equal(back["f"], x)
    assert np.array_equal(back["t"], x.T)
    assert np.array_equal(back["one"], x[:, ::2])
    assert back["scalar"] == 7
