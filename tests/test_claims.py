from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import trained
from scipy import stats

from thesislib.analysis import claims
from thesislib.analysis.verdicts import Statement, interval, margins, rounding, statement_row, summary, verdict
from thesislib.config import Run
from thesislib.experiments import sections
from thesislib.experiments.scales import SCALES
from thesislib.runs.results import Results


def statement(kind, unit, effects):
    return Statement("C0", "says", kind, unit, np.array(effects, float))


@pytest.mark.parametrize(
    ("kind", "unit", "effects", "expected"),
    [
        ("more", "factor", [1.0, 1.1, 0.9], "reproduced"),
        ("more", "factor", [-1.0, -1.1, -0.9], "not reproduced"),
        ("more", "factor", [1.0, -1.1, 0.9], "undecided"),
        ("less", "points", [-2.0, -2.1, -1.9], "reproduced"),
        ("less", "points", [2.0, 2.1, 1.9], "not reproduced"),
        ("same", "points", [0.1, -0.1, 0.0], "reproduced"),
        ("same", "points", [5.0, 5.1, 4.9], "not reproduced"),
        ("same", "points", [-3.0, 3.0, 0.0], "undecided"),
        ("not more", "points", [-9.0, -9.1, -8.9], "reproduced"),
        ("not more", "points", [9.0, 9.1, 8.9], "not reproduced"),
        ("more", "factor", [1.0, 1.0], "undecided"),
        ("more", "points", [0.1, 0.1, 0.1], "reproduced"),
        ("more", "points", [0.05, 0.05, 0.05], "undecided"),
        ("more", "factor", [1.0, np.nan, np.nan, 1.0], "undecided"),
    ],
)
def test_verdicts(kind, unit, effects, expected):
    assert verdict(statement(kind, unit, effects), rounding=rounding(1000)) == expected


def test_many_images_tell_smaller_differences_astatement():
    """0.05 points are half a step of an accuracy on 1,000 images, and five steps of one on 10,000."""
    gained = statement("more", "points", [0.05, 0.05, 0.05])
    assert [verdict(gained, rounding=rounding(n)) for n in (1_000, 10_000)] == ["undecided", "reproduced"]
    narrow, wide = (statement_row(gained, rounding=rounding(n)) for n in (10_000, 1_000))
    assert 10 * (narrow["high"] - narrow["effect"]) == pytest.approx(wide["high"] - wide["effect"])


def test_the_same_is_less_for_who_makes_few_errors():
    lost = statement("same", "points", [-0.8, -0.7, -0.75])
    assert verdict(lost, margins(20.0)) == verdict(lost) == "reproduced", "at most the thesis' noise, a point"
    assert verdict(lost, margins(2.0)) == "not reproduced", "a third more errors are not the same"
    assert statement_row(lost, margins(2.0))["margin"] == 0.5
    assert statement_row(statement("same", "factor", [0.0, 0.0, 0.0]))["margin"] == pytest.approx(1.1)


def test_interval_covers_the_mean_of_few_seeds():
    """With three seeds a bare bootstrap covers the truth in 3 of 4 cases; 95 % are asked for."""
    rng = np.random.default_rng(0)
    covered = [low <= 0 <= high for low, high in (interval(rng.normal(size=3)) for _ in range(300))]
    assert np.mean(covered) > 0.92
    assert interval(np.array([1.0])) == (-np.inf, np.inf)
    assert interval(np.array([2.0, 2.0, 2.0])) == (2, 2)


def test_interval_is_students_where_that_is_wider():
    x = np.array([1.0, 2.0, 4.0])
    assert interval(x) == pytest.approx(stats.t.interval(0.95, 2, x.mean(), stats.sem(x)))


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        (([1.0, 1.1, 0.9], [1.0, 1.1, 0.9]), "reproduced"),
        (([1.0, 1.1, 0.9], [-1.0, -1.1, -0.9]), "not reproduced"),
        (([1.0, 1.1, 0.9], [1.0, -1.1, 0.9]), "undecided"),
        (([1.0, -1.1, 0.9], [-1.0, -1.1, -0.9]), "undecided"),
        (([-1.0, -1.1, -0.9], [-1.0, -1.1, -0.9]), "undecided"),
    ],
)
def test_a_claim_is_all_its_statements_and_needs_its_premise(effects, expected):
    premise = statement("more", "factor", effects[0])._replace(premise=True)
    rows = pd.DataFrame([statement_row(premise), statement_row(statement("more", "factor", effects[1]))]).assign(
        network="mlp"
    )
    assert list(summary(rows)["verdict"]) == [expected]


def test_factors_are_shown_as_factors():
    shown = statement_row(statement("more", "factor", np.log([2.0, 2.0, 2.0])))
    assert (shown["effect"], shown["low"], shown["high"]) == pytest.approx((2, 2, 2))


def test_a_hill_costs_a_share_of_the_epoch_without():
    """Made-up seconds: 2 an epoch without hills, 0.3 more for each, one epoch disturbed."""

    def timed(label, strength):
        hills = np.arange(12) // 2
        seconds = 2 + 0.3 * hills * (strength > 0)
        seconds[7] += 5
        run, result = Run(strength=strength, minima_every=2), SimpleNamespace()
        result.history = pd.DataFrame({"train_seconds": seconds})
        return SimpleNamespace(label=label, network="mlp", seed=0, run=run, result=result)

    cost = claims.cost_per_minimum([timed("no term", 0), timed("s = 1", 1)]).set_index("label")
    assert cost.loc["s = 1", "percent"] == pytest.approx(15)
    assert cost.loc["s = 1", "seconds"] == pytest.approx(0.3)
    assert cost.loc["no term", "percent"] == pytest.approx(0)


@pytest.fixture
def results(chapter, monkeypatch):
    """The smoke chapter's real runs."""
    for name, folder in chapter.environment.items():
        monkeypatch.setenv(name, folder)
    return Results(sections.rows("9_claims", "smoke"), "smoke", "9_claims")


def test_every_claim_is_answered(results):
    """One seed, so nothing may be decided."""
    claimed = summary(claims.table(results))
    assert list(claimed["claim"]) == [f"C{k}" for k in range(1, 15)]
    assert set(claimed["verdict"]) == {"undecided"}


def test_networks_are_judged_apart(results):
    once, others = claims.table(results), []
    for row in results:
        others.append(replace(row, run=row.run.model_copy(update={"model": "other"})))
        others[-1].__dict__["result"] = row.result
    twice = claims.table(Results([*results, *others], "smoke", "9_claims"))
    assert list(twice["network"].unique()) == ["mlp-tiny", "other"]
    assert list(twice["effect"]) == pytest.approx([*once["effect"], *once["effect"]], nan_ok=True)


def test_the_thesis_printed_numbers_stand_beside_ours(tiny, monkeypatch):
    published = {(0.0, 0.1): (".981", 19.0), (1.0, 0.1): (".983", 69.0)}
    monkeypatch.setitem(SCALES, "smoke", replace(SCALES["smoke"], published=published))
    rows = trained(sections.rows("2-1_width", "smoke")).where(role="published")
    table = claims.published_values(Results(rows, "smoke"))
    assert list(table["setting"]) == ["no term", "w = 0.1"]
    assert list(table["d, thesis"]) == [19.0, 69.0]
    ours = [row.result.summary["squared_distances"][0] for row in rows]
    assert list(table["ratio"]) == pytest.approx([ours[0] / 19, ours[1] / 69], abs=1e-3)
    assert claims.published_values(Results([], "laptop")).empty
