"""The command line: python -m thesislib list | plan | run | launch | figures | pack | unpack | lab | clean."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys

from thesislib.app.arguments import pair, parameters, parser
from thesislib.config import Run, make_run
from thesislib.experiments import sections
from thesislib.runs import store
from thesislib.system import machine
from thesislib.system.errors import UserError, printable
from thesislib.system.files import settle_folders


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    sys.stdout.reconfigure(errors="backslashreplace")  # of a folder's name, say, that is not UTF-8
    options = parser(COMMANDS).parse_args(arguments)
    if options.command is not _run:
        machine.leave_group()  # only a run is trained by several processes
    try:
        settle_folders()
        code = options.command(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        if _first_process():
            print(f"thesislib: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder without permission
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        where = f": {error.filename}" if error.filename else ""
        print(f"thesislib: {printable(f'{error.strerror or error}{where}')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("thesislib: interrupted; what is finished is kept, the rest resumes", file=sys.stderr)
        return 130


def _nobody_reads() -> bool:
    """Whether whoever reads the output has gone, as in `list | head`; the rest of it is then for nobody."""
    ends = select.poll()
    ends.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in ends.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _first_process() -> bool:
    """Whether it is this process that speaks: torchrun starts several."""
    return not machine.under_torchrun() or os.environ["RANK"] == "0"


def _list(options: argparse.Namespace) -> int:
    seen: set[str] = set()
    for name in options.section or sections.SECTIONS:
        groups = sections.groups(name, options.scale)
        runs = {store.run_id(run): run for group in groups.values() for run in group}
        seen |= set(runs)
        done = sum(store.is_done(run) for run in runs.values())
        print(f"{name:<24} {len(groups):3} settings {len(runs):4} runs {done:4} done {len(runs) - done:4} missing")
    print(f"{'together':<24} {len(seen):17} runs (sections share some)")
    print(f"scale {options.scale}: {sections.SCALES[options.scale].about}")
    return 0


def _run(options: argparse.Namespace) -> int:
    given = {name: getattr(options, name) for name in Run.model_fields if getattr(options, name) is not None}
    run = make_run(**given)
    asked = given.keys() & {"strength", "width", "kernel", "minima", "minima_every"}
    if asked and run.strength and not run.minimum_epochs:
        hint = "--minima-every (no more than --epochs) or --minimum-at-start"
        raise UserError(f"no minimum is stored in {run.epochs} epochs, so there is no hill: give {hint}")
    # Imported here: the other commands need not wait for it.
    from thesislib.runs import launch

    summary = launch.execute(run).summary
    if not _first_process():
        return 0
    if options.json:
        print(json.dumps(summary))
    else:
        accuracy = "none" if summary["accuracy"] is None else f"{summary['accuracy']:.4f}"
        distances = ", ".join("none" if d is None else f"{d:.4g}" for d in summary["squared_distances"])
        print(
            f"run {summary['id']} {summary['status']} after {summary['epochs']} epochs, {summary['seconds']:.1f} s: "
            f"accuracy {accuracy}, squared distances to minima: {distances or 'no minima'}"
        )
    return 0


def _figures(options: argparse.Namespace) -> int:
    from thesislib.app import notebooks

    if options.jobs is not None:
        os.environ[machine.JOBS] = options.jobs
    machine.cores()  # says so if that is no number
    given = {name: value for text in options.parameters for name, value in parameters(text).items()}
    return 0 if notebooks.execute(options.scale, options.section, given) else 1


def _plan(options: argparse.Namespace) -> int:
    from thesislib.runs import plan

    table = plan.table(_runs(options))
    print(table.to_string(index=False, float_format="{:.1f}".format))
    hours = table["hours"].sum()
    print(f"{hours:.1f} hours one after another on this device; a grid divides by the runs at a time")
    return 0


def _launch(options: argparse.Namespace) -> int:
    from thesislib.runs import slurm

    for name, least in (("tasks", 1), ("cpus", 1), ("gpus", 0)):
        if (value := getattr(options, name)) is not None and value < least:
            raise UserError(f"--{name}: must be {least} or more, not {value}")
    if not 1 / 60 <= options.hours < 10_000:
        raise UserError(f"--hours: must be between a minute (0.017) and 10000, not {options.hours:g}")
    further = dict(pair("--sbatch", text) for text in options.sbatch)
    if taken := sorted(name for name in further if name.replace("-", "_") in slurm.OURS):
        raise UserError(f"--sbatch {taken[0]}=...: this one is set by launch itself")
    resources = slurm.Resources(options.tasks, options.cpus, options.gpus, options.hours, options.partition, further)
    runs = _runs(options)
    sent = slurm.submit(runs, options.cluster, resources)
    waiting = slurm.on_their_way(runs)
    print(
        f"sent {len(sent)} runs; {len(waiting)} are on their way; logs: {store.runs_folder() / 'cluster'}", flush=True
    )
    if not waiting or not options.wait:
        return 0
    print("Ctrl-C ends only this display", flush=True)
    return 1 if slurm.watch(waiting) else 0


def _pack(options: argparse.Namespace) -> int:
    from thesislib.plots import save
    from thesislib.runs import archive

    path = options.file or save.figures_folder(options.scale) / "runs.zip"
    packed, runs = archive.pack(_runs(options), path), len({store.run_id(run) for run in _runs(options)})
    print(f"{packed} of {runs} runs in {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _unpack(options: argparse.Namespace) -> int:
    from thesislib.runs import archive

    new, runs, begun = archive.unpack(options.file)
    stay = f"; {begun} were begun here and go on from there" if begun else ""
    print(f"{runs} runs in {options.file}: {new} are new in {store.runs_folder()}{stay}")
    return 0


def _runs(options: argparse.Namespace) -> list[Run]:
    """All runs of the chosen sections at the chosen scale."""
    chosen = options.section or sections.SECTIONS
    return sections.in_order({name: sections.groups(name, options.scale) for name in chosen})


def _lab(options: argparse.Namespace) -> int:
    from thesislib.app import notebooks

    # The first python3 on this path is the one that Lab offers: this environment's, not what somebody else calls so.
    path = [os.path.join(sys.prefix, "share", "jupyter"), os.environ.get("JUPYTER_PATH", "")]  # noqa: PTH118
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, path))
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--notebook-dir={notebooks.notebooks_folder()}"]
    os.execv(sys.executable, command)


def _clean_figures() -> int:
    from thesislib.app import notebooks
    from thesislib.plots import save

    deleted = 0
    for scale in sections.SCALES:
        gone, left = notebooks.delete(scale)
        deleted += len(gone)
        if gone or left:
            rest = f"; not written here, so left: {', '.join(left)}" if left else ""
            print(f"deleted {len(gone)} files in {save.figures_folder(scale)}{rest}")
    if not deleted:
        print(f"no figures in {save.figures_folder('')}")
    return 0


def _clean(options: argparse.Namespace) -> int:
    if options.figures:
        return _clean_figures()
    # Imported here: the other commands need not wait for it.
    from thesislib.runs import slurm

    folder = store.runs_folder()
    runs = [path for path in folder.iterdir() if store.is_run(path)] if folder.is_dir() else []
    what = "runs"
    if options.records:
        what = "runs without weights"
        runs = [path for path in runs if store.is_archived(path)]
    if not runs:
        print(f"no {what} in {folder}")
        return 0
    question = f"delete {len(runs)} {what} in {folder}? [y/N] "
    if not options.yes and (not sys.stdin.isatty() or input(question).strip().lower() != "y"):
        print(f"nothing deleted: {len(runs)} runs stay in {folder} (--yes deletes them without asking)")
        return 1
    slurm.sent()  # says so if it cannot be read, before anything is deleted
    deleted = [path.name for path in runs if store.delete(path)]
    slurm.forget(deleted)
    busy = len(runs) - len(deleted)
    print(f"deleted {len(deleted)} runs" + (f"; {busy} are being trained and stay" if busy else ""))
    return 1 if busy else 0


COMMANDS = {
    "list": _list,
    "figures": _figures,
    "plan": _plan,
    "launch": _launch,
    "pack": _pack,
    "unpack": _unpack,
    "run": _run,
    "lab": _lab,
    "clean": _clean,
}


if __name__ == "__main__":
    sys.exit(main())
