"""A figure with sliders: it is drawn anew for whatever they are set to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from thesislib.app.explore import is_live

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Sliders:
    """A slider for each of some arguments of `draw`, over the values that it may take, beside the figure it returns.

    They begin with the arguments' defaults, which must be among the values. Executed in batch, where nobody can move
    anything, it shows the figure of the defaults.
    """

    def __init__(self, draw: Callable[..., Figure], **values: Sequence[float]) -> None:
        self._draw, self._values = draw, values

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The sliders, by argument."""
        import ipywidgets as w

        begin = {name: parameter.default for name, parameter in inspect.signature(self._draw).parameters.items()}
        made = {
            name: w.SelectionSlider(
                options=[(f"{value:g}", value) for value in values], value=begin[name], description=name,
                continuous_update=False,
            )
            for name, values in self._values.items()
        }  # fmt: skip
        for slider in made.values():
            slider.observe(lambda _: self.show(), "value")
        return made

    @cached_property
    def image(self) -> Any:
        """The figure as a widget."""
        import ipywidgets as w

        return w.Image(layout={"max_width": "100%"})

    def show(self) -> None:
        """Draw what the sliders are set to."""
        from thesislib.plots.hill import picture

        self.image.value = picture(self._draw(**{name: slider.value for name, slider in self.fields.items()}))

    def _ipython_display_(self) -> None:
        if not is_live():
            self._draw()  # shown below the cell by the notebook
            return
        import ipywidgets as w
        from IPython.display import display

        self.show()
        display(w.VBox([w.HBox([*self.fields.values()]), self.image]))
