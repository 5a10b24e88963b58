"""Run folders: names, lock, resume, write. `results` reads them back; neither needs torch to do so.

runs/<id>/config.json              the run, its data's fingerprint, REVISION
          model.py, kernel.py      the text of the module, where these are one's own
          metrics.csv              one row an epoch
          steps.csv                one row a step just after a minimum, if the run asks for it (dense_steps)
          minimum-<k>.safetensors  theta [P], test logits [N, C], buffers of the k-th minimum
          member-<k>.safetensors   the same at the mean of the k-th cycle's last weights (member_epochs)
          final.safetensors        the same at the end, and the test labels [N]
          losses.safetensors       the training loss of every step, [epochs, steps] (step_losses)
          beginning-*.safetensors  what other runs can go on from (`shared_prefix`)
          derived-*.safetensors    what was computed from these files later (`cache`)
          checkpoint.safetensors   while it trains; has the rows of the tables, and the digests of minima and members
          events.*                 TensorBoard's, which has checksums of its own
          done.json                the summary, and the digests of the other files; there is none until the run is whole

Every other file carries its own digest (`files`) or has it in done.json, the texts in config.json, and is read against
it; tables of a run that still trains are in its checkpoint. config.json is what the folder's name says. An archived run
(`archive`) came without its weights: it has no final.safetensors.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from thesislib.config import NETWORK_VERSIONS, Run
from thesislib.datasets import fingerprint
from thesislib.runs import identity
from thesislib.runs.events import Events
from thesislib.runs.identity import REVISION
from thesislib.system import datafiles, files, own
from thesislib.system.errors import UserError

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

#: The files of a run's folder that are written here.
_OURS = (
    r"(?:config|done)\.json|(?:metrics|steps)\.csv|(?:model|kernel)\.py|lock|"
    r"(?:minimum-\d+|member-\d+|final|losses|checkpoint|beginning-[0-9a-f]+|derived-[\w.-]+)\.safetensors|events\.out\.tfevents\..+"
)

#: A dataset's short name, as `datasets.fingerprint` gives it.
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Config(BaseModel):
    """config.json: what a run is, and on which data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Run
    data: Fingerprint
    revision: int = REVISION
    network: int = 1
    sources: dict[str, str] = {}  # of a network or kernel of one's own: the name of its text, by field

    @classmethod
    def of(cls, run: Run) -> Config:
        """That of a run that is trained now."""
        network = NETWORK_VERSIONS.get(run.model, 1)
        return cls(run=run, data=fingerprint(run.data), network=network, sources=run.sources())

    def of_other(self, run: Run) -> Config:
        """That of another run of the same network, kernel and data."""
        return self.model_copy(update={"run": run})

    @property
    def folder(self) -> Path:
        """Where the run lies: it is named by its id."""
        return runs_folder() / identity.digest(self.run, self.data, self.sources)

    def check_texts(self, folder: Path) -> None:
        """Raise Broken if the texts of network and kernel in a run's folder are not those that it is named by."""
        for field in ("model", "kernel"):
            path, text = folder / f"{field}.py", self.sources.get(field)
            if text is None and path.exists():
                raise files.Broken(path, f"this run has no {field} of one's own")
            if text is not None and files.digest(files.read(path))[: len(text)] != text:
                raise files.Broken(path, files.OTHER)

    def check_loaded(self) -> None:
        """Raise UserError if the texts that were loaded, or the data, are not those that the run is named by."""
        for field, text in self.sources.items():
            own.loaded(getattr(self.run, field), text)
        if fingerprint(self.run.data) != self.data:
            raise UserError(f"dataset {self.run.data} was changed just when a run of it was to begin: start it again")

    @property
    def earlier(self) -> str:
        """In which way a run of that kind would be another one today; empty if it would not."""
        if self.network != NETWORK_VERSIONS.get(self.run.model, 1):
            return f"of an earlier version of {self.run.model}, with other initial weights"
        for field, text in self.sources.items():
            try:
                if own.digest(name := getattr(self.run, field)) != text:
                    return f"of another text: {name} has changed since; what it was is in its folder, {field}.py"
            except UserError as error:  # it is not there any more
                return f"of a text that is not there: {error}"
        return "" if self.revision == REVISION else f"of revision {self.revision}; this is revision {REVISION}"

    @property
    def other_today(self) -> str:
        """In which way a run of that kind would be another one today, by its data too; empty if it would not."""
        if self.earlier:
            return self.earlier
        with contextlib.suppress(UserError):  # of data that are malformed now: who asks for them hears of it
            if datafiles.is_known(self.run.data) and fingerprint(self.run.data) != self.data:
                return f"of other data: {self.run.data} has changed since"
        return ""


class Summary(BaseModel):
    """done.json: how a run ended, and the digests of its files."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    status: Literal["finished", "diverged"]
    epochs: Annotated[int, Field(ge=1)]
    accuracy: Annotated[float, Field(ge=0, le=1)] | None
    nll: float | None
    squared_distances: list[Annotated[float, Field(ge=0)] | None]
    seconds: Annotated[float, Field(ge=0)]
    finished: str
    versions: dict[str, str]
    digests: dict[str, _Digest]


def runs_folder() -> Path:
    """Where runs live: $THESIS_RUNS, else runs/ beside the package."""
    return files.folder("THESIS_RUNS")


def run_id(run: Run) -> str:
    """The id of a run on this machine's data. Raises UserError if its dataset is missing."""
    return identity.digest(run, fingerprint(run.data))


def is_done(run: Run) -> bool:
    """Whether the run is whole."""
    return (runs_folder() / run_id(run) / "done.json").is_file()


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: named by an id, with the run's description in it."""
    return bool(re.fullmatch("[0-9a-f]{12}", folder.name)) and (folder / "config.json").is_file()


def has_weights(folder: Path) -> bool:
    """Whether the run in a folder is finished, and its weights are there."""
    return all((folder / name).is_file() for name in ("done.json", "final.safetensors"))


def is_archived(folder: Path) -> bool:
    """Whether a finished run came without its weights (`archive`)."""
    return (folder / "done.json").is_file() and not has_weights(folder)


def sweep(folder: Path, older: float = files.WRITTEN_SECONDS) -> None:
    """Delete what was left by processes that were killed while they wrote a file of a run (`files.sweep`)."""
    files.sweep(folder, _OURS, older)


def delete(folder: Path) -> bool:
    """Delete a run, unless a process is at work on it; whether it is gone.

    Files in its folder that no run writes stay. Of a run elsewhere, that is only linked, the link goes.
    """
    if folder.is_symlink():
        folder.unlink()
        return True
    try:
        with FileLock(folder / "lock").acquire(timeout=0):
            sweep(folder, older=0)
            # The description last: a folder without one is no run, and nobody would look at what is left of it.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
                if re.fullmatch(_OURS, path.name):
                    path.unlink()
            with contextlib.suppress(OSError):  # somebody's own files are in it
                folder.rmdir()
    except Timeout:
        return False
    return True


def minima_of(run: Run, stored: Mapping[str, dict[str, np.ndarray]], epoch: int) -> list[dict[str, np.ndarray]]:
    """The minima that a run has by an epoch, of its `stored` files by name.

    Each has the weights `mean` [P] of its cycle's mean member too if its hill is put there (hill_at).
    """
    reached = [e for e in run.minimum_epochs if e <= epoch]
    means = [stored[f"member-{run.member_ends.index(e)}"]["theta"] for e in reached if run.hill_at == "mean"]
    minima = [stored[f"minimum-{k}"] for k in range(len(reached))]
    return [minimum | {"mean": mean} for minimum, mean in zip(minima, means, strict=True)] if means else minima


@contextmanager
def writing(run: Run, config: Config | None = None) -> Iterator[Writer]:
    """The one writer of a run's folder; waits while another process is it. Raises UserError if unwritable.

    `config` is what the run is (None: as of now); a network, kernel or dataset may change while it trains.
    """
    config = config or Config.of(run)
    files.make_writable(config.folder, "runs", "THESIS_RUNS")
    with files.lock(config.folder / "lock"):
        yield Writer(config)


class Writer:
    """Writes one run. Each file appears whole or not at all; only its tables grow while it trains."""

    def __init__(self, config: Config) -> None:
        self.config, self.run, self.folder = config, config.run, config.folder
        run = self.run
        self._now = {"metrics.csv": columns(run)} | ({"steps.csv": list(STEPS)} if run.dense_steps else {})
        self._columns = self._now
        #: Of each table the text that has been written so far, as lines; of each file of arrays its digest.
        self._tables = {name: [",".join(of) + "\n"] for name, of in self._columns.items()}
        self._digests: dict[str, str] = {}

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.folder / "done.json").is_file()

    def resume(self) -> tuple[int, dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
        """(epoch, state, minima) of the last checkpoint, (0, {}, []) if there is none.

        Rows that were logged after that checkpoint are dropped: their epochs are trained again.
        """
        sources = self.config.sources
        described = self.config.model_dump(mode="json", exclude=None if sources else {"sources"})
        files.write(self.folder / "config.json", json.dumps(described, indent=1).encode())
        for field, text in sources.items():
            files.write(self.folder / f"{field}.py", own.loaded(getattr(self.run, field), text).encode())
        sweep(self.folder, older=0)
        self.forget_derived()
        epoch, state, minima = 0, {}, []
        if (path := self.folder / "checkpoint.safetensors").is_file():
            state = files.read_arrays(path)
            epoch = state.pop("epoch").item()
            self._tables, self._digests = json.loads(state.pop("written").tobytes())
            # A run that was begun before there was some column goes on without it.
            self._columns = {name: lines[0].rstrip("\n").split(",") for name, lines in self._tables.items()}
            stored = {k: files.read_arrays(self._path(k), (), digest) for k, digest in self._digests.items()}
            minima = minima_of(self.run, stored, epoch)
        self._write_tables()
        self._events = Events(self.folder, self.run, epoch)
        return epoch, state, minima

    def forget_derived(self) -> None:
        """Delete what was computed from a run that lay here: this one may round differently."""
        for path in self.folder.glob("derived-*.safetensors"):
            path.unlink()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _text(self, name: str) -> bytes:
        return "".join(self._tables[name]).encode()

    def _write_tables(self) -> None:
        for name in self._tables:
            files.write(self.folder / name, self._text(name))

    def _append(self, name: str, rows: list[dict[str, float]]) -> None:
        lines, known = io.StringIO(), self._columns[name]
        extra = "raise" if known == self._now[name] else "ignore"
        csv.DictWriter(lines, known, lineterminator="\n", extrasaction=extra).writerows(rows)
        self._tables[name].append(lines.getvalue())
        files.append(self.folder / name, lines.getvalue().encode())

    def row(self, values: dict[str, float]) -> None:
        """Log one epoch."""
        self._append("metrics.csv", [values])
        self._events.row(values)

    def steps(self, rows: list[dict[str, float]]) -> None:
        """Log steps just after a minimum."""
        if rows:
            self._append("steps.csv", rows)

    @property
    def history(self) -> pd.DataFrame:
        """The rows that have been logged."""
        return files.parse_table(self._text("metrics.csv"))

    def arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Store "minimum-K", "member-K" (the mean member of cycle K), "losses" or "final"."""
        self._digests[name] = files.write_arrays(self._path(name), arrays)

    def checkpoint(self, epoch: int, state: dict[str, np.ndarray]) -> None:
        """Make `epoch` the place to resume from."""
        written = json.dumps([self._tables, self._digests]).encode()
        further = {"epoch": np.array([epoch]), "written": np.frombuffer(written, np.uint8)}
        files.write_arrays(self._path("checkpoint"), state | further)

    def finish(self, status: str, final: dict[str, np.ndarray], versions: dict[str, str]) -> None:
        """Write the final network, the tables anew as they were logged, then the marker that the run is whole."""
        self.arrays("final", final)
        self._write_tables()
        history = self.history
        last = history.iloc[-1]
        reached = sum(epoch <= last["epoch"] - (status != "finished") for epoch in self.run.minimum_epochs)
        summary = Summary(
            id=self.folder.name,
            status=status,
            epochs=int(last["epoch"]),
            accuracy=_number(last["accuracy"]),
            nll=_number(last["test_loss"]),
            squared_distances=[_number(last[f"d_{k}"]) for k in range(reached)],
            seconds=float(history["seconds"].sum()),
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            versions=versions,
            digests=self._digests | {name: files.digest(self._text(name)) for name in self._tables},
        )
        self._events.end(summary.epochs, status == "finished")
        files.write_json(self.folder / "done.json", summary.model_dump(mode="json"))
        self._path("checkpoint").unlink(missing_ok=True)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None  # JSON has no NaN
