"""Finished runs: one read from its folder, or many under the labels of a section, as tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thesislib.config import Run
from thesislib.system.errors import UserError
from thesislib.system.files import Broken, read_arrays, read_json, read_table
from thesislib.runs.store import STEPS, Config, Groups, Summary, columns, is_archived, run_id, runs_folder


@dataclass(frozen=True)
class Result:
    """A finished (or diverged) run, read lazily from its folder."""

    run: Run
    folder: Path

    @property
    def id(self) -> str:
        """The run's id."""
        return self.folder.name

    @cached_property
    def _done(self) -> Summary:
        path = self.folder / "done.json"
        done = read_json(path, Summary)
        if done.id != self.id:
            raise Broken(path, f"it is run {done.id}'s")
        return done

    @cached_property
    def summary(self) -> dict[str, Any]:
        """id, status (finished, diverged), epochs, accuracy, nll, squared_distances, seconds."""
        return self._done.model_dump(exclude={"digests"})

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch, columns as in store.COLUMNS and d_0, d_1, ..."""
        path = self.folder / "metrics.csv"
        return read_table(path, columns(self.run), self._done.digests.get(path.name))

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row a step just after a minimum, columns as in store.STEPS; empty unless the run has dense_steps."""
        path = self.folder / "steps.csv"
        if not self.run.dense_steps:
            return pd.DataFrame(columns=list(STEPS))
        return read_table(path, STEPS, self._done.digests.get(path.name))[list(STEPS)]

    def arrays(self, which: int | str, *names: str) -> dict[str, np.ndarray]:
        """theta [P], logits [N, C] and buffers of minimum `which`, of the end for "final", or of the mean member
        "member-K"; only `names` if given.

        "final" also has labels [N], the true classes of the test images.

        Raises UserError if there is no such minimum, or the run came without weights (`archive`).
        """
        if self.is_archived:
            raise UserError(
                f"run {self.id} came without its weights, which are asked for here: "
                "'python -m thesislib clean --records' deletes all such runs, to be trained anew"
            )
        name = which if isinstance(which, str) and not which.isdigit() else f"minimum-{which}"
        if name not in self._done.digests:
            raise UserError(f"run {self.id} has no minimum {which}; it has {len(self.minimum_epochs)}, and 'final'")
        return read_arrays(self.folder / f"{name}.safetensors", names, self._done.digests[name])

    @property
    def step_losses(self) -> np.ndarray:
        """The training loss of every step, [epochs, steps]; empty unless the run has step_losses."""
        if not self.run.step_losses:
            return np.zeros((0, 0), np.float32)
        path = self.folder / "losses.safetensors"
        return read_arrays(path, ["train_loss"], self._done.digests.get("losses", ""))["train_loss"]

    @property
    def minimum_epochs(self) -> list[int]:
        """Epochs of the minima that were reached."""
        return [e for e in self.run.minimum_epochs if e <= self._done.epochs - self.diverged]

    @property
    def is_archived(self) -> bool:
        """Whether the run came without its weights (`archive`)."""
        return is_archived(self.folder)

    @property
    def diverged(self) -> bool:
        """Whether the run ended early because its loss was no longer finite."""
        return self._done.status == "diverged"

    def check(self) -> None:
        """Read all that others need to draw this run (`archive`). Raises Broken for the first file that is broken."""
        _ = self.history, self.steps, self.step_losses
        for path in sorted(self.folder.glob("derived-*.safetensors")):
            try:
                read_arrays(path)
            except Broken as error:
                raise Broken(path, error.why, "delete it, and draw its figure again") from None


def load(run: Run) -> Result:
    """A run's result. Raises UserError if it is not there."""
    folder = runs_folder() / run_id(run)
    if not (folder / "done.json").is_file():
        raise UserError(f"run {folder.name} is not finished in {runs_folder()}")
    with contextlib.suppress(OSError):  # left by a process that was killed just before it deleted it
        (folder / "checkpoint.safetensors").unlink()
    return Result(run, folder)


def load_id(identity: str) -> Result:
    """A finished run by its id. Raises UserError if it is not there, or would be another one today."""
    folder = runs_folder() / identity
    if not (folder / "done.json").is_file():
        raise UserError(f"no finished run {identity} in {runs_folder()}")
    config = read_config(folder)
    if config.earlier:
        raise UserError(f"run {identity} is {config.earlier}")
    return Result(config.run, folder)


def read_config(folder: Path) -> Config:
    """What the run in a folder is. Raises UserError if that is not what the folder's name says."""
    path = folder / "config.json"
    config = read_json(path, Config)
    if not config.earlier and config.run.digest(config.data, config.sources) != folder.name:
        raise Broken(path, f"it is not run {folder.name}'s: it was damaged, edited or exchanged")
    return config


def spread(values: pd.Series, mean: str, deviation: str) -> str:
    """ "mean ± std" in these formats; of a single number, which has no deviation, itself; of none, nothing."""
    numbers = values.dropna()
    if len(numbers) < 2:
        return "".join(format(number, mean) for number in numbers)
    return f"{numbers.mean():{mean}} ± {numbers.std(ddof=1):{deviation}}"


class Results(dict[str, list[Result]]):
    """Finished runs under their labels."""

    @classmethod
    def load(cls, groups: Groups) -> Results:
        """The results of finished runs. Raises UserError if one is not finished."""
        return cls({label: [load(run) for run in runs] for label, runs in groups.items()})

    def only(self, *labels: str) -> Results:
        """Those under these labels."""
        return Results({label: self[label] for label in labels})

    def split(self, prefix: str) -> tuple[Results, Results]:
        """The results whose labels do not begin with `prefix`, and those that do, without it."""
        chosen = {label.removeprefix(prefix): group for label, group in self.items() if label.startswith(prefix)}
        return Results({k: v for k, v in self.items() if not k.startswith(prefix)}), Results(chosen)

    @cached_property
    def history(self) -> pd.DataFrame:
        """All rows of all runs, with the columns label, model, seed and id."""
        return self._together(lambda result: result.history)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """All rows of the runs' steps.csv, with the same columns."""
        return self._together(lambda result: result.steps)

    def _together(self, read: Callable[[Result], pd.DataFrame]) -> pd.DataFrame:
        return pd.concat(
            [
                read(result).assign(label=label, model=result.run.model, seed=result.run.seed, id=result.id)
                for label, group in self.items()
                for result in group
            ],
            ignore_index=True,
        )

    @property
    def final(self) -> pd.DataFrame:
        """The last row of each run."""
        return self.history.groupby(["label", "id"], sort=False).tail(1).reset_index(drop=True)

    def table(self, *columns: str) -> pd.DataFrame:
        """Final numbers as "mean ± std", one row a label (and network), with the number of runs n."""
        groups = self.final.groupby(["label", "model"], sort=False)
        shown = {c: groups[c].agg(lambda v: spread(v, ".4g", ".2g")) for c in columns}
        return pd.DataFrame({**shown, "n": groups.size()}).reset_index()
