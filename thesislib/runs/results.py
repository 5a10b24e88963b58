"""Finished runs, many of them, as one tidy table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import pandas as pd

from thesislib.config import Run
from thesislib.runs import cache, functions
from thesislib.runs.finished import Result, load
from thesislib.runs.growth import growth
from thesislib.runs.spreads import FRONT, need, need_once, spreads
from thesislib.runs.store import run_id, runs_folder
from thesislib.system.errors import UserError
from thesislib.system.fields import no_such
from thesislib.system.files import LONGEST_NAME


@dataclass(frozen=True)
class Row:
    """A run and what it is for: a line of the tidy table `Results`.

    `label` is the setting's name in figures. `role` says what the run is for: "curve", or a section's own word. The
    `member`s 1 to K of an ensemble of independent networks have the ensemble's seed in common, each run has its own.
    """

    run: Run
    label: str
    role: str = "curve"
    member: int | None = None
    ensemble_seed: int | None = None
    section: str = ""

    @property
    def network(self) -> str:
        """The network's name."""
        return self.run.model

    @property
    def seed(self) -> int:
        """The seed that a comparison is paired by: the run's, or that of its ensemble."""
        return self.run.seed if self.ensemble_seed is None else self.ensemble_seed

    @cached_property
    def id(self) -> str:
        """The run's id when it was first asked for: a network of one's own may be edited later."""
        return run_id(self.run)

    @cached_property
    def result(self) -> Result:
        """What came out. Raises UserError if the run is not finished."""
        return load(self.run, runs_folder() / self.id)


Labelled = Mapping[str, Iterable[Run]]


def rows_of(runs: Iterable[Row] | Iterable[Run] | Labelled) -> list[Row]:
    """Rows of runs under labels; runs without labels are named by the fields in which they differ, but for the seed."""
    if isinstance(runs, Mapping):
        return [Row(run, label) for label, group in runs.items() for run in group]
    runs = list(runs)
    fields = [run.model_dump(exclude={"seed"}) for run in runs if isinstance(run, Run)]
    varied = [name for name in fields[0] if any(f[name] != fields[0][name] for f in fields)] if fields else []
    return [
        run if isinstance(run, Row) else Row(run, ", ".join(f"{n} = {getattr(run, n)}" for n in varied) or "run")
        for run in runs
    ]


class Results(Sequence[Row]):
    """Finished runs as one tidy table: a sequence of `Row`, with the columns FRONT.

    `scale` and `section` say what was asked for; runs of one's own are of scale "own". A row that is given twice is
    one: a run beside itself would pass for two that agree.
    """

    def __init__(self, rows: Iterable[Row] | Iterable[Run] | Labelled, scale: str = "own", section: str = "") -> None:
        self.rows, self.scale, self.section = tuple(dict.fromkeys(rows_of(rows))), scale, section

    def __repr__(self) -> str:
        """What a cell shows that ends in them."""
        of = f", section {self.section}" if self.section else ""
        return f"{len(self)} run{'s' * (len(self) != 1)} at scale {self.scale}{of}: {', '.join(self.labels) or 'none'}"

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Results: ...

    def __getitem__(self, index: int | slice) -> Row | Results:
        if isinstance(index, str):
            raise UserError(f"rows have numbers: those of a label are runs.only({index!r})")
        return self.of(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    @property
    def labels(self) -> list[str]:
        """The distinct labels, in their order."""
        return list(dict.fromkeys(row.label for row in self))

    def where(self, **wanted: Any) -> Results:
        """The rows whose columns, or whose runs' fields, have these values: `where(role="curve", lr=0.1)`.

        Or one of several, as in `where(seed=[0, 1])`. Raises UserError for what is neither.
        """
        known = [*FRONT, *Run.model_fields]
        if unknown := [name for name in wanted if name not in known]:
            raise UserError(no_such("column or field", unknown[0], known))
        several = {name: isinstance(value, Iterable) and not isinstance(value, str) for name, value in wanted.items()}
        values = {name: list(value) if several[name] else [value] for name, value in wanted.items()}

        def fits(row: Row) -> bool:
            return all(getattr(row if n in FRONT else row.run, n) in some for n, some in values.items())

        return self.of(filter(fits, self))

    def only(self, *labels: str) -> Results:
        """The rows under these labels, in the order of the labels. Raises UserError if there are none under one."""
        if unknown := [label for label in labels if label not in self.labels]:
            raise UserError(f"no runs are labelled {', '.join(unknown)}: choose from {', '.join(self.labels)}")
        return self.of(row for label in labels for row in self if row.label == label)

    def without(self, *labels: str) -> Results:
        """The rows that are under none of these labels."""
        return self.of(row for row in self if row.label not in labels)

    def of(self, rows: Iterable[Row]) -> Results:
        """These rows, as of the same scale and section."""
        return Results(rows, self.scale, self.section)

    @property
    def ensembles(self) -> list[list[Row]]:
        """The rows in groups: a run, whose snapshots are members, alone; members 1 to K of an ensemble together."""
        groups: dict[Any, list[Row]] = {}
        for row in self:
            together = (row.section, row.role, row.label, row.network, row.seed)
            groups.setdefault(row if row.member is None else together, []).append(row)
        return list(groups.values())

    @cached_property
    def history(self) -> pd.DataFrame:
        """All rows of all runs' metrics.csv, with the columns FRONT."""
        return self._together(lambda result: result.history)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """All rows of the runs' steps.csv, with the columns FRONT."""
        return self._together(lambda result: result.steps)

    def _together(self, read: Callable[[Result], pd.DataFrame]) -> pd.DataFrame:
        def front(row: Row) -> dict[str, Any]:
            return {name: getattr(row, name) for name in FRONT} | ({"member": np.nan} if row.member is None else {})

        self._need_rows()
        return pd.concat([read(row.result).assign(**front(row)) for row in self], ignore_index=True)

    def _need_rows(self) -> None:
        if not self.rows:
            raise UserError("there are no runs to read: none has the label, role or seed that was asked for")

    @cached_property
    def final(self) -> pd.DataFrame:
        """The last row of each run."""
        return self.history.groupby(["section", "role", "label", "id"], sort=False).tail(1).reset_index(drop=True)

    @property
    def keys(self) -> list[str]:
        """The columns that tell settings apart: label and network, section and role only where there are several."""
        several = [name for name in ("section", "role") if len({getattr(row, name) for row in self}) > 1]
        return [*several, "label", "network"]

    def table(self, *columns: str) -> pd.DataFrame:
        """Final numbers as "mean ± std", one row a setting (`keys`), with the number of runs n.

        Where settings have hills, N says whether they have been left (`growth`). Raises UserError for another column
        and one of texts.
        """
        if len(columns) == 1 and not isinstance(columns[0], str):  # a list, as figures take them
            columns = tuple(columns[0])
        need(self.final, columns, numbers=bool(columns))
        need_once(self.final, [*self.keys, "seed", "member"])
        return spreads(self.final.assign(N=self._growths()), self.keys, dict(zip(columns, columns, strict=True)))

    def _growths(self) -> pd.Series:
        """N of each run of `final`, NaN without a hill."""
        runs = {row.id: row.run for row in self}
        return self.final["id"].map(lambda name: growth(runs[name]) if runs[name].strength else np.nan)

    def map(
        self,
        function: Callable[..., cache.Computed],
        name: str,
        version: int,
        leave_out: bool = False,
        **parameters: Any,
    ) -> pd.DataFrame:
        """`function(results, **parameters)` of each of the `ensembles`, as rows behind `keys` and seed.

        The function takes a list of `Result` and returns a dictionary of numbers, or of columns of one length; an
        empty one has no rows. It is kept beside the runs (`cache`) under `name`, and computed again for other
        parameters, another text of a function of one's own or another `version`: raise that when what it calls
        changes. What takes long is shared out among processes if these can import the function.

        Where a function needs weights, archived runs of which it was not computed raise WithoutWeights. With
        `leave_out` they have no rows, unless that would leave none.
        """
        self._need_rows()
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name) or len(name.encode()) > LONGEST_NAME:
            made_of = f"letters, digits, _, . and -, {LONGEST_NAME} bytes at most"
            raise UserError(f"a name of files is made of {made_of}, not {name!r}")
        if not callable(function):
            raise UserError(f"a measure is a function of runs, imported or written here, not {function!r}")
        ensembles = [(rows[0], [row.result for row in rows]) for rows in self.ensembles]
        if leave_out:
            how = parameters | {"version": version} | functions.key(function)
            ensembles = [
                (first, runs)
                for first, runs in ensembles
                if cache.is_there(name, runs, **how) or not any(run.is_archived for run in runs)
            ] or ensembles
        groups = [runs for _, runs in ensembles]
        found = cache.many(name, groups, function, parameters | {"version": version}, (*self.keys, "seed"))
        tables = []
        for (first, _), arrays in zip(ensembles, found, strict=True):
            table = pd.DataFrame(arrays)
            front = {column: getattr(first, column) for column in (*self.keys, "seed")}
            tables.append(pd.DataFrame(front, index=table.index).join(table))
        return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)

    def for_csv(self) -> pd.DataFrame:
        """`final` as the section's CSV has it: with N, and a member with its own seed."""
        final, rows = self.final, {(row.role, row.label, row.id): row for row in self}
        own = [rows[key].run.seed for key in zip(final["role"], final["label"], final["id"], strict=True)]
        return final.assign(seed=own, N=self._growths()).drop(columns=["section", "member"])


def need_results(runs: object) -> None:
    """Raise UserError for anything but results."""
    if not isinstance(runs, Results):
        raise UserError(f"runs are what tl.section or tl.train returned, not {type(runs).__name__}")


def only_run(runs: Results) -> Row:
    """The one row of results. Raises UserError for anything but results of one run."""
    need_results(runs)
    if len(runs) != 1:
        raise UserError(f"this is of one run, not of {len(runs)}: choose one, such as runs[:1]")
    return runs[0]
