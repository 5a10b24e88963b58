import time

import torch

from thesislib import launch, machine
from thesislib.flat import FlatParameters


def _number_of_worker(_):
    time.sleep(0.5)
    return machine._worker


def test_workers_take_turns_on_the_gpus(monkeypatch):
    with machine.pool_of(2) as pool:
        assert set(pool.map(_number_of_worker, range(4))) == {0, 1}
    with machine.pool_of(2, first_worker=6) as pool:
        assert set(pool.map(_number_of_worker, range(4))) == {6, 7}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    devices = []
    for number in range(4):
        monkeypatch.setattr(machine, "_worker", number)
        devices.append(machine.device())
    assert devices == ["cuda:0", "cuda:1"] * 2
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert machine.device() == "cuda:1"


def test_denormal_numbers_are_zero_within_and_there_again_after():
    tiny = torch.tensor([1e-39])
    with machine.without_denormals():
        assert (tiny * 1.0).item() == 0
    assert (tiny * 1.0).item() > 0


def test_a_dead_network_ends_at_zero(tiny, folders, monkeypatch):
    """Weights so small that the first step makes denormals of them: none is left in what is stored."""

    class Dying(FlatParameters):
        def __init__(self, model):
            super().__init__(model)
            self.theta.mul_(1e-38)

    monkeypatch.setattr("thesislib.train.FlatParameters", Dying)
    theta = launch.execute(tiny.but(epochs=1, lr=1e-4)).arrays("final", "theta")["theta"]
    small = abs(theta[:-10])  # the last biases learn how frequent the digits are
    assert ((small == 0) | (small > 1.1e-38)).all()
