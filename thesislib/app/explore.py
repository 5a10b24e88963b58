"""One setting beside the baseline, with sliders: what is trained shows at once, the rest trains while one looks."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, get_args

from thesislib.config import KERNELS, Run
from thesislib.experiments import sections
from thesislib.experiments.scales import SCALES
from thesislib.experiments.sections import digits
from thesislib.plots import save
from thesislib.runs import launch, listing, progress, store
from thesislib.runs.finished import Result
from thesislib.runs.growth import growth, says
from thesislib.runs.results import Results, Row
from thesislib.system import files
from thesislib.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: What the sliders offer beside the values that they are given.
_STRENGTHS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_WIDTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
_RATES = (1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_L2 = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


class _UnderWay(Result):
    """A run that is not finished: what it has logged so far."""

    @cached_property
    def history(self) -> pd.DataFrame:
        """The rows that are there, with every column that the run will have."""
        return listing.logged(self.folder).reindex(columns=store.columns(self.run))


@dataclass(frozen=True)
class _LiveRow(Row):
    """A row of a run that need not be finished."""

    @cached_property
    def result(self) -> Result:
        """What there is of it."""
        kind = Result if store.is_done(self.run) else _UnderWay
        return kind(self.run, store.runs_folder() / store.run_id(self.run))


def explore(scale: str = "laptop", smoothing: int = 1, **setting: Any) -> Explorer:
    """Sliders for one setting, which stands beside the baseline; `setting` is where they begin (None: the default).

    In JupyterLab it shows curves of what is trained at once, and trains the rest in the background while one looks.
    Executed in batch it shows the figure of section 0_explore instead. `figure` and `runs` are what `tl.save` takes.
    Raises UserError for an unknown scale or field, or a value that does not fit.

    >>> import thesislib as tl
    >>> explorer = tl.explore("smoke", strength=10)
    >>> explorer.runs.labels
    ['baseline', 'yours']
    """
    return Explorer(scale, smoothing, setting)


class Explorer:
    """The widgets, what they are set to, and the training in the background (`explore`)."""

    def __init__(self, scale: str, smoothing: int, setting: dict[str, Any]) -> None:
        if "seeds" in setting:
            raise UserError("the explorer's seeds are the scale's, a slider says how many: leave seeds out")
        self.scale, self.smoothing, self._given = scale, smoothing, setting
        self._rows = sections.rows("0_explore", scale, **setting)  # says what is wrong
        self._start = next(row.run for row in self._rows if row.label == "yours").model_dump()
        self.pins: dict[str, dict[str, Any]] = {}
        self._stop, self._thread, self._error, self._begun = Event(), None, "", (0.0, 0)
        self._todo: dict[Run, Path] = {}  # with their folders, whatever is edited while they train
        self._counted = -1

    # What is shown, as runs.

    @property
    def runs(self) -> Results:
        """The results of what is shown, which train if they are missing."""
        return launch.results(self._rows, scale=self.scale, section="0_explore")

    @cached_property
    def figure(self) -> Figure:
        """Their curves; a notebook does not show them by itself, the explorer does."""
        from thesislib.plots.curves import curves
        from thesislib.plots.hill import closed

        return closed(curves(self.runs, smoothing=self.smoothing))

    def _ipython_display_(self) -> None:
        """Show the widgets where somebody can move them, else the figure."""
        if not progress.is_live():
            from thesislib.plots.curves import curves

            # Shown below the cell by the notebook. `figure` is another one: drawing moves what is laid out by a hair.
            curves(self.runs, smoothing=self.smoothing)
            return
        from IPython.display import display

        display(self.box)

    @property
    def setting(self) -> dict[str, Any]:
        """The fields that the widgets are set to, as section 0_explore takes them."""
        own = {name: widget.value for name, widget in self.fields.items()}
        return {name: value for name, value in self._given.items() if name not in own} | own

    def _choose(self) -> None:
        """Find the rows of what is set and pinned. Raises UserError."""
        _ = self.box
        seeds = SCALES[self.scale].seeds[: self.seeds.value]
        settings = {**self.pins, "yours": self.setting}
        rows = {label: sections.rows("0_explore", self.scale, **fields) for label, fields in settings.items()}
        chosen = [row for row in rows["yours"] if row.label == "baseline"]
        for label, some in rows.items():
            chosen += [Row(row.run, label, section=row.section) for row in some if row.label == "yours"]
        self._rows = [row for row in chosen if row.seed in seeds]
        self.__dict__.pop("figure", None)

    # The widgets.

    @cached_property
    def fields(self) -> dict[str, Any]:
        """A widget for each field of a run that can be set."""
        import ipywidgets as w

        run = Run(**self._start)
        wide = {"description_width": "11em"}

        def choice(kind: Any, name: str, options: Any, text: str, **further: Any) -> Any:
            value = getattr(run, name)
            if value not in options:
                options = sorted([*options, value])
            shown = [(digits(o) if isinstance(o, float) else str(o), o) for o in options]
            return kind(options=shown, value=value, description=text, style=wide, **further)

        def slider(name: str, options: Any, text: str) -> Any:
            return choice(w.SelectionSlider, name, options, text, continuous_update=False)

        def word(name: str, text: str) -> Any:
            return choice(w.Dropdown, name, [*get_args(Run.model_fields[name].annotation)], text)

        def epochs(name: str, most: int, text: str) -> Any:
            value = getattr(run, name)
            top = max(most, value)
            return w.IntSlider(value, 1, top, description=text, style=wide, continuous_update=False)

        cycle = SCALES[self.scale].cycle
        return {
            "strength": slider("strength", _STRENGTHS, "strength s"),
            "width": slider("width", _WIDTHS, "width w"),
            "kernel": choice(w.Dropdown, "kernel", [*KERNELS], "kernel"),
            "minima": word("minima", "hills at minima"),
            "minima_every": epochs("minima_every", 3 * cycle, "a minimum every"),
            "lr": slider("lr", _RATES, "learning rate"),
            "lr_schedule": word("lr_schedule", "its schedule"),
            "strength_schedule": word("strength_schedule", "strength's schedule"),
            "weight_decay": slider("weight_decay", _L2, "L2"),
            "optimizer": word("optimizer", "optimiser"),
            "epochs": epochs("epochs", 6 * cycle, "epochs"),
        }

    @cached_property
    def box(self) -> Any:
        """All widgets; made when they are first shown, or what they are set to is asked for."""
        import ipywidgets as w

        from thesislib.plots import hover

        def button(text: str, handler: Callable[[], None], about: str) -> Any:
            made = w.Button(description=text, tooltip=about, layout={"width": "auto"})
            made.on_click(lambda _: self._carefully(handler))
            return made

        many = len(SCALES[self.scale].seeds)
        self.seeds = w.IntSlider(many, 1, max(many, 1), description="seeds", style={"description_width": "11em"})
        self.curves, self.hill = w.Image(layout={"max_width": "100%"}), w.Image(layout={"max_width": "22em"})
        self.status, self.code = w.HTML(), w.Textarea(layout={"width": "100%", "height": "9em"})
        self.name = w.Text("0_explore_mine", description="save as")
        self.values = w.ToggleButton(
            description="Values", tooltip="of the curves, under the mouse", layout={"width": "auto"}
        )
        self.values.layout.display = "" if hover.is_possible() else "none"
        self.values.observe(lambda _: self._carefully(self._draw), "value")
        self.train_button = button("Train", self.train, "train what is missing, in the background")
        self.stop_button = button("Stop", self.stop, "what was begun resumes when it is trained again")
        self.buttons = {
            "pin": button("Pin", self.pin, "keep these curves to compare"),
            "unpin": button("Clear pins", self.unpin, "back to one setting"),
            "save": button("Save", self.save, "PGF, PDF and PNG under figures/"),
        }
        for widget in (*self.fields.values(), self.seeds):
            widget.observe(lambda _: self._carefully(self.show), "value")
        controls = w.VBox([*self.fields.values(), self.seeds, self.hill], layout={"min_width": "26em"})
        for widget in (*self.fields.values(), self.seeds):
            widget.layout.width = "25em"
        line = w.HBox([self.train_button, self.stop_button, *self.buttons.values(), self.values])
        folded = w.Accordion([self.code], titles=["copy as code"])
        self.shown = w.VBox([self.curves])
        right = w.VBox([self.status, line, self.shown, w.HBox([self.name]), folded], layout={"flex": "1"})
        made = self.__dict__["box"] = w.HBox([controls, right])  # there before `show` asks for it
        self._carefully(self.show)
        return made

    def _carefully(self, handler: Callable[[], None]) -> None:
        """Do what a widget asks for; a mistake of the user's is a line beside the widgets."""
        try:
            handler()
        except (UserError, OSError) as error:
            self._say(str(error), "#b3261e")

    def _say(self, text: str, colour: str = "#444") -> None:
        _ = self.box
        self.status.value = f'<span style="color: {colour}">{html.escape(text)}</span>'

    # What the widgets do.

    def show(self) -> None:
        """Draw what is set and pinned, as far as it has come, and say what is missing."""
        self._choose()
        self._draw()
        self.code.value = self.as_code()
        missing = launch.missing(row.run for row in self._rows)
        self.train_button.disabled = self.busy or not missing
        self.stop_button.disabled = not self.busy
        if not self.busy:
            epochs = sum(run.epochs - listing.epochs(run, store.Config.of(run).folder) for run in missing)
            runs = f"{len(missing)} runs" if len(missing) > 1 else "One run"
            more = f"{runs}, {epochs} epochs to train: press Train" if missing else "Trained"
            self._say(f"{self._hill_text()}. {more}.")

    def _hill_text(self) -> str:
        run = self._yours.run
        has_hill = run.strength and any(epoch < run.epochs for epoch in run.minimum_epochs)
        return says(growth(run)) if has_hill else "No hill in this run: strength 0 only records the minima"

    @property
    def _yours(self) -> Row:
        return next(row for row in self._rows if row.label == "yours")

    def _draw(self) -> None:
        from thesislib.plots import hover
        from thesislib.plots.curves import curves
        from thesislib.plots.hill import hill, picture

        rows = [_LiveRow(row.run, row.label, section=row.section) for row in self._rows]
        live = Results([row for row in rows if len(row.result.history)], self.scale, "0_explore")
        before = self.shown.children[0]
        if len(live) and self.values.value:
            self.shown.children = [hover.canvas(curves(live, smoothing=self.smoothing))]
        else:
            self.shown.children = [self.curves]
            self.curves.value = picture(curves(live, smoothing=self.smoothing)) if len(live) else b""
            self.curves.layout.display = "block" if len(live) else "none"
        if before not in (self.curves, self.shown.children[0]):
            before.close()
        now = [row.result.history["d_0"].iloc[-1] for row in live if row.label == "yours" and row.run.minimum_epochs]
        self.hill.value = picture(hill(self._yours.run, [d for d in now if d == d]))

    @property
    def busy(self) -> bool:
        """Whether something trains."""
        return self._thread is not None and self._thread.is_alive()

    def train(self) -> None:
        """Train what is missing in processes of their own; the curves grow meanwhile."""
        if self.busy:
            return
        self._choose()
        self._todo = {run: store.Config.of(run).folder for run in launch.missing(row.run for row in self._rows)}
        if not self._todo:
            return
        self._stop.clear()
        self._error, self._begun, self._counted = "", (time.monotonic(), self._epochs()), -1
        self._thread = Thread(target=self._train, daemon=True)
        self._thread.start()
        self.tick()
        try:  # in a notebook this is the kernel's own loop: drawing takes turns with what the user executes
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        except RuntimeError:  # a script, which calls `tick` itself
            self._watching = None

    def _train(self) -> None:
        try:
            launch.train_missing(self._todo, stop=self._stop)
        except KeyboardInterrupt:
            self._error = "Stopped; Train goes on from where it was"
        except (RuntimeError, OSError, UserError) as error:
            self._error = str(error)

    def stop(self) -> None:
        """End the training; what was begun resumes when it is trained again."""
        self._stop.set()
        self._say("Stopping ...")

    async def _watch(self) -> None:
        busy = True
        while busy:
            await asyncio.sleep(progress.POLL_SECONDS)
            busy = self.busy  # asked before: what ends during the last look is looked at once more
            self._carefully(self.tick)

    def _epochs(self) -> int:
        return sum(listing.epochs(run, folder) for run, folder in self._todo.items())

    def tick(self) -> None:
        """Draw again if there are further epochs, and say how many are done and how long the rest takes."""
        done, total = self._epochs(), sum(run.epochs for run in self._todo)
        if not self.busy:
            self.show()
            if self._error:
                self._say(self._error, "#8a6100")
            return
        if done != self._counted:
            self._counted = done
            self.show()
        if done <= self._begun[1]:  # processes that start take seconds, which say nothing of the rest
            self._begun = (time.monotonic(), done)
        begun, before = self._begun
        rate = (done - before) / max(time.monotonic() - begun, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        if not self._stop.is_set():
            self._say(f"{self._hill_text()}. Training: {done} of {total} epochs{left}.")

    def pin(self) -> None:
        """Keep the setting under a name that says in what it differs, beside whatever is set next."""
        fields = self.setting
        default = {name: value for name, value in self._start.items() if name in fields}
        other = [f"{_SHORT.get(n, n)} = {v}" for n, v in fields.items() if default.get(n, v) != v]
        self.pins["; ".join(other) or "as it began"] = fields
        self.show()

    def unpin(self) -> None:
        """Drop what is pinned."""
        self.pins.clear()
        self.show()

    def save(self) -> None:
        """Save the figure of what is shown with all its companions (`tl.save`)."""
        self._choose()
        name = self.name.value.strip()
        files.check_name("figure", name)
        if launch.missing(row.run for row in self._rows):
            raise UserError("not all of it is trained yet: press Train first")
        save.save(self.figure, name, self.runs)
        self._say(f"Saved {save.figures_folder(self.scale) / name}.pgf, .pdf, .png and .json.")

    def as_code(self) -> str:
        """Lines of Python that make the same figure."""
        _ = self.box
        seeds = list(SCALES[self.scale].seeds[: self.seeds.value])
        settings = {"baseline": {"strength": 0.0}, **self.pins, "yours": self.setting}
        shown = {label: {n: v for n, v in fields.items() if v is not None} for label, fields in settings.items()}
        lines = "".join(f"    {label!r}: {fields},\n" for label, fields in shown.items())
        return (
            f"import thesislib as tl\n\nsettings = {{\n{lines}}}\n"
            f"runs = tl.train(settings, scale={self.scale!r}, seeds={seeds})\n"
            f"figure = tl.plot.curves(runs, smoothing={self.smoothing})\n"
            f"tl.save(figure, {self.name.value.strip()!r}, runs)\n"
        )


_SHORT = {"strength": "s", "width": "w", "weight_decay": "L2"}
