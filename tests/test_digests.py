"""Damage to any file of a run: a reader gives what was written, or says what is broken, and never anything else."""

import json
import os
import random
import shutil
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, interrupted
from safetensors.numpy import load_file

from thesislib import datasets, models
from thesislib.runs import archive, cache, launch, shared_prefix, slurm, store
from thesislib.runs import finished as finished_runs
from thesislib.system import files
from thesislib.system.errors import UserError
from thesislib.trainer import Trainer

#: A run that has every kind of file.
FULL = TINY.replace(dense_steps=3, step_losses=True, member_epochs=1, cycle=1, epochs=4, seed=5)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("events")}


def put_back(folder, saved):
    for path in folder.iterdir():
        path.unlink()
    for name, whole in saved.items():
        (folder / name).write_bytes(whole)


def flips(saved, each, rng):
    """(name, content with one bit flipped): of arrays as many flips in the header as in the numbers."""
    for name, whole in saved.items():
        if name == "lock":  # nobody reads numbers there
            continue
        header = 8 + int.from_bytes(whole[:8], "little") if name.endswith(".safetensors") else len(whole)
        for number in range(each):
            at = rng.randrange(header) if number % 2 or header == len(whole) else rng.randrange(header, len(whole))
            damaged = bytearray(whole)
            damaged[at] ^= 1 << rng.randrange(8)
            yield name, bytes(damaged)


def same(a, b):
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def readers(run, tmp_path):
    """Everything that reads a finished run, by name."""
    loss = {"version": 3}
    names = ["final", *range(len(run.minimum_epochs)), *(f"member-{k}" for k in range(len(run.member_ends)))]
    identity = store.run_id(run)
    all_of = {f"all of {name}": lambda name=name: finished_runs.load(run).arrays(name) for name in names}
    some_of = {f"logits of {name}": lambda name=name: finished_runs.load(run).arrays(name, "logits") for name in names}
    return {
        **all_of,
        **some_of,
        "summary": lambda: finished_runs.load(run).summary,
        "history": lambda: finished_runs.load(run).history,
        "steps": lambda: finished_runs.load(run).steps,
        "losses": lambda: finished_runs.load(run).step_losses,
        "id": lambda: finished_runs.load_id(identity).run,
        "start": lambda: launch.start_arrays(run.replace(start=f"{identity}:1")),
        "derived": lambda: cache.arrays("loss", [finished_runs.load(run)], lambda: {"x": 0.1, "y": np.nan}, **loss),
        "pack": lambda: (archive.pack([run], tmp_path / "runs.zip"), (tmp_path / "runs.zip").read_bytes()),
    }


def test_a_flipped_bit_of_a_finished_run_is_never_a_number(tmp_path):
    folder = launch.execute(FULL).folder
    read = readers(FULL, tmp_path)
    read["derived"]()
    expected = {name: reader() for name, reader in read.items()}
    assert all(same(reader(), expected[name]) for name, reader in read.items())
    whole, wrong, noticed = content(folder), [], set()
    for name, damaged in flips(whole, 24, random.Random(1)):
        (folder / name).write_bytes(damaged)
        for reader, call in read.items():
            try:
                if not same(call(), expected[reader]):
                    wrong.append((name, reader))
            except UserError as error:
                noticed.add(name)
                assert name in str(error), reader
        (folder / name).write_bytes(whole[name])
    assert not wrong
    assert noticed >= whole.keys() - {"lock"} - {n for n in whole if n.startswith(("beginning", "derived"))}


def test_a_flipped_bit_of_an_interrupted_run_is_never_trained_on():
    folder = interrupted(FULL, 3)
    whole, tables = content(folder), ("metrics.csv", "steps.csv")

    def resume():
        with store.writing(FULL) as writer:
            return *writer.resume(), [(folder / name).read_bytes() for name in tables]

    expected = resume()
    assert expected[0] == 3
    for name, damaged in flips(whole, 16, random.Random(2)):
        put_back(folder, whole | {name: damaged})
        try:
            found = resume()
        except UserError as error:
            assert name in str(error)
            continue
        assert same(found, expected), name
    put_back(folder, whole)
    resumed = launch.execute(FULL)
    shutil.rmtree(folder)
    assert same(resumed_numbers(launch.execute(FULL)), resumed_numbers(resumed))


def resumed_numbers(result):
    """All that must be the same however often a run was stopped; reads at once."""
    names = ["final", *range(len(result.minimum_epochs)), *(f"member-{k}" for k in range(len(result.run.member_ends)))]
    history = result.history.drop(columns=["seconds", "train_seconds"])
    return [history, result.steps, result.step_losses, {str(name): result.arrays(name) for name in names}]


def test_a_flipped_bit_of_a_shared_prefix_is_never_adopted():
    first, other = launch.execute(FULL), FULL.replace(strength=7)
    (path,) = first.folder.glob("beginning-*")
    whole = path.read_bytes()

    def adopt():
        with store.writing(other) as writer:
            writer.resume()
            adopted = shared_prefix.adopt(other, writer, launch.hardware())
        stored = {name: load_file(writer.folder / name) for name in ("minimum-0.safetensors",)} if adopted[0] else {}
        text = (writer.folder / "metrics.csv").read_bytes()
        shutil.rmtree(writer.folder)
        return *adopted, stored, text

    expected, refused = adopt(), 0
    assert expected[0] == 2
    for _, damaged in flips({path.name: whole}, 60, random.Random(3)):
        path.write_bytes(damaged)
        found = adopt()
        refused += found[0] == 0
        assert found[0] == 0 or same(found, expected)
    assert refused > 50


@pytest.mark.parametrize(
    ("name", "foreign"),
    [("final", "final"), ("minimum-0", "minimum-0"), ("minimum-0", "minimum-1"), ("member-2", "member-2")],
)
def test_another_runs_file_is_not_ours(name, foreign):
    """It is whole, and its own digests agree."""
    ours, theirs = launch.execute(FULL), launch.execute(FULL.replace(seed=6))
    source = (ours if name != foreign else theirs).folder / f"{foreign}.safetensors"
    shutil.copy(source, ours.folder / f"{name}.safetensors")
    with pytest.raises(UserError, match=rf"{name}\.safetensors is broken .*exchanged"):
        launch.load(FULL).arrays(name.removeprefix("minimum-"), "logits")
    if name == "final":
        with pytest.raises(UserError, match="is broken"):
            launch.execute(TINY.replace(start=f"{ours.id}:final", minimum_at_start=True))
        short = FULL.replace(epochs=2)
        assert same(launch.execute(short).arrays("final")["labels"], theirs.arrays("final")["labels"])
    shutil.copy(theirs.folder / "done.json", ours.folder)
    with pytest.raises(UserError, match=f"done.json is broken .it is run {theirs.id}'s"):
        _ = launch.load(FULL).summary


def test_another_question_s_answer_is_not_this_one_s():
    """What was computed with other parameters, and another run's prefix, under this one's name."""
    result, path = launch.execute(TINY), {}
    for value in (1.0, 2.0):
        assert cache.arrays("x", [result], lambda v=value: {"n": v}, p=value) == {"n": value}
        path[value] = max(result.folder.glob("derived-*"), key=lambda p: p.stat().st_mtime_ns)
    shutil.copy(path[1.0], path[2.0])
    assert cache.arrays("x", [result], lambda: {"n": 2.0}, p=2.0) == {"n": 2.0}
    other = launch.execute(TINY.replace(seed=1))
    (ours,), (theirs,) = (r.folder.glob("beginning-*") for r in (result, other))
    shutil.copy(theirs, ours)
    alone = launch.execute(TINY.replace(strength=2))
    assert alone.history["train_loss"][0] == result.history["train_loss"][0] != other.history["train_loss"][0]


@pytest.mark.parametrize("table", ["steps.csv", "metrics.csv"])
@pytest.mark.parametrize("damage", ["deleted", "cut", "rows lost", "bytes", "a folder's name"])
def test_tables_of_an_interrupted_run_come_back_whole(table, damage):
    run = TINY.replace(dense_steps=3, epochs=4)
    whole = resumed_numbers(launch.execute(run))
    shutil.rmtree(store.runs_folder())
    path = interrupted(run, 3) / table
    text = path.read_bytes()
    assert text.count(b"\n") == 4
    if damage == "deleted":
        path.unlink()
    else:
        lines = text.splitlines(keepends=True)
        damaged = {"cut": text[:-9], "rows lost": b"".join(lines[:2]), "bytes": b"\xff\x00" * 90}
        path.write_bytes(damaged.get(damage, b"4,1\n" * 9))
    assert same(resumed_numbers(launch.execute(run)), whole)


def test_what_a_live_run_has_lost_is_there_when_it_ends(monkeypatch):
    epoch = Trainer.epoch

    def lose(self):
        if self.finished_epochs == 3:
            (store.runs_folder() / store.run_id(TINY) / "metrics.csv").write_bytes(b"")
        return epoch(self)

    monkeypatch.setattr(Trainer, "epoch", lose)
    assert list(launch.execute(TINY).history["epoch"]) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("field", ["lr", "data", "revision", "network"])
def test_an_edited_description_is_no_start(field):
    path = launch.execute(TINY).folder / "config.json"
    config = json.loads(path.read_text())
    if field == "lr":
        config["run"]["lr"] = 0.2
    else:
        config[field] = "0" * 16 if field == "data" else 7
    path.write_text(json.dumps(config))
    said = (
        "config.json is broken .it is not run" if field in ("lr", "data") else "is of (revision 7|an earlier version)"
    )
    with pytest.raises(UserError, match=said):
        launch.execute(TINY.replace(start=f"{store.run_id(TINY)}:0", minimum_at_start=True))


def test_two_writers_of_one_number_never_meet(tmp_path):
    """Threads have the same process number, as processes of two containers on one store may have."""
    path, errors = tmp_path / "x.json", []

    def write(number, size):
        files.write(path, json.dumps([number] * size).encode())

    write(0, 1)

    def work(how):
        for number in range(200):
            try:
                how(number)
            except Exception as error:
                errors.append(error)

    def read(_):
        assert len(set(json.loads(path.read_bytes()))) == 1

    ways = (lambda number: write(number, 900), lambda number: write(number, 90_000), read)
    threads = [threading.Thread(target=work, args=(how,)) for how in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_what_cannot_be_read_is_not_called_broken(tmp_path):
    """An error of the disk, as reading another process' memory gives it; nothing of it is for deleting."""
    result = launch.execute(FULL)
    cache.arrays("x", [result], lambda: {"n": 1.0})
    (answer,) = result.folder.glob("derived-*")
    (tmp_path / "data").mkdir()
    note, sent = tmp_path / "data" / "cifar10.sha256.json", slurm.folder() / "submitted.json"
    sent.parent.mkdir()
    cases = {
        result.folder / "done.json": lambda: launch.load(FULL).summary,
        result.folder / "metrics.csv": lambda: launch.load(FULL).history,
        result.folder / "steps.csv": lambda: launch.load(FULL).steps,
        result.folder / "config.json": lambda: finished_runs.load_id(result.id),
        result.folder / "losses.safetensors": lambda: launch.load(FULL).step_losses,
        result.folder / "final.safetensors": lambda: launch.load(FULL).arrays("final"),
        answer: lambda: cache.arrays("x", [result], lambda: {"n": 1.0}),
        note: lambda: datasets.fingerprint("cifar10"),
        sent: slurm.sent,
        tmp_path / "runs.zip": lambda: archive.unpack(tmp_path / "runs.zip"),
    }
    for path, read in cases.items():
        before = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        path.symlink_to("/proc/self/mem")
        with pytest.raises(UserError, match=f"{path.name} cannot be read") as error:
            read()
        assert "delete" not in str(error.value)
        assert path.is_symlink(), "it is left as it is"
        path.unlink()
        if before is not None:
            path.write_bytes(before)


def test_without_permission_a_file_is_not_broken(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("THESIS_RUNS", folder)
        result = launch.execute(TINY)
        for name in ("final.safetensors", "done.json"):
            path = result.folder / name
            path.chmod(0)
            if os.getuid() == 0:  # who may read all
                os.seteuid(65534)
            try:
                with pytest.raises(UserError, match=rf"{name} cannot be read .Permission denied") as error:
                    launch.load(TINY).arrays("final")
            finally:
                os.seteuid(os.getuid())
            assert "delete" not in str(error.value)
            path.chmod(0o644)
        assert launch.load(TINY).arrays("final")


def test_a_run_that_was_killed_at_its_very_end_leaves_no_checkpoint():
    folder = interrupted(TINY, 5)
    checkpoint = (folder / "checkpoint.safetensors").read_bytes()
    launch.execute(TINY)
    (folder / "checkpoint.safetensors").write_bytes(checkpoint)
    assert len(launch.results([TINY]).final) == 1
    assert not (folder / "checkpoint.safetensors").exists()


def test_what_was_left_half_written_goes_away(tmp_path):
    result = launch.execute(TINY)
    left, new = (result.folder / f".derived-x-0a1b2c.safetensors.{kind * 16}" for kind in "ab")
    for path in (left, new, result.folder / ".mine"):
        path.write_bytes(b"half")
    os.utime(left, (1e9, 1e9))
    cache.arrays("x", [result], lambda: {"n": 1.0})
    assert not left.exists()
    assert new.exists(), "somebody may be writing it just now"
    assert store.delete(result.folder)
    assert [path.name for path in result.folder.iterdir()] == [".mine"]


def test_all_files_of_a_run_are_deleted():
    folder = launch.execute(FULL).folder
    cache.arrays("x", [launch.load(FULL)], lambda: {"n": 1.0})
    assert store.delete(folder)
    assert not folder.exists()


def test_a_prefix_that_two_reach_together_is_kept_once(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shared_prefix, "find", lambda _: None)
        for strength in (1.0, 2.0, 3.0):
            launch.execute(TINY.replace(strength=strength))
    assert len(list(store.runs_folder().glob("*/beginning-*"))) == 1


def test_a_network_cannot_be_replaced():
    """Its runs would be stored under the ids of another one."""
    with pytest.raises(TypeError, match="does not support item assignment"):
        models.MODELS["mlp-tiny"] = lambda shape, classes: models.mlp(17, classes=classes)


def test_broken_runs_are_not_packed(tmp_path):
    runs = [TINY, TINY.replace(seed=1)]
    whole = [launch.execute(run) for run in runs]
    path = whole[1].folder / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"nothing packed: run {whole[1].id}: metrics\.csv is broken"):
        archive.pack(runs, tmp_path / "runs.zip")
    assert not (tmp_path / "runs.zip").exists()


def edited(text, **changes):
    """A JSON file with other values, and the digest of these if it has one."""
    content = {k: v for k, v in (json.loads(text) | changes).items() if v is not ...}
    if content.pop("digest", None):
        content["digest"] = files.digest(json.dumps(content, sort_keys=True).encode())
    return json.dumps(content).encode()


#: What somebody may have made of a file of a packed run, and what is said of it.
GARBAGE = {
    "done.json": [
        ({"epochs": None}, "epochs"), ({"epochs": "4"}, "epochs"), ({"accuracy": "0.5"}, "accuracy"),
        ({"accuracy": 7.66}, "accuracy"), ({"nll": float("nan")}, "nll"), ({"status": "good"}, "status"),
        ({"versions": []}, "versions"), ({"mine": 1}, "mine"), ({"id": "0" * 12}, "it is run"),
        ({"squared_distances": ...}, "squared_distances"), ({"digests": ...}, "digests"),
        ({"digests": {}}, "its digest"), (lambda t: t.replace('"epochs": 4', '"epochs": 3'), "its digest"),
    ],
    "config.json": [
        ({"revision": 2}, "of revision 2"), ({"data": "x"}, "data"), ({"data": "0" * 16}, "not run"),
        ({"run": {"lr": -1}}, "lr: "), ({"run": 3}, "run"), ({"network": 2}, "earlier version"),
    ],
    "metrics.csv": [(lambda t: t.replace("\n4,", "\n5,"), "its digest"), (lambda t: "", "metrics.csv is broken: its")],
    "steps.csv": [(lambda t: t.replace("3,0,0,", "9,0,0,"), "steps.csv is broken: its digest")],
    "losses.safetensors": [(lambda t: "garbage", "losses.safetensors is broken")],
    "derived-x-0.safetensors": [(lambda t: "garbage", "derived-x-0.safetensors is broken")],
    "data.json": [
        ({"mnist": "0" * 16}, "mnist, which none"), ({"mnist5k": "0" * 16}, "other data"),
        ({"mnist5k": 3}, "data.json"), ({"../mine": "0" * 16}, "data.json"),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The parts of a packed run."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THESIS_RUNS", str(folder / "runs"))
        launch.execute(FULL)
        archive.pack([FULL], folder / "runs.zip")
    with zipfile.ZipFile(folder / "runs.zip") as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.mark.parametrize(("name", "change", "said"), [(n, *case) for n, cases in GARBAGE.items() for case in cases])
def test_garbage_is_not_unpacked(packed, tmp_path, name, change, said):
    run = store.run_id(FULL)
    at = name if name == "data.json" else f"{run}/{name}"
    before = packed.get(at, b"")
    after = edited(before, **change) if isinstance(change, dict) else change(before.decode("latin-1")).encode("latin-1")
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as file:
        for part, content in (packed | {at: after}).items():
            file.writestr(part, content)
    with pytest.raises(UserError, match="holds no archived runs") as error:
        archive.unpack(tmp_path / "runs.zip")
    assert said in str(error.value)
    assert name == "data.json" or run in str(error.value)
    assert not store.runs_folder().exists()


@pytest.mark.parametrize("name", ["metrics.csv", "done.json", "derived-x-0.safetensors"])
def test_a_small_file_that_unpacks_to_a_huge_one_is_not_read(packed, tmp_path, name):
    at = f"{store.run_id(FULL)}/{name}"
    with zipfile.ZipFile(tmp_path / "runs.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for part in packed.keys() - {at}:
            file.writestr(part, packed[part])
        with file.open(at, "w") as huge:
            for _ in range(257):
                huge.write(bytes(2**20))
    with pytest.raises(UserError, match=f"{name} unpacks to 269,484,032 bytes"):
        archive.unpack(tmp_path / "runs.zip")
    assert not store.runs_folder().exists()
