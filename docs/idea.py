"""Draw docs/idea.png: a hill grows in a visited minimum, and SGD leaves it. Run: python docs/idea.py

The loss is a curve over one weight, with two minima. The rest is as in the package: the hill is the RBF kernel of the
squared distance, the dots are steps of SGD with momentum on the sum of both.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np

STRENGTH, WIDTH, RATE, MOMENTUM, STEPS = 1.9, 0.8, 0.01, 0.9, 60
GREY, BLUE, RED = "0.6", "#20639b", "#b33939"


def loss(theta):
    """Two minima in a wide bowl, the right one a little lower."""
    return 1.6 + 0.05 * theta**2 - 1.1 * np.exp(-1.2 * (theta + 1.7) ** 2) - 1.5 * np.exp(-1.2 * (theta - 1.7) ** 2)


def hill(theta, minimum, strength=STRENGTH):
    """The distance term: strength times the RBF kernel of the squared distance."""
    return strength * np.exp(-WIDTH * (theta - minimum) ** 2)


def slope(function, theta, step=1e-5):
    """Central difference."""
    return (function(theta + step) - function(theta - step)) / (2 * step)


def descend(function, theta, steps=STEPS, noise=0.15):
    """Weights after each step of SGD with momentum; the noise stands for the batches."""
    rng, speed, path = np.random.default_rng(0), 0.0, [theta]
    for _ in range(steps):
        speed = MOMENTUM * speed + slope(function, theta) + noise * rng.normal()
        theta = theta - RATE * speed
        path.append(theta)
    return np.array(path)


def main():
    """Write the picture beside this file."""
    first = descend(loss, -3)
    grid = np.linspace(-4.3, 4.3, 400)
    visited = first[-1]

    def pushed(theta):
        return loss(theta) + hill(theta, visited)

    second = descend(pushed, visited, 160)
    with plt.rc_context({**mpl.rcParamsDefault, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(1, 3, figsize=(7.6, 2.6), sharey=True, layout="constrained")
        titles = ("1  SGD rests in a minimum", "2  The minimum becomes a hill", "3  SGD leaves")
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title, loc="left", fontsize=9)
            axis.set(xlabel=r"weights $\theta$", xticks=[visited], yticks=[], ylim=(0, 2.8))
            axis.set_xticklabels([r"$\theta_c$"])
            axis.plot(grid, loss(grid), color="black" if axis is axes[0] else GREY, lw=1.5)
        axes[0].set_ylabel("training loss")
        axes[0].plot(first, loss(first), "o", color=RED, ms=3.5, alpha=0.4, mew=0)
        axes[0].plot(visited, loss(visited), "o", color=RED, ms=8)
        for part in (0.25, 0.5, 0.75, 1):
            whole = part == 1
            curve = loss(grid) + hill(grid, visited, part * STRENGTH)
            axes[1].plot(grid, curve, color=BLUE, alpha=1 if whole else 0.35, lw=2 if whole else 1)
        axes[1].plot(visited, pushed(visited), "o", color=RED, ms=8)
        ends = (visited, pushed(visited) - 0.1), (visited, loss(visited))
        axes[1].annotate("", *ends, arrowprops={"arrowstyle": "<->", "lw": 0.8})
        axes[1].text(visited - 0.15, loss(visited) + 0.4 * STRENGTH, "$s$", va="center", ha="right")
        axes[1].text(0.35, 2.5, r"$\mathrm{CE} + s\,e^{-w d}$", color=BLUE)
        axes[1].text(1.0, 1.5, r"$\mathrm{CE}$", color="0.4")
        axes[2].plot(grid, pushed(grid), color=BLUE, lw=2)
        axes[2].plot(second, pushed(second), "o", color=RED, ms=3.5, alpha=0.4, mew=0)
        axes[2].plot(second[-1], pushed(second[-1]), "o", color=RED, ms=8)
        figure.savefig(Path(__file__).with_suffix(".png"), dpi=200, metadata={"Software": None})


if __name__ == "__main__":
    main()
