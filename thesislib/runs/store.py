"""Run folders: names, lock, resume, write. `results` reads them back; neither needs torch to do so.

runs/<id>/config.json              the run, its data's fingerprint, REVISION
          metrics.csv              one row an epoch
          steps.csv                one row a step just after a minimum, if the run asks for it (dense_steps)
          minimum-<k>.safetensors  theta [P], test logits [N, C], buffers of the k-th minimum
          member-<k>.safetensors   the same at the mean of the k-th cycle's last weights (member_epochs)
          final.safetensors        the same at the end, and the test labels [N]
          losses.safetensors       the training loss of every step, [epochs, steps] (step_losses)
          beginning-*.safetensors  what other runs can go on from (`shared_prefix`)
          derived-*.safetensors    what was computed from these files later (`cache`)
          checkpoint.safetensors   while it trains; has the rows of the tables, and the digests of minima and members
          events.*                 TensorBoard
          done.json                the summary, and the digests of the other files; there is none until the run is whole

Every file carries its own digest or has it in done.json (`files`), and is read against it. config.json is what the
folder's name says.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from thesislib.system import files
from thesislib.config import Run
from thesislib.system.errors import UserError
from thesislib.datasets import fingerprint
from thesislib.system.files import Broken, appending, digest, parse_table, read_arrays, write, write_arrays, write_json
from thesislib.runs.schema import Config, Summary

if TYPE_CHECKING:
    import pandas as pd

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

#: The files of a run's folder that are written here, and what a process leaves that was killed while it wrote one.
_OURS = (
    r"(?:config|done)\.json|(?:metrics|steps)\.csv|(?:minimum-\d+|member-\d+|final|losses|checkpoint|beginning-[0-9a-f]+|"
    r"derived-[\w.-]+)\.safetensors|events\.out\.tfevents\..+|lock"
)
_ABANDONED = re.compile(rf"\.(?:{_OURS})\.{files.ABANDONED}")


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
        writer = Writer(run, folder)
        try:
            yield writer
        finally:
            writer.close()


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: named by an id, with the run's description in it."""
    return bool(re.fullmatch("[0-9a-f]{12}", folder.name)) and (folder / "config.json").is_file()


def is_record(folder: Path) -> bool:
    """Whether a finished run came without its weights (`archive`)."""
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


def sweep(folder: Path, older: float = 0.0) -> None:
    """Delete what was left by processes that were killed while they wrote a file of a run.

    Without the run's lock somebody may be writing one: only what is `older`, in seconds, is then surely left.
    """
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):  # somebody else was faster, or the folder may only be read
            if _ABANDONED.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older:
                path.unlink()


class Writer:
    """Writes one run. Each file appears whole or not at all; only its tables grow while it trains."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        self._columns = {"metrics.csv": columns(run)} | ({"steps.csv": list(STEPS)} if run.dense_steps else {})
        #: Of each table the text that has been written so far, as lines; of each file of arrays its digest.
        self._tables = {name: [",".join(of) + "\n"] for name, of in self._columns.items()}
        self._digests: dict[str, str] = {}
        self._board: Any = None

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.folder / "done.json").is_file()

    def resume(self) -> tuple[int, dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
        """(epoch, state, minima) of the last checkpoint, (0, {}, []) if there is none.

        Rows that were logged after that checkpoint are dropped: their epochs are trained again.
        """
        config = Config.of(self.run, fingerprint(self.run.data))
        write(self.folder / "config.json", json.dumps(config.model_dump(mode="json"), indent=1).encode())
        sweep(self.folder)
        epoch, state, minima = self._last_checkpoint()
        for name in self._tables:
            write(self.folder / name, self._text(name))
        # Imported here: it costs more than a second, and only writers need it.
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(self.folder), purge_step=epoch + 1)
        return epoch, state, minima

    def _last_checkpoint(self) -> tuple[int, dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
        path = self.folder / "checkpoint.safetensors"
        if not path.is_file():
            return 0, {}, []
        state = read_arrays(path)
        if "epoch" not in state:
            raise Broken(path, "it lacks epoch")
        epoch, written = state.pop("epoch").item(), state.pop("written", None)
        minima = [f"minimum-{k}" for k in range(sum(e <= epoch for e in self.run.minimum_epochs))]
        if written is not None:
            self._tables, self._digests = json.loads(written.tobytes())
        elif not self._take_tables(epoch):
            return 0, {}, []
        else:  # of an earlier version, without digests
            names = [*minima, *(f"member-{k}" for k in range(sum(e <= epoch for e in self.run.member_ends)))]
            for name in names:
                self._arrays(name, read_arrays(self.folder / f"{name}.safetensors"))
        stored = {k: read_arrays(self.folder / f"{k}.safetensors", (), v) for k, v in self._digests.items()}
        return epoch, state, [stored[name] for name in minima]

    def _take_tables(self, epoch: int) -> bool:
        """Whether metrics.csv has whole rows up to the epoch of a checkpoint that has none, which become ours.

        Of steps.csv nobody knows whether it is whole.
        """
        try:
            lines = (self.folder / "metrics.csv").read_text().splitlines(keepends=True)[: epoch + 1]
            table = parse_table("".join(lines).encode(), self._columns["metrics.csv"])
        except (FileNotFoundError, ValueError):
            return False
        if self.run.dense_steps or list(table["epoch"]) != list(range(1, epoch + 1)):
            return False
        self._tables["metrics.csv"] = lines
        return True

    def _text(self, name: str) -> bytes:
        return "".join(self._tables[name]).encode()

    def _append(self, name: str, rows: list[dict[str, float]]) -> None:
        lines = io.StringIO()
        csv.DictWriter(lines, self._columns[name], lineterminator="\n").writerows(rows)
        self._tables[name].append(lines.getvalue())
        with appending(self.folder / name) as file:
            file.write(lines.getvalue())

    def _arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        self._digests[name] = write_arrays(self.folder / f"{name}.safetensors", arrays)

    def close(self) -> None:
        """Let go of TensorBoard's file, which a thread of its own writes."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def row(self, values: dict[str, float]) -> None:
        """Log one epoch."""
        self._append("metrics.csv", [values])
        for name in values.keys() - {"epoch"}:
            self._board.add_scalar(name, values[name], values["epoch"])

    def steps(self, rows: list[dict[str, float]]) -> None:
        """Log steps just after a minimum."""
        if rows:
            self._append("steps.csv", rows)

    @property
    def history(self) -> pd.DataFrame:
        """The rows that have been logged."""
        return parse_table(self._text("metrics.csv"), COLUMNS)

    def minimum(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Store the minimum with that number."""
        self._arrays(f"minimum-{number}", arrays)

    def member(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Store the mean member of the cycle with that number."""
        self._arrays(f"member-{number}", arrays)

    def losses(self, losses: np.ndarray) -> None:
        """Store the training losses of all steps, [epochs, steps]."""
        self._arrays("losses", {"train_loss": losses})

    def checkpoint(self, epoch: int, state: dict[str, np.ndarray]) -> None:
        """Make `epoch` the place to resume from."""
        self._board.flush()
        written = json.dumps([self._tables, self._digests]).encode()
        further = {"epoch": np.array([epoch]), "written": np.frombuffer(written, np.uint8)}
        write_arrays(self.folder / "checkpoint.safetensors", state | further)

    def finish(self, status: str, final: dict[str, np.ndarray], versions: dict[str, str]) -> None:
        """Write the final network, the tables anew as they were logged, then the marker that the run is whole."""
        self._arrays("final", final)
        for name in self._tables:
            write(self.folder / name, self._text(name))
        last = self.history.iloc[-1]
        distances = last.filter(regex=r"^d_\d+$").dropna()
        summary = Summary(
            id=self.folder.name,
            status=status,
            epochs=int(last["epoch"]),
            accuracy=_number(last["accuracy"]),
            nll=_number(last["test_loss"]),
            squared_distances=[_number(d) for d in distances],
            seconds=float(self.history["seconds"].sum()),
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            versions=versions,
            digests=self._digests | {name: digest(self._text(name)) for name in self._tables},
        )
        self.close()
        write_json(self.folder / "done.json", summary.model_dump(mode="json"))
        (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None  # JSON has no NaN
