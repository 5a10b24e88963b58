"""Results as one tidy table, and what is computed from them."""

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, trained

from thesislib.experiments.thesis import independent
from thesislib.plots import tables
from thesislib.runs.growth import growth
from thesislib.runs.results import Results, Row
from thesislib.runs.spreads import FRONT, spread
from thesislib.system.errors import UserError


@pytest.fixture
def rows(tiny):
    short = tiny.replace(epochs=2)
    return [
        *(Row(run, "a", section="1") for run in (short, short.replace(seed=1))),
        Row(short.replace(strength=0), "b", role="steps", section="1"),
        *independent("c", [short.replace(minima_every=None)], 2),
    ]


def test_rows_are_chosen_by_their_columns(rows):
    results = Results(rows, "smoke", "1")
    assert results.labels == ["a", "b", "c"]
    assert [row.seed for row in results.where(label="a", seed=[1, 2])] == [1]
    assert results.where(role="steps").labels == ["b"]
    assert results.where(network="resnet20").labels == []
    for several in (range(1, 3), {1, 2}, np.array([1, 2])):
        assert [row.seed for row in results.where(label="a", seed=several)] == [1]
    part = results[1:3]
    assert ([row.label for row in part], part.scale, results[-1].label) == (["a", "b"], "smoke", "c")
    chosen = results.only("c", "a")
    assert (chosen.labels, chosen.scale, chosen.section) == (["c", "a"], "smoke", "1")
    with pytest.raises(UserError, match="no runs are labelled d: choose from a, b, c"):
        results.only("a", "d")


def test_members_of_an_ensemble_share_its_seed_and_no_run_does(rows):
    results = Results(rows)
    assert [[row.member for row in group] for group in results.ensembles] == [[None], [None], [None], [1, 2]]
    *_, first, second = results
    assert first.seed == second.seed == first.run.seed == 0
    assert first.run.seed != second.run.seed


def test_a_run_that_is_given_twice_is_one(tiny):
    """Else it would be an ensemble of two networks that are the same, and n = 2."""
    short, other = tiny.replace(epochs=2), tiny.replace(epochs=2, seed=1)
    results = trained({"a": [short, short, other], "b": [short]})
    assert [(row.label, row.seed) for row in results] == [("a", 0), ("a", 1), ("b", 0)]
    assert results.table("accuracy")["n"].tolist() == [2, 1]
    assert [len(group) for group in Results([short, short]).ensembles] == [1]
    assert len(results.only("a", "a")) == 2


def test_an_unfinished_run_is_one_line(rows):
    with pytest.raises(UserError, match="is not finished"):
        _ = Results(rows).history


def test_every_line_says_which_run_it_is_of(rows):
    results = trained(rows)
    history = results.history
    assert set(FRONT) < set(history)
    last = history.groupby("id", sort=False).tail(1)
    assert last[["section", "label", "role", "network", "seed"]].values.tolist() == [
        [row.section, row.label, row.role, "mlp-tiny", row.seed] for row in results
    ]
    assert last["member"].tolist() == pytest.approx([np.nan] * 3 + [1, 2], nan_ok=True)
    assert last["id"].tolist() == [row.id for row in results]
    pd.testing.assert_frame_equal(results.final, last.reset_index(drop=True))


def test_a_csv_has_roles_and_a_members_own_seed(rows):
    """What is read of it has the role before the label, but for what it does not show."""
    table = trained(rows).for_csv()
    assert table[["role", "label"]].values.tolist() == [["curve", "a"]] * 2 + [["steps", "b"]] + [["curve", "c"]] * 2
    assert list(table["seed"]) == [row.run.seed for row in rows]
    assert not {"section", "member"} & set(table)
    assert list(tables.means(table, {"accuracy": "accuracy"})["setting"]) == ["a", "steps: b", "c"]
    assert list(tables.readable(table, "6_gradients_and_valleys")["setting"]) == ["a", "c"]


def test_a_table_tells_settings_apart_by_what_differs(rows):
    results = trained(rows)
    assert list(results.only("a").table("accuracy")) == ["label", "network", "N", "accuracy", "n"]
    both = results.table("accuracy")
    assert list(both) == ["section", "role", "label", "network", "N", "accuracy", "n"]
    assert list(both["n"]) == [2, 1, 2]


def test_tables_say_whether_hills_were_left(tiny):
    """N of each setting that has hills, in the section's table, its CSV, and the table that is made of that."""
    hills = [tiny.replace(strength=s, seed=seed) for seed, s in enumerate((10, 20))]
    results = trained({"none": [tiny.replace(strength=0)], "hill": hills})
    least = growth(tiny.replace(strength=10))
    assert least == pytest.approx(4 * 1e-3 * 10 * 0.1 / 0.1 * 4 * 4), "4 s w lr / (1 - mu) a step, 4 epochs of 4 steps"
    assert list(results.table("accuracy")["N"]) == ["", f"{least:.3g}"]
    table = results.for_csv()
    assert table["N"].tolist() == pytest.approx([np.nan, least, 2 * least], nan_ok=True)
    assert list(tables.means(table, {"accuracy": "accuracy"})["N"]) == ["", f"{least:.3g}"]
    assert "N" not in results.only("none").table("accuracy")
    assert "N" not in tables.means(results.only("none").for_csv(), {"accuracy": "accuracy"})


def count(results, base):
    count.calls += 1
    if len(results) == 1:
        return {"members": 1}
    return {"members": np.full(len(results), len(results)), "ids": np.arange(len(results)) + base}


def test_map_computes_once_for_each_ensemble(rows):
    results, count.calls = trained(rows).where(label=["a", "c"], role="curve"), 0
    found = results.map(count, "count", version=1, base=10)
    assert count.calls == len(results.ensembles) == 3
    assert found[["label", "seed", "members"]].values.tolist() == [["a", 0, 1], ["a", 1, 1], ["c", 0, 2], ["c", 0, 2]]
    assert found["ids"].tolist() == pytest.approx([np.nan, np.nan, 10, 11], nan_ok=True)
    pd.testing.assert_frame_equal(results.map(count, "count", version=1, base=10), found)
    assert count.calls == 3
    for again in ({"version": 2, "base": 10}, {"version": 1, "base": 11}):
        results.map(count, "count", **again)
    assert count.calls == 9


def nothing(results):
    return {}


def test_no_runs_and_names_that_are_no_files_are_one_line(rows):
    results = Results(rows)
    with pytest.raises(UserError, match="there are no runs to read"):
        results.where(label="typo").map(count, "count", 1)
    for name in ("my score", "a/b", "数" * 34):
        with pytest.raises(UserError, match="letters, digits"):
            results.map(count, name, 1)


def test_what_has_no_rows_is_left_out(rows):
    found = trained(rows).map(nothing, "nothing", version=1)
    assert found.empty
    assert list(found) == ["section", "role", "label", "network", "seed"]


def test_runs_of_ones_own_are_named_by_what_differs(tiny):
    runs = [tiny.replace(strength=s, seed=seed) for s in (0.5, 2) for seed in (0, 1)]
    assert Results(runs).labels == ["strength = 0.5", "strength = 2.0"]
    assert Results(runs[:2]).labels == ["run"]
    assert Results({"mine": runs}).labels == ["mine"]
    assert Results(runs).scale == "own"


def test_rows_are_chosen_by_their_columns_and_labels():
    runs = Results({"a": [TINY, TINY.replace(seed=1)], "b": [TINY.replace(strength=3)]})
    assert [row.label for row in runs.where(seed=[1])] == ["a"]
    assert [row.label for row in runs.without("a")] == ["b"]
    assert len(runs.without("c")) == 3
    assert repr(runs) == "3 runs at scale own: a, b"
    assert repr(runs.of([])) == "0 runs at scale own: none"
    with pytest.raises(UserError, match="^there is no column or field learning: choose from section, label, role"):
        runs.where(learning=0.1)
    assert [row.label for row in runs.where(strength=[2.0, 3.0], seed=0)] == ["b"], "fields of the runs, too"
    with pytest.raises(UserError, match=r"rows have numbers: those of a label are runs.only\('a'\)"):
        runs["a"]
    assert repr(runs[:1]) == "1 run at scale own: a"


def test_a_table_counts_no_seed_twice(tiny):
    runs = trained({"a": [tiny.replace(strength=0), tiny.replace(strength=10)]})
    with pytest.raises(UserError, match="several rows of label a, network mlp-tiny, seed 0"):
        runs.table("accuracy")


def test_a_measure_is_a_function(tiny):
    with pytest.raises(UserError, match="a measure is a function of runs, imported or written here, not 'm:acc'"):
        trained({"a": [tiny]}).map("m:acc", "acc", 1)


def test_no_number_is_minus_nothing():
    assert spread(pd.Series([-0.05, 0.0499])) == "0.000 ± 0.071"


@pytest.mark.parametrize("share", [True, False])
def test_hills_that_do_not_share_push_together(share, tiny):
    """After 2 of 8 epochs one hill, after 4 two, after 6 three: 2 + 4 + 6 epochs of one hill's push, or 6."""
    fields = {"epochs": 8, "minima_every": 2, "minima": "multiple", "strength": 10, "share": share}
    steps, rate = tiny.train_size // tiny.batch_size, 4 * tiny.width * 10 * tiny.lr / (1 - tiny.momentum)
    assert growth(tiny.replace(**fields)) == pytest.approx((6 if share else 12) * steps * rate)
