from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import trained

from thesislib.analysis import controls
from thesislib.experiments import sections
from thesislib.experiments.scales import SCALES
from thesislib.plots import tables
from thesislib.runs import growth
from thesislib.runs.results import Row
from thesislib.system.errors import UserError


@pytest.mark.parametrize("scale", SCALES)
def test_every_control_differs_from_the_hill_in_one_thing(scale):
    """And the hill from "no term" in nothing but the term; all see the same batches from the same weights."""
    rows = sections.rows("6-1_controls", scale)
    of = {row.label: row.run for row in reversed(rows)}
    assert [*dict.fromkeys(row.label for row in rows)] == [
        *("no term", "hill", "random place", "hill at origin", "random push"),
        *("no L2", "L2 = 0.0001", "L2 = 0.01"),
    ]
    usual, hill = of["no term"], of["hill"]
    assert hill.strength == SCALES[scale].settled
    assert usual.weight_decay == 1e-3
    assert usual.minimum_epochs[0] == hill.minimum_epochs[0]

    def changed(run, other):
        one, two = run.model_dump(), other.model_dump()
        return {name: value for name, value in one.items() if value != two[name]}

    assert changed(of["random place"], hill) == {"hill_at": "random"}
    assert changed(of["hill at origin"], hill) == {"hill_at": "origin"}
    assert changed(of["random push"], hill) == {"push": "random"}
    for decay in (0, 1e-4, 1e-2):
        label = f"L2 = {decay:g}" if decay else "no L2"
        assert changed(of[label], usual) == {"weight_decay": decay}
    assert growth.growth(hill) >= 20 or scale == "smoke", "the hill is left"
    assert all(np.isnan(growth.growth(of[name])) for name in ("random place", "hill at origin", "random push"))


def test_the_end_against_the_minimum(tiny):
    results = trained({"a": [tiny.replace(strength=5)], "still": [tiny.replace(lr=1e-30, strength=0)]})
    found = controls.since_minimum(results).set_index("label")
    (row, _), history = results, results[0].result.history.set_index("epoch")
    start, end = (row.result.arrays(which, "logits")["logits"].argmax(1) for which in (0, "final"))
    moved = found.loc["a"]
    assert moved["disagreement"] == (start != end).mean() > 0
    assert moved["accuracy_minimum"] == history["accuracy"][2]
    assert moved["accuracy"] == history["accuracy"][6]
    assert moved["lowest"] == history["accuracy"][3:].min()
    assert moved["d_0"] == history["d_0"][6]
    assert (found.loc["still", "disagreement"], found.loc["still", "d_0"]) == (0, 0)
    assert "d_0_radial" not in found, "there are no filters"


def test_archived_runs_have_what_they_logged(tiny, folders):
    """All but the disagreement, which needs predictions; comparisons go as far as there is something to compare."""
    settings = {"hill": 5, "no term": 0}
    results = trained({label: [tiny.replace(strength=s, seed=k) for k in (0, 1)] for label, s in settings.items()})
    whole = controls.since_minimum(results)
    compared = controls.against_hill(whole)
    for row in results.where(label="hill"):
        for path in (*row.result.folder.glob("derived-*"), row.result.folder / "final.safetensors"):
            path.unlink()
    found = controls.since_minimum(results)
    pd.testing.assert_frame_equal(found.drop(columns="disagreement"), whole.drop(columns="disagreement"))
    assert found["disagreement"].isna().tolist() == [True, True, False, False]
    less = controls.against_hill(found)
    assert less[["factor", "accuracy", "n"]].equals(compared[["factor", "accuracy", "n"]])
    (shown,) = tables.controls(less).to_dict("records")
    assert (shown["changed, points"], shown["n"]) == ("", 2)
    whole.loc[(whole["label"] == "hill") & (whole["seed"] == 0), "disagreement"] = np.nan
    (shown,) = tables.controls(controls.against_hill(whole)).to_dict("records")
    assert shown["changed, points"].endswith(", n = 1"), "of one seed, in a row of two"
    assert "[" not in shown["changed, points"], "fewer than three seeds have no interval"
    assert shown["n"] == 2


def test_filters_have_the_parts_of_their_distance(photographs):
    run = sections.SCALES["cifar"].runs(cycles=1, seeds=(0,))[0]
    small = {"train_size": 32, "test_size": 16, "batch_size": 16, "statistics_images": 16, "lr": 1e-3}
    results = trained({"a": [run.replace(**small, epochs=2, minima_every=1, cycle=2, member_epochs=None)]})
    (found,) = controls.since_minimum(results).to_dict("records")
    assert 0 < found["d_0_radial"] + found["d_0_angular"] < found["d_0"]


def test_a_run_that_explodes_predicts_nothing(tiny):
    results = trained({"a": [tiny.replace(lr=30, minima_every=1, epochs=40)]})
    assert results[0].result.diverged
    (found,) = controls.since_minimum(results).to_dict("records")
    assert np.isnan(found["disagreement"])
    assert np.isnan(found["accuracy"])
    assert found["accuracy_minimum"] == results.history["accuracy"][0]


def test_a_run_without_a_minimum_is_refused(tiny):
    with pytest.raises(UserError, match="has no minimum to compare its end with"):
        controls.since_minimum(trained({"a": [tiny.replace(minima_every=None)]}))


def test_what_cannot_be_compared_with_the_hill_is_one_line(tiny):
    table = pd.DataFrame({"label": ["hill", "a", "a"], "network": "mlp", "seed": 0, "d_0": 1.0, "accuracy": 0.5})
    for since, words in (
        (table, "no column disagreement"),
        (table.assign(disagreement=0.1), "'a' has two rows of seed 0"),
        (table.assign(disagreement=0.1)[1:2], 'no runs of mlp are labelled "hill"'),
    ):
        with pytest.raises(UserError, match=words):
            controls.against_hill(since)
    members = [Row(tiny.replace(seed=k), "a", member=k, ensemble_seed=0) for k in (1, 2)]
    with pytest.raises(UserError, match="an ensemble of several networks has no end"):
        controls.since_minimum(trained(members))


def test_controls_are_compared_with_the_hill_seed_by_seed():
    """A factor that is the same at every seed has no width; points scatter as Student says."""
    table = pd.DataFrame(
        {"label": label, "network": "mlp", "seed": seed, "d_0": factor * d, "accuracy": accuracy, "disagreement": 0.1}
        for label, factor, accuracies in (("hill", 1, (0.9, 0.8, 0.7)), ("random place", 0.5, (0.91, 0.82, 0.73)))
        for seed, d, accuracy in zip((0, 1, 2), (100, 200, 400), accuracies, strict=True)
    )
    (found,) = controls.against_hill(table.sample(frac=1, random_state=0)).to_dict("records")
    assert (found["label"], found["n"]) == ("random place", 3)
    assert [found[f"factor{end}"] for end in ("", "_low", "_high")] == pytest.approx([0.5] * 3)
    half = 4.302653 / np.sqrt(3)  # of points 1, 2, 3
    assert [found[f"accuracy{end}"] for end in ("", "_low", "_high")] == pytest.approx([2, 2 - half, 2 + half])
    assert [found[f"disagreement{end}"] for end in ("", "_low", "_high")] == pytest.approx([0] * 3)
    assert list(tables.readable(controls.against_hill(table), "6-1_controls_against")["setting"]) == ["random place"]


def test_the_lowest_accuracy_is_one_behind_the_minimum():
    """Not the minimum's own, where it only rises from there."""
    history = pd.DataFrame({"epoch": [1, 2, 3, 4], "accuracy": [0.1, 0.5, 0.6, 0.7], "d_0": [np.nan, 0, 1, 2]})
    found = controls._logged(SimpleNamespace(minimum_epochs=[2], history=history, diverged=False))
    assert (found["accuracy_minimum"], found["lowest"], found["accuracy"], found["d_0"]) == (0.5, 0.6, 0.7, 2)


def test_the_epoch_in_which_a_run_diverges_has_no_accuracy():
    history = pd.DataFrame({"epoch": [1, 2, 3, 4], "accuracy": [0.5, 0.9, 0.8, 0.1], "d_0": [np.nan, 0, 1, np.nan]})
    found = controls._logged(SimpleNamespace(minimum_epochs=[2], history=history, diverged=True))
    assert found["lowest"] == 0.8
    assert np.isnan(found["accuracy"])


def test_points_are_no_finer_than_images():
    table = pd.DataFrame(
        {"label": label, "network": "mlp", "seed": seed, "images": 1000, "d_0": 1.0, "accuracy": accuracy,
         "disagreement": 0.1}
        for label, accuracy in (("hill", 0.9), ("a", 0.901)) for seed in range(3)
    )  # fmt: skip
    (found,) = controls.against_hill(table).to_dict("records")
    assert found["accuracy_low"] < 0 < found["accuracy_high"]
