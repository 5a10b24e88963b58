"""What runs share: until the first minimum is stored there is no hill, so that the distance term cannot matter.

Runs that differ in nothing but the term (strength, width, kernel, what becomes of later minima), in their length or in
what they log are the same run up to there, to the bit. The first of them keeps this shared prefix beside the runs, the
others go on from it: in most sections a sixth to a quarter of all epochs need not be trained. And a run that ends at a
minimum is cut, without a step, from a finished one that differs only in being longer: up to twice as long, ending at a
minimum too, with its weights there, trained on the same kind of hardware by the same torch.

runs/<id>/beginning-<key>.safetensors   state after the first minimum, that minimum, the metrics up to it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from thesislib import schedules
from thesislib.config import MOST_MINIMA, NETWORK_VERSIONS, Run
from thesislib.runs import store
from thesislib.runs.finished import Result
from thesislib.runs.identity import REVISION
from thesislib.system.errors import UserError
from thesislib.system.fields import LARGEST_COUNT
from thesislib.system.files import Broken, read_arrays, write_arrays

Arrays = dict[str, np.ndarray]

#: Fields that change nothing before the first minimum.
WITHOUT_EFFECT = frozenset(
    {
        *("epochs", "dense_steps", "minima", "merge", "kernel", "strength", "width", "share", "strength_schedule"),
        *("pulse", "hill_at", "push"),
    }
)


def file_name(run: Run, device: str, config: store.Config | None = None) -> str | None:
    """Name of the file that every run with this prefix can use on such a `device`; None if there is none to share.

    `config` is what the run is, if it is under way (None: as of now).
    """
    if not run.minimum_epochs or run.minimum_at_start:
        return None
    config = config or store.Config.of(run)
    shared = run.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    # Another torch or device, or another number of processes, rounds differently.
    key = [shared, config.data, REVISION, NETWORK_VERSIONS.get(run.model, 1), version("torch"), device]
    key += store.columns(run, minima=1)  # an earlier version may have logged others
    key += [text for field, text in config.sources.items() if field not in WITHOUT_EFFECT]
    return f"beginning-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]}.safetensors"


def find(name: str | None) -> Path | None:
    """Where a shared prefix of that name lies, if anybody has kept it."""
    return next(store.runs_folder().glob(f"*/{name}"), None) if name else None


def keep(run: Run, writer: store.Writer, state: Arrays, minimum: Arrays, device: str) -> None:
    """Keep what the run has just reached, its first minimum, for others; nothing if one of them was faster.

    `device` says on what it was trained.
    """
    name = file_name(run, device, writer.config)
    if name is None or find(name):
        return
    history, columns = writer.history, store.columns(run, minima=1)
    if not set(columns) <= set(history):  # the run was begun before there was one of them
        return
    metrics = history[columns]
    parts = {"state": state, "minimum": minimum, "metrics": {"rows": metrics.to_numpy()}}
    parts |= {member: read_arrays(writer.folder / f"{member}.safetensors") for member in _members(run)}
    write_arrays(writer.folder / name, {f"{part}/{k}": array for part in parts for k, array in parts[part].items()})
    # Of several that came here at the same time the last one sees all.
    for path in sorted(store.runs_folder().glob(f"*/{name}"))[1:]:
        path.unlink(missing_ok=True)


def _members(run: Run) -> list[str]:
    """Names of the mean members that a run has by its first minimum."""
    return [f"member-{k}" for k, epoch in enumerate(run.member_ends) if epoch <= run.minimum_epochs[0]]


def adopt(run: Run, writer: store.Writer, device: str) -> tuple[int, Arrays, list[Arrays]]:
    """What `store.Writer.resume` returns, from what another run kept; (0, {}, []) if none did, or it is broken.

    Writes that run's rows and minimum as this one's. `seconds` stay those of the run that trained them.
    """
    path = find(file_name(run, device, writer.config))
    # A run that ends there has to be evaluated itself.
    if path is None or run.minimum_epochs[0] == run.epochs:
        return 0, {}, []
    try:
        arrays = read_arrays(path)
    except Broken:  # the run is then trained from its start
        return 0, {}, []
    parts: dict[str, Arrays] = {}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = array
    columns = store.columns(run, minima=1)
    for values in parts["metrics"]["rows"].tolist():
        pairs = zip(columns, values, strict=True)
        row = {name: value for name, value in pairs if value == value or name in store.COLUMNS}
        epoch = int(row["epoch"])
        writer.row(row | {"epoch": epoch, "strength": schedules.strength(run, epoch - 1)})
    for member in _members(run):
        writer.arrays(member, parts[member])
    writer.arrays("minimum-0", parts["minimum"])
    return epoch, parts["state"], store.minima_of(run, parts | {"minimum-0": parts["minimum"]}, epoch)


def longer(run: Run) -> Iterator[Run]:
    """The runs, up to twice as long, from which this one can be cut; none if it does not end at a minimum."""
    if run.epochs in run.minimum_epochs and run.minima_every:
        most = min(2 * run.epochs, LARGEST_COUNT, MOST_MINIMA * run.minima_every)  # beyond, there are no runs
        for epochs in range(run.epochs + run.minima_every, most + 1, run.minima_every):
            yield run.model_copy(update={"epochs": epochs})


def cut(run: Run, writer: store.Writer, device: str) -> bool:
    """Write all of a run from a longer one that was trained on such a `device`; False if there is none.

    Its minimum at that epoch is the shorter run's end. `seconds` stay those of the run that trained them.
    """
    minima = [f"minimum-{k}" for k in range(len(run.minimum_epochs))]
    members = [f"member-{k}" for k in range(len(run.member_ends))]
    for parent in longer(run):
        whole = Result(parent, writer.config.of_other(parent).folder)
        if not store.has_weights(whole.folder):
            continue
        try:
            versions = whole.summary["versions"]
            if (versions.get("hardware"), versions["torch"]) != (device, version("torch")):
                continue
            stored = {name: whole.arrays(name) for name in (*minima, *members)}
            labels = whole.arrays("final", "labels")
            rows, steps, losses = whole.history.head(run.epochs), whole.steps, whole.step_losses[: run.epochs]
        except (UserError, KeyError):  # broken, or it diverged before: the run is then trained
            continue
        for name, arrays in stored.items():
            writer.arrays(name, arrays)
        known = set(store.columns(run))
        for row in rows.astype({"epoch": int}).to_dict("records"):
            writer.row({name: value for name, value in row.items() if value == value and name in known})
        steps = steps[steps["epoch"] <= run.epochs].astype(dict.fromkeys(("epoch", "minimum", "step"), int))
        writer.steps(steps.to_dict("records"))
        if run.step_losses:
            writer.arrays("losses", {"train_loss": losses})
        writer.finish("finished", stored[minima[-1]] | labels, versions)
        return True
    return False


def files(runs: Iterable[Run]) -> int:
    """How many prefixes these runs keep: of each, weights, momentum and the minimum are three vectors [P]."""
    return len({file_name(run, "any") for run in runs} - {None})


def epochs(runs: Collection[Run], device: str) -> int:
    """Epochs that it takes to train these runs on such a `device`, shared ones counted once.

    What lies on disk for them, of others that were trained there, need not be trained again.
    """
    runs = set(runs)
    total, seen = 0, set()
    for run in sorted(runs, key=lambda run: -run.epochs):
        if any(whole in runs or _has_weights(whole) for whole in longer(run)):
            continue
        name = file_name(run, device)
        total += run.epochs
        if (name in seen or find(name)) and run.minimum_epochs[0] < run.epochs:
            total -= run.minimum_epochs[0]
        seen.update({name} - {None})
    return total


def _has_weights(run: Run) -> bool:
    return store.has_weights(store.runs_folder() / store.run_id(run))
