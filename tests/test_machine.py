import time

from thesislib import machine


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
