"""The explorer: its widgets are set and its buttons called as a browser does, and runs are really trained."""

import sys
import time
from typing import get_args

import numpy as np
import pytest
from conftest import PATIENCE, TINY, trained

import thesislib as tl
from thesislib import schedules
from thesislib.app import explore
from thesislib.config import KERNELS
from thesislib.experiments import sections
from thesislib.plots.hill import hill
from thesislib.runs import launch, progress, store
from thesislib.runs.growth import growth, left_after, says
from thesislib.system.errors import UserError


def opened(**setting):
    explorer = tl.explore("smoke", **setting)
    _ = explorer.box
    return explorer


def wait(explorer, until=lambda explorer: not explorer.busy):
    """Tick as the notebook does; what the status said on the way."""
    said, deadline = [], time.monotonic() + PATIENCE
    while not until(explorer):
        assert time.monotonic() < deadline
        explorer.tick()
        said.append(explorer.status.value)
        time.sleep(0.02)
    explorer.tick()
    return [*said, explorer.status.value]


@pytest.fixture
def begun(folders):
    """The explorer where it begins, trained."""
    trained([row for row in sections.rows("0_explore", "smoke")])
    return opened()


def test_values_of_curves_stand_under_the_mouse(begun):
    """Those of the last epoch here; and back to the picture."""
    begun.values.value = True
    (canvas,) = begun.shown.children
    accuracy, distance = canvas.figure.axes
    last = begun.runs.history.groupby(["label", "epoch"])[["accuracy", "d_0"]].mean().loc[:, 8, :]
    for axis, name, mean in ((accuracy, "accuracy", last["accuracy"]), (distance, "d_0", None)):
        said = axis.format_coord(8.4, 1e9)
        assert said.startswith("epoch 8: baseline "), said
        if mean is not None:
            assert said == f"epoch 8: baseline {mean['baseline']:.4g}, yours {mean['yours']:.4g}", name
    canvas.draw()
    begun.fields["strength"].value = 10.0  # not trained
    assert begun.shown.children[0] is not canvas
    assert canvas.comm is None, "closed"
    begun.values.value = False
    assert begun.shown.children == (begun.curves,)


@pytest.mark.parametrize(
    ("fields", "dots"),
    [
        ({}, 1), ({"minima": "merge"}, 0), ({"minima": "merge", "minima_every": 6}, 1), ({"hill_at": "origin"}, 0),
        ({"distance": "filters", "model": "resnet20"}, 0), ({"distance": "function"}, 0),
    ],
)  # fmt: skip
def test_a_dot_is_on_the_hill_only_where_the_distance_is_to_it(fields, dots):
    (axis,) = hill(TINY.replace(**fields), [12.0]).axes
    assert len(axis.lines[1].get_xdata()) == dots


def test_widgets_offer_every_word_that_a_run_takes(begun):
    for name in ("minima", "lr_schedule", "strength_schedule", "optimizer"):
        words = get_args(tl.Run.model_fields[name].annotation)
        assert tuple(word for _, word in begun.fields[name].options) == words
    assert tuple(name for _, name in begun.fields["kernel"].options) == KERNELS


def test_what_is_trained_shows_at_once_and_the_rest_when_it_is_trained(begun):
    assert ". Trained." in begun.status.value
    assert begun.train_button.disabled
    before = bytes(begun.curves.value)
    assert before.startswith(b"\x89PNG")
    begun.fields["strength"].value = 10.0
    assert "One run, 8 epochs to train" in begun.status.value
    assert bytes(begun.curves.value) != before, "the baseline alone"
    alone = bytes(begun.curves.value)
    begun.train_button.click()
    assert begun.train_button.disabled
    assert not begun.stop_button.disabled
    said = wait(begun)
    assert any("Training: " in line for line in said)
    assert ". Trained." in said[-1]
    assert bytes(begun.curves.value) not in (before, alone)
    assert launch.missing([begun._yours.run]) == []
    assert store.run_id(begun._yours.run) == sections.rows("0_explore", "smoke", strength=10.0)[-1].id


def test_a_curve_grows_while_its_run_trains_and_stop_resumes(begun):
    begun.fields["minima"].value = "single"
    begun.fields["epochs"].max = 4000
    begun.fields["epochs"].value = 4000
    begun.train_button.click()
    counted = set()

    def three_updates(explorer):
        counted.add(explorer._counted)
        return len(counted) > 3

    said = wait(begun, three_updates)
    assert any(" s left" in line for line in said)
    begun.stop_button.click()
    said = wait(begun)
    assert "goes on from where it was" in said[-1]
    assert not begun.train_button.disabled
    done = begun._epochs()
    assert 0 < done < 4000
    assert launch.missing([begun._yours.run]), "stopped"


def test_a_setting_without_a_hill_says_so_and_a_mistake_is_a_line(begun):
    begun.fields["strength"].value = 0.0
    assert "No hill in this run" in begun.status.value
    begun.fields["strength"].value = 10.0
    begun.fields["minima_every"].max = 100
    begun.fields["minima_every"].value = 50
    assert "there is no hill" in begun.status.value
    for setting in ({"strength": -1}, {"nonsense": 1}):
        with pytest.raises(UserError, match="parameter"):
            tl.explore("smoke", **setting)
    with pytest.raises(UserError, match="leave seeds out"):
        tl.explore("smoke", seeds=[7])


def test_pins_stay_beside_and_the_code_makes_the_same(begun, folders, monkeypatch):
    begun.buttons["pin"].click()
    begun.fields["strength"].value = 10.0
    begun.fields["width"].value = 0.01
    begun.buttons["pin"].click()
    begun.fields["kernel"].value = "tanh"
    assert list(begun.pins) == ["as it began", "s = 10.0; w = 0.01"]
    begun.name.value = "mine"
    begun.buttons["save"].click()
    assert "press Train first" in begun.status.value
    trained(begun._rows)
    begun.buttons["save"].click()
    assert (folders / "figures" / "smoke" / "mine.pgf").is_file()
    assert begun.runs.labels == ["baseline", *begun.pins, "yours"]
    begun.show()
    made = {}
    exec(begun.code.value, made)
    assert [(row.label, row.id) for row in made["runs"]] == [(row.label, row.id) for row in begun.runs]
    begun.name.value = "../elsewhere"
    begun.buttons["save"].click()
    assert "figure" in begun.status.value and "elsewhere" in begun.status.value
    begun.buttons["unpin"].click()
    assert begun.runs.labels == ["baseline", "yours"]


def test_without_a_live_kernel_it_is_the_sections_figure(folders):
    rows = trained(sections.rows("0_explore", "smoke"))
    explorer = tl.explore("smoke", width=None)
    explorer._ipython_display_()
    assert "box" not in vars(explorer)
    drawn, expected = explorer.figure, tl.plot.curves(rows)
    for axis, other in zip(drawn.axes, expected.axes, strict=True):
        for line, same in zip(axis.lines, other.lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())


def test_it_is_set_and_trained_from_code_before_anybody_looks(folders):
    """What its buttons do is there without the widgets having been shown."""
    explorer = tl.explore("smoke", strength=3.0)
    assert "'strength': 3.0" in explorer.as_code()
    explorer = tl.explore("smoke", strength=3.0)
    explorer.fields["epochs"].value = 3
    explorer.train()
    wait(explorer)
    assert {row.run.epochs for row in explorer.runs if row.label == "yours"} == {3}
    assert not launch.missing(row.run for row in explorer.runs)
    for act in (lambda e: e.stop(), lambda e: e.pin(), lambda e: e.tick(), lambda e: e.show()):
        act(tl.explore("smoke", strength=3.0))
    with pytest.raises(UserError, match="press Train first"):
        tl.explore("smoke", strength=3.0, epochs=4).save()


def test_growth_is_what_the_steps_near_a_hill_do():
    """N of the thesis' main setting (DESIGN), and of one with schedules, summed by hand."""
    run = TINY.replace(minima_every=2, lr_schedule="cosine", cycle=3, strength_schedule="pulse", strength=10)
    steps = 512 // 128
    by_hand = sum(
        4 * schedules.strength(run, e) * run.width * schedules.learning_rate(run, e) / (1 - 0.9) * steps
        for e in (2, 3, 4, 5)
    )
    assert growth(run) == pytest.approx(by_hand)
    assert growth(run.replace(minima_every=None)) == 0
    assert np.isnan(growth(run.replace(optimizer="adam")))
    assert "not left" in says(0.2)
    assert "hill left" in says(78)


def test_a_hill_is_left_where_n_is_twenty():
    """At constant settings after 20 (1 - mu) / (4 s w lr) steps; with the rate on a cosine, where so much is summed."""
    run = TINY.replace(minima_every=2, epochs=12, minima="single", strength=400, momentum=0.9)
    assert left_after(run) == pytest.approx(20 * (1 - 0.9) / (4 * 400 * run.width * run.lr))
    cosine = run.replace(lr_schedule="cosine", cycle=10)
    last = int(left_after(cosine) / 4)  # whole epochs of 4 steps
    assert growth(cosine.replace(epochs=2 + last)) <= 20 < growth(cosine.replace(epochs=3 + last))
    assert np.isinf([left_after(run.replace(**{key: value})) for key, value in
                     {"strength": 1.0, "minima_every": None, "optimizer": "adam"}.items()]).all()  # fmt: skip


def test_a_kernel_is_live_only_where_somebody_looks(monkeypatch):
    assert not progress.is_live()
    monkeypatch.setattr(explore.progress, "in_notebook", lambda: True)
    shell = type("IPython", (), {"get_ipython": staticmethod(lambda: type("Shell", (), {"user_ns": {}}))})
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not progress.is_live()
    monkeypatch.setenv("JPY_SESSION_NAME", "0_explore.ipynb")
    assert progress.is_live()
