"""A finished run, read from its folder."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thesislib.config import Run
from thesislib.runs import identity
from thesislib.runs.store import STEPS, Config, Summary, columns, is_archived, run_id, runs_folder
from thesislib.system.errors import UserError
from thesislib.system.files import Broken, read_arrays, read_json, read_table


class WithoutWeights(UserError):
    """Weights were asked for that an archived run does not have."""


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
        """id, status (finished, diverged), epochs, accuracy, nll, squared_distances, seconds, finished, versions."""
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

        Raises UserError if there is no such minimum, WithoutWeights if the run came so (`archive`).
        """
        if self.is_archived:
            raise WithoutWeights(
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
    def member_ends(self) -> list[int]:
        """Epochs of the mean members that were stored (member_epochs)."""
        return [e for e in self.run.member_ends if e <= self._done.epochs - self.diverged]

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


def load(run: Run, folder: Path | None = None) -> Result:
    """A run's result, from the `folder` that it has today (None) or had when it began. Raises UserError without it."""
    folder = folder or runs_folder() / run_id(run)
    if not (folder / "done.json").is_file():
        raise UserError(f"run {folder.name} is not finished in {runs_folder()}")
    with contextlib.suppress(OSError):  # left by a process that was killed just before it deleted it
        (folder / "checkpoint.safetensors").unlink()
    return Result(run, folder)


def load_id(identity: str) -> Result:
    """A finished run by its id. Raises UserError if it is not there, or would be another one today."""
    folder = runs_folder() / identity
    if folder.is_dir() and (config := read_config(folder)).other_today:
        raise UserError(f"run {identity} is {config.other_today}")
    if not (folder / "done.json").is_file():
        raise UserError(f"no finished run {identity} in {runs_folder()}")
    return Result(config.run, folder)


def read_config(folder: Path) -> Config:
    """What the run in a folder is. Raises UserError if that is not what the folder's name says."""
    path = folder / "config.json"
    config = read_json(path, Config)
    if not config.earlier and identity.digest(config.run, config.data, config.sources) != folder.name:
        raise Broken(path, f"it is not run {folder.name}'s: it was damaged, edited or exchanged")
    return config
