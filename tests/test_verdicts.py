"""The rules: what no data may do, whatever they are."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thesislib.analysis.intervals import Effect, over_seeds
from thesislib.analysis.verdicts import outcome, summary, verdict
from thesislib.experiments.statements import TABLE, Kind, Outcome
from thesislib.system.files import ROOT

KINDS, OUTCOMES = get_args(Kind), get_args(Outcome)
#: Kinds of statements of which no two can be true of the same effect.
CONTRADICTING = [("more", "less"), ("more", "same"), ("less", "same"), ("more", "not more"), ("less", "not less")]

numbers = st.floats(-100, 100, allow_nan=False)
effects = st.lists(numbers, min_size=3, max_size=12).map(np.array)
bands = st.floats(0.01, 10)


@given(effects, bands)
def test_no_data_support_two_statements_that_contradict_each_other(x, band):
    held = {kind for kind in KINDS if verdict(kind, over_seeds(x), band) == "reproduced"}
    assert not any({*pair} <= held for pair in CONTRADICTING)


@given(effects, bands)
def test_what_one_kind_holds_another_fails(x, band):
    says = {kind: verdict(kind, over_seeds(x), band) for kind in KINDS}
    for kind, opposite in (("more", "not more"), ("less", "not less")):
        pair = {says[kind], says[opposite]}
        assert pair in ({"reproduced", "not reproduced"}, {"undecided"})


@given(effects, bands)
def test_two_ways_to_contradict_take_twice_as_much(x, band):
    """ "same" fails above and below the band: each at half of what chance may do."""
    effect = over_seeds(x)
    assert (verdict("same", effect, band) == "not reproduced") == (outcome(effect, band, 0.975) in ("more", "less"))


def test_the_table_says_of_each_outcome_what_it_means():
    """An outcome is a region; a kind is a set of regions. It holds where they meet, and fails elsewhere."""
    regions = {
        "more": {"more"}, "less": {"less"}, "same": {"same"},
        "not more": {"less", "same"}, "not less": {"more", "same"},
    }  # fmt: skip
    assert TABLE.keys() == regions.keys() == {*KINDS}
    for kind, region in regions.items():
        assert TABLE[kind].keys() == {*OUTCOMES}
        for found in {*OUTCOMES} - {"inconclusive"}:
            assert TABLE[kind][found] == ("reproduced" if found in region else "not reproduced")
        assert TABLE[kind]["inconclusive"] == "undecided"


@given(effects, bands)
def test_relabelling_the_sides_turns_more_into_less(x, band):
    turned = {"more": "less", "less": "more"}
    found = outcome(over_seeds(x), band)
    assert outcome(over_seeds(-x), band) == turned.get(found, found)


@given(effects, bands, st.permutations(range(12)))
def test_the_order_of_seeds_does_not_matter(x, band, order):
    shuffled = x[[k for k in order if k < len(x)]]
    low, high = over_seeds(x).interval()
    # At the very edge of the band the rounding of a sum decides.
    if min(abs(abs(low) - band), abs(abs(high) - band)) > 1e-9:
        assert outcome(over_seeds(shuffled), band) == outcome(over_seeds(x), band)


@given(effects, bands)
def test_doubling_the_data_never_turns_an_outcome_round(x, band):
    """What is decided stays so; what is not may be decided."""
    once, twice = (outcome(over_seeds(some), band) for some in (x, np.tile(x, 2)))
    assert once in (twice, "inconclusive")


@given(effects, bands, st.floats(0, 50))
def test_shifting_the_data_up_never_leads_down(x, band, shift):
    order = {"less": 0, "same": 1, "more": 2}
    before, after = (outcome(over_seeds(some), band) for some in (x, x + shift))
    if "inconclusive" not in (before, after):
        assert order[after] >= order[before]


@given(effects, bands, st.floats(1.01, 10))
def test_a_wider_band_never_separates_what_was_the_same(x, band, factor):
    if outcome(over_seeds(x), band) == "same":
        assert outcome(over_seeds(x), factor * band) == "same"
    if outcome(over_seeds(x), factor * band) == "more":
        assert outcome(over_seeds(x), band) == "more"


@given(effects, bands, st.integers(1, 20))
def test_more_statements_make_it_harder_to_contradict_a_claim_and_not_to_support_it(x, band, among):
    for kind in KINDS:
        alone, one_of_many = (verdict(kind, over_seeds(x), band, m) for m in (1, among))
        assert one_of_many in (alone, "undecided")
        assert (one_of_many == "reproduced") == (alone == "reproduced")


def test_the_issue_of_one_statement_for_everything():
    """Effects that made "more", "same" and "not more" hold at once, in points."""
    effect = over_seeds(np.array([0.05, 0.10, 0.12, 0.11, 0.15]))
    found = {kind: verdict(kind, effect, band=0.5) for kind in KINDS}
    assert found["same"] == found["not more"] == found["not less"] == "reproduced"
    assert found["more"] == found["less"] == "not reproduced"
    found = {kind: verdict(kind, effect, band=0.01) for kind in KINDS}
    assert [kind for kind, says in found.items() if says == "reproduced"] == ["more", "not less"]


def test_fewer_than_three_seeds_decide_nothing():
    sure = Effect(mean=100.0, error=0.0, freedom=1, n=2)
    assert {verdict(kind, sure, 1.0) for kind in KINDS} == {"undecided"}
    assert verdict("more", sure._replace(n=3), 1.0) == "reproduced"


def false_contradictions(kinds, truth, covariance, band, seeds, trials=2000):
    """Share of trials in which a claim of these statements is contradicted; effects [seeds, statements] are normal."""
    x = np.random.default_rng(0).multivariate_normal(truth, covariance, (trials, seeds))
    contradicted = 0
    for means, errors in zip(x.mean(1), x.std(1, ddof=1) / np.sqrt(seeds), strict=True):
        effects = [Effect(mean, error, seeds - 1, seeds) for mean, error in zip(means, errors, strict=True)]
        said = [verdict(kind, effect, band, len(kinds)) for kind, effect in zip(kinds, effects, strict=True)]
        contradicted += "not reproduced" in said
    return contradicted / trials


@pytest.fixture
def observed():
    """Covariance over seeds of ensembles' accuracies in points: plain, s = 1, 10, 100, cosine (laptop, committed)."""
    scores = pd.read_csv(ROOT / "figures" / "reference" / "laptop" / "7_ensembles_scores.csv")
    wide = 100 * scores.pivot(index="seed", columns="label", values="accuracy_ensemble")
    return np.cov(wide[["constant", "s = 1", "s = 10", "s = 100", "cosine"]].T.to_numpy()) + 1e-6 * np.eye(5)


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("band", [0.01, 0.3])
def test_a_true_claim_is_contradicted_by_chance_in_2_5_percent_or_less(observed, seeds, band):
    """Under equality ("same", "not more"), and where cosine is just as much better as counts ("more" than each)."""
    to_plain = np.array([[-1, 1, 0, 0, 0], [-1, 0, 1, 0, 0], [-1, 0, 0, 1, 0]])
    of_cosine = np.array([[-1, 0, 0, 0, 1], [0, -1, 0, 0, 1], [0, 0, -1, 0, 1], [0, 0, 0, -1, 1]])
    equal = to_plain @ observed @ to_plain.T
    noise = 3 * np.sqrt(0.025 * 0.975 / 2000)
    for kind in ("same", "not more"):
        assert false_contradictions([kind] * 3, np.zeros(3), equal, band, seeds) <= 0.025 + noise
    # The best of several is not chosen on the data: cosine is compared with each of them.
    better = of_cosine @ observed @ of_cosine.T
    assert false_contradictions(["more"] * 4, np.full(4, band), better, band, seeds) <= 0.025 + noise


def rows(*statements):
    return pd.DataFrame(
        [{"claim": "C0", "network": "mlp", "premise": p, "verdict": v, "n": n} for p, v, n in statements]
    )


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([(False, "reproduced", 5), (False, "reproduced", 3)], "reproduced"),
        ([(False, "reproduced", 5), (False, "not reproduced", 5)], "not reproduced"),
        ([(False, "reproduced", 5), (False, "undecided", 5)], "undecided"),
        ([(False, "reproduced", 5), (False, "not settled", 5)], "reproduced"),
        ([(False, "not reproduced", 5), (False, "not settled", 5)], "not reproduced"),
        ([(False, "not settled", 5)], "not settled"),
        ([(True, "reproduced", 5), (False, "reproduced", 5)], "reproduced"),
        ([(True, "undecided", 5), (False, "not reproduced", 5)], "undecided"),
        ([(True, "not reproduced", 5), (False, "not reproduced", 5)], "not testable"),
        ([(True, "reproduced", 5), (False, "not testable", 5)], "not testable"),
    ],
)
def test_a_claim_is_all_of_its_statements_that_can_be_tested(statements, expected):
    (row,) = summary(rows(*statements)).to_dict("records")
    assert row["verdict"] == expected
    assert row["n"] == min(n for *_, n in statements)
    assert (row["statements"], row["reproduced"]) == (len(statements), sum(v == "reproduced" for _, v, _ in statements))


settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
