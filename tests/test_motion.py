"""The animation of section 6: its frames against run, plane and package, and the GIF."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import trained
from PIL import Image

from thesislib.analysis import landscape, planes
from thesislib.analysis.ensembles import members
from thesislib.analysis.motion import Motion
from thesislib.minima import DistanceTerm
from thesislib.plots import animation, save

REFERENCE = Path(__file__).parents[1] / "figures" / "reference"


@pytest.fixture
def strong(tiny):
    """A run with minima after epochs 2, 4 and 6, its plane, and how it moves there."""
    runs = trained({"s = 5": [tiny.replace(strength=5, width=0.01, epochs=7)]})
    arrays = planes.plane(runs, images=100, points=9)
    return runs, arrays, Motion(arrays, runs[0].result)


def test_hills_rise_where_and_when_minima_are_stored(strong):
    _, arrays, motion = strong
    frames = motion.frames(between=3, rising=4)
    assert len(frames) == 5 * 3 - 2 + 3 * 5
    assert [frame.epoch for frame in frames] == sorted(frame.epoch for frame in frames)
    for number, epoch in enumerate((2, 4, 6)):
        still = [frame for frame in frames if frame.epoch == epoch]
        assert [frame.hills for frame in still] == [number + part for part in (0, 0.25, 0.5, 0.75, 1)]
        for frame in still:
            assert (frame.x, frame.y) == pytest.approx(arrays["minima"][number], abs=1e-3)
    moving = [frame for frame in frames if frame.epoch not in (2, 4, 6)]
    assert all(frame.hills == sum(epoch < frame.epoch for epoch in (2, 4, 6)) for frame in moving)
    for frame in frames:
        if frame.epoch == int(frame.epoch):
            assert (frame.x, frame.y) == pytest.approx(arrays["path"][int(frame.epoch) - 1, :2], abs=1e-3)


def test_the_term_in_the_plane_is_the_packages_own(strong):
    """At places of the plane, against the term of weights [P] there; between two hills it moves evenly."""
    runs, arrays, motion = strong
    three = torch.from_numpy(members([runs[0].result], what="theta")[:3])
    plane = landscape.Plane(*three)
    run, places = runs[0].run, np.array([[0.0, 0.0], [1.0, 2.0], [-0.5, 3.0]])
    alone = motion.total(0, *places.T)
    for count in (1, 2, 3):
        model = torch.nn.Linear(len(three[0]), 1, bias=False)
        term = DistanceTerm(model, run.kernel, run.strength, run.width)
        for theta in three[:count]:
            model.weight.data[:] = theta
            term.visit()
        found = motion.total(count, *places.T) - alone
        for value, place in zip(found, places, strict=True):
            model.weight.data[:] = plane.at(*place)
            assert value == pytest.approx(term.add_gradient().item(), rel=1e-3)
    half = (motion.total(1, *places.T) + motion.total(2, *places.T)) / 2
    assert motion.total(1.5, *places.T) == pytest.approx(half)


def test_the_loss_is_the_measured_one_where_it_was_measured(strong):
    _, arrays, motion = strong
    x, y = np.meshgrid(arrays["xs"], arrays["ys"])
    assert motion.total(0, x, y) == pytest.approx(arrays["train_loss"], rel=1e-4)
    between = motion.total(
        0, *np.meshgrid(np.linspace(*arrays["xs"][[0, -1]], 40), np.linspace(*arrays["ys"][[0, -1]], 40))
    )
    assert between.min() >= arrays["train_loss"].min()


def test_the_distance_is_the_runs_own_and_projection_is_exact_in_the_plane(strong):
    runs, arrays, motion = strong
    history = runs[0].result.history.set_index("epoch")
    assert motion.distance(2) is None, "there is no minimum before"
    for epoch, number in ((3, 1), (4, 1), (5, 2), (6, 2)):
        found, d, inside = motion.distance(epoch)
        assert found == number
        assert d == pytest.approx(history.loc[epoch, f"d_{number - 1}"], rel=1e-3)
        assert 0 < inside <= 1
    for epoch in (4, 6):
        assert motion.distance(epoch)[2] == pytest.approx(1, abs=1e-3), "minima lie in the plane"


def test_the_gif(strong, folders):
    runs, arrays, motion = strong
    moving = animation.trajectory(arrays, runs)
    save.save(moving, "moving", runs, width="column")
    folder = folders / "figures" / "smoke"
    assert {path.name for path in folder.iterdir()} == {".written", "moving.gif", "moving.json"}
    assert json.loads((folder / "moving.json").read_text())["runs"] == {"s = 5": [runs[0].id]}
    gif = Image.open(folder / "moving.gif")
    seconds, pictures = [], []
    for number in range(gif.n_frames):
        gif.seek(number)
        seconds.append(gif.info["duration"])
        pictures.append(np.asarray(gif.convert("RGB")))
    # Pictures that are alike are one, which stands longer.
    assert sum(seconds) == animation.FRAME * (len(motion.frames()) - 1) + animation.LAST
    assert gif.n_frames > len(motion.frames()) / 2
    assert gif.info["loop"] == 0
    left = slice(0, int(0.6 * gif.width))
    assert np.abs(pictures[0][:, left].astype(int) - pictures[-1][:, left]).mean() > 5, "hills have risen"
    assert (pictures[0][0, 0] == 255).all(), "white"
    assert moving._repr_html_().count("data:image/gif;base64,R0lGOD") == 1


def test_without_a_path_the_minima_are_shown(strong):
    """Training once more would take too long, or led elsewhere."""
    runs, arrays, _ = strong
    arrays = arrays | {"path": np.zeros((0, 3))}
    motion = Motion(arrays, runs[0].result)
    assert {frame.epoch for frame in motion.frames()} == {2, 4, 6}
    assert motion.distance(5) is None
    gif = Image.open(io.BytesIO(animation.trajectory(arrays, runs).gif))
    assert gif.n_frames > 5


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*/*.gif")), ids=lambda path: path.parent.name)
def test_what_the_repository_shows_is_small_and_of_a_run_that_is_there(path):
    assert path.stat().st_size <= 3e6
    gif = Image.open(path)
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["common"]["strength"] == 100
    assert gif.n_frames > 60
    assert gif.width <= 800


def test_the_readme_begins_with_it():
    text = (REFERENCE.parents[1] / "README.md").read_text()
    assert text.index("laptop/6_trajectory.gif)") < text.index("docs/idea.png)")


def test_the_notebook_and_the_report_show_it(chapter):
    executed = json.loads((chapter.figures / "6_gradients_and_valleys.ipynb").read_text())
    shown = [o["data"] for cell in executed["cells"] for o in cell.get("outputs", []) if "data" in o]
    moving = [data for data in shown if "data:image/gif" in "".join(data.get("text/html", ""))]
    assert len(moving) == 1
    assert (chapter.figures / "6_trajectory.gif").read_bytes()[:3] == b"GIF"
    assert "6_trajectory" not in (chapter.figures / "figures.tex").read_text()
