from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import trained, without_digests

from thesislib.analysis import barriers, planes
from thesislib.runs.results import Results
from thesislib.system.errors import UserError


@pytest.fixture
def walk(tiny):
    return trained({"s = 5": [tiny.replace(strength=5)]})


def test_lines_end_at_the_minima(walk):
    along = barriers.lines(walk, images=None, points=3)
    history = walk.history.set_index("epoch")
    assert list(along["pair"]) == [0] * 3 + [1] * 3
    for pair, (first, last) in enumerate(((2, 4), (4, 6))):
        rows = along[along["pair"] == pair]
        assert rows["test_loss"].iloc[0] == pytest.approx(history["test_loss"][first], rel=1e-5)
        assert rows["test_accuracy"].iloc[-1] == history["accuracy"][last]


def test_a_second_look_computes_nothing(walk, monkeypatch):
    looks = (
        barriers.lines,
        partial(barriers.bent, epochs=1),
        barriers.disguises,
        partial(planes.plane, images=250, points=3),
    )
    first = [look(walk) for look in looks]
    for module in (barriers, planes):
        monkeypatch.setattr(module, "Probe", None)
    monkeypatch.setattr(planes, "Trainer", None)
    for before, look in zip(first, looks, strict=True):
        after = look(walk)
        for name in before:
            assert np.array_equal(before[name], after[name])
    with pytest.raises(TypeError):
        barriers.lines(walk, points=5)


def test_several_processes_find_what_one_does(tiny, folders, monkeypatch):
    """Four ensembles, one of which is known already; a pool computes two of the others, to the bit."""
    walks = trained({"s = 5": [tiny.replace(strength=5, seed=s) for s in range(4)]})
    known = barriers.lines(Results({"s = 5": walks["s = 5"][1:2]}), points=3)
    monkeypatch.setattr("thesislib.runs.cache.POOL_SECONDS", 0.0)
    together = barriers.lines(walks, points=3)
    assert together["seed"].drop_duplicates().tolist() == [0, 1, 2, 3]
    assert together[together["seed"] == 1].reset_index(drop=True).equals(known)
    for run in walks["s = 5"]:
        (stored,) = run.folder.glob("derived-lines-*")
        stored.unlink()
    monkeypatch.setattr("thesislib.runs.cache.POOL_SECONDS", np.inf)
    monkeypatch.setattr("thesislib.system.machine.pool_of", None)
    assert barriers.lines(walks, points=3).equals(together), "in this process alone"


def test_what_a_process_misses_is_said_in_one_line(tiny, folders, monkeypatch):
    monkeypatch.setattr("thesislib.runs.cache.POOL_SECONDS", 0.0)
    walks = trained({"s = 5": [tiny.replace(strength=5, seed=s) for s in (0, 1, 2)]})
    for run in walks["s = 5"][1:]:
        (run.folder / "final.safetensors").unlink()
    with pytest.raises(UserError, match="came without its weights"):
        barriers.lines(walks)


def test_the_rise_is_above_the_line_between_two_minima(walk):
    ((result,),) = walk.values()
    path = result.folder / "metrics.csv"
    without_digests(result.folder)
    table = pd.read_csv(path, float_precision="round_trip")
    table["train_loss"] = [9.0, 1.0, 3.0, 2.0, 1.0, 0.5]  # over the line: 1.5 at epoch 3, -0.25 at epoch 5
    table.to_csv(path, index=False)
    (result,) = Results.load({"x": [result.run]})["x"]
    assert barriers.rise(result) == pytest.approx((1.5 + 0) / 2)


def test_barriers_and_verdicts(walk):
    t = np.linspace(0, 1, 3)
    flat, hill = np.array([1.0, 1.5, 2.0]), np.array([1.0, 2.5, 2.0])
    front = {"label": "s = 5", "model": "mlp-tiny", "seed": 0}
    pairs = [
        pd.DataFrame({**front, "pair": k, "t": t, "train_loss": x, "test_loss": flat})
        for k, x in enumerate((flat, hill))
    ]
    (row,) = barriers.barriers(walk, pd.concat(pairs)).to_dict("records")
    assert (row["barrier"], row["barrier_test"]) == pytest.approx((0.5, 0))
    table = pd.DataFrame(
        [
            {"label": label, "model": "mlp", "seed": seed, "barrier": barrier + 0.001 * seed, "rise": rise}
            for label, barrier, rise in (("high", 1.0, 0.0), ("low", 0.01, np.nan), ("near", barriers.JUMP, 0.0))
            for seed in (-1, 0, 1)
        ]
    )
    found = barriers.verdicts(table).set_index("label")
    assert dict(found["barrier_says"]) == {"high": "jump", "low": "valley", "near": "undecided"}
    assert dict(found["rise_says"]) == {"high": "valley", "low": "-", "near": "valley"}
    few = barriers.verdicts(table[table["seed"] < 1]).set_index("label")
    assert set(few["barrier_says"]) == {"undecided"}, "two seeds carry no verdict"


def test_a_curve_has_the_ends_of_the_line(walk):
    bent = barriers.bent(walk, images=None, epochs=1, points=5)
    assert list(bent["line"][[0, 4]]) == list(bent["curve"][[0, 4]])
    assert bent["line"][2] != bent["curve"][2]


def test_aligning_never_takes_networks_apart(walk, tiny):
    independent = trained({"independent": [tiny.replace(seed=1000 * m, minima_every=None) for m in (0, 1)]})
    for results in (walk, independent):
        (row,) = barriers.disguises(results).to_dict("records")
        assert row["d_aligned"] <= row["d"] * (1 + 1e-6)
    ((result,),) = walk.values()
    (row,) = barriers.disguises(walk).to_dict("records")
    assert row["d"] == pytest.approx(result.history["d_0"].iloc[-1], rel=1e-4)


def test_runs_that_diverged_are_left_out(walk, tiny):
    """An absurd learning rate: no second minimum, no finite weights."""
    lost = trained({"lost": [tiny.replace(lr=1e6)], "both": [tiny.replace(lr=1e6), tiny.replace(seed=1000)]})
    assert lost["lost"][0].diverged
    along = barriers.lines(Results(walk | lost), points=3)
    assert set(along["label"]) == {"s = 5"}
    assert set(barriers.disguises(Results(walk | lost))["label"]) == {"s = 5"}
    with pytest.raises(UserError, match="two minima"):
        barriers.lines(lost)
