import pytest
import torch

from thesislib.config import Run
from thesislib.schedules import averaged_steps, learning_rate, strength


def torchs(scheduler, epochs, lr, **settings):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    schedule = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **settings)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_is_torchs():
    run = Run(lr=0.3, lr_schedule="cosine", cycle=7)
    expected = torchs("CosineAnnealingWarmRestarts", 30, 0.3, T_0=7, eta_min=0)
    assert [learning_rate(run, e) for e in range(30)] == pytest.approx(expected)


def test_step_is_torchs_within_a_cycle():
    run = Run(lr=0.3, lr_schedule="step", cycle=150, lr_step=50)
    expected = torchs("StepLR", 150, 0.3, step_size=50, gamma=0.1)
    assert [learning_rate(run, e) for e in range(150)] == pytest.approx(expected)
    assert [learning_rate(run, 150 + e) for e in range(150)] == pytest.approx(expected), "back to the start"


def test_by_hand():
    step = Run(lr=1.0, lr_schedule="step", cycle=10, lr_step=4)
    assert [learning_rate(step, e) for e in (0, 3, 4, 7, 8, 9, 10)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 1])
    assert learning_rate(Run(lr=0.2), 1234) == 0.2
    cosine = Run(lr=1.0, lr_schedule="cosine", cycle=4)
    assert [learning_rate(cosine, e) for e in range(5)] == pytest.approx([1, 0.853553, 0.5, 0.146447, 1], abs=1e-6)


def test_offset_delays_the_schedule():
    late = Run(lr=1.0, lr_schedule="step", cycle=10, lr_step=4, offset=3)
    soon = Run(lr=1.0, lr_schedule="step", cycle=10, lr_step=4)
    assert [learning_rate(late, e) for e in range(3)] == [1, 1, 1]
    assert [learning_rate(late, e + 3) for e in range(25)] == [learning_rate(soon, e) for e in range(25)]


def test_strength():
    assert {strength(Run(strength=3), e) for e in range(50)} == {3}
    pulse = Run(strength=3, strength_schedule="pulse", cycle=5, pulse=2)
    assert [strength(pulse, e) for e in range(7)] == [3, 3, 0, 0, 0, 3, 3]
    cosine = Run(strength=3, lr=3, strength_schedule="cosine", lr_schedule="cosine", cycle=5)
    assert [strength(cosine, e) for e in range(9)] == [learning_rate(cosine, e) for e in range(9)]


@pytest.mark.parametrize(("cycle", "expected"), [(4, [3, 3, 0, 0, 3]), (5, [3, 3, 3, 0, 0, 3]), (1, [3, 3, 3])])
def test_the_first_half_of_each_cycle_has_the_strength(cycle, expected):
    run = Run(strength=3, strength_schedule="first-half", cycle=cycle)
    assert [strength(run, epoch) for epoch in range(len(expected))] == expected
    later = run.replace(offset=2)
    assert [strength(later, epoch) for epoch in range(len(expected) + 2)] == [0, 0, *expected]


def test_a_pulse_waits_for_its_offset():
    run = Run(strength=3, strength_schedule="pulse", pulse=1, cycle=2, offset=3, epochs=8)
    assert [strength(run, epoch) for epoch in range(8)] == [0, 0, 0, 3, 0, 3, 0, 3]


@pytest.mark.parametrize(("last", "expected"), [(1, [0, 0, 0, 0, 1, 0, 1]), (2, [0, 0, 0, 1, 1, 1, 1])])
def test_a_mean_is_of_the_end_of_its_cycle_and_of_nothing_before_the_offset(last, expected):
    run = Run(cycle=2, offset=3, member_epochs=last)
    assert [len(averaged_steps(run, epoch, 1)) for epoch in range(7)] == expected
    assert not any(averaged_steps(run.replace(member_epochs=None), epoch, 1) for epoch in range(7))


@pytest.mark.parametrize(("steps", "count"), [(468, 66), (156, 78), (31, 31), (127, 127), (128, 64)])
def test_a_mean_is_of_64_to_127_steps_of_an_epoch(steps, count):
    """Of MNIST, of scale cifar, of scale laptop, and of the longest and the shortest epoch that differ most."""
    found = averaged_steps(Run(member_epochs=1), 9, steps)
    assert len(found) == count
    assert found[-1] > steps - 8, "up to the end of the epoch"
