"""A GPU computes what the CPU computes. Skipped where there is none: `pytest -m gpu` runs these alone."""

import numpy as np
import pytest
import torch
from conftest import TINY

from thesislib import Trainer
from thesislib.batches import splits
from thesislib.minima import Minima
from thesislib.runs import launch
from thesislib.runs.finished import load
from thesislib.system import machine, vectors
from thesislib.system.augment import crop_and_flip, draw_crops

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]
RNG = torch.Generator().manual_seed(0)
THETA = torch.randn(50_000, generator=RNG)
ROWS = [THETA + 0.1 * torch.randn(50_000, generator=RNG) for _ in range(3)]
RUN = TINY.replace(epochs=13, minima_every=2, strength=10)  # 52 steps, hills from the eighth on


@pytest.fixture(autouse=True)
def exact():
    """fp32 products, not TF32, as every run has them."""
    with machine.repeatable():
        yield


def on_device(rows):
    return [row.to(DEVICE) for row in rows]


def test_vectors():
    distances = vectors.squared_distances(THETA.to(DEVICE), on_device(ROWS))
    assert distances.cpu().numpy() == pytest.approx(vectors.squared_distances(THETA, ROWS).numpy(), rel=1e-5)
    factors, here, there = torch.tensor([1.0, -2.0, 0.5]), torch.zeros(50_000), torch.zeros(50_000, device=DEVICE)
    vectors.add_differences([here], THETA, ROWS, factors)
    vectors.add_differences([there], THETA.to(DEVICE), on_device(ROWS), factors.to(DEVICE))
    assert torch.allclose(there.cpu(), here, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", ["rbf", "tanh"])
@pytest.mark.parametrize("mode", ["single", "multiple", "merge"])
def test_the_term_and_its_gradient(kernel, mode):
    found = []
    for device in ("cpu", DEVICE):
        minima = Minima(kernel, 1e-3, mode)
        for row in ROWS:
            minima.add(row.to(device))
        value, gradient = minima.gradient(THETA.to(device), 10.0)
        found.append((value.cpu().numpy(), gradient.cpu().numpy()))
    (value, gradient), (there_value, there) = found
    assert there_value == pytest.approx(value, rel=1e-5)
    assert np.abs(there - gradient).max() <= 1e-5 * np.abs(gradient).max()


def trained(run, device):
    trainer = Trainer(run, device)
    rows = [trainer.epoch() for _ in range(run.epochs)]
    return trainer, rows


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"kernel": "tanh"}, {"optimizer": "adam", "lr": 0.001}, {"swa_from": 3}, {"hill_at": "random"},
        {"hill_at": "mean", "member_epochs": 1, "cycle": 1}, {"push": "random"},
    ],
)  # fmt: skip
def test_fifty_steps_equal_those_of_the_cpu(changes):
    run = RUN.replace(**({"minima_every": None} if "swa_from" in changes else {}) | changes)
    (here, rows), (there, others) = (trained(run, device) for device in ("cpu", DEVICE))
    difference = (there.flat.theta.cpu() - here.flat.theta).norm() / here.flat.theta.norm()
    assert difference < 1e-4
    for row, other in zip(rows, others, strict=True):
        assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-3)


def test_a_run_resumes_to_the_bit():
    whole, _ = trained(RUN, DEVICE)
    first = Trainer(RUN, DEVICE)
    stored = []
    for _ in range(7):
        before = len(first.minima.visited)
        first.epoch()
        if len(first.minima.visited) > before:
            stored.append({name: array.copy() for name, array in first.snapshot().items()})
    state = {name: array.copy() for name, array in first.state().items()}
    again = Trainer(RUN, DEVICE)
    again.restore(7, state, stored)
    for _ in range(RUN.epochs - 7):
        again.epoch()
    assert torch.equal(again.flat.theta, whole.flat.theta)


def test_augmentation_is_that_of_the_cpu():
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    crops = draw_crops(64, torch.Generator().manual_seed(2))
    assert torch.equal(crop_and_flip(images.to(DEVICE), crops.to(DEVICE)).cpu(), crop_and_flip(images, crops))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_with_batchnorm(photographs, precision):
    run = TINY.replace(
        data="cifar10", model="resnet20", train_size=64, test_size=64, batch_size=32, epochs=2, minima_every=1,
        augment=True, statistics_images=64, precision=precision,
    )  # fmt: skip
    (here, rows), (there, others) = (trained(run, device) for device in ("cpu", DEVICE))
    rough = 1e-3 if precision == "fp32" else 0.1
    for row, other in zip(rows, others, strict=True):
        assert other["train_loss"] == pytest.approx(row["train_loss"], rel=rough)
    assert np.isfinite(there.snapshot()["logits"]).all()


def test_images_lie_on_the_device():
    train, _ = splits(RUN, torch.device(DEVICE))
    images, labels = next(iter(train.shuffled(32, torch.Generator().manual_seed(0), False)))
    assert images.device.type == labels.device.type == torch.device(DEVICE).type


def test_two_runs_share_one_device(folders):
    runs = [RUN.replace(seed=seed) for seed in range(2)]
    launch.train_missing(runs)
    for run in runs:
        alone, _ = trained(run, DEVICE)
        assert np.array_equal(load(run).arrays("final", "theta")["theta"], alone.flat.theta.cpu().numpy())
