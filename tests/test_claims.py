from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import trained

from thesislib.analysis import claims, ensembles, predictions
from thesislib.analysis.intervals import Effect, over_seeds, rounding
from thesislib.analysis.verdicts import summary
from thesislib.config import Run
from thesislib.experiments import sections, statements
from thesislib.experiments.scales import SCALES
from thesislib.runs import archive
from thesislib.runs.growth import LEFT
from thesislib.runs.results import Results, Row
from thesislib.system.errors import UserError
from thesislib.system.files import Broken


def timed(label, run, seconds):
    """A row of section 8 whose epochs took so many seconds."""
    row = Row(run, label, section="8_cost")
    epochs = np.arange(1, len(seconds) + 1)
    row.__dict__["result"] = made_up(train_seconds=seconds, epoch=epochs, strength=[run.strength] * len(epochs))
    return row


def test_a_hill_costs_a_share_of_the_epoch_without():
    """Made-up seconds: 2 an epoch without hills, 0.3 more for each, one epoch disturbed."""

    def seconds(strength):
        found = 2 + 0.3 * (np.arange(12) // 2) * (strength > 0)
        found[7] += 5
        return found

    rows = [
        timed(label, Run(strength=s, minima_every=2, minima="multiple"), seconds(s))
        for label, s in (("no term", 0), ("s = 1", 1))
    ]
    cost = claims.cost_per_minimum(Results(rows)).set_index("label")
    assert cost.loc["s = 1", "percent"] == pytest.approx(15)
    assert cost.loc["s = 1", "seconds"] == pytest.approx(0.3)
    assert cost.loc["no term", "percent"] == pytest.approx(0)


def test_an_epoch_has_the_hills_that_were_there_when_it_began():
    """A minimum after the second of four epochs is a hill in the third and the fourth."""
    rows = [timed(str(s), Run(strength=s, minima_every=2, minima="multiple"), [9.0, 2.0, 2.3, 2.3]) for s in (0, 1)]
    assert claims.cost_per_minimum(Results(rows))["seconds"].tolist() == pytest.approx([0.3, 0.3])


@pytest.fixture
def results(chapter, monkeypatch):
    """The smoke chapter's real runs."""
    for name, folder in chapter.environment.items():
        monkeypatch.setenv(name, folder)
    return Results(sections.rows("9_claims", "smoke"), "smoke", "9_claims")


def test_every_claim_is_answered(results):
    """One seed, so nothing may be decided."""
    table = claims.table(results)
    claimed = summary(table)
    assert list(claimed["claim"]) == [f"C{k}" for k in range(1, 15)]
    assert set(claimed["verdict"]) <= {"undecided", "not settled"}
    assert (table["verdict"] == "not settled").equals((table["N"] < LEFT) & table.apply(_settles, axis=1))
    assert set(table["rules"]) == {statements.digest()}


def test_a_claim_is_judged_by_all_of_its_statements_or_not_at_all(results):
    every = claims.table(results).set_index("claim")
    some = Results(sections.rows("9_claims", "smoke", claims=["C1", "C4"]), "smoke", "9_claims")
    found = claims.table(some).set_index("claim")
    assert list(dict.fromkeys(found.index)) == ["C1", "C3", "C4"], "C3 is about the runs of C1"
    pd.testing.assert_frame_equal(found, every.loc[["C1", "C3", "C4"]])
    assert list(claims.sensitivity(some)["claim"]) == ["C1", "C3", "C4"]
    without = [row for row in some if (row.section, row.label) != ("2-2_strength", "s = 10")]
    assert "C4" not in set(claims.table(Results(without, "smoke", "9_claims"))["claim"])


def _settles(row):
    (statement,) = (s for s in statements.statements("smoke") if (s.claim, s.says) == (row["claim"], row["says"]))
    return statement.settles


def test_effects_are_the_differences_of_what_the_runs_say(results):
    """Accuracies by test image have the mean that metrics.csv and the table of ensembles have."""
    table = claims.table(results).set_index("says")
    final = {row.label: row.result.summary["accuracy"] for row in results.where(section="5_warm_restarts")}
    step = table.loc["step decay ends more accurate"]
    assert step["effect"] == pytest.approx(100 * (final["step"] - final["constant"]))
    assert step["images"] == 250
    runs = results.where(section="7_ensembles", role="curve").only("constant", "cosine")
    scores = ensembles.table(runs, last=claims.LAST).set_index("label")
    agree = table.loc["cosine agrees more than plain"]
    assert agree["effect"] == pytest.approx(100 * (scores["agreement"]["cosine"] - scores["agreement"]["constant"]))
    better = table.loc["cosine's is better than plain", "effect"]
    accuracy = scores["accuracy_ensemble"]
    assert better == pytest.approx(100 * (accuracy["cosine"] - accuracy["constant"]))


def test_the_band_is_a_tenth_of_what_is_compared(results):
    chapter = claims.ChapterResults(results)
    (none,) = results.where(section="1_baseline").only("no term")
    assert chapter.band("accuracy") == pytest.approx(min(1, 10 * (1 - none.result.summary["accuracy"])))
    assert chapter.band("distance") == chapter.band("drop") == pytest.approx(np.log(1.1))


def test_what_images_say_outlives_the_weights(results, tmp_path, monkeypatch):
    """Archived runs give the same claims; those archived without it give them over seeds alone."""
    found = claims.table(results)
    runs = [row.run for row in results]
    archive.pack(runs, tmp_path / "runs.zip")
    monkeypatch.setenv("THESIS_RUNS", str(tmp_path / "unpacked"))
    archive.unpack(tmp_path / "runs.zip")
    again = Results(sections.rows("9_claims", "smoke"), "smoke", "9_claims")
    pd.testing.assert_frame_equal(claims.table(again), found)
    for path in (tmp_path / "unpacked").glob("*/derived-hits-*.safetensors"):
        path.unlink()
    for row in again:
        row.__dict__.pop("result", None)
    without = claims.table(again)
    accuracies = without["images"].to_numpy() != found["images"].to_numpy()
    assert accuracies.any() and set(without["images"][accuracies]) == {0}
    assert list(without["effect"]) == pytest.approx(list(found["effect"]), nan_ok=True)


def test_hits_are_those_of_the_logits(finished):
    results = Results([Row(finished.run, "run")], "smoke")
    hits = predictions.hits(results)
    assert hits.shape == (1, 250)
    assert hits.mean() == pytest.approx(finished.summary["accuracy"])
    at_four = predictions.hits(results, 4)
    assert at_four.mean() == pytest.approx(finished.history["accuracy"][3])
    with pytest.raises(KeyError, match="no network is stored after epoch 3, only after"):
        predictions.hits(results, 3)


def test_numbers_of_ensembles_by_image_have_the_means_of_the_scores(finished):
    results = Results([Row(finished.run, "run")], "smoke")
    (score,) = ensembles.table(results).to_dict("records")
    for what, column in (("hits", "accuracy_ensemble"), ("agree", "agreement")):
        assert predictions.of_ensembles(results, what).mean() == pytest.approx(score[column])
    for what in ("nll", "nll_scaled", "brier_scaled"):
        column = what.replace("nll", "nll_ensemble").replace("brier", "brier_ensemble")
        assert predictions.of_ensembles(results, what).mean() == pytest.approx(score[column], rel=1e-3), "float16"


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


def test_what_images_say_is_missed_only_where_weights_are_archived(finished):
    """A file that is broken is no archive: it is said."""
    results = Results({"run": [finished.run]})
    path = finished.folder / "minimum-0.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(Broken):
        predictions.hits(results)


def test_other_rules_give_other_verdicts(monkeypatch):
    """Effects of 0.3 a seed: beside a band of 0.2, inside one of 0.4; a hill of N = 12 counts as left from 10 on."""
    runs = sections.rows("9_claims", "laptop", seeds=3)
    monkeypatch.setattr(claims.ChapterResults, "_effect", lambda *_: over_seeds(np.array([0.29, 0.3, 0.31])))
    monkeypatch.setattr(claims.ChapterResults, "band", lambda *_: 0.2)
    monkeypatch.setattr(claims.ChapterResults, "_dead", lambda *_: False)
    found = claims.sensitivity(Results(runs, "laptop")).set_index("claim")
    assert list(found) == [
        "network", "rules", "bands halved", "bands doubled", "left from N = 10", "left from N = 40"
    ]  # fmt: skip
    assert found["rules"].equals(summary(claims.table(Results(runs, "laptop"))).set_index("claim")["verdict"])
    assert list(claims.sensitivity(Results(sections.rows("9_claims", "laptop", seeds=8), "laptop")))[-1] == (
        "seeds from 5 on alone"
    )
    assert (found.loc["C2", "rules"], found.loc["C2", "bands doubled"]) == ("not reproduced", "not reproduced")
    assert (found.loc["C3", "rules"], found.loc["C3", "bands doubled"]) == ("not reproduced", "reproduced")
    tested = claims.ChapterResults(Results(runs, "laptop")).rows(left=10).set_index("says")
    assert tested.loc["s = 10: after a further minimum d to the first falls", "N"] == pytest.approx(12.4, abs=0.1)
    assert tested.loc["s = 10: after a further minimum d to the first falls", "verdict"] == "not reproduced"


def test_running_statistics_give_verdicts_of_their_own(monkeypatch):
    """Where a run is evaluated with re-estimated ones; of ensembles there are none."""
    runs = Results(sections.rows("9_claims", "cifar", seeds=3), "cifar")
    monkeypatch.setattr(claims.ChapterResults, "_runs", lambda *_: [SimpleNamespace(result=result)] * 3)
    monkeypatch.setattr(claims.ChapterResults, "_effect", lambda chapter, _: over_seeds(
        chapter._values(statements.Side("1_baseline", "term"), chapter._runs(), "accuracy")
    ))  # fmt: skip
    monkeypatch.setattr(claims.ChapterResults, "band", lambda *_: 0.1)
    monkeypatch.setattr(claims.ChapterResults, "_dead", lambda *_: False)
    result = made_up(accuracy=[0.5, 0.5], accuracy_running=[0.5, 0.05])
    found = claims.sensitivity(runs).set_index("claim")
    assert list(found.index) == [f"C{k}" for k in range(1, 15)]
    assert (found.loc["C3", "rules"], found.loc["C3", "running statistics"]) == ("not reproduced", "reproduced")
    assert set(found.loc[["C11", "C12", "C13"], "running statistics"]) == {"–"}
    of_ensembles = claims.sensitivity(Results(sections.rows("9_claims", "cifar", seeds=3, claims=["C13"]), "cifar"))
    assert "running statistics" not in of_ensembles
    assert list(of_ensembles["claim"]) == ["C11", "C12", "C13"], "they are about the same runs"


def made_up(first=2, **columns):
    """A result with one minimum and these columns of metrics.csv."""
    return SimpleNamespace(run=SimpleNamespace(minimum_epochs=[first]), history=pd.DataFrame(columns))


def test_a_drop_is_the_worst_of_a_third_of_a_cycle_after_the_minimum():
    """Errors of 0.1 at the minimum, 0.3 at worst in the three epochs behind it, and worse later."""
    chapter = claims.ChapterResults(Results([], "laptop"))
    errors = np.array([0.9, 0.1, 0.2, 0.3, 0.05, 0.8, 0.8])
    assert chapter._drop(made_up(accuracy=1 - errors)) == pytest.approx(np.log(3))
    assert np.isnan(chapter._drop(made_up(first=7, accuracy=1 - errors))), "nothing comes behind it"


def test_what_a_run_says_at_a_time():
    """At the end, after an epoch, and where it had diverged: then its accuracy stays, its distance is unknown."""
    chapter = claims.ChapterResults(Results([], "laptop"))
    result = made_up(accuracy=[0.1, 0.2, 0.3], d_0=[1.0, 2.0, 3.0])
    assert [chapter._at(result, "d_0", epoch) for epoch in (1, 3, None)] == [1, 3, 3]
    assert np.isnan(chapter._at(result, "d_0", 4))
    assert chapter._at(result, "accuracy", 4) == 0.3
    later = claims.ChapterResults(Results([], "mnist"))
    assert later._epochs(statements.Side("", "", (13 / 20 + 1 / 3, 2))) == [20, 40], "of 20 epochs a cycle"


def test_distances_over_several_times_are_a_mean_of_logarithms():
    chapter = claims.ChapterResults(Results([], "laptop"))
    rows = [SimpleNamespace(result=made_up(d_0=[0.0] * 9 + [2.0] + [0.0] * 9 + [8.0]))]
    side = statements.Side("", "", (1, 2))
    assert chapter._values(side, rows, "distance") == pytest.approx([np.log(4)])
    assert np.isnan(chapter._values(statements.Side("", "", (0.5,)), rows, "distance")), "of 0 there is none"


def test_networks_are_dead_if_both_are_right_about_less_than_twice_what_guessing_is(monkeypatch):
    """Of ten classes: less than 20 %."""
    chapter = claims.ChapterResults(Results(sections.rows("9_claims", "smoke"), "smoke"))
    statement = next(s for s in statements.statements("smoke") if s.quantity == "accuracy")
    for left, right, dead in ((0.19, 0.11, True), (0.19, 0.21, False), (0.9, 0.1, False)):
        found = {statement.left: left, statement.right: right}
        monkeypatch.setattr(chapter, "_mean", lambda side, _, found=found: found[side])
        assert chapter._dead(statement) == dead
        assert not chapter._dead(replace(statement, quantity="distance"))


def test_costs_are_paired_by_seed_too():
    """A run of another seed, which has no partner, is left out; two a hundred times slower are as dear in percent."""
    rows = []
    for s, label, seeds in ((0, "no term", (0, 1)), (1, "s = 1", (1, 0, 2))):
        for seed in seeds:
            hills = np.arange(12) // 2
            seconds = (2 + (0.1 + 0.1 * seed) * hills * s) * 100**seed
            rows.append(timed(label, Run(seed=seed, strength=s, minima_every=2, minima="multiple"), seconds))
    (statement,) = (s for s in statements.statements("laptop") if s.claim == "C14")
    effect = claims.ChapterResults(Results(rows, "laptop")).effect(statement)
    assert (effect.mean, effect.error, effect.n) == pytest.approx((7.5, 2.5, 2)), "5 and 10 percent of 2 seconds"


def test_runs_are_paired_by_their_seeds_in_whatever_order_they_come():
    """Two seeds, whose differences are 1 and 2, one side turned round."""
    rows = [
        Row(Run(seed=seed, strength=s), label, section="1_baseline")
        for s, label, seeds in ((0, "no term", (0, 1)), (1, "term", (1, 0))) for seed in seeds
    ]  # fmt: skip
    for row, d in zip(rows, (1.0, 3.0, np.exp(2) * 3.0, np.exp(1)), strict=True):
        row.__dict__["result"] = made_up(d_0=[d])
    (statement,) = (s for s in statements.statements("laptop") if s.claim == "C1" and s.right == statements.BASELINE
                    and s.left.section == "1_baseline")  # fmt: skip
    effect = claims.ChapterResults(Results(rows, "laptop")).effect(statement)
    assert (effect.mean, effect.error) == pytest.approx((1.5, 0.5))


def test_a_statement_that_cannot_be_tested_takes_no_share_of_what_chance_may_do(monkeypatch):
    """An effect that contradicts at 95 %, and not at 97.5 %: alone in C1, whose other hill is not left, it suffices."""
    monkeypatch.setattr(claims.ChapterResults, "_effect", lambda *_: Effect(-1.0, 0.32, 9, 10))
    monkeypatch.setattr(claims.ChapterResults, "band", lambda *_: 0.2)
    monkeypatch.setattr(claims.ChapterResults, "_dead", lambda *_: False)
    chapter = claims.ChapterResults(Results(sections.rows("9_claims", "laptop", seeds=3), "laptop"))
    found = chapter.rows().groupby("claim")["verdict"].agg(list)
    assert found["C1"] == ["not settled", "not reproduced"]
    assert found["C2"] == ["undecided", "undecided"], "one of two"


def test_without_images_the_steps_of_an_accuracy_are_noise(monkeypatch):
    """Three seeds that differ by the same image of 1,000: their error is that of rounding."""
    monkeypatch.setattr(claims.ChapterResults, "_of_images", lambda *_: None)
    rows = [
        Row(Run(seed=seed, strength=s), label, section="1_baseline")
        for s, label in ((0, "no term"), (1, "term")) for seed in range(3)
    ]  # fmt: skip
    for row in rows:
        row.__dict__["result"] = made_up(accuracy=[0.95 + 0.001 * row.run.strength])
    (statement,) = (s for s in statements.statements("laptop") if s.claim == "C3" and s.left.section == "1_baseline")
    effect = claims.ChapterResults(Results(rows, "laptop")).effect(statement)
    assert (effect.mean, effect.error) == pytest.approx((0.1, 100 * rounding(1000) / np.sqrt(3)))


@pytest.mark.parametrize(
    ("fields", "hills"),
    [
        ({"minima": "multiple"}, [0, 0, 1, 1, 2, 2]),
        ({"minima": "single"}, [0, 0, 1, 1, 1, 1]),
        ({"minima": "merge"}, [0, 0, 1, 1, 1, 1]),
        ({"minima": "multiple", "minimum_at_start": True}, [1, 1, 2, 2, 3, 3]),
    ],
)
def test_hills_are_counted_as_the_run_has_them(fields, hills):
    run = Run(minima_every=2, epochs=6, **fields)
    assert [claims._hills(run, epoch) for epoch in range(1, 7)] == hills


def test_cost_is_relative_to_a_run_without_a_hill():
    """Not to the epochs in which a schedule has none."""
    pulse = Run(minima_every=2, lr_schedule="cosine", cycle=2, strength_schedule="pulse")
    row = timed("pulse", pulse, [2.0] * 4)
    row.result.history.loc[::2, "strength"] = 0
    with pytest.raises(UserError, match="relative to runs with strength 0 of the same seeds: there are none"):
        claims.times(Results([row]))


def test_what_is_of_the_chapter_is_refused_for_other_runs(tiny):
    results = Results(trained([Row(tiny, "a")]), "own")
    with pytest.raises(UserError, match="unknown scale 'own': choose from"):
        claims.table(results)
    with pytest.raises(UserError, match="the published settings are those of section 2-1_width"):
        claims.published_values(Results(list(results), "mnist"))
