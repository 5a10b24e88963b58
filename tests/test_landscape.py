import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import term_of
from torch import nn

from thesislib import batches
from thesislib.analysis import landscape
from thesislib.analysis.evaluator import Evaluator, Point
from thesislib.analysis.landscape import Plane
from thesislib.config import Run
from thesislib.datasets import facts
from thesislib.minima import Minima
from thesislib.system.errors import UserError
from thesislib.trainer import Trainer


@pytest.fixture(scope="module")
def trained():
    """An evaluator and three minima of a tiny run."""
    run = Run(train_size=512, test_size=250, model="mlp-tiny", lr=0.1, minima_every=2, minima="multiple", strength=5)
    trainer = Trainer(run)
    for _ in range(6):
        trainer.epoch()
    return Evaluator(run), [row.clone() for row in trainer.minima.visited]


class Bowl:
    """A convex toy loss in place of a network."""

    def at(self, theta):
        loss = (theta**2).sum().item()
        return Point(loss, 0.0, loss, 0.0)


def test_the_evaluator_measures_what_training_does(trained):
    evaluator, _ = trained
    trainer = Trainer(evaluator.run)
    row = trainer.epoch()
    point = evaluator.at(trainer.flat.theta)
    assert point.test_loss == pytest.approx(row["test_loss"], rel=1e-5)
    assert point.test_accuracy == row["accuracy"]
    assert np.allclose(evaluator.logits_of(trainer.flat.theta, [evaluator.test.images])[0], trainer.logits, atol=1e-5)


def test_statistics_are_collected_anew(photographs):
    """At weights a factor larger BatchNorm's old statistics would give another network; new ones give the same."""
    evaluator = Evaluator(Run(data="cifar10", model="resnet20", batch_size=16), batch_size=32)
    theta = evaluator.flat.theta.clone()
    images = [evaluator.test.images]
    (first,) = evaluator.logits_of(theta, images)
    scaled = theta.clone()
    scaled[: 16 * 3 * 9] *= 3  # the stem, whose output BatchNorm scales back
    assert np.allclose(evaluator.logits_of(scaled, images)[0], first, atol=1e-3)


@pytest.mark.parametrize("augment", [False, True])
def test_statistics_are_of_images_as_in_training(photographs, monkeypatch, augment):
    """Of white images whose crops let black in: 9 shifts each way leave 1 - 20 / 9 / 32 of a side on average.

    For an evaluator and for averaged weights, which have them collected when training ends.
    """
    white = np.full((500, 32, 32, 3), 255, np.uint8)
    found = batches.load("cifar10")._replace(x_train=white, y_train=np.arange(500) % 10)
    monkeypatch.setattr(batches, "load", lambda _: found)
    run = Run(data="cifar10", model="networks:standardised", augment=augment, batch_size=50, swa_from=1, epochs=1)
    mean, std = (torch.tensor(of) for of in facts("cifar10")[4:])
    seen = (1 - 20 / 9 / 32) ** 2 if augment else 1.0
    evaluator, trainer = Evaluator(run), Trainer(run)
    trainer.epoch()
    evaluator.at(evaluator.flat.theta)
    for model in (evaluator.model, trainer.evaluated):
        assert torch.allclose(model[0].running_mean, (seen - mean) / std, rtol=0.02)


def test_statistics_are_those_of_training_in_the_limit(photographs):
    """Weights that stand still and batches that are the whole data: training's running statistics converge on ours.

    After k steps they are 0.1 sum 0.9^j of it, so 1 - 0.9^k of the way from 0 and 1, exactly.
    """
    steps = 8
    run = Run(
        data="cifar10",
        model="resnet20",
        train_size=32,
        batch_size=32,
        lr=1e-30,
        momentum=0,
        weight_decay=0,
        epochs=steps,
    )
    trainer = Trainer(run)
    for _ in range(steps):
        trainer.epoch()
    evaluator = Evaluator(run, batch_size=32)
    evaluator.at(trainer.flat.theta)
    left, norms = 0.9**steps, [m for m in evaluator.model.modules() if isinstance(m, nn.BatchNorm2d)]
    theirs = [m for m in trainer.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(theirs) == 19
    for ours, trained in zip(norms, theirs, strict=True):
        assert torch.allclose(trained.running_mean, (1 - left) * ours.running_mean, rtol=1e-3, atol=1e-5)
        assert torch.allclose(trained.running_var, left + (1 - left) * ours.running_var, rtol=1e-3, atol=1e-5)


def test_a_line_from_a_network_to_itself_is_flat(trained):
    evaluator, (a, *_) = trained
    along = landscape.line(evaluator, a, a, points=5)
    assert along["train_loss"].max() - along["train_loss"].min() < 1e-6
    assert landscape.barrier(along) < 1e-6


def test_a_line_ends_where_its_ends_are(trained):
    evaluator, (a, b, _) = trained
    along = landscape.line(evaluator, a, b, points=5)
    assert along.iloc[0, 1:].tolist() == pytest.approx(list(evaluator.at(a)))
    assert along.iloc[-1, 1:].tolist() == pytest.approx(list(evaluator.at(b)))
    assert along["t"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_a_convex_loss_has_no_barrier():
    along = landscape.line(Bowl(), torch.tensor([1.0, 2.0]), torch.tensor([-3.0, 0.5]), points=11)
    assert landscape.barrier(along) == 0


def test_a_barrier_by_hand():
    along = pd.DataFrame({"t": [0.0, 0.5, 1.0], "train_loss": [1.0, 5.0, 3.0]})
    assert landscape.barrier(along) == 3


def test_a_curve_whose_middle_lies_on_the_line_is_the_line(trained):
    evaluator, (a, b, _) = trained
    straight, curved = landscape.line(evaluator, a, b, 5), landscape.curve(evaluator, [a, torch.lerp(a, b, 0.5), b], 5)
    assert np.allclose(straight, curved, atol=1e-5)


def test_bezier_is_the_polynomial():
    a, m, b = torch.randn(3, 7, dtype=torch.float64)
    for t in (0.0, 0.3, 1.0):
        expected = (1 - t) ** 2 * a + 2 * t * (1 - t) * m + t**2 * b
        assert torch.allclose(landscape.bezier([a, m, b], t), expected)


def test_a_trained_curve_is_lower_than_the_line(trained):
    evaluator, (a, _, c) = trained
    far = a + 3 * (c - a)  # a barrier to go round
    middle = landscape.connect(evaluator, a, far, epochs=10)
    line, curve = landscape.line(evaluator, a, far, 9), landscape.curve(evaluator, [a, middle, far], 9)
    assert curve["train_loss"].mean() < line["train_loss"].mean()
    assert torch.equal(landscape.connect(evaluator, a, far, epochs=1), landscape.connect(evaluator, a, far, epochs=1))


def test_the_three_minima_lie_in_their_plane(trained):
    _, minima = trained
    plane = Plane(*minima)
    for minimum in minima:
        assert (plane.at(*plane.coordinates(minimum)) - minimum).norm() < 1e-5 * minimum.norm()
    (x0, y0), (x1, y1), (x2, y2) = map(plane.coordinates, minima)
    assert (x0, y0) == (0, 0)
    assert (x1, y1) == pytest.approx(((minima[1] - minima[0]).double().norm().item(), 0), abs=1e-6)
    assert y2 > 0
    assert np.hypot(x2, y2) == pytest.approx((minima[2] - minima[0]).double().norm().item())
    with pytest.raises(UserError, match="three weights on a line span no plane"):
        Plane(minima[0], minima[1], torch.lerp(minima[0], minima[1], 0.5))


@pytest.mark.parametrize("kernel", ["rbf", "tanh", "networks:cauchy"])
def test_hills_are_the_distance_term(trained, kernel):
    """With a kernel of one's own as well."""
    evaluator, minima = trained
    run = evaluator.run.replace(kernel=kernel)
    plane, term = Plane(*minima), Minima(kernel, run.width, "multiple")
    off = minima[0] + torch.randn_like(minima[0])  # not in the plane
    for minimum in (*minima, off):
        term.add(minimum)
    xs, ys = np.array([-1.0, 0.5]), np.array([0.0, 2.0])
    drawn = landscape.hills(plane, [*minima, off], xs, ys, run)
    for (j, y), (i, x) in ((p, q) for p in enumerate(ys) for q in enumerate(xs)):
        expected, _ = term_of(term, plane.at(x, y), run.strength)
        assert drawn[j, i] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("merge", ["recursive", "mean", "widen"])
def test_hills_are_drawn_as_the_run_merges_them(trained, merge):
    """At a point of the plane the term is what training feels there."""
    evaluator, minima = trained
    run = evaluator.run.replace(minima="merge", merge=merge, strength=3.0, width=0.02)
    plane = Plane(*minima)
    drawn = landscape.hills(plane, minima, np.array([0.0, 1.5]), np.array([-0.5]), run)
    hills = landscape.merged(run, minima)
    for column, x in enumerate((0.0, 1.5)):
        expected, _ = hills.factors(plane.at(x, -0.5), 3.0)
        assert drawn[0, column] == pytest.approx(expected.item(), rel=1e-4)


def test_hills_elsewhere_than_in_weight_space_are_not_drawn(trained):
    evaluator, minima = trained
    run = evaluator.run.replace(distance="function")
    with pytest.raises(UserError, match="not with distance function"):
        landscape.merged(run, minima)


NORMED = """
from torch import nn

def normed(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))
"""


def test_every_kind_of_batchnorm_has_its_statistics_collected(tmp_path, monkeypatch):
    """Of a network of one's own, whose layers take vectors."""
    (tmp_path / "normed.py").write_text(NORMED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr("sys.path", [*sys.path])
    evaluator = Evaluator(Run(train_size=512, test_size=250, model="normed:normed"))
    evaluator.at(evaluator.flat.theta.clone())
    norm = next(module for module in evaluator.model.modules() if isinstance(module, nn.BatchNorm1d))
    images = torch.cat(evaluator._batches(evaluator.train, 512)).flatten(1)
    outputs = images @ evaluator.model[1].weight.T + evaluator.model[1].bias
    assert torch.allclose(norm.running_mean, outputs.mean(0), atol=1e-4)
