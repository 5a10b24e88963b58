"""Each ensemble's learning rate is chosen on images that were held back, and what was chosen is what is used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thesislib import datasets
from thesislib.analysis import ensembles, rates
from thesislib.experiments import sections
from thesislib.experiments.scales import SCALES
from thesislib.plots import tables
from thesislib.runs import launch
from thesislib.runs.results import Results

REFERENCE = Path(__file__).parents[1] / "figures" / "reference"


def scores(**nll):
    """A table of one network with a row for each label, factor and seed."""
    rows = [
        {"label": label, "lr": 0.1 * factor, "factor": factor, "network": "mlp", "seed": seed, rates.SCORE: value}
        for label, by_factor in nll.items()
        for factor, values in by_factor.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_lowest_mean_is_chosen_and_of_equal_ones_the_nearest_to_the_scales():
    nan = float("nan")
    table = scores(
        mean={0.5: [0.1, 0.9], 1.0: [0.4, 0.4], 2.0: [0.5, 0.5]},
        tie={0.5: [0.5, 0.5], 1.0: [0.5, 0.5], 2.0: [0.6, 0.6], 4.0: [0.5, 0.5]},
        far={0.5: [0.7, 0.7], 1.0: [0.6, 0.6], 2.0: [0.5, 0.5], 4.0: [0.4, 0.4]},
        diverges={0.5: [0.7, 0.7], 1.0: [0.6, 0.6], 2.0: [0.1, nan]},
    )
    assert rates.chosen(table) == {"mean": 1.0, "tie": 1.0, "far": 4.0, "diverges": 1.0}
    lost = scores(lost={0.5: [nan, 0.1], 1.0: [nan, nan]}, kept={0.5: [0.2, 0.2], 1.0: [0.1, 0.1]})
    assert rates.chosen(lost) == {"kept": 1.0}, "of what diverges at each rate none is chosen"
    assert tables.readable(lost, "7-1_rates_scores")["chosen"].fillna(0).tolist() == [0, 1]
    assert rates.chosen(table.iloc[::-1]) == rates.chosen(table), "whatever the order of the rows"


@pytest.mark.parametrize("scale", SCALES)
def test_what_was_chosen_is_what_is_used(scale):
    """The factors of a scale are those that the rule finds in its table in figures/reference."""
    path = REFERENCE / scale / "7-1_rates_scores.csv"
    known = dict(SCALES[scale].opponent_rates)
    if not path.is_file():
        assert not known, "nothing is chosen without a table that says why"
        return
    table = pd.read_csv(path)
    assert rates.chosen(table) == known
    assert set(table["factor"]) == set(SCALES[scale].tried_factors)
    assert known.keys() == {row.label for row in sections.rows("7_ensembles", scale) if row.role == "curve"}, (
        "every ensemble had its choice, those of the term too"
    )


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Scale smoke with shorter runs and three rates chosen."""
    scale = replace(SCALES["smoke"], cycle=1, opponent_rates={"cosine": 2.0, "constant": 1.0, "one cosine": 2.0})
    monkeypatch.setitem(SCALES, "smoke", scale)
    return scale


def trained(section, **parameters):
    rows = sections.rows(section, "smoke", **parameters)
    for row in rows:
        launch.execute(row.run)
    return Results(rows, "smoke", section)


def test_scores_are_of_the_images_that_were_held_back(small):
    """And the table says at which rate, as a multiple of the scale's."""
    runs = trained("7-1_rates", factors=[0.5, 2.0])
    some = runs.where(label=["constant", "two of half"])
    table = rates.tried(some)
    assert list(table["factor"]) == [0.5, 0.5, 2.0, 2.0]
    assert list(table["lr"]) == [0.05, 0.05, 0.2, 0.2]
    assert list(table["label"]) == ["constant", "two of half"] * 2
    for rows, (_, shown) in zip(some.ensembles, table.iterrows(), strict=True):
        results = [row.result for row in rows]
        labels = ensembles.labels_of(results[0])
        held_back = labels_held_back(rows[0].run)
        assert np.array_equal(labels, held_back)
        assert shown["images"] == len(held_back)
        found = ensembles.score(ensembles.members(results, 5), labels)
        assert shown[rates.SCORE] == pytest.approx(found[rates.SCORE])
    readable = tables.readable(table, "7-1_rates_scores")
    assert list(readable.columns) == ["setting", "rate times 0.5", "rate times 2", "chosen", "n"]
    assert list(readable["chosen"]) == [rates.chosen(table)[label] for label in ("constant", "two of half")]


def labels_held_back(run):
    """True classes of the training images behind those that the run trains on."""
    return datasets.load(run.data).y_train[run.train_size :][: run.test_size]


def test_every_ensemble_once_at_its_rate(small):
    rows = sections.rows("7_ensembles", "smoke")
    fair = rates.at_chosen(Results(rows, "smoke", "7_ensembles"))
    equal = [row for row in rows if row.role == "curve"]
    assert [row.label for row in fair] == [row.label for row in rows if row.role in ("curve", "full")]
    changed = {row.label for row in fair if row.run not in {row.run for row in equal}}
    assert changed == {"cosine", "one cosine", "five full"}, "five networks like the one have its rate"
    assert {row.run.lr for row in fair if row.label in changed} == {0.2}
    assert {row.role for row in fair if row.label != "five full"} == {"curve"}
