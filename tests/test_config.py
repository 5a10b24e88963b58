import pytest
from IPython.core.interactiveshell import InteractiveShell

from thesislib import config, kernels, models
from thesislib.config import Run
from thesislib.runs.identity import digest
from thesislib.system.errors import UserError

DATA = "1b845fda52828834"


def test_a_run_may_have_what_there_is():
    """The names stand where no torch is needed; what they mean, where it is."""
    assert (*models.MODELS,) == config.NETWORKS
    assert (*kernels.KERNELS,) == config.KERNELS


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ({}, "2d4aeb9dd0d5"),
        ({"width": 1e-2, "minima_every": 7}, "ca6a45d112dd"),
        ({"data": "cifar10", "model": "resnet32", "augment": True, "lr_schedule": "cosine"}, "cb4e8e3595b7"),
        ({"strength_schedule": "pulse", "minima_every": 7}, "5ca956d79b88"),
        ({"strength_schedule": "pulse", "minima_every": 7, "offset": 3}, "0bc66a279a39"),
    ],
)
def test_ids_are_pinned(fields, identity):
    """A change here orphans every run that anybody has: raise REVISION only if their numbers are wrong."""
    assert digest(Run(**fields), DATA) == identity


def test_id_knows_every_field_and_the_data():
    changed = {
        "data": "mnist", "train_size": 100, "test_size": 10, "model": "mlp-tiny", "seed": 1, "init_seed": 0,
        "start": "0123456789ab:0", "epochs": 41, "batch_size": 64, "optimizer": "adam", "lr": 0.1, "momentum": 0.8,
        "weight_decay": 0.0, "cross_entropy": False, "cycle": 11, "lr_schedule": "step", "lr_step": 5,
        "lr_gamma": 0.2, "offset": 1, "strength_schedule": "pulse", "pulse": 2, "minima": "multiple",
        "minima_every": 3, "minimum_at_start": True, "merge": "mean", "kernel": "tanh", "strength": 2.0,
        "width": 0.1, "share": False, "precision": "bf16", "dense_steps": 3, "swa_from": 9, "member_epochs": 5,
        "step_losses": True, "hill_at": "random", "push": "random",
    }  # fmt: skip
    ids = {digest(Run(), DATA), digest(Run(), "other")} | {digest(Run(**{k: v}), DATA) for k, v in changed.items()}
    cifar = Run(data="cifar10", model="resnet20")
    more = {"augment": True, "augmented_test": True, "statistics_images": 9, "validation": True}
    cifar = cifar.replace(train_size=100)
    ids |= {digest(Run(minima="multiple", distance=distance), DATA) for distance in ("weights", "function")}
    ids |= {digest(cifar, DATA)} | {digest(cifar.replace(**{k: v}), DATA) for k, v in more.items()}
    assert len(ids) == 2 + len(changed) + 1 + 1 + len(more), "minima multiple is one of those that are changed"
    assert changed.keys() | more.keys() | {"distance"} == Run.model_fields.keys()


def test_default_and_explicit_are_the_same_run():
    assert digest(Run(width=1e-3), DATA) == digest(Run(), DATA) == digest(Run(width="0.001"), DATA)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": -1}, "width: "),
        ({"width": "wide"}, "width: "),
        ({"strength": -0.1}, "strength: "),
        ({"strength": float("nan")}, "strength: "),
        ({"strength": 1e39}, "strength: "),
        ({"width": 1e39}, "width: "),
        ({"epochs": 0}, "epochs: "),
        ({"epochs": 1.5}, "epochs: "),
        ({"kernel": "cone"}, "rbf, tanh, or module:name"),
        ({"momentum": 1}, "momentum: "),
        ({"start": "somewhere"}, "start: start from a minimum of a run, as ID:K, not 'somewhere'"),
        ({"strength": 1e20, "width": 1e20}, "strength times width must be 1e+30 at most"),
        ({"widht": 1}, "there is no field widht: is it width?"),
        ({"bananas": 1}, "there is no field bananas: choose from data, train_size"),
        ({"model": "vgg"}, "mobilenetv2, or module:name"),
        ({"model": "nets:small net"}, "or module:name"),
        ({"data": "../mnist"}, "the name of a data/<name>.npz of your own, not '../mnist'"),
        ({"cross_entropy": False, "strength": 0}, "nothing to follow"),
        ({"strength_schedule": "pulse", "pulse": 11}, "longer than cycle"),
        ({"member_epochs": 11}, "longer than cycle"),
        ({"statistics_images": 100}, "networks with BatchNorm"),
        ({"validation": True}, "give train_size"),
    ],
)
def test_a_mistake_is_one_line(fields, words):
    with pytest.raises(UserError) as error:
        Run(**fields)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_in_a_notebook_a_mistake_is_one_line(capsys):
    """No traceback above it; an error of ours has one."""
    shell = InteractiveShell()
    for code in ("Run(strenght=1)", "Run().replace(width=-1)", "1 / 0"):
        shell.run_cell(f"from thesislib.config import Run; {code}")
    first, second, *ours = capsys.readouterr().out.strip().splitlines()
    assert first == "UserError: there is no field strenght: is it strength?"
    assert second == "UserError: width: input should be greater than 0, not -1"
    assert len(ours) > 5 and ours[-1].endswith("division by zero")


def test_equal_runs_have_equal_ids():
    assert Run(strength=-0.0) == Run(strength=0.0)
    assert digest(Run(strength=-0.0), "x") == digest(Run(strength=0.0), "x")


def test_epochs_of_minima():
    assert Run(epochs=10, minima="multiple", minima_every=3).minimum_epochs == [3, 6, 9]
    assert Run(epochs=10, minima="single", minima_every=3).minimum_epochs == [3]
    assert Run(epochs=9, minima="merge", minima_every=3, minimum_at_start=True).minimum_epochs == [0, 3, 6, 9]
    assert Run(epochs=9).minimum_epochs == []
    assert Run(epochs=10**9, minima="single", minima_every=1).minimum_epochs == [1], "not made of 10^9 others"
    assert len(Run(epochs=10**6, minima="multiple", minima_every=1000).minimum_epochs) == 1000


def test_no_number_of_a_run_is_one_that_processors_take_for_zero():
    """Else its id would change once they do (`machine.without_denormals`)."""
    for name in ("lr", "width", "strength", "weight_decay", "momentum", "lr_gamma"):
        assert digest(Run(**{name: 1e-30}), "x")
        with pytest.raises(UserError, match=f"^{name}: input should be 1e-30 or more"):
            Run(**{name: 5e-324})
    assert digest(Run(momentum=-0.0), "x") == digest(Run(momentum=0.0), "x")


def test_names_of_ones_own_are_not_taken_for_the_packages():
    """Networks and data that begin like one of the package's."""
    run = Run(data="mnist_color", augment=True, model="mlpmixer:net", statistics_images=10, distance="filters")
    assert run.model == "mlpmixer:net"
