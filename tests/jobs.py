"""Runs that were sent to Slurm or to local processes, as tests follow them."""

import time

import psutil
from conftest import PATIENCE, TINY

from thesislib.experiments import sections
from thesislib.runs import slurm, store

#: Long enough (some ten seconds) to be disturbed after its first checkpoint.
LONG = TINY.replace(epochs=1000, minima_every=400, train_size=2000)


def until(what, there, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < end, f"no {what} after {seconds} seconds"
        time.sleep(0.2)
    return found


def runs_of(section):
    return list(dict.fromkeys(row.run for row in sections.rows(section, "smoke")))


def sent_job(run):
    return slurm.sent()[store.run_id(run)]


def worker_of(run):
    """The process that trains on behalf of the job that the run was sent with; None if it has ended."""
    lines = {p: " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])}  # a zombie has none
    tasks = [p for p, line in lines.items() if "submitit.core._submit" in line and sent_job(run).name in line]
    try:
        children = [child for task in tasks for child in task.children(recursive=True)]
        return next((child for child in children if "spawn_main" in " ".join(child.cmdline())), None)
    except psutil.NoSuchProcess:
        return None
