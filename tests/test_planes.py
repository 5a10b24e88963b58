from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import trained

from thesislib.analysis import planes
from thesislib.plots import animation
from thesislib.system.errors import UserError


@pytest.fixture
def strong(tiny):
    return trained({"s = 5": [tiny.replace(strength=5)]})


def test_the_trajectory_in_the_plane_passes_through_the_minima(strong):
    arrays = planes.plane(strong, images=100, points=9)
    assert arrays["path"].shape == (6, 3)
    for minimum, epoch in zip(arrays["minima"], (2, 4, 6), strict=True):
        assert arrays["path"][epoch - 1, :2] == pytest.approx(minimum, abs=1e-4)
        assert arrays["path"][epoch - 1, 2] < 1e-2
    assert arrays["path"][0, 2] > 1e-2
    ((x0, y0), (_, y1), (_, y2)) = arrays["minima"]
    assert (x0, y0) == pytest.approx((0, 0), abs=1e-6)
    assert y1 == pytest.approx(0, abs=1e-6)
    assert y2 > 0
    xs, ys = arrays["xs"], arrays["ys"]
    assert arrays["train_loss"].shape == arrays["hills"].shape == (len(ys), len(xs))
    for x, y in arrays["minima"]:
        assert xs[0] < x < xs[-1] and ys[0] < y < ys[-1], "with room around it"
    for grid, meets in ((xs, (x0, arrays["minima"][1, 0])), (ys, (y0, y2))):
        assert all(np.abs(grid - where).min() < 1e-5 for where in meets)
        assert np.allclose(np.diff(grid), grid[1] - grid[0])


def test_the_strongest_trajectory(tiny):
    runs = {f"s = {s}": [tiny.replace(strength=s)] for s in (1, 7, 3)}
    results = trained(runs | {"short": [tiny.replace(strength=9, epochs=4)]})
    assert planes.strongest(results).labels == ["s = 7"]
    with pytest.raises(UserError, match="three minima"):
        planes.strongest(results.only("short"))


def test_a_trajectory_that_leads_elsewhere_here_is_not_drawn(strong, monkeypatch):
    monkeypatch.setattr(planes.trajectory, "weights", lambda result, epochs: iter([torch.zeros(12730)] * epochs))
    assert planes.plane(strong, images=100, points=3)["path"].shape == (0, 3)
    monkeypatch.undo()
    monkeypatch.setattr(planes.trajectory, "LONGEST", 0)
    assert planes.plane(strong, images=100, points=2)["path"].shape == (0, 3)


def test_a_plane_is_of_one_run(strong):
    both = strong.of([*strong, replace(strong[0], label="another")])
    for draw in (lambda: planes.plane(both), lambda: animation.trajectory({}, both), lambda: planes.plane(both[:0])):
        with pytest.raises(UserError, match=r"of one run, not of [02]: choose one, such as runs\[:1\]"):
            draw()
    with pytest.raises(UserError, match="not DataFrame"):
        planes.plane(strong.final)


def test_a_grid_stays_as_large_as_asked_for():
    assert len(planes._grid(-25, 125, 21, through=100.0)) == pytest.approx(21, abs=2)
    grid = planes._grid(-25, 125, 21, through=1.0)
    assert len(grid) == 21
    assert (grid[0], grid[-1]) == (-25, 125)
