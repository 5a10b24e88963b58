"""What is on disk: every run as a row of one table, and how far those have come that are being trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from thesislib.config import Run
from thesislib.runs import store
from thesislib.runs.finished import load_id, read_config
from thesislib.runs.spreads import need
from thesislib.runs.store import Summary
from thesislib.system.errors import UserError
from thesislib.system.files import Broken, parse_table, read_json

if TYPE_CHECKING:
    import pandas as pd

#: The columns in front of the fields that differ, and behind them.
FRONT = ("id", "status", "data", "network", "seed")
BEHIND = ("epochs", "of", "accuracy", "test_loss", "d_0", "seconds", "finished", "broken")


def table() -> pd.DataFrame:
    """Every run on disk, see `thesislib.runs`: those that were finished last at the end, behind the unfinished ones."""
    import pandas as pd

    folder, rows = store.runs_folder(), []
    for path in sorted(filter(store.is_run, folder.iterdir())) if folder.is_dir() else []:
        row: dict[str, Any] = {"id": path.name, "status": "", "broken": ""}
        try:
            run = read_config(path).run
            row |= run.model_dump(mode="json", exclude={"epochs"}) | {"network": run.model, "of": run.epochs}
            row |= _ended(path) if (path / "done.json").is_file() else _under_way(path)
        except UserError as error:
            row |= {"status": "broken", "broken": str(error)}
        rows.append(row)
    fields = [name for name in Run.model_fields if name not in (*FRONT, *BEHIND, "model")]
    found = pd.DataFrame(rows, columns=[*FRONT, *fields, *BEHIND])
    alike = [name for name in fields if found.loc[found["broken"] == "", name].nunique(dropna=False) < 2]
    found = found.drop(columns=alike).sort_values("finished", na_position="first", kind="stable", ignore_index=True)
    return found.astype({"seed": "Int64", "epochs": "Int64", "of": "Int64"})


def _ended(folder: Path) -> dict[str, Any]:
    done = read_json(folder / "done.json", Summary)
    if done.id != folder.name:
        raise Broken(folder / "done.json", f"it is run {done.id}'s")
    archived = done.status == "finished" and store.is_archived(folder)
    return {
        "status": "archived" if archived else done.status, "epochs": done.epochs, "accuracy": done.accuracy,
        "test_loss": done.nll, "d_0": next(iter(done.squared_distances), None), "seconds": done.seconds,
        "finished": done.finished,
    }  # fmt: skip


def _under_way(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"status": "under way" if _is_held(folder / "lock") else "stopped", "epochs": 0}
    history = logged(folder)
    if not history.empty:
        last = history.iloc[-1]
        row |= {name: last.get(name) for name in ("accuracy", "test_loss", "d_0")}
        row |= {"epochs": int(last["epoch"]), "seconds": history["seconds"].sum()}
    return row


def _is_held(lock: Path) -> bool:
    """Whether a process is at work in the lock's folder."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # somebody else's runs, which this user can only read
        return False


def logged(folder: Path) -> pd.DataFrame:
    """The epochs that a run has logged so far, as it was found: what it still writes has no digest to check it by."""
    path = folder / "metrics.csv"
    content = path.read_bytes() if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1] or b"epoch\n"  # the last line may be half there
    try:
        return parse_table(whole)
    except ValueError as error:
        raise Broken(path, error) from None


def epochs(run: Run, folder: Path) -> int:
    """Epochs of a run in its folder that are done; rows that it trains again after it was killed do not count."""
    path = folder / "metrics.csv"
    if (folder / "done.json").is_file():  # a diverged run has none left
        return run.epochs
    return min(max(0, path.read_bytes().count(b"\n") - 1), run.epochs) if path.is_file() else 0


def runs_of(rows: pd.DataFrame) -> list[Run]:
    """The runs of some rows of the table, by their ids.

    Raises UserError for a table without ids, a broken run, or one that would be another today.
    """
    need(rows, ["id"])
    found = []
    for identity in rows["id"]:
        folder = store.runs_folder() / str(identity)
        if not folder.is_dir():
            raise UserError(f"there is no run {identity} in {folder.parent}")
        config = read_config(folder)
        if config.other_today or (folder / "done.json").is_file():
            load_id(identity)  # says what is wrong with it
        found.append(config.run)
    return found
