"""Every run on disk as one table, a row a run: `tl.runs()`.

Columns: id, status, data, network, seed, the other fields of `tl.Run` in which the runs differ, epochs done, `of` how
many, accuracy, test_loss and d_0 (squared distance to the first minimum) at the end, seconds, finished (when), broken
(why nothing is known of it). Status is finished, diverged, archived (came without weights), under way, or stopped: it
resumes. `tl.train` takes such a table, or some rows of it, and returns results to draw.

`tl.runs.show()` is the same in JupyterLab, sorted and filtered by clicks, without network (needs itables).

>>> import thesislib as tl
>>> runs = tl.train([tl.Run(model="mlp-tiny", train_size=512, test_size=250, epochs=3, minima_every=2)])
>>> table = tl.runs()
>>> mine = table[table["of"] == 3]
>>> mine["status"].tolist(), mine["epochs"].tolist()
(['finished'], [3])
>>> figure = tl.plot.curves(tl.train(mine))
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class _Runs(ModuleType):
    """This package, which is called `tl.runs` as its table is.

    A module's class may be replaced: docs.python.org/3/reference/datamodel.html, "Customizing module attribute access".
    """

    def __call__(self) -> pd.DataFrame:
        from thesislib.runs import listing

        return listing.table()

    @staticmethod
    def show(rows: pd.DataFrame | None = None) -> None:
        """Display the table, or some rows of it, with columns that sort and fields that filter.

        Raises UserError without itables, which works without network.

        >>> import thesislib as tl
        >>> tl.runs.show(tl.runs())  # doctest: +SKIP
        """
        from importlib.util import find_spec

        from thesislib.runs import listing
        from thesislib.system.errors import UserError

        if rows is not None and not hasattr(rows, "columns"):
            raise UserError("tl.runs.show() takes rows of tl.runs(), such as tl.runs().query('accuracy > 0.5')")
        if find_spec("itables") is None:
            raise UserError("tl.runs.show() needs itables: pip install itables; tl.runs() is the table without it")
        import itables

        itables.init_notebook_mode(all_interactive=False, connected=False)
        itables.show(listing.table() if rows is None else rows, column_filters="header", maxBytes=0)


sys.modules[__name__].__class__ = _Runs
