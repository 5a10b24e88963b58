"""Section 10: chosen on images that were held back, tested on seeds and images that nothing was chosen by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from thesislib import datasets
from thesislib.analysis import barriers, better, ensembles, evaluator, rates, scores, shift
from thesislib.config import Run
from thesislib.experiments import scales, sections
from thesislib.experiments.scales import SCALES
from thesislib.plots.tables import readable
from thesislib.runs import launch
from thesislib.runs.growth import growth
from thesislib.runs.results import Results, Row
from thesislib.system.errors import UserError

REFERENCE = Path(__file__).parents[1] / "figures" / "reference"


def scored(**nll):
    """A table of one network with a row for each label and seed."""
    names = {"none": "no term", "ten": "s = 10", "one": "s = 1"}
    rows = [
        {"label": names[key], "network": "mlp", "seed": seed, rates.SCORE: value}
        for key, values in nll.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_hill_with_the_lowest_mean_is_chosen():
    """Never a run without one; what diverged once is out."""
    assert better.chosen(scored(none=[0.1, 0.1], one=[0.2, 0.6], ten=[0.3, 0.4])) == "s = 10"
    assert better.chosen(scored(one=[0.9, 0.9], ten=[0.1, float("nan")])) == "s = 1"
    with pytest.raises(UserError, match="every variant with a hill diverged"):
        better.chosen(scored(none=[0.1, 0.1], ten=[float("nan"), 0.1]))


@pytest.mark.parametrize("scale", SCALES)
def test_what_was_chosen_is_what_is_tested(scale):
    path = REFERENCE / scale / "10-1_variants_scores.csv"
    if path.is_file():
        table = pd.read_csv(path)
        assert better.chosen(table) == SCALES[scale].better
        tried = {row.label for row in sections.rows("10-1_variants", scale)}
        assert set(table["label"]) == tried
    (label,) = {row.label for row in sections.rows("10_better_ensembles", scale) if row.run.strength}
    assert label == SCALES[scale].better


@pytest.mark.parametrize("scale", SCALES)
def test_the_test_images_have_no_part_in_the_choice(scale):
    for row in sections.rows("10-1_variants", scale):
        whole = SCALES[scale].networks[0].get("train_size") or datasets.facts(row.run.data).train
        assert row.run.validation
        assert 4 * row.run.train_size == 3 * whole


@pytest.mark.parametrize("scale", SCALES)
def test_it_is_tested_on_fresh_seeds(scale):
    """Which nothing is chosen by: also with ten of them, and members of an ensemble of independent networks."""
    others = [name for name in sections.SECTIONS if name not in ("10_better_ensembles", "10-2_ten_members")]
    ten = sections.rows("10_better_ensembles", scale, seeds=10)
    assert {row.seed for row in ten} == set(range(scales.FRESH, scales.FRESH + 10))
    seen = {row.run.seed for name in others for row in sections.rows(name, scale, seeds=10)}
    assert not seen & {row.run.seed for row in ten}


@pytest.mark.parametrize("scale", SCALES)
def test_a_rate_is_chosen_by_other_seeds_and_images_than_it_is_tested_on(scale):
    """Seeds that no other section has, however many it takes."""
    size, rows = SCALES[scale], sections.rows("10-3_rates", scale, seeds=10)
    others = {
        row.run.seed for name in sections.SECTIONS if name != "10-3_rates"
        for row in sections.rows(name, scale, seeds=10)
    }  # fmt: skip
    tried, tested = ([row for row in rows if row.run.validation == held_back] for held_back in (True, False))
    assert {row.seed for row in tried} == set(range(5))
    assert {row.seed for row in tested} == set(range(20, 30))
    assert not others & {row.seed for row in tested}
    for some, count in ((tried, len(size.tried_factors)), (tested, 1)):
        assert {row.label for row in some} == {"plain means", size.better}
        for row in some:
            same = [r.run.lr for r in some if (r.label, r.seed, r.network) == (row.label, row.seed, row.network)]
            assert len(set(same)) == len(same) == count
    variants = {row.run for row in sections.rows("10-1_variants", scale, seeds=5)}
    own = {run.model: run.lr for run in size.runs()}
    assert {row.run for row in tried if row.run.lr == own[row.network]} <= variants, "nothing is trained twice"


def test_each_is_tested_at_the_rate_that_was_chosen_for_it(monkeypatch):
    for label, factor in {"plain means": 4.0, "s = 10": 0.5}.items():
        monkeypatch.setitem(SCALES["smoke"].better_rates, label, factor)
    tested = [row for row in sections.rows("10-3_rates", "smoke") if not row.run.validation]
    assert {row.label: row.run.lr for row in tested} == {"plain means": 0.4, "s = 10": 0.05}


@pytest.mark.parametrize("scale", SCALES)
def test_all_have_the_budget_of_five_cycles(scale):
    size, budgets = SCALES[scale], {}
    for row in sections.rows("10_better_ensembles", scale, seeds=1):
        key = row.label, row.role
        budgets[key] = budgets.get(key, 0) + row.run.epochs / size.cycle / len(size.networks)
    assert set(budgets.values()) == {5}
    assert {role for _, role in budgets} == {"mean", "live"} | ({"last mean"} if scale == "cifar" else set())


@pytest.mark.parametrize("scale", SCALES)
def test_ten_members_are_the_five_and_five_more(scale):
    """Of the same settings and seeds, each with twice the budget."""
    size, five = SCALES[scale], sections.rows("10_better_ensembles", scale)
    found = {
        (row.label, row.seed, row.member, row.network): row.run for row in sections.rows("10-2_ten_members", scale)
    }
    for label in (size.better, "plain means", "plain snapshots"):
        for row in (row for row in five if row.label == label):
            assert found[label, row.seed, None, row.network].replace(epochs=row.run.epochs) == row.run
    for row in (row for row in five if row.label == "independent"):
        assert found["independent", row.seed, row.member, row.network] == row.run
    assert len({label for label, *_ in found} - {size.better}) == 6 + (
        size.better not in ("s = 1", "s = 3", "s = 10", "s = 30")
    )
    budget = sum(run.epochs for (label, seed, *_), run in found.items() if (label, seed) == ("independent", 10))
    assert budget == 10 * size.cycle * len(size.networks)


def test_an_opponent_is_there_at_the_rate_that_was_chosen_for_it_too(monkeypatch):
    for label, factor in {"SWA": 4.0, "constant": 2.0, "cosine": 0.5, "one cosine": 1.0}.items():
        monkeypatch.setitem(SCALES["smoke"].opponent_rates, label, factor)
    found = {row.label: row.run.lr for row in sections.rows("10_better_ensembles", "smoke")}
    assert found.pop("plain means, twice the rate") == 0.2
    chosen = {label: lr for label, lr in found.items() if lr != 0.1}
    assert chosen == {
        "SWA, rate chosen": 0.4, "MultiSWA, rate chosen": 0.4, "plain snapshots, rate chosen": 0.2,
        "cosine snapshots, rate chosen": 0.05,
    }  # fmt: skip
    assert {label.removesuffix(", rate chosen") for label in chosen} < found.keys() - chosen.keys()


@pytest.mark.parametrize(
    ("nll", "accuracy", "says"),
    [
        (["loses", "loses"], ["undecided", "wins"], "holds"),
        (["loses", "undecided"], ["loses", "loses"], "undecided"),
        (["loses", "equivalent"], ["loses", "loses"], "does not hold"),
        (["undecided", "wins"], ["loses", "loses"], "does not hold"),
    ],
)
def test_the_claim_holds_if_every_opponent_loses(nll, accuracy, says):
    rows = [(rates.SCORE, "ab"[k], verdict) for k, verdict in enumerate(nll)]
    rows += [("accuracy_ensemble", "ab"[k], verdict) for k, verdict in enumerate(accuracy)]
    compared = pd.DataFrame(rows, columns=["score", "label", "verdict"])
    assert better.verdict(compared) == better.verdict(compared, {"a", "b"}) == says
    missing = "undecided" if says == "holds" else says
    assert better.verdict(compared, {"a", "b", "c"}) == missing, "c has not been compared"


def test_some_opponents_alone():
    """Where all runs store means, SWA is the last of them: the same run, and one member."""
    rows = sections.rows("10_better_ensembles", "cifar", 1, opponents=["SWA", "plain means"])
    roles = {"s = 1": "mean", "plain means": "mean", "plain snapshots": "live", "SWA": "last mean"}
    assert {row.label: row.role for row in rows} == roles, "plain snapshots are what shifts are measured by"
    runs = {row.label: row.run for row in rows}
    assert runs["SWA"] == runs["plain means"]
    assert better.opponents("cifar") > {"SWA", "plain means", "plain snapshots", "MultiSWA"}
    with pytest.raises(UserError, match="^no opponent is 'swa': choose from plain means, .*, SWA, .*MultiSWA$"):
        sections.rows("10_better_ensembles", "cifar", 1, opponents=["swa"])


def test_the_last_mean_is_a_member_alone(trained, monkeypatch):
    means = trained.only("plain means")
    (result,) = {row.result for row in means}
    monkeypatch.setenv("THESIS_RUNS", str(result.folder.parent))
    last = ensembles.members([result], 5, which="last mean")
    assert np.array_equal(last, ensembles.members([result], 5, which="mean")[-1:])
    rows = Results([replace(row, label="SWA", role="last mean") for row in means], "smoke", "10_better_ensembles")
    table = better.table(rows)
    assert table["members"].tolist() == [1]
    between = better.barriers_between(rows.of([*rows, *trained.only("plain snapshots")]), 100)
    assert between["label"].tolist() == ["plain snapshots"], "one member has no barrier"
    with pytest.raises(UserError, match="^no ensemble has two members"):
        better.barriers_between(rows, 100)
    assert table["accuracy_ensemble"].item() == pytest.approx(
        (last[0].argmax(-1) == ensembles.labels_of(result)).mean()
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A few ensembles of section 10."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THESIS_RUNS", str(tmp_path_factory.mktemp("runs")))
        wanted = ("s = 10", "plain means", "plain snapshots", "MultiSWA")
        rows = [row for row in sections.rows("10_better_ensembles", "smoke") if row.label in wanted]
        runs = launch.results(rows, scale="smoke", section="10_better_ensembles")
        assert all(row.result.summary for row in runs)
        yield runs


def test_members_are_what_the_roles_say(trained):
    found = better.table(trained).set_index("label")
    assert list(found.index) == trained.labels
    for label, which in {
        "s = 10": "mean",
        "plain means": "mean",
        "plain snapshots": "live",
        "MultiSWA": "live",
    }.items():
        expected = ensembles.table(trained.only(label), last=5, which=which).set_index("label")
        pd.testing.assert_frame_equal(found.loc[[label]], expected, check_dtype=False)
    assert found.loc["plain means", rates.SCORE] != found.loc["plain snapshots", rates.SCORE]
    assert found.loc["MultiSWA", "members"] == 2


def test_means_are_compared_as_means(trained):
    """The interval over images is of the members that the scores are of."""
    scores = better.table(trained)
    compared = better.against_hills(trained, scores).set_index(["score", "label"])
    for label in ("plain means", "plain snapshots", "MultiSWA"):
        for score in ("accuracy_ensemble", rates.SCORE, "brier_ensemble_scaled"):
            values = scores.set_index("label")[score]
            difference = values[label] - values["s = 10"]
            assert compared.loc[(score, label), "difference"] == pytest.approx(difference, abs=2e-3)
    assert set(compared["verdict"]) == {"undecided"}, "one seed"


def test_images_as_they_are_have_the_scores_of_the_stored_predictions(trained):
    found = shift.table(trained).set_index(["label", "severity"])
    expected = better.table(trained).set_index("label")["accuracy_ensemble"]
    for label in trained.labels:
        upright, turned = (found.loc[(label, severity)] for severity in (0, 5))
        assert upright["accuracy_ensemble"] == pytest.approx(expected[label])
        assert turned["accuracy_ensemble"] < upright["accuracy_ensemble"] - 0.2, "75 degrees"
        assert turned[rates.SCORE] > upright[rates.SCORE]


def test_gains_are_against_the_same_seed_and_severity():
    rows = [
        {"label": label, "network": "mlp", "seed": seed, "severity": severity,
         "accuracy_ensemble": accuracy + seed / 10,
         rates.SCORE: nll * (1 + severity)}
        for label, accuracy, nll in (("plain snapshots", 0.5, 0.3), ("SWA", 0.52, 0.2))
        for seed in (0, 1) for severity in (0, 1)
    ]  # fmt: skip
    found = better.gains(pd.DataFrame(rows), "severity", "plain snapshots")
    assert set(found["label"]) == {"SWA"}
    assert list(found["accuracy_gain"]) == pytest.approx([2.0] * 4)
    assert list(found["nll_gain"]) == pytest.approx([0.1, 0.2] * 2)


def test_members_are_added_one_by_one(trained):
    """The first is a network alone, the last the whole ensemble."""
    growing, whole = better.by_count(trained), better.table(trained).set_index("label")
    for label, members in (("s = 10", 5), ("plain snapshots", 5), ("MultiSWA", 2)):
        some = growing[growing["label"] == label].set_index("members")
        assert list(some.index) == [*range(1, members + 1)]
        for score in ("accuracy_ensemble", rates.SCORE):
            assert some.loc[members, score] == pytest.approx(whole.loc[label, score])
    (row,) = trained.only("s = 10")
    first = ensembles.combine(ensembles.members([row.result], which="mean")[:2])
    right = (first.argmax(-1) == ensembles.labels_of(row.result)).mean()
    assert growing.set_index(["label", "members"]).loc[("s = 10", 2), "accuracy_ensemble"] == right, "the first two"
    three = better.by_count(trained, members=3).set_index(["label", "members"])
    last = better.table(trained, members=3).set_index("label")
    assert three.loc[("s = 10", 3), rates.SCORE] == pytest.approx(last.loc["s = 10", rates.SCORE]), "the last three"


def test_each_mean_is_scored_alone(trained):
    """As an ensemble of it alone; live members have no rows."""
    found = better.each_mean(trained).set_index(["label", "member"])
    assert set(found.index.get_level_values("label")) == {row.label for row in trained if row.role == "mean"}
    last, whole = better.table(trained, members=1).set_index("label"), better.table(trained).set_index("label")
    for label in found.index.unique("label"):
        assert list(found.loc[label].index) == [1, 2, 3, 4, 5]
        assert found.loc[(label, 5), "accuracy"] == last.loc[label, "accuracy_ensemble"]
        assert found.loc[(label, 5), "nll"] == pytest.approx(last.loc[label, "nll_ensemble"], rel=1e-5)
        assert found.loc[label, "accuracy"].mean() == pytest.approx(whole.loc[label, "accuracy_mean"])


def test_barriers_are_between_the_members(trained):
    """Of a run with more snapshots between its last ones alone."""
    whole = barriers.lines(trained.only("plain snapshots"), 100, points=3)
    last = barriers.lines(trained.only("plain snapshots"), 100, points=3, last=3)
    assert (whole["pair"].nunique(), last["pair"].nunique()) == (4, 2)
    numbers = ["t", "train_loss", "test_accuracy"]
    expected = whole.loc[whole["pair"] >= 2, numbers].reset_index(drop=True)
    pd.testing.assert_frame_equal(last[numbers].reset_index(drop=True), expected)


def test_each_is_compared_with_plain_means_beside_its_n(trained):
    compared = better.against_plain(trained, members=5).set_index(["score", "label"])
    values = better.table(trained).set_index("label")[rates.SCORE]
    row = compared.loc[(rates.SCORE, "s = 10")]
    assert row["difference"] == pytest.approx(values["s = 10"] - values["plain means"], abs=2e-3)
    (run,) = [row.run for row in trained if row.label == "s = 10"]
    assert row["N"] == pytest.approx(growth(run))
    assert np.isnan(compared.loc[(rates.SCORE, "MultiSWA"), "N"])
    assert ("accuracy_ensemble", "plain means") not in compared.index


def test_what_is_shown_of_both_rates_is_the_scales(monkeypatch):
    monkeypatch.setitem(SCALES["smoke"].opponent_rates, "SWA", 4.0)
    runs = Results(sections.rows("10_better_ensembles", "smoke"), "smoke", "10_better_ensembles")
    shown = better.at_scales_rate(runs).labels
    assert set(runs.labels) - set(shown) == {"plain means, twice the rate", "SWA, rate chosen", "MultiSWA, rate chosen"}


def test_images_are_rotated_before_the_network_sees_them(trained):
    """A quarter turn in six steps: what is turned back is what it was, but for the rounding of pixels."""
    (row,) = trained.only("plain snapshots")
    looking = evaluator.Evaluator(row.run)
    images = looking.test.images
    turned = shift.rotated(images, 6)
    assert torch.equal(turned, torch.rot90(images, 1, (2, 3)))
    theta = row.result.arrays("final", "theta")["theta"]
    found, back = looking.logits_of(theta, [turned, torch.rot90(turned, -1, (2, 3))])
    np.testing.assert_allclose(back, row.result.arrays("final", "logits")["logits"], atol=1e-4)
    assert np.abs(found - row.result.arrays("final", "logits")["logits"]).max() > 1


def test_photographs_are_spoilt_as_they_say():
    """Noise of that deviation, a blur that keeps the mean, contrast around the mean."""
    gray = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    assert list(shift.shifts("cifar10")) == ["noise", "blur", "contrast"]
    assert list(shift.shifts("mnist")) == ["rotation"]
    for severity in shift.SEVERITIES:
        noise = shift.noisy(gray, severity)
        assert noise.dtype == torch.uint8
        assert noise.double().std().item() == pytest.approx(255 * 0.04 * severity, rel=0.05)
        assert torch.equal(noise, shift.noisy(gray, severity)), "always the same"
        assert torch.equal(shift.blurred(gray, severity), gray)
        assert (shift.faded(gray, severity).int() - 128).abs().max() <= 1, "the mean stays, but for rounding"
    point = torch.zeros((1, 3, 33, 33), dtype=torch.uint8)
    point[..., 16, 16] = 255
    spread = [int(shift.blurred(point, severity)[0, 0, 16, 16]) for severity in shift.SEVERITIES]
    assert spread == sorted(spread, reverse=True)
    halves = torch.cat((torch.zeros(1, 3, 32, 16), torch.full((1, 3, 32, 16), 200.0)), -1).to(torch.uint8)
    left, right = (int(shift.faded(halves, 5)[0, 0, 0, k]) for k in (0, -1))
    assert right - left == pytest.approx(20, abs=1), "a tenth"


def test_the_best_ensemble_is_the_first_row():
    """Rows are numbered as they stand."""
    names = ("accuracy_ensemble", "nll_ensemble_scaled", "brier_ensemble_scaled", "accuracy_mean", "disagreement")
    rows = [{"label": label, "network": "mlp", **dict.fromkeys(names, x)} for label, x in (("a", 0.2), ("b", 0.1))]
    found = better.summary(pd.DataFrame(rows))
    assert (list(found["label"]), list(found.index)) == (["b", "a"], [0, 1])


def test_opponents_under_shift_are_compared_seed_by_seed():
    """Student's interval of three differences; Holm over scores, labels and severities; images as they are left out."""
    rows = [
        {"label": label, "network": "mlp", "seed": seed, "severity": severity,
         "accuracy_ensemble": 0.8 + seed / 10 + worse * (seed + 1), "nll_ensemble_scaled": 0.5 - 30 * worse}
        for label, worse in (("s = 3", 0.0), ("SWA", -0.01)) for seed in range(3) for severity in range(3)
    ]  # fmt: skip
    found = shift.against(pd.DataFrame(rows).sample(frac=1, random_state=0), "s = 3")
    assert sorted(zip(found["score"], found["severity"], strict=True)) == [
        (score, severity) for score in ("accuracy_ensemble", "nll_ensemble_scaled") for severity in (1, 2)
    ]
    accuracy = found[found["score"] == "accuracy_ensemble"]
    half = 4.302653 * 0.01 / np.sqrt(3)
    assert accuracy[["difference", "low", "high"]].to_numpy() == pytest.approx(
        np.array([[-0.02, -0.02 - half, -0.02 + half]] * 2), rel=1e-6
    )
    assert accuracy["p"].tolist() == pytest.approx([2 * 0.0741799] * 2, rel=1e-4), "the two others are surer"
    assert set(accuracy["verdict"]) == {"undecided"}
    assert set(found["verdict"][found["score"] == "nll_ensemble_scaled"]) == {"loses"}
    shown = readable(found, "10_shift_compared")
    assert list(shown) == ["setting", "score", "severity 1", "severity 2", "n"]
    assert shown["severity 1"].tolist()[0] == "−2.00 [−4.48, 0.48] undecided"
    assert shown["severity 2"].tolist()[1].endswith("loses")
    assert shown["n"].tolist() == [3, 3]


def test_under_shift_too_a_difference_is_sure_only_beside_all_others():
    """p of 0.03 of each score alone: Student's t with two degrees of freedom is 5.6 there. Holm makes it 0.06."""
    gains = 0.05 + np.sqrt(3) / 5.6428 * 0.05 * np.array([-1, 0, 1])
    rows = [
        {"label": label, "network": "mlp", "seed": seed, "severity": 1, "accuracy_ensemble": 0.8 + share * gain,
         rates.SCORE: 0.5 - share * gain}
        for label, share in (("SWA", 0), ("s = 3", 1)) for seed, gain in enumerate(gains)
    ]  # fmt: skip
    found = shift.against(pd.DataFrame(rows), "SWA")
    assert list(found["p"]) == pytest.approx([0.06, 0.06], rel=1e-3)
    assert set(found["verdict"]) == {"undecided"}


def test_gains_by_members_stand_side_by_side():
    rows = [
        {"label": label, "network": "mlp", "seed": seed, "members": members, "nll_gain": gain * members + seed}
        for label, gain in (("s = 30", 2.0), ("s = 1", 1.0)) for seed in (0, 1) for members in range(1, 11)
    ]  # fmt: skip
    found = better.gains_by_count(pd.DataFrame(rows))
    assert list(found["label"]) == ["s = 30", "s = 1"], "in the order of the figure"
    assert list(found)[2:] == ["1 member", *(f"{k} members" for k in range(2, 11)), "n"]
    assert found.loc[0, "10 members"] == "20.50 ± 0.71"
    assert found["n"].tolist() == [2, 2]


def test_members_are_numbered_within_each_run(tiny):
    run = tiny.replace(cycle=2, member_epochs=1)
    rows = [Row(some, "plain means", "mean") for some in (run, run.replace(seed=1))]
    for row in rows:
        launch.execute(row.run)
    found = better.each_mean(Results(rows, "smoke"))
    assert found[["seed", "member"]].values.tolist() == [[seed, member] for seed in (0, 1) for member in (1, 2, 3)]


def test_of_longer_runs_only_the_last_members_are_compared(tiny):
    """As in the table of scores: also in what each image says."""
    runs = {"s = 10": tiny.replace(strength=10, epochs=14), "plain means": tiny.replace(strength=0, epochs=14)}
    rows = [Row(run.replace(seed=seed, minima_every=2), label) for label, run in runs.items() for seed in (0, 1)]
    for row in rows:
        launch.execute(row.run)
    results = Results(rows, "smoke", "10_better_ensembles")
    for members, compare in (
        (5, lambda: better.against_hills(results, better.table(results))),
        (3, lambda: better.against_plain(results, members=3)),
    ):
        found = compare()
        scores = better.table(results, members=members).groupby("label")
        assert set(scores["members"].min()) == {members}
        (row,) = found[found["score"] == rates.SCORE].to_dict("records")
        mean = scores[rates.SCORE].mean()
        assert row["images"] == 250
        assert row["difference"] == pytest.approx(mean[row["label"]] - mean[row["against"]], abs=1e-3)


def test_a_rate_is_chosen_by_what_was_held_back():
    results = Results(sections.rows("10-3_rates", "smoke"), "smoke", "10-3_rates")
    tried, tested = better.tried_and_tested(results)
    assert {row.run.validation for row in tried} == {True}
    assert {row.run.validation for row in tested} == {False}
    assert len(tried) + len(tested) == len(results)


def test_photographs_are_scored_at_the_temperature_of_those_as_they_are(photographs):
    """At each severity the mean over noise, blur and contrast, each predicted and scored here on its own."""
    run = Run(
        data="cifar10", model="networks:small", batch_size=8, lr=0.1, epochs=2, minima_every=1, minima="multiple",
        strength=0,
    )  # fmt: skip
    result = launch.execute(run)
    found = shift.table(Results({"a": [run]})).set_index("severity")
    looking, thetas = evaluator.Evaluator(run), ensembles.snapshots(result, "theta")
    labels = ensembles.labels_of(result)

    def whole(images):
        return ensembles.combine(np.stack([looking.logits_of(theta, [images])[0] for theta in thetas]))

    plain = whole(looking.test.images)
    t = scores.temperature(plain, labels)
    assert found.loc[0, rates.SCORE] == pytest.approx(scores.nll(scores.log_softmax(plain / t), labels), rel=1e-4)
    for severity in shift.SEVERITIES:
        shifted = [whole(kind(looking.test.images, severity)) for kind in (shift.noisy, shift.blurred, shift.faded)]
        accuracies = [scores.accuracy(x, labels) for x in shifted]
        losses = [scores.nll(scores.log_softmax(x / t), labels) for x in shifted]
        assert found.loc[severity, "accuracy_ensemble"] == pytest.approx(np.mean(accuracies))
        assert found.loc[severity, rates.SCORE] == pytest.approx(np.mean(losses), rel=1e-4)
    assert len(set(found["accuracy_ensemble"])) > 1, "or the order would not show"


def test_a_dead_member_has_no_part_under_shift_and_one_by_one(tiny):
    """The first of two networks died: class 0 everywhere, which is right about a tenth."""
    dead, alive = tiny.replace(minima_every=None, lr=1e6), tiny.replace(minima_every=None)
    rows = [Row(run, "half dead", member=k, ensemble_seed=0) for k, run in enumerate((dead, alive), 1)]
    for row in rows:
        launch.execute(row.run)
    results = Results(rows, "smoke")
    for found in (shift.table(results), better.by_count(results)):
        assert found[["accuracy_ensemble", rates.SCORE]].isna().all(axis=None)


def test_gains_are_of_one_row_each():
    rows = {"label": ["a", "a", "plain"], "network": "mlp", "seed": 0, "members": 1}
    table = pd.DataFrame(rows).assign(accuracy_ensemble=0.5, nll_ensemble_scaled=1.0)
    with pytest.raises(UserError, match="there are several rows of label a, network mlp, seed 0, members 1"):
        better.gains(table, "members", "plain")


def test_under_shift_accuracies_are_no_finer_than_images():
    """Three seeds that are all one image of a thousand apart are no proof."""
    rows = [
        {"label": label, "network": "mlp", "seed": seed, "severity": 1, "images": 1000, "accuracy_ensemble": accuracy,
         rates.SCORE: 0.5}
        for label, accuracy in (("plain", 0.9), ("a", 0.901)) for seed in range(3)
    ]  # fmt: skip
    found = shift.against(pd.DataFrame(rows), "plain").set_index("score").loc["accuracy_ensemble"]
    assert found["low"] < 0 < found["high"]
    assert found["verdict"] == "undecided"
    with pytest.raises(UserError, match="no ensemble 'plane': choose from plain, a, of mlp"):
        shift.against(pd.DataFrame(rows), "plane")


def test_what_is_of_a_scale_is_refused_for_runs_of_ones_own(trained):
    own = Results(list(trained), "own")
    for function in (better.at_scales_rate, rates.tried, lambda some: better.against_hills(some, pd.DataFrame())):
        with pytest.raises(UserError, match="unknown scale 'own': choose from"):
            function(own)
