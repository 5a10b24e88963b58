import pytest
import torch
from conftest import term_of

from thesislib.minima import Minima
from thesislib.system.vectors import squared_distances

P = 300


def rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(P, dtype=torch.float64, generator=generator) for _ in range(n)]


def value(theta, hills, kernel, width, strength, share):
    """The term as the thesis writes it, for autograd."""
    n = len(hills) if share else 1
    k = {"rbf": lambda d: torch.exp(-width * d), "tanh": lambda d: 1 - torch.tanh(width * d)}[kernel]
    return sum((strength / n) * k(((theta - c) ** 2).sum()) for c in hills)


@pytest.mark.parametrize("kernel", ["rbf", "tanh"])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("n", range(6))
def test_gradient_is_autograds(kernel, share, n):
    minima = Minima(kernel, 1e-3, "multiple", share=share)
    for row in rows(n):
        minima.add(row)
    (theta,) = rows(1, seed=1)
    term, gradient = term_of(minima, theta, 7.0)
    if n == 0:
        assert term == 0
        assert not gradient.any()
        return
    theta.requires_grad_()
    expected = value(theta, minima.visited, kernel, 1e-3, 7.0, share)
    (derivative,) = torch.autograd.grad(expected, theta)
    assert torch.allclose(term, expected, rtol=1e-12)
    assert (gradient - derivative).norm() / derivative.norm() < 1e-10


@pytest.mark.parametrize("kernel", ["rbf", "tanh"])
@pytest.mark.parametrize("merge", ["recursive", "mean", "widen"])
def test_gradient_of_a_merged_hill_is_autograds(kernel, merge):
    minima = Minima(kernel, 1e-3, "merge", merge)
    for row in rows(4):
        minima.add(row)
    (theta,) = rows(1, seed=1)
    _, gradient = term_of(minima, theta, 7.0)
    theta.requires_grad_()
    (derivative,) = torch.autograd.grad(value(theta, minima.hills, kernel, minima.hill_width, 7.0, True), theta)
    assert len(minima.hills) == 1
    assert (gradient - derivative).norm() / derivative.norm() < 1e-10


def test_merged_centres():
    a, b, c = rows(3)
    centres = {}
    for merge in ("recursive", "mean", "widen"):
        minima = Minima("rbf", 1e-2, "merge", merge)
        for row in (a, b, c):
            minima.add(row)
        centres[merge] = minima.hills[0]
        assert len(minima.visited) == 3, "distances to all of them are still wanted"
    assert torch.allclose(centres["recursive"], a / 4 + b / 4 + c / 2)
    assert torch.allclose(centres["mean"], (a + b + c) / 3)
    assert torch.allclose(centres["widen"], centres["mean"])
    # sigma^2 = 1 / w grew by the largest squared distance of a merged minimum to the centre.
    radius = squared_distances(centres["mean"], (a, b, c)).max()
    assert minima.hill_width == pytest.approx(1 / (1 / 1e-2 + radius.item()))


def test_single_keeps_the_first():
    minima = Minima("rbf", 1.0, "single")
    a, b = rows(2)
    minima.add(a)
    minima.add(b)
    assert len(minima.hills) == len(minima.visited) == 1
    assert torch.equal(minima.hills[0], a)


def test_a_minimum_is_a_copy_and_its_top_is_flat():
    (theta,) = rows(1)
    minima = Minima("rbf", 0.1, "multiple")
    minima.add(theta)
    term, gradient = term_of(minima, theta, 3.0)
    assert term == 3
    assert not gradient.any()
    theta += 1
    assert minima.distances(theta) == pytest.approx([P])


def test_sharing_divides_the_height():
    (theta,) = rows(1)
    for share, height in ((True, 1.0), (False, 4.0)):
        minima = Minima("tanh", 0.1, "multiple", share=share)
        for _ in range(4):
            minima.add(theta)
        assert term_of(minima, theta, 1.0)[0] == height


def test_far_away_there_is_no_force():
    minima = Minima("rbf", 1.0, "multiple")
    minima.add(torch.zeros(P))
    term, gradient = term_of(minima, torch.full((P,), 100.0), 1.0)
    assert term == 0
    assert not gradient.any()
