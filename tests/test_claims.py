from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from thesislib.analysis import claims
from thesislib.analysis.verdicts import Part, interval, margins, rounding, row, summary, verdict


def part(kind, unit, effects):
    return Part("C0", "says", kind, unit, np.array(effects, float))


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
    assert verdict(part(kind, unit, effects), rounding=rounding(1000)) == expected


def test_many_images_tell_smaller_differences_apart():
    """0.05 points are half a step of an accuracy on 1,000 images, and five steps of one on 10,000."""
    gained = part("more", "points", [0.05, 0.05, 0.05])
    assert [verdict(gained, rounding=rounding(n)) for n in (1_000, 10_000)] == ["undecided", "reproduced"]
    narrow, wide = (row(gained, rounding=rounding(n)) for n in (10_000, 1_000))
    assert 10 * (narrow["high"] - narrow["effect"]) == pytest.approx(wide["high"] - wide["effect"])


def test_the_same_is_less_for_who_makes_few_errors():
    lost = part("same", "points", [-0.8, -0.7, -0.75])
    assert verdict(lost, margins(20.0)) == verdict(lost) == "reproduced", "at most the thesis' noise, a point"
    assert verdict(lost, margins(2.0)) == "not reproduced", "a third more errors are not the same"
    assert row(lost, margins(2.0))["margin"] == 0.5
    assert row(part("same", "factor", [0.0, 0.0, 0.0]))["margin"] == pytest.approx(1.1)


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
def test_a_claim_is_all_its_parts_and_needs_its_premise(effects, expected):
    premise = part("more", "factor", effects[0])._replace(premise=True)
    rows = pd.DataFrame([row(premise), row(part("more", "factor", effects[1]))]).assign(network="mlp")
    assert list(summary(rows)["verdict"]) == [expected]


def test_factors_are_shown_as_factors():
    shown = row(part("more", "factor", np.log([2.0, 2.0, 2.0])))
    assert (shown["effect"], shown["low"], shown["high"]) == pytest.approx((2, 2, 2))


def test_a_hill_costs_a_share_of_the_epoch_without():
    """Made-up seconds: 2 an epoch without hills, 0.3 more for each, one epoch disturbed."""

    def timed(strength):
        hills = np.arange(12) // 2
        seconds = 2 + 0.3 * hills * (strength > 0)
        seconds[7] += 5
        run = SimpleNamespace(strength=strength, model="mlp", seed=0, minima_every=2)
        return SimpleNamespace(run=run, history=pd.DataFrame({"train_seconds": seconds}))

    cost = claims.cost_per_minimum({"no term": [timed(0)], "s = 1": [timed(1)]}).set_index("label")
    assert cost.loc["s = 1", "percent"] == pytest.approx(15)
    assert cost.loc["s = 1", "seconds"] == pytest.approx(0.3)
    assert cost.loc["no term", "percent"] == pytest.approx(0)


def test_every_claim_is_answered(chapter, monkeypatch):
    """From the smoke chapter's real runs: one seed, so nothing may be decided."""
    from thesislib.experiments import sections
    from thesislib.runs.results import Results

    for name, folder in chapter.environment.items():
        monkeypatch.setenv(name, folder)
    parts = claims.table(Results.load(sections.groups("9_claims", "smoke")), sections.SCALES["smoke"].cycle)
    claimed = summary(parts)
    assert list(claimed["claim"]) == [f"C{k}" for k in range(1, 15)]
    assert set(claimed["verdict"]) == {"undecided"}


def test_networks_are_judged_apart(chapter, monkeypatch):
    from thesislib.experiments import sections
    from thesislib.runs.results import Results

    for name, folder in chapter.environment.items():
        monkeypatch.setenv(name, folder)
    results = Results.load(sections.groups("9_claims", "smoke"))
    once = claims.table(results, 2)
    for group in results.values():
        group.extend([replace(result, run=result.run.model_copy(update={"model": "other"})) for result in group])
    twice = claims.table(results, 2)
    assert list(twice["network"].unique()) == ["mlp-tiny", "other"]
    assert list(twice["effect"]) == pytest.approx([*once["effect"], *once["effect"]], nan_ok=True)
