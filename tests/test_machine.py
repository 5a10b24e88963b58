import math
import os
import subprocess
import sys
import threading
import time
from multiprocessing import active_children
from multiprocessing.context import SpawnProcess

import pytest
import torch
from conftest import PATIENCE

from thesislib.flat import FlatParameters
from thesislib.runs import launch
from thesislib.system import machine
from thesislib.system.errors import UserError
from thesislib.trainer import Trainer

#: Evaluated by workers: a function of this file would have each of them import torch.
NUMBER = "__import__('time').sleep(0.5) or __import__('sys').modules['thesislib.system.machine']._worker"
GROUP = (
    "[name for name in __import__('os').environ if name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR') or 'ELASTIC' in name]"
)


def test_workers_take_turns_on_the_gpus(monkeypatch):
    with machine.pool_of(2) as pool:
        assert set(pool.map(eval, [NUMBER] * 4)) == {0, 1}
    with machine.pool_of(2, first_worker=6) as pool:
        assert set(pool.map(eval, [NUMBER] * 4)) == {6, 7}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    devices = []
    for number in range(4):
        monkeypatch.setattr(machine, "_worker", number)
        devices.append(machine.device())
    assert devices == ["cuda:0", "cuda:1"] * 2
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("RANK", "4")
    assert machine.device() == "cuda:1", "not under torchrun: left from something around us"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert machine.device() == "cuda:0"


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

    monkeypatch.setattr("thesislib.minima.FlatParameters", Dying)
    theta = launch.execute(tiny.replace(epochs=1, lr=1e-4)).arrays("final", "theta")["theta"]
    small = abs(theta[:-10])  # the last biases learn how frequent the digits are
    assert ((small == 0) | (small > 1.1e-38)).all()


def test_a_device_that_is_none_is_one_line(tiny):
    for name in ("gpu", "cuda:99", ""):
        with pytest.raises(UserError, match=f"device {name!r}: write cpu, or cuda"):
            Trainer(tiny, device=name)


def test_workers_are_in_no_group(monkeypatch):
    """Even under torchrun: one of its processes that starts a pool would let all workers wait for each other."""
    for name in (*machine._GROUP, "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    with machine.pool_of(1) as pool:
        assert pool.submit(eval, GROUP).result() == []


@pytest.mark.parametrize("asked", [None, "glibc.malloc.check=0"])
def test_workers_take_huge_pages_unless_told_otherwise(monkeypatch, asked):
    if asked is None:
        monkeypatch.delenv(machine._TUNABLES, raising=False)
    else:
        monkeypatch.setenv(machine._TUNABLES, asked)
    with machine.pool_of(1) as pool:
        found = pool.submit(os.getenv, machine._TUNABLES).result()
    assert (found, os.getenv(machine._TUNABLES)) == (asked or machine._HUGE_PAGES, asked)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n"}, math.inf),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/cpu.max": "max 100000"}, math.inf),
        ({"proc/self/cgroup": "0::/the/hosts/name\n", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/a/cpu.max": "300000 100000",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "3:cpuset:/x\n1:cpu,cpuacct:/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
    ],
)  # fmt: skip
def test_a_quota_of_processors_is_heard(files, expected, tmp_path):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert machine._quota(tmp_path) == expected


def test_as_many_jobs_as_are_asked_for(monkeypatch):
    monkeypatch.setattr(machine, "_quota", lambda: 0.5)
    assert machine.cores() == 1
    monkeypatch.setenv("THESIS_JOBS", "7")
    assert machine.cores() == 7


def test_a_script_needs_no_main_guard(tiny, folders):
    """Processes of a pool do not execute the script of their parent, which would begin everything anew."""
    script = folders / "script.py"
    script.write_text(
        "import sys; from thesislib.runs import launch; from thesislib.config import Run\n"
        "print('once')\n"
        "run = Run.model_validate_json(sys.argv[1])\n"
        "print(len(launch.results({'x': [run, run.replace(seed=1)]}).final))\n"
    )
    command = [sys.executable, str(script), tiny.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "once\n2\n"), done.stderr


def test_fp32_is_fp32_on_gpus():
    """TensorFloat-32 keeps 10 bits of a convolution's inputs."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    with machine.repeatable():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32


def test_what_is_computed_leaves_the_number_of_threads_alone():
    """As of a notebook's kernel, in which a user trains something else next."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with machine.repeatable():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no")], ids=["interrupt", "error"])
def test_what_interrupts_a_pool_ends_its_processes_alone(error):
    """A process that somebody else started goes on."""
    other = SpawnProcess(target=time.sleep, args=(PATIENCE,), daemon=True)
    other.start()
    with pytest.raises(type(error)), machine.pool_of(1) as pool:
        pool.submit(eval, NUMBER).result()
        (ours,) = [child for child in active_children() if child.pid != other.pid]
        pool.submit(time.sleep, PATIENCE)
        raise error
    # Not ours.is_alive(): the pool's thread may have seen the end and not yet noted it, and both ask the system once.
    with pytest.raises(ProcessLookupError):
        os.kill(ours.pid, 0)
    assert other.is_alive()
    other.kill()


def test_threads_that_start_processes_leave_the_script_in_its_place():
    script = sys.modules["__main__"]

    def start():
        for _ in range(2):
            process = machine._Process(target=int)
            process.start()
            process.join()

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.modules["__main__"] is script
