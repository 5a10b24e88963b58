import pytest

from thesislib import schedules
from thesislib.experiments import sections
from thesislib.system.errors import UserError

DATA = "0" * 16


def ids(groups):
    return {run.digest(DATA) for runs in groups.values() for run in runs}


@pytest.mark.parametrize("scale", sections.SCALES)
@pytest.mark.parametrize("section", sections.SECTIONS)
def test_every_section_at_every_scale(scale, section):
    groups, size = sections.groups(section, scale), sections.SCALES[scale]
    for label, runs in groups.items():
        of_ensembles = section == "7_ensembles" or "7_ensembles: " in label or sections.BETWEEN in label
        seeds = (of_ensembles and size.ensemble_seeds) or size.seeds
        count = 5 if label.endswith("independent") else 2 if label.endswith("two of half") else 1
        members = [sections.MEMBER * m for m in range(count)]
        assert [run.seed for run in runs] == [seed + m for seed in seeds for m in members] * len(size.networks)


def test_ensembles_cost_the_same():
    """Five members for five cycles, whoever they are; FGE's and SWA's come from the last one."""
    groups = sections.groups("7_ensembles", "mnist")
    assert {label: sum(run.epochs for run in runs) for label, runs in groups.items()} == dict.fromkeys(groups, 5 * 100)
    assert groups["FGE"][0].minimum_epochs[-5:] == [84, 88, 92, 96, 100]
    assert groups["FGE"][0].offset == 80
    assert groups["SWA"][0].swa_from == 81


@pytest.mark.parametrize("scale", sections.SCALES)
def test_fge_is_there_where_its_rate_can_fall(scale):
    """Five members of the last cycle, each after a short cycle in which the learning rate falls."""
    groups, cycle = sections.groups("7_ensembles", scale), sections.SCALES[scale].cycle
    assert ("FGE" in groups) == (cycle >= 20)
    for run in groups.get("FGE", []):
        assert all(epoch > 4 * cycle for epoch in run.minimum_epochs[-5:])
        last = [schedules.learning_rate(run, epoch) for epoch in range(5 * cycle - run.cycle, 5 * cycle)]
        assert last[0] == run.lr
        assert last[-1] < 0.2 * run.lr


def test_runs_of_different_length_measure_the_same_distance():
    """3.2 compares distances to the first minimum: it is of the same epoch everywhere."""
    for scale in sections.SCALES:
        groups = sections.groups("3-2_epochs", scale)
        assert len({run.minimum_epochs[0] for group in groups.values() for run in group}) == 1


def test_the_thesis_settings():
    """THESIS.md, results structure: 600 epochs, cycles of 150, one minimum at epoch 100, five members."""
    base = sections.groups("1_baseline", "thesis")["term"][0]
    assert (base.epochs, base.minimum_epochs, base.strength, base.width, base.lr) == (600, [100], 1, 1e-3, 1e-2)
    assert (base.batch_size, base.momentum, base.weight_decay, base.augment) == (128, 0.9, 1e-3, True)
    many = sections.groups("4-1_multiple_minima", "thesis")["s = 10"][0]
    assert many.minimum_epochs == [150, 300, 450, 600]
    assert sections.groups("7_ensembles", "thesis")["cosine"][0].minimum_epochs == [150, 300, 450, 600, 750]
    step = sections.groups("5_warm_restarts", "thesis")["step"][0]
    assert (step.cycle, step.lr_step) == (150, 50)
    laptop = sections.groups("5_warm_restarts", "laptop")["step"][0]
    assert (laptop.cycle, laptop.lr_step) == (10, 4), "two drops a cycle, as in the thesis"
    assert {run.model for run in sections.groups("1_baseline", "thesis")["term"]} == {"mobilenetv2", "resnet32"}


def test_sections_share_runs():
    baseline = ids({k: v for k, v in sections.groups("1_baseline", "laptop").items() if k in ("no term", "term")})
    assert baseline <= ids(sections.groups("2-1_width", "laptop"))
    assert baseline <= ids(sections.groups("2-2_strength", "laptop"))
    everything = ids(sections.groups("9_claims", "laptop"))
    without = ("0_explore", "2-3_interaction", "9_claims")
    others = [ids(sections.groups(s, "laptop")) for s in sections.SECTIONS if s not in without]
    assert everything == set().union(*others)
    assert len(everything) < sum(map(len, others))


def test_parameters():
    assert "w = 0.5" in sections.groups("2-1_width", "smoke", widths=[0.5], strength=None)
    assert sections.groups("0_explore", "smoke", kernel="tanh")["yours"][0].kernel == "tanh"
    for arguments, words in (
        (("2-1", "smoke"), "unknown section '2-1': choose from"),
        (("1_baseline", "huge"), "unknown scale 'huge': choose from smoke"),
    ):
        with pytest.raises(UserError, match=words):
            sections.groups(*arguments)
    with pytest.raises(UserError, match="no parameter depth"):
        sections.groups("1_baseline", "smoke", depth=3)
    with pytest.raises(UserError, match="--width"):
        sections.groups("1_baseline", "smoke", width=-1)
    for hills in ("many", 0, 2.5, True):
        with pytest.raises(UserError, match="parameter hills must be a whole number from 1"):
            sections.groups("8_cost", "smoke", hills=hills)


def test_seed_by_seed_the_most_important_first():
    groups = {name: sections.groups(name, "cifar") for name in sections.SECTIONS}
    runs = sections.in_order(groups)
    assert len(runs) == len(set(runs)) == len({r for some in groups.values() for g in some.values() for r in g})
    seeds = [run.seed % sections.MEMBER for run in runs]
    assert seeds == sorted(seeds)
    first = [run for run in runs if run.seed % sections.MEMBER == 0]
    assert first[:2] == [groups["1_baseline"]["no term"][0], groups["1_baseline"]["term"][0]]
    assert set(first[-2:]) == {group[0] for group in groups["8_cost"].values()}


def test_every_hill_of_cifar_is_left_within_a_cycle():
    """N = 4 s w lr / (1 - momentum) times the steps of a cycle; the spike is there to have no effect."""
    runs = [r for name in sections.SECTIONS for g in sections.groups(name, "cifar").values() for r in g]
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
        for run in (r for g in sections.groups(name, "cifar").values() for r in g):
            assert (run.member_epochs, run.statistics_images, run.step_losses) == (4, 2_000, True)
            assert run.minimum_epochs[:1] in ([8], [], [2]), "after the first cycle, but in section 8"
    labels = sections.groups("7_ensembles", "cifar")
    assert {"one cosine", "two of half"} < labels.keys()
    budget = {label: sum(run.epochs for run in runs if run.seed % 1000 == 0) for label, runs in labels.items()}
    assert set(budget.values()) == {40}, "equal budget"
    assert not {"FGE", "SWA"} & labels.keys()


@pytest.mark.parametrize(
    ("section", "name"),
    [("2-1_width", "widths"), ("2-2_strength", "strengths"), ("2-3_interaction", "widths"),
     ("2-3_interaction", "strengths"), ("3-1_learning_rate", "rates"), ("4-1_multiple_minima", "strengths"),
     ("5_warm_restarts", "widths"), ("7_ensembles", "strengths")],
)  # fmt: skip
def test_settings_that_differ_in_the_seventh_digit_are_two(section, name):
    one, two = (sections.groups(section, "smoke", **{name: [value]}) for value in (0.1234567, 0.1234568))
    both = sections.groups(section, "smoke", **{name: [0.1234567, 0.1234568]})
    assert ids(both) == ids(one) | ids(two) != ids(one)
    assert any("0.1234568" in label for label in both)


@pytest.mark.parametrize("fields", [{"minima_every": 99}, {"minima_every": 8}, {"epochs": 1}])
def test_a_hill_that_never_comes_is_refused(fields):
    """The run would be the baseline's over again, under another name."""
    with pytest.raises(UserError, match=r"yours: the first minimum comes after epoch \d+, the run ends after \d"):
        sections.groups("0_explore", "smoke", **fields)
    assert sections.groups("0_explore", "smoke", strength=0, **fields)
    assert sections.groups("0_explore", "smoke", minimum_at_start=True, **fields)
