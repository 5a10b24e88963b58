"""Finished runs under the labels of a section, as tables."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from thesislib.store import Groups, Result, load


class Results(dict[str, list[Result]]):
    """Finished runs under their labels."""

    @classmethod
    def load(cls, groups: Groups) -> Results:
        """The results of finished runs. Raises UserError if one is not finished."""
        return cls({label: [load(run) for run in runs] for label, runs in groups.items()})

    @cached_property
    def history(self) -> pd.DataFrame:
        """All rows of all runs, with the columns label, model, seed and id in front."""
        return pd.concat(
            [
                result.history.assign(label=label, model=result.run.model, seed=result.run.seed, id=result.id)
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
        shown = {c: groups[c].agg(lambda v: f"{v.mean():.4g} ± {v.std(ddof=1):.2g}") for c in columns}
        return pd.DataFrame({**shown, "n": groups.size()}).reset_index()
