import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from thesislib import ensembles, launch, metrics
from thesislib.config import UserError

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(200, 10)) * 3, RNG.integers(0, 10, 200)


def test_scores_are_sklearns():
    log_probabilities = metrics.log_softmax(LOGITS)
    assert np.exp(log_probabilities).sum(1) == pytest.approx(1)
    assert metrics.accuracy(log_probabilities, LABELS) == accuracy_score(LABELS, LOGITS.argmax(1))
    expected = log_loss(LABELS, np.exp(log_probabilities), labels=range(10))
    assert metrics.nll(log_probabilities, LABELS) == pytest.approx(expected)


def test_huge_logits_stay_finite():
    assert np.isfinite(metrics.nll(metrics.log_softmax(LOGITS.astype(np.float32) * 1e6), LABELS))


def test_agreement_by_hand():
    assert metrics.agreement(np.array([[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 1, 3]])) == 0.5
    assert metrics.agreement(np.array([[0, 1, 2]])) == 1


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_an_ensemble_of_one_is_its_member(average):
    assert ensembles.combine(LOGITS[None], average) == pytest.approx(metrics.log_softmax(LOGITS))
    assert ensembles.combine(np.stack([LOGITS] * 4), average) == pytest.approx(metrics.log_softmax(LOGITS))


def test_an_unknown_average_is_refused():
    with pytest.raises(UserError, match="probabilities, logits"):
        ensembles.combine(LOGITS[None], "logit")


def test_a_diverged_end_is_no_member(tiny):
    result = launch.execute(tiny.but(lr=30, minima_every=1, minimum_at_start=True, epochs=40))
    assert result.diverged
    assert np.isfinite(ensembles.member_logits(result)).all()


def test_averages_by_hand():
    logits = np.log([[[0.9, 0.1]], [[0.2, 0.8]]])
    assert np.exp(ensembles.combine(logits)) == pytest.approx(np.array([[0.55, 0.45]]))
    geometric = np.sqrt([0.9 * 0.2, 0.1 * 0.8])
    assert np.exp(ensembles.combine(logits, "logits")) == pytest.approx((geometric / geometric.sum())[None])


def test_members_are_the_minima_and_the_end_once(tiny):
    at_end = launch.execute(tiny)
    assert len(ensembles.member_logits(at_end)) == 3
    past = launch.execute(tiny.but(epochs=7))
    logits = ensembles.member_logits(past)
    assert len(logits) == 4
    scores = ensembles.scores(past)
    assert scores["accuracy_last"] == pytest.approx(past.summary["accuracy"])
    assert scores["nll_last"] == pytest.approx(past.summary["nll"], rel=1e-5)
    assert scores["nll_ensemble"] <= scores["nll_mean"], "Jensen: averaging probabilities never hurts the mean NLL"


def test_growth_ends_in_the_whole_ensemble(tiny):
    results = launch.results({"a": [tiny]})
    growth = ensembles.growth(results)
    assert list(growth["members"]) == [1, 2, 3]
    assert growth["accuracy"].iloc[-1] == ensembles.table(results)["accuracy_ensemble"].iloc[0]
