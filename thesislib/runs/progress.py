"""How far runs have come while they train: a bar that counts epochs, in a terminal or a notebook."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from thesislib.config import Run
from thesislib.runs import listing

#: Seconds between two looks at the runs; and between two lines in a file, which is not overwritten as a terminal is.
POLL_SECONDS, IN_FILES = 1.0, 60.0


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def is_live() -> bool:
    """Whether this is a kernel that somebody looks at, in Jupyter or VS Code, and not one that executes in batch."""
    if not in_notebook():
        return False
    names = sys.modules["IPython"].get_ipython().user_ns
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in names


class Bar:
    """Epochs done of those of some runs, the time left, how many runs are done and which are under way.

    A context. In a notebook it is plain text, which a saved notebook still shows, not a widget.
    """

    def __init__(self, runs: Sequence[Run], shown: bool = True) -> None:
        self._runs, self._done = runs, set[Run]()
        kind, options = (_NotebookBar, {"file": io.StringIO(), "ncols": 100}) if in_notebook() else (tqdm, {})
        often = in_notebook() or sys.stderr.isatty()
        self._bar = kind(
            total=sum(run.epochs for run in runs), desc="training", unit="epoch", miniters=1,
            mininterval=0.1 if often else IN_FILES, disable=not shown, **options,
        )  # fmt: skip

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def done(self, run: Run) -> None:
        """A run has ended."""
        self._done.add(run)

    def update(self, running: Mapping[Run, Path]) -> None:
        """Count again; of those that are under way the folders are known, whatever is edited meanwhile."""
        under_way = {run: listing.epochs(run, folder) for run, folder in running.items()}
        shown = [f"{epochs}/{run.epochs}" for run, epochs in under_way.items()]
        shown = [*shown[:4], "..."] if len(shown) > 4 else shown
        text = f"{len(self._done)} of {len(self._runs)} runs" + (f", under way: {', '.join(shown)}" if shown else "")
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(sum(run.epochs for run in self._done) + sum(under_way.values()) - self._bar.n)


class _NotebookBar(tqdm):
    """A line of text that is replaced by the next one."""

    _handle: Any = None

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Show the bar."""
        from IPython.display import display

        text = {"text/plain": str(self) if msg is None else msg}
        if self._handle is None:
            self._handle = display(text, raw=True, display_id=True)
        else:
            self._handle.update(text, raw=True)
        return True
