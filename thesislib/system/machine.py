"""This machine: its cores and devices, repeatable numbers, and pools of processes that end when they are told to."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from thesislib.system.errors import UserError

if TYPE_CHECKING:
    import torch

#: Number of this process among the workers of this machine's pools.
_worker = 0

#: Variables by which torchrun, and others who start groups of processes, tell each of them its place.
_GROUP = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")

#: By this variable glibc, at a process' start, hears that memory is to come in pages of 2 MB. Activations of
#: convolutions are larger than what a processor can look up of 4 KB ones: ResNet-20 in bf16 trains in 0.88 of the time
#: (one core of a virtual machine with AMX; the MLP is as fast with either).
_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"

#: Says how many processes are to work at a time; `figures --jobs` sets it, for the notebooks' kernels too.
JOBS = "THESIS_JOBS"


def cores() -> int:
    """Processes that are to work at a time: as many as asked for (JOBS), else as there are processors for this one.

    Raises UserError if JOBS is no number from 1.
    """
    if asked := os.environ.get(JOBS):
        return jobs_of(asked, JOBS)
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(there, _quota())))


def jobs_of(text: str, name: str) -> int:
    """A number of processes. Raises UserError, which says what has the `name`, if the text is none."""
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise UserError(f"{name} must be a whole number from 1 to 10000, not {text}")
    return int(text)


def _quota(root: Path = Path("/")) -> float:
    """Processors' worth of time that this process' control groups allow (containers, batch systems)."""
    quotas = [math.inf]
    with contextlib.suppress(OSError):  # no such thing here
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            top = root / "sys/fs/cgroup" / controllers
            own = top / name.strip("/")
            # In a container the name may be the host's, and what applies lies at the top.
            for group in (own, *own.parents, top):
                for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):  # version 2, version 1
                    with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                        quota, period = map(float, " ".join((group / n).read_text() for n in names).split())
                        quotas.append(quota / period if quota > 0 else math.inf)
    return min(quotas)


def under_torchrun() -> bool:
    """Whether torchrun started this process; RANK and its like alone may be left from anything around it."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def leave_group() -> None:
    """Be a process of its own from now on, with all that it starts, whatever it was started by."""
    for name in [*os.environ]:
        if name in _GROUP or name.startswith(("TORCHELASTIC_", "ROLE_")):
            del os.environ[name]


def device() -> str:
    """Where runs train: the CPU, or one of the GPUs that torch sees.

    Under torchrun the one of this process' local rank; the workers of a pool take turns.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    number = int(os.environ["LOCAL_RANK"]) if under_torchrun() else _worker
    return f"cuda:{number % torch.cuda.device_count()}"


def torch_device(name: str) -> torch.device:
    """A device by torch's name. Raises UserError for none, and one that is not here."""
    import torch

    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"device {name!r}: write cpu, or cuda or cuda:0 where there is a GPU ({why})") from None
    return found


def kind() -> str:
    """The kind of device, as far as it decides the rounding: the GPU's name, or the CPU's maker and instructions.

    On a CPU numba's loops sum in another order than torch: it says so where there are none.
    """
    import torch

    from thesislib.system import vectors

    if (where := device()) != "cpu":
        return torch.cuda.get_device_name(where)
    # MKL asks for the maker, oneDNN for the instructions.
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    words = {word for line in text.splitlines() if line.startswith(("vendor_id", "flags")) for word in line.split()}
    maker = " ".join(sorted(words & {"AuthenticAMD", "GenuineIntel"}))
    extra = " ".join(sorted(words & {"avx512_bf16", "amx_bf16"}))
    loops = "" if vectors.fast else "without numba"
    parts = ("cpu", maker or platform.machine(), torch.backends.cpu.get_cpu_capability(), extra, loops)
    return " ".join(part for part in parts if part)


@contextmanager
def repeatable() -> Iterator[None]:
    """Within, torch computes the same bits every time, on one thread; a decorator, too.

    Two runs side by side use two cores better than one run does, and a sum's order, so its last bit, depends on the
    number of threads.
    """
    import torch

    # Convolutions on a GPU else round their inputs to 10 bits, and fp32 is not fp32.
    wanted = [
        (torch.backends.cudnn, "deterministic", True),
        (torch.backends.cudnn, "allow_tf32", False),
        (torch.backends.cuda.matmul, "allow_tf32", False),
    ]
    threads, before = torch.get_num_threads(), [getattr(where, name) for where, name, _ in wanted]
    torch.set_num_threads(1)
    for where, name, value in wanted:
        setattr(where, name, value)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for (where, name, _), value in zip(wanted, before, strict=True):
            setattr(where, name, value)


@contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers below 1e-38 are 0 within, on the CPU.

    L2 shrinks the weights of a network that has died until all of them are so small, and processors take fifty times as
    long for such numbers: an epoch of MNIST went from 1.5 to 75 seconds.
    """
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # numpy warns of the mode wherever it describes its types


class _Process(SpawnProcess):
    """A spawned process that does not execute the script of this one anew.

    Tasks are functions of importable modules. A script that asks for results without `if __name__ == "__main__":`
    would else start itself, and its processes, over and over.
    """

    _one_at_a_time = threading.Lock()

    def start(self) -> None:
        """Start it, with huge pages unless somebody has said what glibc is to do."""
        with self._one_at_a_time:  # of several threads
            script, asked = sys.modules["__main__"], _TUNABLES in os.environ
            sys.modules["__main__"] = ModuleType("__main__")  # has no file and no name to be executed by
            os.environ.setdefault(_TUNABLES, _HUGE_PAGES)
            try:
                super().start()
            finally:
                sys.modules["__main__"] = script
                if not asked:
                    del os.environ[_TUNABLES]


class _Context(SpawnContext):
    """Knows the processes that were made in it."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[_Process] = []

    def Process(self, *arguments: Any, **named: Any) -> _Process:  # noqa: N802
        """A new one."""
        self.made.append(_Process(*arguments, **named))
        return self.made[-1]


@contextmanager
def pool_of(workers: int, first_worker: int = 0) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes, which die with this one; numbered from `first_worker`.

    Ctrl-C, a cluster's notice, a full disk or any other error ends its work at once, and none of its processes is left:
    leaving it would first do all of it.
    """
    # Spawned, not forked: a fork of a process whose torch has started threads can hang.
    context = _Context()
    turns = context.Value("i", first_worker)
    with ProcessPoolExecutor(workers, context, initializer=_prepare_worker, initargs=(turns,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            started = [process for process in context.made if process.pid]
            for process in started:
                with contextlib.suppress(ProcessLookupError):  # the pool's own thread has just seen its end
                    process.terminate()
            for process in started:
                process.join()
            raise


class ProcessesApart(ExitStack):
    """So many processes as of `pool_of`, but one that dies takes no other one's work with it: a new one follows."""

    def __init__(self, count: int, first_worker: int = 0) -> None:
        super().__init__()
        self._first = first_worker
        self._pools: list[ProcessPoolExecutor | None] = [None] * count
        self._last: list[Future | None] = [None] * count

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Call a function in one of them that is idle; there must be one. BrokenProcessPool: that process died."""
        k = next(k for k, last in enumerate(self._last) if last is None or last.done())
        if self._last[k] is None or isinstance(self._last[k].exception(), BrokenProcessPool):
            self._pools[k] = self.enter_context(pool_of(1, self._first + k))
        self._last[k] = self._pools[k].submit(function, *arguments)
        return self._last[k]


def _prepare_worker(turns: Synchronized) -> None:
    """A worker dies with its parent and, silently, of Ctrl-C: its run resumes from the last checkpoint."""
    global _worker
    with turns.get_lock():
        _worker = turns.value
        turns.value += 1
    leave_group()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "SIGUSR2"):  # a cluster's notice is for the parent, which then ends us
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
