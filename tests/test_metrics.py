import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torchmetrics.classification import MulticlassCalibrationError

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


def test_brier_is_sklearns_and_by_hand():
    log_probabilities = metrics.log_softmax(LOGITS)
    expected = brier_score_loss(LABELS, np.exp(log_probabilities), labels=range(10), scale_by_half=False)
    assert metrics.brier(log_probabilities, LABELS) == pytest.approx(expected)
    assert metrics.brier(np.log([[0.8, 0.2]]), np.array([1])) == pytest.approx(0.8**2 + 0.8**2)


def test_ece_is_torchmetrics():
    log_probabilities = metrics.log_softmax(LOGITS)
    theirs = MulticlassCalibrationError(10, n_bins=15, norm="l1")
    expected = theirs(torch.from_numpy(np.exp(log_probabilities)), torch.from_numpy(LABELS)).item()
    assert metrics.ece(log_probabilities, LABELS) == pytest.approx(expected, rel=1e-5)


def test_ece_by_hand():
    """Two images of confidence .8 of which one is right, one of confidence .6 that is right."""
    log_probabilities = np.log([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    assert metrics.ece(log_probabilities, np.array([0, 1, 1])) == pytest.approx((2 * 0.3 + 0.4) / 3)


def test_diversity_by_hand():
    classes = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 1, 3]])
    assert metrics.disagreement(classes) == pytest.approx((1 / 4 + 1 / 4 + 2 / 4) / 3)
    assert metrics.disagreement(classes[:1]) == 0
    sure = np.log(np.array([[[1 - 1e-12, 1e-12]], [[1e-12, 1 - 1e-12]]]))
    assert metrics.mutual_information(sure) == pytest.approx(np.log(2)), "two that are sure of different things"
    assert metrics.mutual_information(np.log(np.full((2, 1, 2), 0.5))) == pytest.approx(0), "two that do not know"


def test_identical_members_have_no_diversity():
    log_probabilities = metrics.log_softmax(np.stack([LOGITS] * 3))
    assert metrics.mutual_information(log_probabilities) == pytest.approx(0, abs=1e-12)
    assert metrics.disagreement(log_probabilities.argmax(-1)) == 0
    assert metrics.agreement(log_probabilities.argmax(-1)) == 1


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_temperature_is_recovered(true):
    """Labels drawn from softmax(z); the network says z T: the T is found again."""
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(20_000, 5))
    labels = (metrics.log_softmax(logits) + rng.gumbel(size=logits.shape)).argmax(1)
    said = metrics.log_softmax(logits * true)
    assert metrics.temperature(said, labels) == pytest.approx(true, rel=0.03)
    assert metrics.scaled(metrics.nll, said, labels) == pytest.approx(
        metrics.nll(metrics.log_softmax(logits), labels), rel=0.01
    )


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
