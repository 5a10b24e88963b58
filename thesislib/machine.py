"""This machine: its cores and devices, repeatable numbers, and pools of processes that end when they are told to."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

#: Number of this process among the workers of this machine's pools.
_worker = 0


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> str:
    """Where runs train: the CPU, or one of the GPUs that torch sees.

    Under torchrun the one of this process' local rank; the workers of a pool take turns.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', _worker)) % torch.cuda.device_count()}"


def kind() -> str:
    """The kind of device, as far as it decides the rounding: the GPU's name, or the CPU's maker and instructions."""
    import torch

    if (where := device()) != "cpu":
        return torch.cuda.get_device_name(where)
    # MKL asks for the maker, oneDNN for the instructions.
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    words = {word for line in text.splitlines() if line.startswith(("vendor_id", "flags")) for word in line.split()}
    maker = " ".join(sorted(words & {"AuthenticAMD", "GenuineIntel"}))
    extra = " ".join(sorted(words & {"avx512_bf16", "amx_bf16"}))
    return " ".join(["cpu", maker or platform.machine(), torch.backends.cpu.get_cpu_capability(), extra]).strip()


def make_repeatable() -> None:
    """Let torch compute the same bits every time, on one thread.

    Two runs side by side use two cores better than one run does, and a sum's order, so its last bit, depends on the
    number of threads.
    """
    import torch

    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True


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


def pool_of(workers: int, first_worker: int = 0) -> ProcessPoolExecutor:
    """A pool of so many processes, which die with this one; numbered from `first_worker`."""
    # Spawned, not forked: a fork of a process whose torch has started threads can hang.
    context = get_context("spawn")
    turns = context.Value("i", first_worker)
    return ProcessPoolExecutor(workers, context, initializer=_prepare_worker, initargs=(turns,))


@contextmanager
def stopped_by_interrupt(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Ctrl-C or a cluster's notice ends a pool's work at once; else leaving the pool would first do all of it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()
        raise


def _prepare_worker(turns: Synchronized) -> None:
    """A worker dies with its parent and, silently, of Ctrl-C: its run resumes from the last checkpoint."""
    global _worker
    with turns.get_lock():
        _worker = turns.value
        turns.value += 1
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "SIGUSR2"):  # a cluster's notice is for the parent, which then ends us
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
