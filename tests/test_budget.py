import numpy as np
import pandas as pd
import pytest
from conftest import trained

from thesislib.analysis import budget, ensembles


def test_one_network_has_no_diversity_to_show(tiny):
    """SWA is one network: its cells are empty, not nan."""
    table = ensembles.table(trained({"a": [tiny], "one": [tiny.replace(minima_every=None)]}))
    shown = budget.summary(table.assign(equivalent=1.0))
    assert shown["all agree"].iloc[0] != ""
    assert shown["all agree"].iloc[1] == ""


def test_comparisons_are_paired_by_seed():
    table = pd.DataFrame(
        [
            {
                "label": label,
                "model": "mlp",
                "seed": seed,
                "accuracy_ensemble": 0.9 + 0.01 * seed + gain,
                "nll_ensemble": 1 - gain,
                "images": 1000,
            }
            for label, gain in (("plain", 0.0), ("better", 0.002), ("same", 0.0))
            for seed in range(5)
        ]
    )
    table.loc[table["label"] == "same", "accuracy_ensemble"] += [0.001, -0.001, 0.001, -0.001, 0.0]
    for column in ("accuracy_ensemble", "nll_ensemble"):
        rows = budget.compared(table, "plain", [column]).set_index("label")
        assert rows.loc["better", "verdict"] == "wins"
        assert rows.loc["same", "verdict"] == "ties"
        assert rows.loc["better", "n"] == 5
        against = budget.compared(table, "better", [column]).set_index("label")
        assert against.loc["plain", "verdict"] == "loses"


def test_two_seeds_carry_no_verdict():
    """However well they agree; and images are whole: agreement to the image is not certainty."""
    rows = [
        {"label": label, "model": "mlp", "seed": seed, "accuracy_ensemble": 0.9 + gain, "images": 1000}
        for label, gain in (("plain", 0.0), ("better", 0.0005))
        for seed in range(2)
    ]
    table = pd.DataFrame(rows)
    (row,) = budget.compared(table, "plain", ["accuracy_ensemble"]).to_dict("records")
    assert (row["verdict"], row["n"]) == ("undecided", 2)
    more = pd.concat([table, table.assign(seed=table["seed"] + 2)])
    (row,) = budget.compared(more, "plain", ["accuracy_ensemble"]).to_dict("records")
    assert row["low"] < row["difference"] < row["high"]


@pytest.mark.parametrize("average", ["logits", "votes"])
def test_independent_networks_are_worth_themselves_by_any_average(tiny, average):
    short = tiny.replace(epochs=1, minima_every=None)
    results = trained({"independent": [short.replace(seed=1000 * m) for m in range(3)]})
    found = budget.equivalents(ensembles.table(results, average), results["independent"], average)
    best = found["equivalent"].item()
    curve = budget._subsets(results["independent"], average)["nll_scaled"]
    assert best == pytest.approx(1 + curve.argmin()), "as many as it takes for the lowest NLL"


def test_independent_networks_are_worth_themselves(tiny):
    short = tiny.replace(epochs=1, minima_every=None)
    results = trained({"independent": [short.replace(seed=1000 * m) for m in range(3)], "one": [short]})
    rows = budget.equivalents(ensembles.table(results), results["independent"]).set_index("label")["equivalent"]
    assert rows["independent"] == pytest.approx(3)
    # One of the three, so not far from the mean of the three.
    assert 1 <= rows["one"] < 2


def test_deep_ensemble_equivalent():
    independent = np.array([0.5, 0.4, 0.35, 0.36])
    assert budget.equivalent(0.4, independent) == 2
    assert budget.equivalent(0.45, independent) == pytest.approx(1.5)
    assert budget.equivalent(0.9, independent) == 1
    assert budget.equivalent(0.1, independent) == 4


def test_a_single_seed_has_no_deviation_and_says_so_by_leaving_it_out(tiny):
    """Not "± nan", and not "nan ± nan" where a run has no value, in any table of means."""
    few = trained({"no term": [tiny.replace(minima_every=None, strength=0)], "s = 1": [tiny, tiny.replace(seed=1)]})
    shown = few.table("accuracy", "d_0").set_index("label")
    assert shown.loc["no term", "accuracy"] == f"{few['no term'][0].summary['accuracy']:.4g}"
    assert shown.loc["no term", "d_0"] == ""
    assert " ± " in shown.loc["s = 1", "accuracy"]
    scores = ensembles.table(few.only("s = 1")).assign(equivalent=1.0)
    assert "±" in budget.summary(scores).loc[0, "ensemble"]
    assert budget.summary(scores.head(1)).loc[0, "ensemble"] == f"{scores['accuracy_ensemble'].iloc[0]:.4f}"
