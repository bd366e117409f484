"""Schematic drawings of the course: boxes are what is computed, arrows say which way it flows.

Black arrows are values on their way forward. Coloured ones are derivatives on their way back, in the colour of the
algorithm whose derivative it is (`mamlcourse.styles`). Each function returns a Matplotlib figure and shows nothing.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .styles import COLOURS

INK, PALE, CUT = "#222222", "#F2F2F2", "#999999"


def canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """An empty drawing, in which one unit is about an inch: (figure, axes)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.axis("off")
    return figure, axes


def box(axes: Axes, place, words: str, colour: str = INK, fill: str = PALE) -> tuple[float, float]:
    """A rounded box with words in its middle; returns the middle, for arrows to begin and end at."""
    look = dict(boxstyle="round,pad=0.4", facecolor=fill, edgecolor=colour, linewidth=1.4)
    axes.text(*place, words, ha="center", va="center", fontsize=9, bbox=look, zorder=3)
    return place


def arrow(axes: Axes, start, end, colour: str = INK, words: str = "", bend: float = 0.0, at=None, style="-", gap=24):
    """An arrow between the middles of two boxes.

    Args:
        colour: INK for a value, an algorithm's colour for its derivative.
        words: written at `at`; default its middle.
        bend: how far it curves, as a share of its length; positive to the right of its direction.
        style: "-" or "--".
        gap: points left free at both ends, which is about half a box.
    """
    look = dict(arrowstyle="-|>", color=colour, linewidth=1.6, linestyle=style, shrinkA=gap, shrinkB=gap)
    axes.annotate("", end, start, arrowprops=look | dict(connectionstyle=f"arc3,rad={bend}"), zorder=2)
    if words:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        paper = dict(facecolor="white", edgecolor="none", pad=1)
        axes.text(*(at or middle), words, ha="center", va="center", fontsize=8, color=colour, bbox=paper, zorder=4)


def two_loops() -> Figure:
    """The inner loop within one task, the outer loop over many: what every algorithm of the course shares."""
    figure, axes = canvas(8.6, 3.5, "Two loops")
    box(axes, (1.0, 1.7), "initialisation\nθ", COLOURS["maml"])
    for row, name in zip((2.8, 1.7, 0.6), ("task 1", "task 2", "task 3")):
        adapted = box(axes, (4.0, row), f"adapted to {name}\nθ'")
        loss = box(axes, (6.9, row), f"query loss\nof {name}")
        arrow(axes, (1.6, 1.7 + (row - 1.7) / 6), (adapted[0] - 0.75, row), gap=2)
        arrow(axes, (adapted[0] + 0.7, row), (loss[0] - 0.6, row), gap=2)
    axes.text(2.1, 3.0, "inner loop: K gradient steps\non the support set", ha="center", va="center", fontsize=8)
    axes.text(5.5, 3.2, "evaluate on\nthe query set", ha="center", va="center", fontsize=8)
    arrow(axes, (6.9, 0.35), (1.0, 1.35), COLOURS["maml"], bend=-0.28, gap=8)
    words = "outer loop: one step of θ against the mean gradient of the query losses"
    axes.text(3.9, -0.32, words, ha="center", fontsize=8, color=COLOURS["maml"])
    axes.set_ylim(-0.5, 3.5)
    return figure


def _one_update(title: str):
    """(figure, axes) with one inner step and the query loss after it: the values on their way forward."""
    figure, axes = canvas(8.6, 3.0, title)
    box(axes, (0.8, 2.2), "θ")
    box(axes, (3.0, 0.8), "support gradient\n∇L$_{support}$(θ)")
    box(axes, (5.2, 2.2), "θ' = θ - α ∇L$_{support}$(θ)")
    box(axes, (7.7, 2.2), "L$_{query}$(θ')")
    for start, end in [
        ((1.0, 2.2), (4.45, 2.2)), ((1.0, 2.05), (2.5, 1.1)), ((3.5, 1.1), (5.0, 1.98)), ((6.0, 2.2), (7.3, 2.2))
    ]:  # fmt: skip
        arrow(axes, start, end, gap=1)
    return figure, axes


def through_the_update() -> Figure:
    """The meta-gradient: the two ways on which the query gradient flows back through one update."""
    figure, axes = _one_update("The meta-gradient goes back on both ways")
    blue = COLOURS["maml"]
    arrow(axes, (7.7, 2.5), (5.4, 2.5), blue, "g", bend=0.25, at=(6.55, 2.86), gap=4)
    arrow(axes, (5.0, 2.5), (0.9, 2.45), blue, "times I", bend=0.15, at=(2.95, 2.86), gap=6)
    arrow(axes, (5.5, 1.9), (3.9, 0.75), blue, bend=-0.3, gap=4)
    arrow(axes, (2.1, 0.7), (0.7, 1.95), blue, "times -αH", bend=-0.3, at=(0.85, 0.85), gap=4)
    axes.text(6.3, 0.55, "together: (I - αH) g", ha="center", fontsize=10, color=blue)
    return figure


def first_order() -> Figure:
    """FOMAML: the same update, with the way through the support gradient cut."""
    figure, axes = _one_update("FOMAML goes back on one way")
    orange = COLOURS["fomaml"]
    arrow(axes, (7.7, 2.5), (5.4, 2.5), orange, "g", bend=0.25, at=(6.55, 2.86), gap=4)
    arrow(axes, (5.0, 2.5), (0.9, 2.45), orange, "times I", bend=0.15, at=(2.95, 2.86), gap=6)
    arrow(axes, (5.5, 1.9), (3.9, 0.75), CUT, bend=-0.3, style=":", gap=4)
    axes.plot(4.98, 1.12, marker="x", markersize=13, markeredgewidth=3, color="#B2182B", zorder=5)
    axes.text(5.15, 0.72, "cut: a constant to the outer loop", fontsize=8, color="#B2182B")
    axes.text(6.3, 0.2, "what is left: g", ha="center", fontsize=10, color=orange)
    return figure


def multi_step_loss(weights=(0.2, 0.2, 0.6)) -> Figure:
    """MAML evaluates after the last step; the multi-step loss of MAML++ after each, with a weight.

    Args:
        weights: of the query losses after steps 1, 2, ...; at most five fit.
    """
    steps = len(weights)
    figure, axes = canvas(2.0 + 1.9 * steps, 3.1, "The multi-step loss evaluates after each step")
    places = [box(axes, (0.8, 1.5), "θ", COLOURS["maml++"])]
    for step, weight in enumerate(weights, start=1):
        x = 0.8 + 1.9 * step
        places.append(box(axes, (x, 1.5), f"θ'$_{step}$"))
        arrow(axes, places[-2], places[-1], words="step" if step == 1 else "", at=(x - 0.95, 1.72), gap=18)
        arrow(axes, places[-1], box(axes, (x, 0.55), f"{weight:g} × L$_{{query}}$", COLOURS["maml++"]), gap=17)
    box(axes, (places[-1][0], 2.5), "1 × L$_{query}$", COLOURS["maml"])
    arrow(axes, places[-1], (places[-1][0], 2.5), gap=17)
    axes.text(places[-2][0] + 0.85, 2.5, "MAML:", ha="right", va="center", fontsize=9, color=COLOURS["maml"])
    axes.text(0.8, 0.55, "MAML++:", ha="center", va="center", fontsize=9, color=COLOURS["maml++"])
    return figure


def learned_learning_rates(steps: int = 3, layers=("conv 1", "conv 2", "head")) -> Figure:
    """One learning rate for all, as in MAML, beside one for each layer and step, as in MAML++. Steps count from 1.

    Args:
        steps: K.
        layers: names of the layers.
    """
    width = 2.6 + 1.0 * steps
    figure, axes = canvas(
        width + 2.6, 1.0 + 0.6 * len(layers), "One inner learning rate, or one for each layer and step"
    )
    for row, layer in enumerate(layers):
        y = 0.5 + 0.6 * (len(layers) - 1 - row)
        axes.text(3.5, y, layer, ha="right", va="center", fontsize=9)
        for step in range(steps):
            box(axes, (4.2 + step, y), f"α$_{{{row + 1},{step + 1}}}$", COLOURS["maml++"])
    for step in range(steps):
        axes.text(4.2 + step, 0.62 * len(layers) + 0.3, f"step {step + 1}", ha="center", va="center", fontsize=8)
    box(axes, (1.0, 0.5 + 0.3 * (len(layers) - 1)), "α", COLOURS["maml"])
    axes.text(1.0, 0.3 * len(layers) - 0.35, "MAML: chosen by hand", ha="center", fontsize=8, color=COLOURS["maml"])
    axes.text(3.7 + steps / 2, 0.0, "MAML++: learned with θ", ha="center", fontsize=8, color=COLOURS["maml++"])
    return figure
