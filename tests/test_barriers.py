from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import trained

from thesislib.analysis import barriers, ensembles, planes
from thesislib.config import Run
from thesislib.experiments.thesis import independent
from thesislib.runs import archive
from thesislib.runs.finished import WithoutWeights
from thesislib.runs.results import Results, Row
from thesislib.system.errors import UserError


@pytest.fixture
def trajectory(tiny):
    return trained({"s = 5": [tiny.replace(strength=5)]})


def test_lines_end_at_the_minima(trajectory):
    along = barriers.lines(trajectory, points=3)
    history = trajectory.history.set_index("epoch")
    assert list(along["pair"]) == [0] * 3 + [1] * 3
    for pair, (first, last) in enumerate(((2, 4), (4, 6))):
        rows = along[along["pair"] == pair]
        assert rows["test_loss"].iloc[0] == pytest.approx(history["test_loss"][first], rel=1e-5)
        assert rows["test_accuracy"].iloc[-1] == history["accuracy"][last]


def test_a_second_look_computes_nothing(trajectory, monkeypatch):
    looks = (
        barriers.lines,
        partial(barriers.bezier_curves, epochs=1),
        barriers.aligned,
        partial(planes.plane, images=250, points=3),
    )
    first = [look(trajectory) for look in looks]
    for module in (barriers, planes):
        monkeypatch.setattr(module, "Evaluator", None)
    monkeypatch.setattr("thesislib.trainer.Trainer", None)
    for before, look in zip(first, looks, strict=True):
        after = look(trajectory)
        for name in before:
            assert np.array_equal(before[name], after[name])
    with pytest.raises(TypeError):
        barriers.lines(trajectory, points=5)


def test_several_processes_find_what_one_does(tiny, folders, monkeypatch):
    """Four ensembles, one of which is known already; a pool computes two of the others, to the bit."""
    trajectories = trained({"s = 5": [tiny.replace(strength=5, seed=s) for s in range(4)]})
    known = barriers.lines(trajectories.where(seed=1), points=3)
    monkeypatch.setattr("thesislib.runs.cache.POOL_SECONDS", 0.0)
    together = barriers.lines(trajectories, points=3)
    assert together["seed"].drop_duplicates().tolist() == [0, 1, 2, 3]
    assert together[together["seed"] == 1].reset_index(drop=True).equals(known)
    for row in trajectories:
        (stored,) = row.result.folder.glob("derived-lines-*")
        stored.unlink()
    monkeypatch.setattr("thesislib.runs.cache.POOL_SECONDS", np.inf)
    monkeypatch.setattr("thesislib.system.machine.pool_of", None)
    assert barriers.lines(trajectories, points=3).equals(together), "in this process alone"


def test_what_a_process_misses_is_said_in_one_line(tiny, folders, monkeypatch):
    monkeypatch.setattr("thesislib.runs.cache.POOL_SECONDS", 0.0)
    trajectories = trained({"s = 5": [tiny.replace(strength=5, seed=s) for s in (0, 1, 2)]})
    for row in trajectories[1:]:
        (row.result.folder / "final.safetensors").unlink()
    with pytest.raises(UserError, match="came without its weights"):
        ensembles.by_count(trajectories)  # needs no torch, which processes would wait for


def test_the_rise_is_above_the_line_between_two_minima():
    losses = [9.0, 1.0, 3.0, 2.0, 1.0, 0.5]  # over the line: 1.5 at epoch 3, -0.25 at epoch 5
    history = pd.DataFrame({"train_loss": losses})
    result = SimpleNamespace(run=Run(), history=history, minimum_epochs=[2, 4, 6])
    assert barriers.rise(result) == pytest.approx((1.5 + 0) / 2)


def test_a_rise_that_is_over_within_an_epoch_is_seen_where_steps_were_kept():
    """30 of 100 steps one nat higher: 0.3 of an epoch's mean. A single step is noise, a twentieth of its height."""
    losses = np.full((5, 100), 0.5, np.float32)
    losses[2, 40:70] += 1
    losses[4, 50] += 1
    result = SimpleNamespace(run=Run(step_losses=True), step_losses=losses, minimum_epochs=[0, 2, 4, 5])
    assert barriers.rise(result) == pytest.approx((1 + 1 / barriers.SMOOTHED) / 2)
    few = SimpleNamespace(run=Run(step_losses=True), step_losses=losses[:, 38:46], minimum_epochs=[2, 4])
    assert barriers.rise(few) == pytest.approx(6 / 8), "epochs of 8 steps"


def test_barriers_and_verdicts(trajectory):
    t = np.linspace(0, 1, 3)
    flat, hill = np.array([1.0, 1.5, 2.0]), np.array([1.0, 2.5, 2.0])
    front = {"label": "s = 5", "network": "mlp-tiny", "seed": 0}
    pairs = [
        pd.DataFrame({**front, "pair": k, "t": t, "train_loss": x, "test_loss": flat})
        for k, x in enumerate((flat, hill))
    ]
    (row,) = barriers.barriers(trajectory, pd.concat(pairs)).to_dict("records")
    assert (row["barrier"], row["barrier_test"]) == pytest.approx((0.5, 0))
    table = pd.DataFrame(
        [
            {"label": label, "network": "mlp", "seed": seed, "barrier": barrier + 0.001 * seed, "rise": rise}
            for label, barrier, rise in (("high", 1.0, 0.0), ("low", 0.01, np.nan), ("near", barriers.JUMP, 0.0))
            for seed in (-1, 0, 1)
        ]
    )
    found = barriers.verdicts(table).set_index("label")
    assert dict(found["barrier_says"]) == {"high": "jump", "low": "valley", "near": "undecided"}
    assert dict(found["rise_says"]) == {"high": "valley", "low": "-", "near": "valley"}
    raised = table.assign(barrier=2 * table["barrier"], rise=2 * table["rise"])
    again = barriers.verdicts(raised).set_index("label")
    assert list(again["barrier_says_double"]) == list(found["barrier_says"]), "twice as high, at twice the height"
    assert list(found["barrier_says_half"]) == list(again["barrier_says"])
    few = barriers.verdicts(table[table["seed"] < 1]).set_index("label")
    assert set(few["barrier_says"]) == {"undecided"}, "two seeds carry no verdict"


def test_a_curve_has_the_ends_of_the_line(trajectory):
    curved = barriers.bezier_curves(trajectory, epochs=1, points=5)
    assert list(curved["line"][[0, 4]]) == list(curved["curve"][[0, 4]])
    assert curved["line"][2] != curved["curve"][2]


def test_one_curve_a_label(tiny):
    """Of each label's first ensemble, whichever order the seeds have."""
    rows = [Row(tiny.replace(strength=s, seed=seed), f"s = {s}") for s in (5, 6) for seed in (1, 0)]
    curved = barriers.bezier_curves(trained(rows), epochs=1, points=3)
    assert curved[["label", "seed"]].drop_duplicates().values.tolist() == [["s = 5", 1], ["s = 6", 1]]


def test_aligning_never_takes_networks_apart(trajectory, tiny):
    apart = trained(independent("independent", [tiny.replace(minima_every=None)], 2))
    for results in (trajectory, apart):
        (row,) = barriers.aligned(results).to_dict("records")
        assert row["d_aligned"] <= row["d"] * (1 + 1e-6)
        assert row["starts"] == 10
    (row,) = barriers.aligned(trajectory).to_dict("records")
    assert row["d"] == pytest.approx(trajectory.history["d_0"].iloc[-1], rel=1e-4)


def test_an_archive_may_have_but_one_start(trajectory, tmp_path, monkeypatch):
    """As those have that were packed before the nearest of several was taken: their weights are gone."""
    one = barriers._map(trajectory, barriers._aligned_once, "disguises", 2, None).assign(starts=1)
    archive.pack([trajectory[0].run], tmp_path / "runs.zip")
    monkeypatch.setenv("THESIS_RUNS", str(tmp_path / "elsewhere"))
    archive.unpack(tmp_path / "runs.zip")
    there = Results([Row(row.run, row.label) for row in trajectory], trajectory.scale)
    found = barriers.aligned(there)
    assert found["starts"].tolist() == [1]
    pd.testing.assert_frame_equal(found, one)
    with pytest.raises(WithoutWeights):
        barriers.aligned(there, images=100)


def test_runs_that_diverged_are_left_out(trajectory, tiny):
    """An absurd learning rate: no second minimum, no finite weights."""
    alone, other = tiny.replace(lr=1e6), tiny.replace(seed=1000)
    lost = trained([Row(alone, "lost"), Row(alone, "both", member=1), Row(other, "both", member=2, ensemble_seed=0)])
    assert lost[0].result.diverged
    along = barriers.lines(Results([*trajectory, *lost]), points=3)
    assert set(along["label"]) == {"s = 5"}
    assert set(barriers.aligned(Results([*trajectory, *lost]))["label"]) == {"s = 5"}
    with pytest.raises(UserError, match="two minima"):
        barriers.lines(lost)


def test_lines_of_two_roles_are_kept_apart(tiny):
    """A label may stand for two settings, as in sections that try and test."""
    slow, fast = Row(tiny.replace(lr=0.01), "a", "slow"), Row(tiny, "a", "fast")
    alone = [barriers.barriers(some, barriers.lines(some, points=3)) for some in map(trained, ([slow], [fast]))]
    both = trained([slow, fast])
    found = barriers.barriers(both, barriers.lines(both, points=3))
    assert list(found["role"]) == ["slow", "fast"]
    pd.testing.assert_frame_equal(found.drop(columns="role"), pd.concat(alone, ignore_index=True))
    with pytest.raises(UserError, match="there are several rows of label a, network mlp-tiny, seed 0"):
        barriers.verdicts(found)
