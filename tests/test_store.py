import json

import numpy as np
import pytest

from thesislib import launch, store
from thesislib.config import UserError


def test_a_finished_run_reads_back(tiny):
    result = launch.execute(tiny)
    again = store.load(tiny)
    assert again.summary == result.summary
    assert again.run == store.load_id(again.id).run == tiny
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
        _ = store.load(tiny).history
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["done.json", "final.safetensors"])
def test_other_broken_files_are_one_line(tiny, name):
    result = launch.execute(tiny)
    (result.folder / name).write_bytes(b"{")
    with pytest.raises(UserError, match="is broken"):
        _ = store.load(tiny).summary, store.load(tiny).arrays("final")


def test_unwritable_folder(tiny, folders, monkeypatch):
    (folders / "file").write_text("")
    monkeypatch.setenv("THESIS_RUNS", str(folders / "file" / "runs"))
    with pytest.raises(UserError, match="cannot write runs"):
        launch.execute(tiny)


def test_bad_requests_leave_nothing_behind(tiny, folders):
    with pytest.raises(UserError):
        launch.execute(tiny.but(train_size=5000))
    with pytest.raises(UserError, match="no finished run"):
        launch.execute(tiny.but(start="0123456789ab:0"))
    assert not (folders / "runs").exists()


def test_clone_starts_from_the_minimum(tiny):
    parent = launch.execute(tiny)
    clone = launch.execute(tiny.but(start=f"{parent.id}:1", minimum_at_start=True, epochs=2))
    assert np.array_equal(clone.arrays(0, "theta")["theta"], parent.arrays(1, "theta")["theta"])
    assert clone.history["d_0"].iloc[0] == clone.history["d_init"].iloc[0]
    with pytest.raises(UserError, match="has no minimum 7"):
        launch.execute(tiny.but(start=f"{parent.id}:7"))


def test_a_diverged_run_keeps_its_rows(tiny):
    run = tiny.but(lr=1e6)
    result = launch.execute(run)
    assert result.diverged
    assert 1 <= len(result.history) == result.summary["epochs"] < 6
    assert json.loads((result.folder / "done.json").read_text())["status"] == "diverged"
    assert store.is_done(run), "it would diverge again: it is done"


def test_results_are_tables(tiny):
    groups = {"a": [tiny, tiny.but(seed=1)], "b": [tiny.but(strength=0)]}
    results = launch.results(groups)
    assert len(results.history) == 18
    assert list(results.final["label"]) == ["a", "a", "b"]
    table = results.table("accuracy")
    values = [r.summary["accuracy"] for r in results["a"]]
    assert table["accuracy"][0] == f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}"
    assert list(table["n"]) == [2, 1]
