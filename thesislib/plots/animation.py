"""Pictures that move, as GIFs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from thesislib.plots.style import LABELS, styled
from thesislib.runs.cache import Arrays
from thesislib.runs.copies import variant
from thesislib.runs.results import Results, only_run

if TYPE_CHECKING:
    from thesislib.analysis.motion import Frame, Motion

#: Milliseconds that a picture stands, and the last one.
FRAME, LAST = 70, 2500
#: Of what matters most; with white and black it is kept as it is, however few points have it.
_ACCENT = "#d62728"
#: A landscape: points to a side, and between two lines drawn on it; degrees that it is turned by, and that it is seen
#: from above; decades of the loss that are as high as it is wide.
_SIDE, _LINES, _TURN, _TILT, _DECADES = 97, 6, np.radians(32), np.radians(46), 9.0


class Animation:
    """Pictures of one size that follow each other, as the bytes of a GIF. A notebook shows and keeps it."""

    def __init__(self, pictures: list[Image.Image], milliseconds: list[int]) -> None:
        # One palette for all, without dithering: what stands still costs nothing in the next picture.
        some = [picture.reduce(3) for picture in pictures[:: -(-len(pictures) // 16)]]
        sheet = Image.new("RGB", (some[0].width, some[0].height * len(some)))
        for place, picture in enumerate(some):
            sheet.paste(picture, (0, place * picture.height))
        colours = np.reshape(sheet.quantize(256).getpalette(), (-1, 3))
        for kept in map(ImageColor.getrgb, ("white", "black", _ACCENT)):
            far = np.abs(colours - kept).sum(1)
            colours[far <= max(30, far.min())] = kept
        palette = Image.new("P", (1, 1))
        palette.putpalette(colours.ravel().tolist())
        first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
        drawn = io.BytesIO()
        first.save(drawn, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
        self.gif = drawn.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.gif).decode()
        return f'<img alt="animation" style="max-width: 100%" src="data:image/gif;base64,{data}">'


@styled()
def trajectory(arrays: Arrays, results: Results) -> Animation:
    """The trajectory on the plane through its first three minima, where hills rise as it reaches them.

    `arrays` are those of `planes.plane` of the one run in `results`. Left: cross-entropy and distance term in the plane
    as a landscape. Its heights are logarithmic, from the lowest measured loss up to the height of a hill. Right: the
    training loss of each epoch, and how much of the squared distance to the last minimum lies in the plane. Raises
    UserError for other than one run.
    """
    from thesislib.analysis.motion import Motion  # here: it imports torch

    motion = Motion(arrays, only_run(results).result)
    scene, frames = _Scene(motion), motion.frames()
    pictures = [scene.picture(frames[:number]) for number in range(1, len(frames) + 1)]
    return Animation(pictures, [FRAME] * (len(pictures) - 1) + [LAST])


class _Scene:
    """A landscape seen from above, at an angle, with the trajectory on it; beside it the loss over epochs."""

    def __init__(self, motion: Motion) -> None:
        self.motion, self.hills = motion, -1.0
        self.limits = np.log10([motion.lowest, max(motion.run.strength, np.log(10))])
        # From behind the minima on, with half the room that was measured: farther away there are only walls.
        starts = (np.array([motion.xs[0], motion.ys[0]]) + motion.minima.min(0)) / 2
        self.x, self.y = np.meshgrid(
            np.linspace(starts[0], motion.xs[-1], _SIDE), np.linspace(starts[1], motion.ys[-1], _SIDE)
        )
        self.figure = Figure(figsize=(7.6, 3.9), dpi=100, layout="none", facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)
        self._place_landscape()
        self._place_loss()
        self.figure.text(0.99, 0.01, variant(motion.run.data), ha="right", fontsize=6, color="0.4")
        self.words = self.figure.text(0.675, 0.93, "", va="top", linespacing=1.6, animated=True)

    def _place_landscape(self) -> None:
        self.ground = axis = self.figure.add_axes((0.01, 0.03, 0.63, 0.94), aspect="equal")
        axis.set_axis_off()
        corners = [(a, b) for a in (self.x.min(), self.x.max()) for b in (self.y.min(), self.y.max())]
        u, v = np.transpose([self._seen(a, b, height) for a, b in corners for height in self.limits])
        axis.set(xlim=(u.min(), u.max()), ylim=(v.min(), v.max()))
        self.drawn = []
        (self.way,) = axis.plot([], [], color="white", linewidth=2, animated=True)
        (self.ball,) = axis.plot([], [], "o", color=_ACCENT, markersize=10, markeredgecolor="white", animated=True)

    def _place_loss(self) -> None:
        axis = self.figure.add_axes((0.74, 0.14, 0.24, 0.42))
        for minimum in self.motion.epochs:
            axis.axvline(minimum, color="0.6", linewidth=0.6, linestyle=":")
        self.epochs = np.arange(1, len(self.motion.loss) + 1)
        axis.plot(self.epochs, self.motion.loss, color="0.85")
        axis.set(yscale="log", xlabel=LABELS["epoch"], ylabel=LABELS["train_loss"])
        (self.loss,) = axis.plot([], [], color="0.2", animated=True)
        (self.now,) = axis.plot([], [], "o", color=_ACCENT, markersize=6, animated=True)

    def _seen(self, x: np.ndarray, y: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where places of such a height are on the page; both axes come nearer."""
        near = np.cos(_TURN) * x + np.sin(_TURN) * y
        up = height * np.ptp(self.x) / _DECADES
        return np.cos(_TURN) * y - np.sin(_TURN) * x, np.cos(_TILT) * up - np.sin(_TILT) * near

    def _height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.clip(np.log10(self.motion.total(self.hills, x, y)), *self.limits)

    def picture(self, frames: list[Frame]) -> Image.Image:
        """The picture at the last of these frames."""
        now = frames[-1]
        if now.hills != self.hills:  # what stands still is drawn once
            self.hills = now.hills
            self._draw_ground()
        x, y = np.array([(frame.x, frame.y) for frame in frames]).T
        u, v = self._seen(x, y, self._height(x, y))
        self.way.set_data(*((u, v) if len(self.motion.path) else ([], [])))
        self.ball.set_data(u[-1:], v[-1:])
        epoch = int(now.epoch)
        self.loss.set_data(self.epochs[:epoch], self.motion.loss[:epoch])
        self.now.set_data(self.epochs[epoch - 1 : epoch], self.motion.loss[epoch - 1 : epoch])
        self.words.set_text(self._told(now))
        self.canvas.restore_region(self.behind)
        for artist in (self.way, self.ball, self.loss, self.now, self.words):
            self.figure.draw_artist(artist)
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB")

    def _draw_ground(self) -> None:
        for artist in self.drawn:
            artist.remove()
        height = self._height(self.x, self.y)
        step = {"dx": self.x[0, 1] - self.x[0, 0], "dy": self.y[1, 0] - self.y[0, 0]}
        shades = {"vmin": self.limits[0], "vmax": self.limits[1], "vert_exag": 8, "blend_mode": "soft"}
        colours = LightSource(20, 50).shade(height, matplotlib.colormaps["viridis"], **shades, **step)
        u, v = self._seen(self.x, self.y, height)
        # From behind to the front: what is nearer hides what is behind it.
        self.drawn = [self.ground.pcolormesh(u, v, colours, shading="gouraud", zorder=0)]
        thin = {"color": "black", "linewidth": 0.4, "alpha": 0.3, "zorder": 1}
        self.drawn += self.ground.plot(u[::_LINES].T, v[::_LINES].T, **thin)
        self.drawn += self.ground.plot(u[:, ::_LINES], v[:, ::_LINES], **thin)
        for number, (x, y) in enumerate(self.motion.minima[: int(np.ceil(self.hills))], start=1):
            place = self._seen(x, y, self._height(np.array([x]), np.array([y]))[0])
            self.drawn += self.ground.plot(*place, "*", color=_ACCENT, markersize=9)
            self.drawn.append(self.ground.annotate(str(number), place, (5, 5), textcoords="offset points"))
        self.canvas.draw()
        self.behind = self.canvas.copy_from_bbox(self.figure.bbox)

    def _told(self, now: Frame) -> str:
        reached = sum(minimum <= now.epoch for minimum in self.motion.epochs)
        if not reached:
            said = "SGD settles in a minimum."
        elif now.epoch == self.motion.epochs[reached - 1]:
            said = f"Minimum {reached} becomes a hill."
        else:
            said = f"SGD slides off hill {reached}."
        lines = [f"epoch {int(now.epoch)}", said]
        if distance := self.motion.distance(int(now.epoch)):
            number, d, inside = distance
            lines += [f"To minimum {number}: $d$ = {d:,.0f},", f"{inside:.0%} of it in this plane."]
        return "\n".join(lines)
