import json
from dataclasses import replace

import numpy as np
import pytest

from thesislib import datasets, schedules
from thesislib.experiments import sections, statements
from thesislib.experiments.scales import SCALES
from thesislib.runs.identity import digest
from thesislib.system.errors import UserError
from thesislib.system.files import ROOT

DATA = "0" * 16
REFERENCE = ROOT / "figures" / "reference"


def ids(rows):
    return {digest(row.run, DATA) for row in rows}


def runs_of(rows, label):
    return [row.run for row in rows if row.label == label]


@pytest.mark.parametrize("scale", sections.SCALES)
@pytest.mark.parametrize("section", sections.SECTIONS)
def test_every_section_at_every_scale(scale, section):
    size, settings = sections.SCALES[scale], {}
    for row in sections.rows(section, scale):
        settings.setdefault((row.section, row.role, row.label, row.network), []).append(row)
    for (origin, role, label, _), rows in settings.items():
        of_ensembles = origin == "7_ensembles" or role == "between"
        seeds = (of_ensembles and size.ensemble_seeds) or size.seeds
        seeds = size.fresh_seeds() if origin in ("10_better_ensembles", "10-2_ten_members") else seeds
        if origin == "10-3_rates":
            seeds = size.fresh_seeds(20) if role == "mean" else size.seeds[:5]
        counts = {
            "independent": 10 if origin == "10-2_ten_members" else 5,
            "two of half": 2,
            "five full": 5,
            "MultiSWA": 2,
        }
        members = counts.get(label.removesuffix(", rate chosen"), 0)
        assert [(row.seed, row.member) for row in rows] == [
            (seed, m) for seed in seeds for m in (range(1, members + 1) if members else [None])
        ]
        assert len({row.run for row in rows}) == len(rows), "members have seeds of their own"
        assert all(row.run.seed == row.seed for row in rows if row.member in (None, 1))
    assert {network for *_, network in settings} == {fields["model"] for fields in size.networks}


@pytest.mark.parametrize("scale", sections.SCALES)
def test_ensembles_cost_the_same(scale):
    """Five cycles, whatever they are spent on; but the reference line costs as much for each of its networks."""
    cycle, networks, budgets = sections.SCALES[scale].cycle, len(sections.SCALES[scale].networks), {}
    for row in sections.rows("7_ensembles", scale):
        if row.seed == 0:
            key = row.role, row.label
            budgets[key] = budgets.get(key, 0) + row.run.epochs / cycle / networks
    assert budgets.pop(("full", "five full")) == 25
    assert set(budgets.values()) == {5}
    assert {"constant", "cosine", "one cosine", "two of half", "independent"} <= {label for _, label in budgets}


def test_members_of_the_last_cycle():
    rows = sections.rows("7_ensembles", "mnist")
    (fge, *_), (swa, *_) = runs_of(rows, "FGE"), runs_of(rows, "SWA")
    assert fge.minimum_epochs[-5:] == [84, 88, 92, 96, 100]
    assert fge.offset == 80
    assert swa.swa_from == 81


@pytest.mark.parametrize("scale", sections.SCALES)
def test_rates_are_tried_without_the_test_images(scale):
    """On the last quarter of the scale's training images, for every ensemble of section 7, at rates around its own."""
    size = sections.SCALES[scale]
    tried = {}
    for row in sections.rows("7-1_rates", scale):
        tried.setdefault((row.label, row.network), {}).setdefault(row.role, set()).add(row.run.lr)
        whole = datasets.facts(row.run.data).train
        assert row.run.validation
        assert 4 * row.run.train_size == 3 * (size.networks[0].get("train_size") or whole)
        assert datasets.test_images(row.run) >= 100
    rows = sections.rows("7_ensembles", scale)
    assert tried.keys() == {(row.label, row.network) for row in rows if row.role == "curve"}
    for rates in tried.values():
        assert all(len(some) == 1 for some in rates.values())
        factors = sorted(some.pop() / size.networks[0]["lr"] for some in rates.values())
        assert factors == pytest.approx(size.tried_factors)


def test_an_opponent_gets_the_rate_that_was_chosen_for_it(monkeypatch):
    """Beside its run at the scale's rate, unless that is the one; five full networks have that of one."""
    chosen = {"cosine": 2.0, "two of half": 0.5, "constant": 1.0, "one cosine": 4.0}
    before = sections.rows("7_ensembles", "smoke")
    scale = replace(sections.SCALES["smoke"], opponent_rates=chosen)
    monkeypatch.setitem(sections.SCALES, "smoke", scale)
    rows = sections.rows("7_ensembles", "smoke")
    rates = {(row.role, row.label): row.run.lr for row in rows if row.role in ("chosen", "full")}
    assert rates == {
        ("chosen", "cosine, rate chosen"): 0.2, ("chosen", "one cosine, rate chosen"): 0.4,
        ("chosen", "two of half, rate chosen"): 0.05, ("full", "five full"): 0.4,
    }  # fmt: skip
    kept = [row for row in rows if row.role in ("curve", "means")]
    assert kept == [row for row in before if row.role in ("curve", "means")]
    full, single = (runs_of(rows, label) for label in ("five full", "one cosine, rate chosen"))
    assert full[0] == single[0], "one of the five is that network"


@pytest.mark.parametrize("scale", sections.SCALES)
def test_fge_is_there_where_its_rate_can_fall(scale):
    """Five members of the last cycle, each after a short cycle in which the learning rate falls."""
    runs, cycle = runs_of(sections.rows("7_ensembles", scale), "FGE"), sections.SCALES[scale].cycle
    assert bool(runs) == (cycle >= 20)
    for run in runs:
        assert all(epoch > 4 * cycle for epoch in run.minimum_epochs[-5:])
        last = [schedules.learning_rate(run, epoch) for epoch in range(5 * cycle - run.cycle, 5 * cycle)]
        assert last[0] == run.lr
        assert last[-1] < 0.2 * run.lr


def test_runs_of_different_length_measure_the_same_distance():
    """3.2 compares distances to the first minimum: it is of the same epoch everywhere."""
    for scale in sections.SCALES:
        assert len({row.run.minimum_epochs[0] for row in sections.rows("3-2_epochs", scale)}) == 1


def test_what_costs_a_chapter_waits_until_it_is_named():
    assert sections.usual("smoke") == list(sections.SECTIONS)
    for scale in sections.SCALES.keys() - {"smoke"}:
        assert sections.SECTIONS.keys() - sections.usual(scale) == {
            "7-1_rates", "10-1_variants", "10-2_ten_members", "10-3_rates",
        }  # fmt: skip
    with pytest.raises(UserError, match="unknown scale 'huge': choose from smoke"):
        sections.usual("huge")


def test_the_thesis_settings():
    """THESIS.md, results structure: 600 epochs, cycles of 150, one minimum at epoch 100, five members."""

    def first(section, label, scale="thesis"):
        return runs_of(sections.rows(section, scale), label)[0]

    base = first("1_baseline", "term")
    assert (base.epochs, base.minimum_epochs, base.strength, base.width, base.lr) == (600, [100], 1, 1e-3, 1e-2)
    assert (base.batch_size, base.momentum, base.weight_decay, base.augment) == (128, 0.9, 1e-3, True)
    many = first("4-1_multiple_minima", "s = 10")
    assert many.minimum_epochs == [150, 300, 450, 600]
    assert first("7_ensembles", "cosine").minimum_epochs == [150, 300, 450, 600, 750]
    step = first("5_warm_restarts", "step")
    assert (step.cycle, step.lr_step) == (150, 50)
    laptop = first("5_warm_restarts", "step", "laptop")
    assert (laptop.cycle, laptop.lr_step) == (10, 4), "two drops a cycle, as in the thesis"
    assert {row.network for row in sections.rows("1_baseline", "thesis")} == {"mobilenetv2", "resnet32"}


def test_what_the_thesis_prints_is_of_two_cycles_with_a_minimum_between_them():
    printed = [row.run for row in sections.rows("2-1_width", "mnist", seeds=1) if row.role == "published"]
    assert {(run.strength, run.width) for run in printed} == SCALES["mnist"].published.keys()
    assert {(run.epochs, *run.minimum_epochs) for run in printed} == {(40, 20)}


def test_sections_share_runs():
    baseline = ids(row for row in sections.rows("1_baseline", "laptop") if row.label in ("no term", "term"))
    assert baseline <= ids(sections.rows("2-1_width", "laptop"))
    assert baseline <= ids(sections.rows("2-2_strength", "laptop"))
    claimed = sections.rows("9_claims", "laptop")
    rows = {row for s in statements.CLAIMED for row in sections.rows(s, "laptop") if row.role == "curve"}
    assert set(claimed) < rows, "the same rows, under the sections where they stand"
    assert len(ids(claimed)) < len(claimed)
    assert "term, tanh" not in {row.label for row in claimed}, "nothing is said about it"


def test_some_claims_take_the_runs_of_their_statements_alone():
    def settings(*claims):
        return {(row.section, row.label) for row in sections.rows("9_claims", "cifar", 1, claims=list(claims) or None)}

    none, term = ("1_baseline", "no term"), ("1_baseline", "term")
    assert settings("C1") == settings("C3", "C1") == {none, term}
    assert settings("C4") == {none} | {("2-2_strength", label) for label in ("no term", "s = 1", "s = 10", "s = 100")}
    assert settings("C14") == {none, ("8_cost", "no term"), ("8_cost", "s = 1")}
    everything = [f"C{k}" for k in range(1, 15)]
    assert settings() == set().union(*map(settings, everything))
    with pytest.raises(UserError, match="no claim is 'c1': choose from C1, C2, .*, C14"):
        settings("C4", "c1")


def test_seeds_can_be_chosen():
    """So many from 0 on, or a list; ensembles too, whose members keep seeds of their own."""
    chosen = {
        given: sorted({row.seed for row in sections.rows("7_ensembles", "mnist", seeds)})
        for given, seeds in (("default", None), ("two", 2), ("these", [3, 7]))
    }
    assert chosen == {"default": [0, 1, 2, 3, 4], "two": [0, 1], "these": [3, 7]}
    assert ids(sections.rows("1_baseline", "laptop", 3)) == ids(sections.rows("1_baseline", "laptop"))
    assert sections.check("2-1_width", {"seeds": 10, "smoothing": 3}) == {"seeds": 10}
    for wrong in (0, -1, [], [-3], "5", 2.0, True, 901, [1000]):
        with pytest.raises(UserError, match="^seeds: write how many"):
            sections.rows("1_baseline", "laptop", wrong)
    for twice in ([3, 0, 0], (0, 3, 0), np.array([0, 0])):
        with pytest.raises(UserError, match="^seeds: 0 is given twice"):
            sections.rows("1_baseline", "laptop", twice)


def test_rates_are_relative_to_the_networks_own():
    assert SCALES["laptop"].rates == (0.005, 0.05, 0.5, 5.0)
    assert SCALES["mnist"].rates == SCALES["thesis"].rates == (1e-3, 1e-2, 1e-1, 1.0)
    assert SCALES["cifar"].rates == (0.05, 0.5)


def test_parameters():
    assert runs_of(sections.rows("2-1_width", "smoke", widths=[0.5], strength=None), "w = 0.5")
    assert runs_of(sections.rows("0_explore", "smoke", kernel="tanh"), "yours")[0].kernel == "tanh"
    for arguments, words in (
        (("2-1", "smoke"), "unknown section '2-1': choose from"),
        (("1_baseline", "huge"), "unknown scale 'huge': choose from smoke"),
    ):
        with pytest.raises(UserError, match=words):
            sections.rows(*arguments)
    for section in ("1_baseline", "0_explore"):
        with pytest.raises(UserError, match=f"section {section} has no parameter depth"):
            sections.rows(section, "smoke", depth=3)
    with pytest.raises(UserError, match="^kernel: input should be .*, not 'cube'"):
        sections.rows("0_explore", "smoke", kernel="cube")


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("1_baseline", {"width": -1}, "parameter width: input should be greater than 0, not -1"),
        ("1_baseline", {"strength": "1"}, "parameter strength: input should be a valid number, not '1'"),
        ("1_baseline", {"strength": float("nan")}, "parameter strength: input should be"),
        ("2-1_width", {"widths": 0.1}, "parameter widths: input should be a valid list, not 0.1"),
        ("2-1_width", {"widths": [1, True]}, "parameter widths: input should be a valid number, not True"),
        ("2-1_width", {"widths": []}, "parameter widths: list should have at least 1 item"),
        ("8_cost", {"hills": "many"}, "parameter hills: input should be a valid integer, not 'many'"),
        ("8_cost", {"hills": 0}, "parameter hills: input should be greater than or equal to 1, not 0"),
        ("8_cost", {"hills": 2.5}, "parameter hills: input should be a valid integer, not 2.5"),
        ("8_cost", {"hills": True}, "parameter hills: input should be a valid integer, not True"),
        ("0_explore", {"epochs": 10**10}, "parameter epochs: input should be less than or equal to 1000000000"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(section, values, words):
    for asked in (lambda: sections.rows(section, "smoke", **values), lambda: sections.check(section, values)):
        with pytest.raises(UserError) as error:
            asked()
        assert str(error.value).startswith(words)
        assert "\n" not in str(error.value)


def test_a_notebooks_values_are_checked_and_those_that_decide_the_runs_chosen():
    own = {"widths": (0.1, 1), "smoothing": 3, "images": None, "average": "votes", "further": "x"}
    assert sections.check("2-1_width", own) == {"widths": (0.1, 1)}
    assert sections.check("0_explore", {"train_size": 100, "smoothing": 1}) == {"train_size": 100}
    assert sections.parameters("2-1_width") == {"seeds": None, "widths": None, "strength": 1.0}
    for name, value in {"smoothing": 0, "images": True, "average": "mean", "strength": None}.items():
        with pytest.raises(UserError, match=f"parameter {name}: input should be"):
            sections.check("2-1_width", {name: value})


def test_an_experiment_of_ones_own_is_one_function(monkeypatch):
    monkeypatch.setattr(sections, "SECTIONS", dict(sections.SECTIONS))

    @sections.section("own")
    def momentum(scale, momenta: list[float] = [0.0, 0.9]):  # noqa: B006
        for value in momenta:
            yield from sections.labelled(f"momentum = {value}", scale.runs(momentum=value, strength=0))

    rows = sections.rows("own", "smoke", momenta=[0.5])
    assert [(row.section, row.label, row.role, row.run.momentum) for row in rows] == [
        ("own", "momentum = 0.5", "curve", 0.5)
    ]
    with pytest.raises(UserError, match="parameter momenta: input should be a valid list, not 1"):
        sections.rows("own", "smoke", momenta=1)


def test_seed_by_seed_the_most_important_first():
    rows = [row for name in sections.usual("cifar") for row in sections.rows(name, "cifar")]
    runs, seed = sections.in_order(rows), {row.run: row.seed for row in rows}
    within = {row.run for row in rows if row.role != "full"}
    assert len(runs) == len(set(runs)) == len(seed)
    assert [seed[run] for run in runs[: len(within)]] == sorted(seed[run] for run in within)
    assert not within & set(runs[len(within) :]), "what is beyond the budget comes last"
    first = [run for run in runs if seed[run] == 0 and run in within]
    assert first[:2] == [runs_of(rows, "no term")[0], runs_of(rows, "term")[0]]
    assert set(first[-2:]) == {row.run for row in sections.rows("8_cost", "cifar") if row.seed == 0}


def test_every_hill_of_cifar_is_left_within_a_cycle():
    """N = 4 s w lr / (1 - momentum) times the steps of a cycle; the spike is there to have no effect."""
    runs = [row.run for name in sections.usual("cifar") for row in sections.rows(name, "cifar")]
    scale = sections.SCALES["cifar"]
    n = {}
    for run in runs:
        steps = scale.cycle * (run.train_size // run.batch_size)
        n[run.strength, run.width, run.lr] = 4 * run.strength * run.width * run.lr / (1 - run.momentum) * steps
    usual = {key: value for key, value in n.items() if key[0] and key[1] != scale.narrow}
    assert min(usual.values()) >= 20
    assert usual[1.0, 1e-2, 0.05] == pytest.approx(24.96)


def test_cifar_stores_at_once_what_later_analysis_needs():
    for name in sections.SECTIONS:
        for run in (row.run for row in sections.rows(name, "cifar")):
            assert (run.statistics_images, run.step_losses) == (2_000, True)
            assert run.member_epochs == 4 or name == "10-1_variants", "which varies it"
            first = run.minimum_epochs[:1]
            assert first in ([8], [], [2]) or run.distance == "function", "after the first cycle, but in section 8"
    rows = sections.rows("7_ensembles", "cifar")
    assert not {"FGE", "SWA"} & {row.label for row in rows}
    means = [row for row in rows if row.role == "means"]
    assert {row.run for row in means} < {row.run for row in rows if row.role == "curve"}, "they are there anyway"


@pytest.mark.parametrize(
    ("section", "name"),
    [("2-1_width", "widths"), ("2-2_strength", "strengths"), ("2-3_interaction", "widths"),
     ("2-3_interaction", "strengths"), ("3-1_learning_rate", "rates"), ("4-1_multiple_minima", "strengths"),
     ("5_warm_restarts", "widths"), ("7_ensembles", "strengths")],
)  # fmt: skip
def test_settings_that_differ_in_the_seventh_digit_are_two(section, name):
    one, two = (sections.rows(section, "smoke", **{name: [value]}) for value in (0.1234567, 0.1234568))
    both = sections.rows(section, "smoke", **{name: [0.1234567, 0.1234568]})
    assert ids(both) == ids(one) | ids(two) != ids(one)
    assert any("0.1234568" in row.label for row in both)


@pytest.mark.parametrize("fields", [{"minima_every": 99}, {"minima_every": 8}, {"epochs": 1}])
def test_a_hill_that_never_comes_is_refused(fields):
    """The run would be the baseline's over again, under another name."""
    with pytest.raises(UserError, match=r"yours: the first minimum comes after epoch \d+, the run ends after \d"):
        sections.rows("0_explore", "smoke", **fields)
    assert sections.rows("0_explore", "smoke", strength=0, **fields)
    assert sections.rows("0_explore", "smoke", minimum_at_start=True, **fields)


@pytest.mark.parametrize("scale", ["laptop", "mnist", "fashion"])
def test_committed_figures_are_of_the_runs_that_sections_ask_for(scale):
    """Of each setting that a figure's provenance names: else they would show other settings than the code says."""
    asked, of_number = {}, {name.partition("_")[0]: name for name in sections.SECTIONS}
    for path in sorted((REFERENCE / scale).glob("*.json")):
        section, made = of_number[path.stem.partition("_")[0]], json.loads(path.read_text())
        if section == "9_claims":  # whose runs are those of the others
            continue
        if section not in asked:
            asked[section] = {}
            for row in sections.rows(section, scale, seeds=10):
                # Figures at the rates that were chosen show these runs under the labels of the others.
                label = row.label.removesuffix(", rate chosen") if row.role == "chosen" else row.label
                name = label if row.role in ("curve", "chosen") else f"{row.role}: {label}"
                asked[section].setdefault(name, set()).add(digest(row.run, made["data"][row.run.data]))
        for name, found in made["runs"].items():
            assert set(found) <= asked[section][name], (path.stem, name)
    assert asked
