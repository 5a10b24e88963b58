"""A figure with sliders, and the landscape of two weights in notebook 0_first_steps."""

import functools
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from thesislib.app.sliders import sliders
from thesislib.system.errors import UserError

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "0_first_steps.ipynb"


@pytest.fixture
def toy():
    """The names that the notebook has, and what it gives to its sliders, up to the toy landscape."""
    plt.switch_backend("agg")
    names = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        source, _, call = "".join(cell["source"]).partition("\nsliders(")
        exec(source, names)
        if call:
            plt.close("all")
            yield names, eval(f"dict(draw={call.strip()}", names)
            break
    plt.close("all")


def test_a_slider_changes_the_path_that_is_drawn(toy, monkeypatch):
    _, given = toy
    drawn, draw = [], given["draw"]
    monkeypatch.setattr("thesislib.app.sliders.is_live", lambda: True)

    @functools.wraps(draw)  # with its defaults
    def watched(**arguments):
        figure = draw(**arguments)
        drawn.append((arguments, figure.axes[1].lines[0].get_xydata()))

    shown = sliders(**given | {"draw": watched})
    slider = shown.children[0]
    assert (slider.description, slider.value) == ("strength", 2.0)
    slider.value = 0.0
    assert [arguments["strength"] for arguments, _ in drawn] == [2.0, 0.0]
    (_, pushed), (_, held) = drawn
    assert pushed[-1, 0] > 1, "in the other minimum"
    assert held[-1, 0] < -1, "where it was"


@pytest.mark.parametrize(
    ("setting", "leaves"),
    [((2.0, 1.0, 0.02), True), ((2.0, 0.5, 0.02), False), ((4.0, 0.5, 0.02), True), ((2.0, 1.0, 0.002), False)],
)
def test_what_the_text_says_about_the_settings(toy, setting, leaves):
    names, given = toy
    assert all(value in given[name] for name, value in zip(("strength", "width", "lr"), setting, strict=True))
    held, pushed = names["follow"](*setting)
    assert ((pushed[-1] - held[-1]).square().sum() > 2) == leaves


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hight": [1.0, 3.0]}, "no argument hight to slide: choose from height"),
        ({"height": []}, "height begins with its default, 3.0, which is not among"),
        ({"height": [1.0, 2.0]}, "height begins with its default, 3.0, which is not among"),
        ({"height": 3.0}, "height slides over a list of numbers, not 3.0"),
        ({"height": ["low", "high"]}, "height slides over a list of numbers"),
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_what_cannot_slide_is_one_line(values, says, live, monkeypatch):
    monkeypatch.setattr("thesislib.app.sliders.is_live", lambda: live)
    with pytest.raises(UserError, match=says):
        sliders(lambda height=3.0: None, **values)


def test_in_batch_the_figure_of_the_defaults_is_shown():
    def draw(height=3.0):
        figure, axis = plt.subplots()
        axis.plot([0, height])
        return figure

    assert sliders(draw, height=[1.0, 3.0]) is None
    (number,) = plt.get_fignums()
    assert plt.figure(number).axes[0].lines[0].get_ydata()[1] == 3.0
    plt.close("all")
