import numpy as np
import pandas as pd
import pytest
from conftest import TINY, trained

from thesislib.analysis import comparisons, ensembles, predictions, scores
from thesislib.analysis.intervals import holm, over_seeds_and_images
from thesislib.experiments.thesis import independent
from thesislib.plots.tables import readable
from thesislib.runs import launch
from thesislib.runs.results import Results, Row
from thesislib.system.errors import UserError

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(200, 10)) * 3, RNG.integers(0, 10, 200)
#: Of which nothing is known but a table of scores.
NONE = Results([])


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
    found = ensembles.score(logits, past.arrays("final", "labels")["labels"])
    assert found["accuracy_last"] == pytest.approx(past.summary["accuracy"])
    assert found["nll_last"] == pytest.approx(past.summary["nll"], rel=1e-5)
    assert found["nll_ensemble"] <= found["nll_mean"], "Jensen: averaging probabilities never hurts the mean NLL"


def test_growth_ends_in_the_whole_ensemble(tiny):
    results = trained({"a": [tiny]})
    growth = ensembles.by_count(results)
    assert list(growth["members"]) == [1, 2, 3]
    assert growth["accuracy"].iloc[-1] == ensembles.table(results)["accuracy_ensemble"].iloc[0]


def test_scores_of_identical_members_are_the_members():
    found = ensembles.score(np.stack([LOGITS] * 3), LABELS)
    for name in ensembles.SCORES:
        assert found[f"{name}_ensemble"] == pytest.approx(found[f"{name}_last"]) == found[f"{name}_mean"]
    assert (found["members"], found["agreement"], found["disagreement"]) == (3, 1, 0)
    assert found["nll_ensemble_scaled"] < found["nll_ensemble"], "logits without meaning are overconfident"


def test_independent_runs_are_members_of_one_ensemble(tiny):
    short = tiny.replace(epochs=1, minima_every=None)
    results = trained(independent("independent", [short, short.replace(seed=1)], 3))
    table = ensembles.table(results)
    assert list(table["members"]) == [3, 3]
    assert list(table["seed"]) == [0, 1]
    for rows in results.ensembles:
        assert [row.member for row in rows] == [1, 2, 3]
        finals = [row.result.arrays("final", "logits")["logits"] for row in rows]
        assert np.array_equal(ensembles.members([row.result for row in rows]), np.stack(finals))


def test_the_end_is_a_member(tiny):
    """Minima after 2 and 4 of 5 epochs: the end is a third network."""
    results = trained({"a": [tiny.replace(epochs=5)]})
    assert ensembles.table(results)["members"].item() == 3


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


def test_one_network_has_no_diversity_to_show(tiny):
    """SWA is one network: its cells are empty, not nan."""
    table = ensembles.table(trained({"a": [tiny], "one": [tiny.replace(minima_every=None)]}))
    shown = readable(table.assign(equivalent=1.0), "7_ensembles_scores")
    assert shown["all agree"].iloc[0] != ""
    assert shown["all agree"].iloc[1] == ""


def test_comparisons_are_paired_by_seed():
    table = pd.DataFrame(
        [
            {
                "label": label,
                "network": "mlp",
                "seed": seed,
                "accuracy_ensemble": 0.9 + 0.01 * seed + gain,
                "nll_ensemble": 1 - gain,
                "accuracy_mean": 0.9,
                "images": 1000,
            }
            for label, gain in (("plain", 0.0), ("better", 0.02), ("same", 0.0))
            for seed in range(5)
        ]
    )
    table.loc[table["label"] == "same", "accuracy_ensemble"] += [0.001, -0.001, 0.001, -0.001, 0.0]
    for column in ("accuracy_ensemble", "nll_ensemble"):
        rows = comparisons.against(NONE, table, "plain", [column]).set_index("label")
        assert rows.loc["better", "verdict"] == "wins"
        assert rows.loc["same", "verdict"] == "equivalent"
        assert rows.loc["better", "n"] == 5
        against = comparisons.against(NONE, table, "better", [column]).set_index("label")
        assert against.loc["plain", "verdict"] == "loses"


def test_what_cannot_be_paired_is_one_line():
    rows = {"label": ["plain", "a", "a"], "network": "mlp", "seed": [0, 0, 0], "nll_ensemble": [1.0, 2.0, 3.0]}
    table = pd.DataFrame(rows).assign(images=100)
    with pytest.raises(UserError, match="'a' has two rows of seed 0"):
        comparisons.against(NONE, table, "plain", ["nll_ensemble"])
    with pytest.raises(UserError, match="no column nll: choose from label"):
        comparisons.against(NONE, table, "plain", ["nll"])
    other = table.assign(network=["mlp", "mlp", "cnn"])
    with pytest.raises(UserError, match="no ensemble 'plain': choose from a, of cnn"):
        comparisons.against(NONE, other, "plain", ["nll_ensemble"])


def test_two_seeds_carry_no_verdict():
    """However well they agree; and images are whole: agreement to the image is not certainty."""
    rows = [
        {"label": label, "network": "mlp", "seed": seed, "accuracy_ensemble": 0.9 + gain, "images": 1000}
        for label, gain in (("plain", 0.0), ("better", 0.0005))
        for seed in range(2)
    ]
    table = pd.DataFrame(rows).assign(accuracy_mean=0.9)
    (row,) = comparisons.against(NONE, table, "plain", ["accuracy_ensemble"]).to_dict("records")
    assert (row["verdict"], row["n"]) == ("undecided", 2)
    more = pd.concat([table, table.assign(seed=table["seed"] + 2)])
    (row,) = comparisons.against(NONE, more, "plain", ["accuracy_ensemble"]).to_dict("records")
    assert row["low"] < row["difference"] < row["high"]


def test_comparisons_are_over_images_too_and_corrected_for_their_number():
    """Of real runs: the effect is that of the scores, its error that of every image's, p Holm's over the table."""
    settings = {"plain": 0.0, "s = 10": 10.0, "s = 1000": 1000.0}
    runs = {name: [TINY.replace(strength=s, seed=k) for k in range(3)] for name, s in settings.items()}
    results = trained(runs)
    table = comparisons.against(results, ensembles.table(results), "plain").set_index(["score", "label"])
    assert set(table["images"]) == {250} and len(table) == 4
    effects = {}
    for column, what in (("accuracy_ensemble", "hits"), ("nll_ensemble_scaled", "nll_scaled")):
        of_plain = predictions.of_ensembles(results.only("plain"), what)
        for label in ("s = 10", "s = 1000"):
            difference = predictions.of_ensembles(results.only(label), what).astype(float) - of_plain
            effects[column, label] = over_seeds_and_images(difference)
    for (key, effect), p in zip(effects.items(), holm(np.array([e.p for e in effects.values()])), strict=True):
        row = table.loc[key]
        assert (row["difference"], row["p"]) == pytest.approx((effect.mean, p))
        assert (row["low"], row["high"]) == pytest.approx(effect.interval())
    by_votes = comparisons.against(results, ensembles.table(results, "votes"), "plain", average="votes")
    assert set(by_votes["images"]) == {0}, "what images say is kept for mean probabilities"


@pytest.mark.parametrize("average", ["logits", "votes"])
def test_independent_networks_are_worth_themselves_by_any_average(tiny, average):
    short = tiny.replace(epochs=1, minima_every=None)
    results = trained(independent("independent", [short], 3))
    found = ensembles.equivalents(ensembles.table(results, average), results.only("independent"), average)
    best = found["equivalent"].item()
    curve = ensembles._subsets([row.result for row in results], average)["nll_scaled"]
    assert best == pytest.approx(1 + curve.argmin()), "as many as it takes for the lowest NLL"


def test_independent_networks_are_worth_themselves(tiny):
    short = tiny.replace(epochs=1, minima_every=None)
    results = trained([*independent("independent", [short], 3), Row(short, "one")])
    rows = ensembles.equivalents(ensembles.table(results), results.only("independent")).set_index("label")["equivalent"]
    assert rows["independent"] == pytest.approx(3)
    # One of the three, so not far from the mean of the three.
    assert 1 <= rows["one"] < 2


def test_deep_ensemble_equivalent():
    independent = np.array([0.5, 0.4, 0.35, 0.36])
    assert ensembles.equivalent(0.4, independent) == 2
    assert ensembles.equivalent(0.45, independent) == pytest.approx(1.5)
    assert ensembles.equivalent(0.9, independent) == 1
    assert ensembles.equivalent(0.1, independent) == 4


def test_a_single_seed_has_no_deviation_and_says_so_by_leaving_it_out(tiny):
    """Not "± nan", and not "nan ± nan" where a run has no value, in any table of means."""
    few = trained({"no term": [tiny.replace(minima_every=None, strength=0)], "s = 1": [tiny, tiny.replace(seed=1)]})
    shown = few.table("accuracy", "d_0").set_index("label")
    assert shown.loc["no term", "accuracy"] == f"{few[0].result.summary['accuracy']:.4g}"
    assert shown.loc["no term", "d_0"] == ""
    assert " ± " in shown.loc["s = 1", "accuracy"]
    scores = ensembles.table(few.only("s = 1")).assign(equivalent=1.0)
    assert "±" in readable(scores, "7_ensembles_scores").loc[0, "ensemble"]
    (one,) = readable(scores.head(1), "7_ensembles_scores")["ensemble"]
    assert one == f"{scores['accuracy_ensemble'].iloc[0]:.4g}"


def test_snapshots_stand_beside_the_means_of_their_cycles(tiny):
    run = tiny.replace(cycle=2, member_epochs=1)
    results = trained({"s = 1": [run], "no term": [run.replace(strength=0), run.replace(strength=0, seed=1)]})
    both = ensembles.live_and_mean(results, last=2)
    assert list(both["label"]) == ["s = 1", "s = 1, mean", *["no term"] * 2, *["no term, mean"] * 2]
    assert list(both["members"]) == [2] * 6
    for which, label in (("live", "s = 1"), ("mean", "s = 1, mean")):
        logits = ensembles.members([results[0].result], 2, which=which)
        found = ensembles.score(logits, ensembles.labels_of(results[0].result))
        row = both[both["label"] == label].iloc[0]
        assert row["disagreement"] == found["disagreement"]
        assert row["nll_ensemble_scaled"] == pytest.approx(found["nll_ensemble_scaled"])
    with pytest.raises(UserError, match="has no mean members"):
        ensembles.live_and_mean(trained({"a": [tiny]}))


def test_what_is_no_number_wins_nothing():
    """One label diverged with every seed; a misspelt reference is one line."""
    rows = [
        {"label": label, "network": "mlp", "seed": seed, "images": 1000, "accuracy_mean": 0.9,
         "accuracy_ensemble": accuracy + seed / 1000, "nll_ensemble_scaled": 0.3}
        for label, accuracy in (("plain", 0.9), ("dead", np.nan), ("good", 0.95)) for seed in range(4)
    ]  # fmt: skip
    found = comparisons.against(NONE, pd.DataFrame(rows), "plain", ["accuracy_ensemble"]).set_index("label")
    assert found.loc["dead", "verdict"] == "undecided"
    assert found.loc["good", "verdict"] == "wins"
    with pytest.raises(UserError, match="no ensemble 'plan': choose from plain, dead, good"):
        comparisons.against(NONE, pd.DataFrame(rows), "plan")


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_ensemble_with_a_dead_member_has_no_scores(tiny):
    """Not an accuracy of a tenth, which is what class 0 gets for logits that are no numbers."""
    alive, dead = (tiny.replace(minima_every=None, lr=lr) for lr in (tiny.lr, 1e6))
    rows = [Row(run, label, member=k, ensemble_seed=0) for label, runs in (("good", (alive, alive.replace(seed=1))),
            ("half dead", (alive, dead))) for k, run in enumerate(runs, 1)]  # fmt: skip
    found = ensembles.table(trained(rows)).set_index("label")
    assert found.loc["good"].drop("network").notna().all()
    scored = found.columns.difference(["network", "seed", "images", "members"])
    assert found.loc["half dead", scored].isna().all()
    growing = ensembles.by_count(trained(rows)).set_index(["label", "members"])
    assert growing.loc[("half dead", 1)].equals(growing.loc[("good", 1)])
    assert growing.loc[("half dead", 2), ["accuracy", "nll"]].isna().all()
    each = ensembles.each(trained(rows)).set_index(["label", "member"])
    assert each.loc[("half dead", 2), "accuracy":].isna().all()
    assert each.loc[("half dead", 1), "accuracy":].notna().all()


def test_an_ensemble_that_died_with_every_seed_is_undecided(tiny):
    """Also where images are known: none is left to compare."""
    results = trained({"plain": [tiny], "dead": [tiny.replace(lr=1e6)]})
    table = ensembles.table(results.only("plain"))
    table = pd.concat([table, table.assign(label="dead", nll_ensemble_scaled=np.nan)], ignore_index=True)
    (row,) = comparisons.against(results, table, "plain", ["nll_ensemble_scaled"]).to_dict("records")
    assert (row["verdict"], row["n"]) == ("undecided", 0)


def test_holm_is_over_all_networks():
    """A scale with two networks makes twice as many comparisons."""
    rng = np.random.default_rng(3)
    rows = [
        {"label": label, "network": network, "seed": seed, "images": 1000, "accuracy_mean": 0.9,
         "nll_ensemble_scaled": 0.3 + shift + rng.normal() / 100}
        for network in ("one", "two") for label, shift in (("plain", 0), ("good", -0.02)) for seed in range(5)
    ]  # fmt: skip
    both = comparisons.against(NONE, pd.DataFrame(rows), "plain", ["nll_ensemble_scaled"])
    each = [
        comparisons.against(NONE, pd.DataFrame(rows).query("network == @name"), "plain", ["nll_ensemble_scaled"])
        for name in ("one", "two")
    ]
    assert list(both["p"]) == pytest.approx(holm(np.array([one["p"].item() for one in each])))


def compared(**accuracies):
    """Accuracies of labels by seed against "plain", on so many images that rounding is nothing."""
    rows = [
        {"label": label, "network": "mlp", "seed": seed, "images": 10**9, "accuracy_mean": 0.9,
         "accuracy_ensemble": accuracy}
        for label, some in accuracies.items() for seed, accuracy in enumerate(some)
    ]  # fmt: skip
    return comparisons.against(NONE, pd.DataFrame(rows), "plain", ["accuracy_ensemble"]).set_index("label")


def test_the_margin_is_a_tenth_of_the_references_errors_and_a_point_at_most():
    """And two percent of its NLL. Of nobody else's: a bad opponent makes it no wider."""
    rows = pd.DataFrame(
        {"label": label, "network": "mlp", "seed": seed, "images": 10**9, "accuracy_mean": mean,
         "accuracy_ensemble": 0.9, "nll_ensemble": nll}
        for label, mean, nll in (("plain", 0.5, 0.4), ("good", 0.95, 0.2)) for seed in range(3)
    )  # fmt: skip
    for reference, accuracy, nll in (("plain", 0.01, 0.008), ("good", 0.005, 0.004)):
        found = comparisons.against(NONE, rows, reference, ["accuracy_ensemble", "nll_ensemble"])
        assert list(found["margin"]) == pytest.approx([accuracy, nll])


def test_a_difference_is_sure_only_beside_all_others():
    """p of 0.03 alone, of 0.06 as one of two: Student's t with two degrees of freedom is 5.6 there."""
    plain, step = np.array([0.90, 0.91, 0.92]), np.sqrt(3) / 5.6428 * 0.05
    one = plain + 0.05 + step * np.array([-1, 0, 1])
    alone, beside = compared(plain=plain, one=one), compared(plain=plain, one=one, other=plain + 0.05)
    assert (alone.loc["one", "p"], alone.loc["one", "verdict"]) == (pytest.approx(0.03, rel=1e-3), "wins")
    two = compared(plain=plain, one=one, two=one[::-1] + plain - plain[::-1])
    assert list(two["p"]) == pytest.approx([0.06, 0.06], rel=1e-3)
    assert set(two["verdict"]) == {"undecided"}
    assert set(beside["verdict"]) == {"wins"}


def test_what_is_surely_different_by_next_to_nothing_is_equivalent():
    found = compared(plain=[0.90, 0.91, 0.92], same=[0.901, 0.911001, 0.921])
    assert found.loc["same", "p"] < 0.001
    assert found.loc["same", "verdict"] == "equivalent"


def test_images_are_paired_by_seed_in_whatever_order_runs_come():
    runs = {
        name: [TINY.replace(strength=s, seed=k) for k in range(3)] for name, s in (("plain", 0.0), ("s = 1000", 1e3))
    }
    results = trained(runs)
    turned = results.of([*results.only("plain"), *reversed(results.only("s = 1000"))])
    one, other = (comparisons.against(some, ensembles.table(some), "plain") for some in (results, turned))
    pd.testing.assert_frame_equal(one, other)


def test_a_dead_member_leaves_no_scores_wherever_it_stands():
    """Also where the last member, which some scores are of alone, is alive."""
    alive = scores.log_softmax(LOGITS)
    for place in range(3):
        logits = np.stack([alive] * 3)
        logits[place] = np.nan
        with np.errstate(invalid="ignore"):
            rows = [ensembles.score(some, LABELS) for some in (logits, logits[1:])]
        found = ensembles.living(pd.DataFrame(rows))
        scored = [column for column in found if column.startswith((*ensembles.SCORES, *ensembles.DIVERSITY))]
        assert found.loc[0, scored].isna().all()
        assert found.loc[1, scored].notna().all() == (place == 0)


def test_scores_of_other_ensembles_are_refused(tiny):
    """Rows of another role would be paired as further seeds; scores of other members, with the images of these."""
    runs = [tiny.replace(seed=k, strength=s) for s in (0, 5) for k in range(3)]
    rows = [Row(run, "s = 5" if run.strength else "plain") for run in runs]
    results = trained(rows)
    table = ensembles.table(results)
    comparisons.against(results, table, "plain")
    several = trained([*rows, *(Row(row.run.replace(lr=0.01), row.label, "slow") for row in rows)])
    for scores_of, of, last in ((table, several, None), (table, results, 2)):
        with pytest.raises(UserError, match="accuracy_ensemble of 's = 5' is not that of these results"):
            comparisons.against(of, scores_of, "plain", last=last)
    with pytest.raises(
        UserError, match="which agreement is the better one is not known: choose columns that begin with"
    ):
        comparisons.against(results, table, "plain", ["agreement"])


def test_what_members_and_equivalents_cannot_be_of_is_one_line(tiny):
    results = trained([Row(tiny, "a")])
    for last in (-1, 0, True, 1.5):
        with pytest.raises(UserError, match=f"last says how many members there are, 1 or more, not {last}"):
            ensembles.members([results[0].result], last)
    with pytest.raises(UserError, match="there are no runs to read"):
        predictions.hits(NONE)
    table = ensembles.table(results).assign(seed=3)
    with pytest.raises(UserError, match="there are no independent networks, mlp-tiny, of seed 3"):
        ensembles.equivalents(table, results)


def test_numbers_of_images_that_half_precision_does_not_have_stay():
    assert predictions._short(np.array([1.0, 6e4])).dtype == np.float16
    huge = np.array([0.5, 1e5])
    assert predictions._short(huge) == pytest.approx(huge)


def test_next_to_nothing_is_the_same_in_half_precision():
    """An easy dataset has losses below its normal numbers."""
    tiny_losses = np.array([4e-9, 2e-6])
    comparisons._check_same("a", "nll_ensemble", tiny_losses.astype(np.float16).astype(float), tiny_losses)
    with pytest.raises(UserError, match="is not that of these results"):
        comparisons._check_same("a", "nll_ensemble", tiny_losses + 1e-6, tiny_losses)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_ensemble_that_divergence_cut_short_has_no_scores(tiny):
    """Neither by images nor by the table; the seed that lived has the same by both."""
    died = tiny.replace(lr=1e6, seed=1, minima_every=1, minimum_at_start=True)
    results = trained({"plain": [tiny.replace(minima_every=1, minimum_at_start=True), died]})
    alive, dead = ensembles.table(results).to_dict("records")
    assert results[1].result.diverged
    assert np.isnan([dead["accuracy_ensemble"], dead["agreement"], dead["nll_ensemble"]]).all()
    for what, column in (("hits", "accuracy_ensemble"), ("agree", "agreement"), ("nll", "nll_ensemble")):
        of_images = predictions.of_ensembles(results, what)
        assert of_images[0].mean() == pytest.approx(alive[column], rel=1e-2)
        assert np.isnan(of_images[1]).all(), what
    assert np.isnan(predictions.of_ensembles(results, "brier_scaled")[1]).all()
