import numpy as np
import pytest
from conftest import trained

from thesislib.analysis import ensembles, scores
from thesislib.runs import launch
from thesislib.system.errors import UserError

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(200, 10)) * 3, RNG.integers(0, 10, 200)


@pytest.mark.parametrize("average", ["probabilities", "logits", "votes"])
def test_an_ensemble_of_one_is_its_member(average):
    alone = scores.log_softmax(LOGITS)
    for members in (LOGITS[None], np.stack([LOGITS] * 4)):
        whole = ensembles.combine(members, average)
        assert np.array_equal(whole.argmax(1), LOGITS.argmax(1))
        assert np.exp(whole).sum(1) == pytest.approx(1)
        assert average == "votes" or whole == pytest.approx(alone)


def test_votes_by_hand():
    logits = np.log([[[0.9, 0.05, 0.05]], [[0.3, 0.4, 0.3]], [[0.3, 0.4, 0.3]]])
    assert ensembles.combine(logits, "votes").argmax() == 1, "two votes beat one, however sure that one is"
    assert ensembles.combine(logits[:2], "votes").argmax() == 0, "a tie goes to the higher mean probability"


def test_an_unknown_average_is_refused():
    with pytest.raises(UserError, match="probabilities, logits, votes"):
        ensembles.combine(LOGITS[None], "logit")


def test_a_diverged_end_is_no_member(tiny):
    result = launch.execute(tiny.replace(lr=30, minima_every=1, minimum_at_start=True, epochs=40))
    assert result.diverged
    assert np.isfinite(ensembles.snapshots(result)).all()


def test_averages_by_hand():
    logits = np.log([[[0.9, 0.1]], [[0.2, 0.8]]])
    assert np.exp(ensembles.combine(logits)) == pytest.approx(np.array([[0.55, 0.45]]))
    geometric = np.sqrt([0.9 * 0.2, 0.1 * 0.8])
    assert np.exp(ensembles.combine(logits, "logits")) == pytest.approx((geometric / geometric.sum())[None])


def test_members_are_the_minima_and_the_end_once(tiny):
    at_end = launch.execute(tiny)
    assert len(ensembles.snapshots(at_end)) == 3
    past = launch.execute(tiny.replace(epochs=7))
    logits = ensembles.snapshots(past)
    assert len(logits) == 4
    scores = ensembles.scores(logits, past.arrays("final", "labels")["labels"])
    assert scores["accuracy_last"] == pytest.approx(past.summary["accuracy"])
    assert scores["nll_last"] == pytest.approx(past.summary["nll"], rel=1e-5)
    assert scores["nll_ensemble"] <= scores["nll_mean"], "Jensen: averaging probabilities never hurts the mean NLL"


def test_growth_ends_in_the_whole_ensemble(tiny):
    results = trained({"a": [tiny]})
    growth = ensembles.growth(results)
    assert list(growth["members"]) == [1, 2, 3]
    assert growth["accuracy"].iloc[-1] == ensembles.table(results)["accuracy_ensemble"].iloc[0]


def test_scores_of_identical_members_are_the_members():
    scores = ensembles.scores(np.stack([LOGITS] * 3), LABELS)
    for name in ensembles.SCORES:
        assert scores[f"{name}_ensemble"] == pytest.approx(scores[f"{name}_last"]) == scores[f"{name}_mean"]
    assert (scores["members"], scores["agreement"], scores["disagreement"]) == (3, 1, 0)
    assert scores["nll_ensemble_scaled"] < scores["nll_ensemble"], "logits without meaning are overconfident"


def test_independent_runs_are_members_of_one_ensemble(tiny):
    short = tiny.replace(epochs=1, minima_every=None)
    results = trained({"independent": [short.replace(seed=s + 1000 * m) for s in (0, 1) for m in (0, 1, 2)]})
    table = ensembles.table(results)
    assert list(table["members"]) == [3, 3]
    assert list(table["seed"]) == [0, 1]
    finals = [r.arrays("final", "logits")["logits"] for r in results["independent"][:3]]
    logits = ensembles.members(next(ensembles.grouped(results))[1])
    assert np.array_equal(logits, np.stack(finals))


def test_the_end_is_a_member_or_not(tiny):
    """Minima after 2 and 4 of 5 epochs: the end is a third network."""
    results = trained({"a": [tiny.replace(epochs=5)]})
    assert ensembles.table(results)["members"].item() == 3
    minima = ensembles.table(results, live=False)
    assert minima["members"].item() == 2
    ((result,),) = results.values()
    logits, labels = ensembles.snapshots(result), result.arrays("final", "labels")["labels"]
    assert minima["nll_ensemble"].item() == ensembles.scores(logits[:2], labels)["nll_ensemble"]


def test_every_member_has_its_scores(tiny):
    results = trained({"a": [tiny], "one": [tiny.replace(minima_every=None)]})
    rows = ensembles.each(results)
    whole = ensembles.table(results).set_index("label")
    assert list(rows["member"]) == [1, 2, 3, 1]
    for name in [*ensembles.SCORES, "nll_scaled", "brier_scaled", "ece_scaled"]:
        base, _, scaled = name.partition("_")
        mean = f"{base}_mean{'_scaled' if scaled else ''}"
        assert rows.groupby("label")[name].mean()["a"] == pytest.approx(whole.loc["a", mean])
    assert rows["accuracy"].iloc[2] == whole.loc["a", "accuracy_last"]
    assert whole.loc["one", ["agreement", "disagreement", "mutual_information"]].isna().all()


def test_only_the_last_snapshots(tiny):
    result = launch.execute(tiny)
    logits = ensembles.members([result], last=2)
    assert np.array_equal(logits, ensembles.snapshots(result)[-2:])
