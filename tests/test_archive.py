import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import edit, thesislib, trained

from thesislib import datasets
from thesislib.__main__ import main
from thesislib.analysis import ensembles
from thesislib.runs import archive, cache, launch, results, store
from thesislib.runs import finished as finished_runs
from thesislib.system import datafiles, files
from thesislib.system.errors import UserError


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Pack, then call this: runs and data are those of somebody else."""

    def go():
        for name in ("runs", "data"):
            monkeypatch.setenv(f"THESIS_{name.upper()}", str(tmp_path / "elsewhere" / name))

    return go


def test_figures_need_no_more_than_an_archived_run(tiny, finished, tmp_path, elsewhere):
    here = results.Results({"all": [finished.run]})
    scores, history = ensembles.table(here), here.history
    assert archive.pack([tiny, tiny.replace(seed=1)], tmp_path / "runs.zip") == 1
    elsewhere()
    assert archive.unpack(tmp_path / "runs.zip") == (1, 1, 0)
    assert not launch.missing([tiny])
    there = results.Results({"all": [tiny]})
    pd.testing.assert_frame_equal(there.history, history)
    pd.testing.assert_frame_equal(ensembles.table(there), scores)
    with pytest.raises(UserError, match="came without its weights"):
        ensembles.table(there, "votes")
    assert archive.unpack(tmp_path / "runs.zip") == (0, 1, 0)


def final_weights(some):
    return {"norm": float(np.linalg.norm(some[0].arrays("final", "theta")["theta"]))}


def test_an_archived_run_is_left_out_where_its_weights_were_needed(tiny, finished, tmp_path, elsewhere):
    """The one whose number was packed has it, as has the one that is here; the third has none, and alone it is said."""
    runs = [finished.run, tiny.replace(seed=1), tiny.replace(seed=2)]
    (whole,) = results.Results(runs[:1]).map(final_weights, "norm", 1)["norm"]
    launch.execute(runs[1])
    archive.pack(runs[:2], tmp_path / "runs.zip")
    elsewhere()
    archive.unpack(tmp_path / "runs.zip")
    launch.execute(runs[2])
    found = results.Results(runs).map(final_weights, "norm", 1, leave_out=True)
    assert list(found["seed"]) == [finished.run.seed, 2]
    assert found["norm"].iloc[0] == whole
    for some, leave_out in ((runs, False), (runs[1:2], True)):
        with pytest.raises(finished_runs.WithoutWeights):
            results.Results(some).map(final_weights, "norm", 1, leave_out=leave_out)


def test_the_same_runs_are_the_same_file(tiny, finished, tmp_path):
    for name in "ab":
        archive.pack([tiny], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_begun_run_loses_nothing(tiny, finished, tmp_path, elsewhere, capsys):
    archive.pack([tiny], tmp_path / "runs.zip")
    elsewhere()
    with store.writing(tiny) as writer:
        writer.resume()
        writer.checkpoint(0, {"x": np.zeros(1)})
    assert archive.unpack(tmp_path / "runs.zip") == (0, 1, 1)
    assert not store.is_done(tiny)
    assert (writer.folder / "checkpoint.safetensors").is_file()
    assert main(["unpack", str(tmp_path / "runs.zip")]) == 0
    assert "1 were begun here and go on" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [b"", b"epoch,train_loss\n1", b"garbage\n"])
def test_a_broken_run_here_is_no_obstacle(tiny, finished, tmp_path, damage):
    archive.pack([tiny], tmp_path / "runs.zip")
    (finished.folder / "metrics.csv").write_bytes(damage)
    assert archive.unpack(tmp_path / "runs.zip") == (0, 1, 0)


def test_a_finished_run_keeps_its_weights_and_gets_what_was_computed(tiny, finished, tmp_path):
    result, computed = finished, []
    cache.arrays("x", [result], lambda: computed.append(1) or {"n": 7.0})
    archive.pack([tiny], tmp_path / "runs.zip")
    for path in result.folder.glob("derived-*"):
        path.unlink()
    assert archive.unpack(tmp_path / "runs.zip") == (0, 1, 0)
    assert cache.arrays("x", [result], lambda: computed.append(1) or {"n": 0.0}) == {"n": 7.0}
    assert computed == [1]
    assert result.arrays("final")
    # Another processor rounds differently: what was computed from its run says nothing about ours.
    for path in result.folder.glob("derived-*"):
        path.unlink()
    metrics = result.folder / "metrics.csv"
    table = pd.read_csv(metrics, float_precision="round_trip", dtype=float)
    table["d_init"] *= 1 + 1e-7
    table.to_csv(metrics, index=False)
    edit(result.folder)
    assert archive.unpack(tmp_path / "runs.zip") == (0, 1, 0)
    assert not list(result.folder.glob("derived-*"))


@pytest.mark.parametrize("stopped_at", ["config", "metrics", "done", "derived"])
def test_what_was_computed_never_outlives_its_run(tiny, finished, tmp_path, elsewhere, monkeypatch, stopped_at):
    """Unpacking is killed at any file; the run is then trained here, where it may round differently, or unpacked."""
    cache.arrays("x", [finished], lambda: {"n": 1.0})
    archive.pack([tiny], tmp_path / "runs.zip")
    elsewhere()
    write, folder = files.write, store.runs_folder() / finished.id

    def killed(path, content):
        if path.name.startswith(stopped_at):
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write", killed)
        archive.unpack(tmp_path / "runs.zip")
    assert store.is_done(tiny) == (stopped_at == "derived")
    assert not list(folder.glob("derived-*"))
    # As an earlier version left it, which wrote the summary last.
    files.write_arrays(folder / "derived-x-0.safetensors", {"n": np.ones(1)})
    if stopped_at == "config":
        launch.execute(tiny)
        assert not list(folder.glob("derived-*"))
    else:
        archive.unpack(tmp_path / "runs.zip")
        assert cache.arrays("x", [launch.load(tiny)], lambda: {"n": 0.0}) == {"n": 1.0}
        assert (folder / "derived-x-0.safetensors").is_file() == (stopped_at == "derived")


def test_a_broken_cached_file_is_computed_again(finished):
    result = finished
    for expected in (1.0, 2.0):
        assert cache.arrays("x", [result], lambda e=expected: {"n": e}) == {"n": expected}
        (path,) = result.folder.glob("derived-*")
        path.write_bytes(path.read_bytes()[:20])


def test_archived_runs_alone_are_deleted(tiny, finished, tmp_path, elsewhere, capsys):
    archive.pack([tiny], tmp_path / "runs.zip")
    elsewhere()
    archive.unpack(tmp_path / "runs.zip")
    other = launch.execute(tiny.replace(seed=1))
    for said in ("deleted 1 run", "no runs without weights"):
        assert main(["clean", "--records", "--yes"]) == 0
        assert said in capsys.readouterr().out
    assert launch.missing([tiny, other.run]) == [tiny]


def test_other_parameters_are_computed_anew(tiny, finished):
    runs = [finished, launch.execute(tiny.replace(seed=1))]
    for expected, chosen, value in ((1, runs, 1), (1, runs, 1), (2, runs, 2), (3, runs[:1], 1), (4, runs[::-1], 1)):
        found = cache.arrays("x", chosen, lambda e=expected: {"x": np.array([e])}, p=value)["x"].item()
        assert found == expected


def test_runs_on_other_data_are_refused(tmp_path, elsewhere, tiny):
    images, labels = np.zeros((600, 28, 28), np.uint8), np.arange(600) % 10
    (tmp_path / "data").mkdir()
    run = tiny.replace(data="mnist", epochs=1, minima_every=1)

    def use(images):
        path = datafiles.data_folder() / "mnist.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
        return datasets.fingerprint("mnist")

    first = use(images)
    launch.execute(run)
    archive.pack([run], tmp_path / "runs.zip")
    elsewhere()
    archive.unpack(tmp_path / "runs.zip")
    assert datasets.fingerprint("mnist") == first, "without data, the archive says which they saw"
    assert store.is_done(run)
    # Nothing may train under other ids while these runs lie unseen beside it, ...
    with pytest.raises(UserError, match="another copy of mnist"):
        use(images + 1)
    with pytest.raises(UserError, match="another copy of mnist"):
        archive.unpack(tmp_path / "runs.zip")
    # ... and with the right data both go on.
    assert use(images) == first
    assert archive.unpack(tmp_path / "runs.zip") == (0, 1, 0)


@pytest.mark.parametrize(
    "damage",
    ["no zip", "cut", "locked", "renamed", "foreign", "lacking", "other data", "list", "metrics", "summary"],
)
def test_a_broken_file_writes_nothing(tiny, finished, tmp_path, elsewhere, damage, capsys):
    path = tmp_path / "runs.zip"
    archive.pack([tiny], path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    run = store.run_id(tiny)
    if damage == "renamed":
        parts = {name.replace(run, "0" * 12): content for name, content in parts.items()}
    elif damage == "foreign":
        parts["../evil"] = b""
    elif damage == "lacking":
        del parts[f"{run}/metrics.csv"]
    elif damage == "other data":
        parts["data.json"] = json.dumps({"mnist5k": "0" * 16}).encode()
    elif damage == "list":
        parts["data.json"] = b"[]"
    elif damage in ("metrics", "summary"):
        parts[f"{run}/{'metrics.csv' if damage == 'metrics' else 'done.json'}"] = b"{}"
    if damage == "no zip":
        path.write_text("nonsense")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "locked":  # the flag of a password, in the file's own header and in the list at its end
        content = bytearray(path.read_bytes())
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as file:
            for name, content in parts.items():
                file.writestr(name, content)
    elsewhere()
    assert main(["unpack", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("thesislib: ") and len(said.splitlines()) == 1
    assert "holds no archived runs" in said
    assert not store.runs_folder().exists()


def test_a_folder_is_no_file(tiny, finished, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder is a folder: give the file's name"):
        archive.pack([tiny], tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "runs"}


def test_only_an_archive_is_replaced(tiny, finished, tmp_path):
    mine = tmp_path / "mynet.py"
    mine.write_text("mine")
    with pytest.raises(UserError, match="mynet.py is there, and no archive of runs: it stays"):
        archive.pack([tiny], mine)
    with zipfile.ZipFile(tmp_path / "thesis.zip", "w") as file:
        file.writestr("thesis.tex", "mine")
    with pytest.raises(UserError, match="thesis.zip is there, and no archive of runs"):
        archive.pack([tiny], tmp_path / "thesis.zip")
    assert mine.read_text() == "mine"
    for _ in range(2):
        assert archive.pack([tiny], tmp_path / "runs.zip") == 1


def test_the_command_line_packs_a_section(tmp_path, capsys):
    from thesislib.experiments import sections

    assert main(["pack", "--scale", "smoke"]) == 2
    trained(sections.rows("1_baseline", "smoke"))
    process = thesislib("pack", "--scale", "smoke", "--section", "1_baseline")
    assert process.stdout.startswith("3 of 3 runs in "), process.stderr
    with zipfile.ZipFile(tmp_path / "figures" / "smoke" / "runs.zip") as file:
        assert json.loads(file.read("data.json")) == {"mnist5k": datasets.fingerprint("mnist5k")}
        assert sum("derived-hits" in name for name in file.namelist()) == 3, "what weights would say of each image"
    assert main(["unpack", str(tmp_path / "figures" / "smoke" / "runs.zip")]) == 0
    assert "3 runs in" in capsys.readouterr().out
