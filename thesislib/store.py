"""Run folders: names, lock, resume, write. `results` reads them back; neither needs torch to do so.

runs/<id>/config.json              the run, its data's fingerprint, REVISION
          metrics.csv              one row an epoch
          steps.csv                one row a step just after a minimum, if the run asks for it (dense_steps)
          minimum-<k>.safetensors  theta [P], test logits [N, C], buffers of the k-th minimum
          member-<k>.safetensors   the same at the mean of the k-th cycle's last weights (member_epochs)
          final.safetensors        the same at the end, and the test labels [N]
          losses.safetensors       the training loss of every step, [epochs, steps] (step_losses)
          beginning-*.safetensors  what other runs can go on from (`beginnings`)
          derived-*.safetensors    what was computed from these files later (`derived`)
          checkpoint.safetensors   while it trains
          events.*                 TensorBoard
          done.json                the summary; there is none until the run is whole
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from thesislib import files
from thesislib.config import NETWORK_VERSIONS, REVISION, Run, UserError
from thesislib.datasets import fingerprint
from thesislib.files import appending, read_arrays, read_metrics, write, write_arrays

#: What every row of metrics.csv has; the squared distances d_0, d_1, ... to the minima stand behind these.
COLUMNS = (
    *("epoch", "train_loss", "term", "test_loss", "accuracy", "lr", "strength"),
    *("grad_norm", "term_norm", "grad_cosine", "train_seconds", "seconds", "d_init"),
)


def columns(run: Run, minima: int | None = None) -> list[str]:
    """The columns of a run's metrics.csv, with those that it asks for; distances to so many minima (None: all)."""
    running, mean = (tuple(f"{name}_{of}" for name in ("test_loss", "accuracy")) for of in ("running", "mean"))
    count = len(run.minimum_epochs) if minima is None else minima
    return [
        *COLUMNS,
        *(running if run.statistics_images else ()),  # with the statistics that train
        *(mean if run.member_epochs else ()),  # of the mean member, at the ends of cycles
        *(("d_0_radial", "d_0_angular") if run.convolutional and count else ()),
        *(f"d_{k}" for k in range(count)),
    ]


#: What every row of steps.csv has: `step` steps after minimum `minimum`; norms of the cross-entropy's and the term's
#: gradient, cosines of the angles between the two and to the last step's gradient, squared distance to the minimum.
STEPS = (*("epoch", "minimum", "step", "loss", "term", "grad_norm", "term_norm", "term_cosine", "grad_cosine", "d"),)

#: What done.json has.
SUMMARY = ("id", "status", "epochs", "accuracy", "nll", "squared_distances", "seconds", "finished", "versions")

#: The files of a run's folder that are written here, and what a process leaves that was killed while it wrote one.
_OURS = (
    r"(?:config|done)\.json|(?:metrics|steps)\.csv|(?:minimum-\d+|final|checkpoint|beginning-[0-9a-f]+|derived-[\w.-]+)"
    r"\.safetensors|events\.out\.tfevents\..+|lock"
)
_ABANDONED = re.compile(rf"\.(?:{_OURS})\.{files.ABANDONED}")

#: Runs under the label that figures give them: one setting with its seeds (and networks).
Groups = dict[str, list[Run]]


def runs_folder() -> Path:
    """Where runs live: $THESIS_RUNS, else runs/ beside the package."""
    return files.folder("THESIS_RUNS")


def run_id(run: Run) -> str:
    """The id of a run on this machine's data. Raises UserError if its dataset is missing."""
    return run.digest(fingerprint(run.data))


def is_done(run: Run) -> bool:
    """Whether the run is whole."""
    return (runs_folder() / run_id(run) / "done.json").is_file()


@contextmanager
def writing(run: Run) -> Iterator[Writer]:
    """The one writer of a run's folder; waits while another process is it. Raises UserError if unwritable."""
    folder = runs_folder() / run_id(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = files.lock(folder / "lock")
    except OSError as error:
        raise UserError(f"cannot write runs to {folder.parent}: {error.strerror} (set THESIS_RUNS)") from None
    with lock:
        yield Writer(run, folder)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: named by an id, with the run's description in it."""
    return bool(re.fullmatch("[0-9a-f]{12}", folder.name)) and (folder / "config.json").is_file()


def is_record(folder: Path) -> bool:
    """Whether a finished run came without its weights (`records`)."""
    return (folder / "done.json").is_file() and not (folder / "final.safetensors").is_file()


def delete(folder: Path) -> bool:
    """Delete a run, unless a process is at work on it; whether it is gone.

    Files in its folder that no run writes stay. Of a run elsewhere, that is only linked, the link goes.
    """
    if folder.is_symlink():
        folder.unlink()
        return True
    try:
        with FileLock(folder / "lock").acquire(timeout=0):
            # The description last: a folder without one is no run, and nobody would look at what is left of it.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
                if re.fullmatch(_OURS, path.name) or _ABANDONED.fullmatch(path.name):
                    path.unlink()
            with contextlib.suppress(OSError):  # somebody's own files are in it
                folder.rmdir()
    except Timeout:
        return False
    return True


class Writer:
    """Writes one run. Each file appears whole or not at all; only metrics.csv grows, a line an epoch."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        self._columns = columns(run)
        self._header = ",".join(self._columns) + "\n"
        self._board: Any = None

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.folder / "done.json").is_file()

    def resume(self) -> tuple[int, dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
        """(epoch, state, minima) of the last checkpoint, (0, {}, []) if there is none.

        Rows that were logged after that checkpoint are dropped: their epochs are trained again.
        """
        config = {
            "run": self.run.model_dump(mode="json"),
            "data": fingerprint(self.run.data),
            "revision": REVISION,
            "network": NETWORK_VERSIONS.get(self.run.model, 1),
        }
        write(self.folder / "config.json", json.dumps(config, indent=1).encode())
        for path in self.folder.glob(".*"):
            if _ABANDONED.fullmatch(path.name):
                path.unlink()
        path = self.folder / "checkpoint.safetensors"
        epoch, state, minima, lines = 0, {}, [], []
        if path.exists():
            state = read_arrays(path)
            epoch = state.pop("epoch").item()
            stored = sum(e <= epoch for e in self.run.minimum_epochs)
            minima = [read_arrays(self.folder / f"minimum-{k}.safetensors") for k in range(stored)]
            lines = self._rows(epoch)
            if len(lines) < epoch:  # rows were lost, as after a power cut: only the beginning is sure
                epoch, state, minima, lines = 0, {}, [], []
        write(self.folder / "metrics.csv", "".join([self._header, *lines]).encode())
        if self.run.dense_steps:
            write(self.folder / "steps.csv", self._steps_until(epoch).encode())
        # Imported here: it costs more than a second, and only writers need it.
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(self.folder), purge_step=epoch + 1)
        return epoch, state, minima

    def _rows(self, epoch: int) -> list[str]:
        """The lines of metrics.csv for the epochs 1 to `epoch`, as far as they are whole."""
        try:
            header, *lines = (self.folder / "metrics.csv").read_text().splitlines(keepends=True)
        except (OSError, ValueError):
            return []
        return [line for line in lines[:epoch] if line.endswith("\n")] if header == self._header else []

    def row(self, values: dict[str, float]) -> None:
        """Log one epoch."""
        with appending(self.folder / "metrics.csv") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(values)
        for name in values.keys() - {"epoch"}:
            self._board.add_scalar(name, values[name], values["epoch"])

    def steps(self, rows: list[dict[str, float]]) -> None:
        """Log steps just after a minimum."""
        if rows:
            with appending(self.folder / "steps.csv") as file:
                csv.DictWriter(file, STEPS, lineterminator="\n").writerows(rows)

    def _steps_until(self, epoch: int) -> str:
        """Header and rows of steps.csv of the epochs that will not be trained again."""
        path, header = self.folder / "steps.csv", ",".join(STEPS) + "\n"
        lines = path.read_text().splitlines(keepends=True)[1:] if epoch and path.is_file() else []
        return header + "".join(line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= epoch)

    def minimum(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Store the minimum with that number."""
        write_arrays(self.folder / f"minimum-{number}.safetensors", arrays)

    def member(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Store the mean member of the cycle with that number."""
        write_arrays(self.folder / f"member-{number}.safetensors", arrays)

    def losses(self, losses: np.ndarray) -> None:
        """Store the training losses of all steps, [epochs, steps]."""
        write_arrays(self.folder / "losses.safetensors", {"train_loss": losses})

    def checkpoint(self, epoch: int, state: dict[str, np.ndarray]) -> None:
        """Make `epoch` the place to resume from."""
        self._board.flush()
        with (self.folder / "metrics.csv").open("a") as file:
            os.fsync(file.fileno())  # the checkpoint counts on its rows
        if self.run.dense_steps:
            with (self.folder / "steps.csv").open("a") as file:
                os.fsync(file.fileno())
        write_arrays(self.folder / "checkpoint.safetensors", state | {"epoch": np.array([epoch])})

    def finish(self, status: str, final: dict[str, np.ndarray], versions: dict[str, str]) -> None:
        """Write the final network, then the marker that the run is whole."""
        write_arrays(self.folder / "final.safetensors", final)
        history = read_metrics(self.folder / "metrics.csv", COLUMNS)
        last = history.iloc[-1]
        distances = last.filter(regex=r"^d_\d+$").dropna()
        summary = {
            "id": self.folder.name,
            "status": status,
            "epochs": int(last["epoch"]),
            "accuracy": _number(last["accuracy"]),
            "nll": _number(last["test_loss"]),
            "squared_distances": [_number(d) for d in distances],
            "seconds": float(history["seconds"].sum()),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions,
        }
        self._board.close()
        write(self.folder / "done.json", json.dumps(summary, indent=1).encode())
        (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None  # JSON has no NaN
