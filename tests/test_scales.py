"""The full grids can be described, built and begun, though training them takes a cluster."""

import math

import pytest
import torch

from thesislib.experiments import sections
from thesislib.experiments.scales import FRESHER, SCALES
from thesislib.trainer import Trainer

BEGIN = {"batch_size": 2, "train_size": 4, "test_size": 2, "epochs": 1, "minimum_at_start": True, "seed": 0}


def begun(scale):
    """Every setting of a scale, cut down to its first two steps with a hill from the start."""
    runs = [row.run for section in sections.SECTIONS for row in sections.rows(section, scale)]
    averaged = {"minimum_at_start": False, "swa_from": 1}  # averaged weights are no minima
    return list(
        dict.fromkeys(
            run.replace(
                **BEGIN | (averaged if run.swa_from else {}),
                init_seed=None,
                hill_at="weights" if run.hill_at == "mean" else run.hill_at,  # a mean takes a whole cycle
                statistics_images=run.statistics_images and 4,
            )
            for run in runs
        )
    )


def two_steps(run):
    trainer = Trainer(run)
    before = trainer.flat.theta.clone()
    row = trainer.epoch()
    assert math.isfinite(row["train_loss"]), run
    assert not torch.equal(trainer.flat.theta, before), run
    assert run.swa_from or row["d_0"] > 0
    assert (row["term"] > 0) == (run.strength > 0)


@pytest.mark.parametrize("scale", ["thesis", "thesis-resnet34", "cifar"])
def test_every_setting_takes_two_steps(scale, photographs):
    """All of them with a small network; the scale's own, which take seconds each, with and without a hill."""
    runs = begun(scale)
    settings = dict.fromkeys(run.replace(model="resnet20") for run in runs)
    assert len(settings) > (30 if scale == "cifar" else 45)
    for run in settings:
        two_steps(run)
    kinds = {(run.model, run.strength > 0): run for run in runs}
    assert len(kinds) == 2 * len(sections.SCALES[scale].networks)
    for run in kinds.values():
        two_steps(run)


def test_the_notes_runs():
    runs = [row.run for row in sections.rows("5_warm_restarts", "thesis-resnet34") if row.label == "step"]
    assert {(r.model, r.lr, r.lr_step, r.epochs) for r in runs} == {("resnet34", 0.001, 50, 400)}


def test_fresh_seeds_stay_fresh():
    """Of three stages none tests on what an earlier one has seen, however many seeds there are."""
    for count in (3, 10, 11, 15, 25):
        scale = SCALES["laptop"].with_seeds(count)
        stages = scale.seeds, scale.fresh_seeds(), scale.fresh_seeds(FRESHER)
        assert len({seed for seeds in stages for seed in seeds}) == 3 * count
    assert SCALES["laptop"].with_seeds(10).fresh_seeds(FRESHER) == tuple(range(20, 30)), "as the reference has them"
