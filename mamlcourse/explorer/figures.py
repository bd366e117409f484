"""Figures of what learners do with one task, step by step. Nothing here adapts or measures."""

from __future__ import annotations

import io
import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image, ImageDraw, ImageFont
from torch.nn.functional import interpolate

from ..errors import InputError, check_number
from ..evaluation import Evaluation
from ..figures import chart
from ..stats import ci95
from ..styles import colour_of, mark_of, title_of
from ..tasks import TaskBatch
from .landscape import Slice

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CORRECT, WRONG = "#005A32", "#9E1B1B"
WIDTH, DPI = 10, 96  # inches of everything that stands across a notebook, and CSS's pixels per inch
SHARPNESS = 2  # pixels of a widget's image for one of CSS, along each side: screens and zoomed pages show that many
# The sheet of predictions, in pixels of a character's image: each is shown as ZOOM x ZOOM.
ZOOM, CELL, CAPTION, GAP, MARGIN, HEADING = 2, 30, 13, 14, 14, 16
SHAPES = {
    "o": "●", "s": "■", "^": "▲", "v": "▼", "D": "◆", "P": "✚", "X": "✖", "*": "★", "h": "⬢",
    "<": "◀", ">": "▶", "p": "⬟", "d": "♦",
}  # fmt: skip  # Matplotlib's marks, in type


class Drawing(NamedTuple):
    """A figure for all steps of adaptation, and the marks that say which step is meant.

    Attributes:
        figure: everything, marks included.
        marks: (line, its points at each step (K + 1, points, 2)).
    """

    figure: Figure
    marks: list[tuple[Line2D, np.ndarray]]

    def at(self, step: int | None) -> Figure:
        """The figure with its marks at a step; without marks for None.

        Raises:
            InputError: there is no such step.
        """
        if step is not None:
            _check_step(step, min(len(points) for _, points in self.marks))
        for line, points in self.marks:
            line.set_visible(step is not None)
            if step is not None:
                line.set_data(*points[step].T)
        return self.figure


class Frames:
    """PNG images of a figure in which only some lines move: all else is drawn once, so a frame takes milliseconds."""

    def __init__(self, figure: Figure, lines: list[Line2D]):
        self.lines = lines
        figure.set_dpi(SHARPNESS * DPI)
        for line in lines:
            line.set_animated(True)  # leaves them out of the background
        self.canvas = FigureCanvasAgg(figure)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(figure.bbox)

    def png(self) -> bytes:
        """The figure with its lines where they are now."""
        self.canvas.restore_region(self.background)
        for line in self.lines:
            line.axes.draw_artist(line)
        return encode(Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]))


def encode(image: Image.Image) -> bytes:
    """The image as PNG."""
    content = io.BytesIO()
    image.save(content, "png", compress_level=1)  # half the time of the default for a fifth more bytes
    return content.getvalue()


def _check_step(step, steps) -> None:
    check_number("step", step, at_least=0, at_most=steps - 1, integer=True)


def predictions_figure(task, trajectories: dict, step: int) -> Figure:
    """`predictions_sheet` as a figure, pixel for pixel."""
    sheet = predictions_sheet(task, trajectories, step)
    figure = Figure(figsize=(sheet.width / 100, sheet.height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False)
    axes.imshow(np.asarray(sheet), aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    return figure


def predictions_sheet(task, trajectories: dict, step: int, zoom: int = ZOOM) -> Image.Image:
    """The support set, and what each learner predicts for every query after a step, and with what probability.

    Under each query stands the letter of the predicted class and its probability in percent: after a tick where it is
    correct, after a cross in a dark box where it is wrong. Rows are classes. Pillow draws it, as a hundred texts take
    Matplotlib longer than a hand takes to move a slider.

    Args:
        task: a `TaskBatch` of one task of characters, sorted by label.
        trajectories: {recipe's name: `Trajectory`} of that task.
        step: 0 to K.
        zoom: pixels of the sheet for one of a character's image, along each side.

    Raises:
        InputError: there is no learner or no such step.
    """
    _check_step(step, _steps(trajectories))
    ways = int(task.support_y.max()) + 1
    support, queries = (x[0, :, 0].cpu().unflatten(0, (ways, -1)) for x in (task.support_x, task.query_x))
    shots, per_class = support.shape[1], queries.shape[1]  # of (ways, examples, 28, 28)
    lefts = [MARGIN + CELL * (shots + per_class * block) + GAP * (block + 1) for block in range(len(trajectories))]
    paper = np.full((HEADING + ways * (CELL + CAPTION), lefts[-1] + CELL * per_class + 2), 255, dtype=np.uint8)
    for left, images in zip((MARGIN, *lefts), (support, *[queries] * len(lefts))):
        _paste(paper, images, left)
    sheet = Image.fromarray(paper)
    sheet = sheet.resize((zoom * sheet.width, zoom * sheet.height), Image.Resampling.NEAREST).convert("RGB")
    draw = ImageDraw.Draw(sheet)

    def write(x, y, text, size=8, anchor="mm", fill="black"):
        draw.text((zoom * x, zoom * y), text, anchor=anchor, fill=fill, font=_font(size * zoom))

    write(MARGIN, HEADING / 2, "support", anchor="lm")
    for row in range(ways):
        write(MARGIN / 2, HEADING + row * (CELL + CAPTION) + CELL / 2, LETTERS[row], size=10)
    for left, (name, trajectory) in zip(lefts, trajectories.items()):
        heading = f"{title_of(name)}: {correct_of(trajectory, step)} of {len(task.query_y[0])} correct"
        write(left + 5, HEADING / 2, SHAPES[mark_of(name)], fill=colour_of(name), size=11)
        write(left + 13, HEADING / 2, heading, anchor="lm")
        probabilities, predicted = trajectory.query_outputs[0, step].softmax(-1).max(-1)
        queried = zip(probabilities.tolist(), predicted.tolist(), task.query_y[0].tolist())
        for place, (probability, letter, label) in enumerate(queried):
            row, column = divmod(place, per_class)
            x, y = left + CELL * column, HEADING + row * (CELL + CAPTION) + CELL
            correct = letter == label
            if not correct:
                box = (x + 1, y + 1, x + CELL - 2, y + CAPTION - 2)
                draw.rectangle([zoom * side for side in box], WRONG)
            text = f"{'✓' if correct else '✗'}{LETTERS[letter]} {100 * probability:.0f}"
            write(x + CELL / 2, y + CAPTION / 2 - 0.5, text, fill=CORRECT if correct else "white", size=7.5)
    return sheet


def correct_of(trajectory, step: int) -> int:
    """How many queries are classified correctly after a step."""
    return round(trajectory.query_accuracy[0, step].item() * trajectory.query_outputs.shape[2])


def _steps(trajectories) -> int:
    if not trajectories:
        raise InputError("There is no learner to draw: give at least one.")
    return min(trajectory.query_loss.shape[1] for trajectory in trajectories.values())


def _paste(paper, images, left) -> None:
    """Put (rows, columns, 28, 28) images of ink on white paper, from the column `left` on, in thin frames."""
    for row, of_row in enumerate((255 * (1 - images)).byte().numpy()):
        for column, image in enumerate(of_row):
            height, width = image.shape
            y, x = HEADING + row * (CELL + CAPTION), left + CELL * column
            paper[y : y + height + 2, x : x + width + 2] = 205
            paper[y + 1 : y + height + 1, x + 1 : x + width + 1] = image


@cache
def _font(size):
    return ImageFont.truetype(findfont("DejaVu Sans"), size)  # the font that Matplotlib brings


def progress_drawing(trajectories: dict, crowd: dict[str, Evaluation] | None = None, size=(3.9, 3.3)) -> Drawing:
    """Query loss and accuracy by adaptation step: this task bold, a crowd of tasks faint behind it.

    Args:
        trajectories: {recipe's name: `Trajectory`} of one task.
        crowd: {recipe's name: `Evaluation`} of many tasks; their mean is drawn dashed, its 95% CI as a band.
        size: inches.

    Raises:
        InputError: there is no learner.
    """
    steps = _steps(trajectories)
    figure = Figure(figsize=size)
    figure.subplots_adjust(left=0.55 / size[0], right=1 - 0.1 / size[0], bottom=0.45 / size[1], top=1 - 0.3 / size[1])
    upper, lower = figure.subplots(2, 1, sharex=True)
    marks, seen = [], []
    for name, trajectory in trajectories.items():
        loss, accuracy = trajectory.query_loss[0].cpu().numpy(), 100 * trajectory.query_accuracy[0].cpu().numpy()
        seen.append(loss)
        if crowd and name in crowd:
            seen.append(np.quantile(crowd[name].losses.numpy(), (0.05, 0.95)))
            _draw_crowd(upper, name, crowd[name].losses.numpy())
            _draw_crowd(lower, name, 100 * crowd[name].accuracies.numpy())
        look = dict(color=colour_of(name), marker=mark_of(name))
        for axes, values in ((upper, loss), (lower, accuracy)):
            axes.plot(values, markersize=4, linewidth=2.2, label=title_of(name), **look)
            mark = axes.plot([], [], markersize=9, markeredgecolor="black", zorder=5, **look)[0]
            marks.append((mark, np.column_stack([range(len(values)), values])[:, None]))
    for axes in (upper, lower):
        line = axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
        marks.append((line, np.array([[[step, 0], [step, 1]] for step in range(steps)])))
        axes.tick_params(labelsize=8)
    upper.set_title(f"This task, bold{'; other tasks faint, their mean dashed' if crowd else ''}", fontsize=9)
    upper.set_ylabel("query loss (log)", fontsize=8)
    seen = np.concatenate(seen)
    seen = seen[np.isfinite(seen)].clip(1e-3, 1e4)
    upper.set_yscale("log")  # losses of ten before and of a tenth after are both seen
    upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    upper.yaxis.set_major_formatter(lambda value, _: _short(value))
    upper.yaxis.set_minor_formatter(NullFormatter())
    upper.set_ylim(*(seen.min() / 1.3, seen.max() * 1.3) if len(seen) else (0.1, 10))
    lower.set_ylabel("query accuracy (%)", fontsize=8)
    lower.set(ylim=(0, 104), xlim=(-0.2, steps - 0.8))
    lower.set_xlabel("adaptation steps", fontsize=8)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    upper.legend(fontsize=7, loc="upper right")
    return Drawing(figure, marks)


def _draw_crowd(axes, name, values) -> None:
    """Each task's line faint, the mean with its interval."""
    steps = np.arange(values.shape[1])
    lines = [np.column_stack([steps, row]) for row in values]
    axes.add_collection(LineCollection(lines, colors=colour_of(name), alpha=0.06, linewidths=0.8))
    mean, half = values.mean(0), np.array([ci95(column) for column in values.T])
    axes.plot(steps, mean, color=colour_of(name), linestyle="--", linewidth=1.2)
    axes.fill_between(steps, mean - half, mean + half, color=colour_of(name), alpha=0.25, linewidth=0)


def landscape_drawing(slices: dict[str, Slice], size=(6.1, 3.3)) -> Drawing:
    """The query loss of one task around each learner's way through weight space, seen from above.

    Light is low. Arrows are the adaptation steps, from θ (circle) to the end (star). Each learner has its own θ and so
    its own plane; all share one scale of loss.

    Args:
        slices: {recipe's name: `Slice`} of one task.
        size: inches.

    Raises:
        InputError: there is no slice.
    """
    if not slices:
        raise InputError("There is no learner to draw: give at least one.")
    figure = Figure(figsize=size)
    figure.subplots_adjust(
        left=0.5 / size[0], right=1 - 0.75 / size[0], bottom=0.65 / size[1], top=1 - 0.45 / size[1], wspace=0.25,
    )  # fmt: skip
    row = figure.subplots(1, len(slices), squeeze=False)[0]
    fine = {name: _smooth(part) for name, part in slices.items()}
    low, high = min(loss.min() for *_, loss in fine.values()), max(loss.max() for *_, loss in fine.values())
    levels = np.geomspace(low, max(high, 1.1 * low), 14)
    marks = []
    for axes, (name, part) in zip(row, slices.items()):
        x, y, loss = fine[name]
        filled = axes.contourf(x, y, loss, levels=levels, cmap="Greys", alpha=0.75)
        axes.contour(x, y, loss, levels=levels, colors="dimgrey", linewidths=0.4)
        path = part.path.numpy()
        axes.quiver(
            *path[:-1].T, *np.diff(path, axis=0).T, angles="xy", scale_units="xy", scale=1, zorder=3,
            color=colour_of(name), units="dots", width=2.2, headwidth=4,
        )  # fmt: skip
        axes.plot(*path[0], marker="o", color="white", markeredgecolor="black", markersize=6, zorder=4)
        axes.plot(*path[-1], marker="*", color="white", markeredgecolor="black", markersize=10, zorder=4)
        look = dict(color=colour_of(name), marker=mark_of(name), markeredgecolor="black", markersize=9, zorder=5)
        marks.append((axes.plot([], [], **look)[0], path[:, None]))
        axes.set_title(title_of(name), fontsize=9)
        length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
        axes.set_xlabel(f"distance along\npath {_short(length)} long\n{part.seen:.0%} in plane", fontsize=7)
        axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=4)
    row[0].set_ylabel("distance across", fontsize=7)
    figure.suptitle("Query loss around the way from θ (circle) to the end (star)", fontsize=9, y=0.98)
    beside = figure.add_axes((1 - 0.6 / size[0], 0.2, 0.02, 0.6))
    bar = figure.colorbar(filled, cax=beside, format=lambda value, _: _short(value))
    bar.set_ticks(levels[::3], minor=False)
    bar.ax.set_title("query\nloss", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return Drawing(figure, marks)


def _short(value) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


def _smooth(part: Slice):
    """A finer grid, by bicubic interpolation of the log of the loss: (x, y, loss) as arrays."""
    logs = part.loss.nan_to_num(1e3).clamp(1e-3, 1e3).log()[None, None]
    fine = interpolate(logs, scale_factor=5, mode="bicubic", align_corners=True)[0, 0].exp().numpy()
    x, y = (np.linspace(t[0].item(), t[-1].item(), len(fine)) for t in (part.x, part.y))
    return x, y, fine


def sinusoid_drawing(
    learners: dict, support_x, support_y, wave=None, steps: int = 5, size=(7, 3.6), chosen: int | None = None
) -> Drawing:
    """What each learner makes of a few points of a wave, step by step.

    Args:
        learners: {recipe's name: `MAML`} of networks from (points, 1) to (points, 1).
        support_x, support_y: (points,) the points to learn from.
        wave: function from x (an array) to the y that the points were sampled from; default unknown.
        steps: adaptation steps.
        size: inches.
        chosen: the number of a point to put a ring around; default none.

    Raises:
        InputError: there is no learner, or the points are not two equally long vectors.
    """
    if not learners:
        raise InputError("There is no learner to draw: give at least one.")
    x, y = (torch.as_tensor(values, dtype=torch.float32) for values in (support_x, support_y))
    if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
        raise InputError(
            f"support_x and support_y have shapes {tuple(x.shape)} and {tuple(y.shape)}, but must both be (points,)."
        )
    grid = torch.linspace(-5, 5, 200)
    truth = torch.zeros_like(grid) if wave is None else torch.as_tensor(wave(grid.numpy()), dtype=torch.float32)
    task = TaskBatch(x[None, :, None], y[None, :, None], grid[None, :, None], truth[None, :, None])
    figure, axes = chart("What a few points say about a wave", "x", "y", size)
    if wave is not None:
        axes.plot(grid, truth, color="grey", linewidth=4, alpha=0.4, label="the wave")
    marks = []
    for number, (name, maml) in enumerate(learners.items()):
        fits = maml.trajectory(task, steps).query_outputs[0, :, :, 0].numpy()  # (K + 1, grid)
        look = dict(color=colour_of(name), marker=mark_of(name), markevery=(8 + 5 * number, 25), markersize=5)
        axes.plot(grid, fits[0], linewidth=0.8, linestyle=":", **look | {"marker": ""})
        line = axes.plot(grid, fits[-1], label=title_of(name), **look)[0]
        marks.append((line, np.stack([np.column_stack([grid, fit]) for fit in fits])))
    axes.plot(x, y, "kX", markersize=9, label="support points", linestyle="")
    if chosen is not None:
        ring = dict(markersize=18, markerfacecolor="none", markeredgecolor="black", markeredgewidth=2)
        axes.plot(x[chosen], y[chosen], "o", label="the chosen point", **ring)
    axes.set(xlim=(-5.1, 5.1), ylim=(-6, 6))
    axes.legend(fontsize=8, loc="upper right", ncols=2)
    return Drawing(figure, marks)


class TrainingCurves:
    """Loss, accuracy and learned learning rates of a training run, by iteration, in a figure that grows with the run.

    Args:
        iterations: of the whole run.
        accuracy: whether there is an accuracy to draw, as in classification.
        tensors: names of the parameters whose learned learning rates are drawn, if any.
        size: inches.
    """

    def __init__(self, iterations: int, accuracy: bool = True, tensors=(), size=(WIDTH, 2.8)):
        check_number("iterations", iterations, at_least=1, integer=True)
        self.accuracy, self.tensors = accuracy, list(tensors)
        self.figure = Figure(figsize=size)
        self.figure.subplots_adjust(0.06, 0.17, 0.98, 0.9, wspace=0.25)
        parts = ["loss", *["accuracy (%)"] * accuracy, *["learned inner LR"] * bool(self.tensors)]
        row = self.figure.subplots(1, len(parts), squeeze=False)[0]
        self.lines = {}
        self.limits = {"loss": (0.0, 2.0), "accuracy (%)": (0.0, 104.0), "learned inner LR": (0.0, 0.25)}
        titles = {"loss": "Meta-loss", "accuracy (%)": "Query accuracy", "learned inner LR": "Inner LR by layer"}
        self.axes = dict(zip(parts, row))
        for part, axes in self.axes.items():
            axes.set_title(titles[part], fontsize=9)
            axes.set(xlim=(0, iterations), ylim=self.limits[part])
            axes.set_xlabel("iterations", fontsize=8)
            axes.set_ylabel(part, fontsize=8)
            axes.tick_params(labelsize=8)
        for part in parts[: 1 + accuracy]:
            axes = self.axes[part]
            self.lines[part] = axes.plot([], [], color="grey", linewidth=0.7, label="each batch")[0]
            self.lines[f"{part} mean"] = axes.plot([], [], color="black", linewidth=1.8, label="running mean")[0]
        if accuracy:
            dots = axes.plot([], [], color="#D55E00", marker="D", linestyle="--", label="validation, if any")[0]
            self.lines["validation"] = dots
            axes.legend(fontsize=7, loc="lower right")
        shades = np.linspace(0, 0.9, max(len(self.tensors), 1))
        for place, (name, shade) in enumerate(zip(self.tensors, shades)):
            look = dict(color=colormaps["viridis"](shade), marker="os^vDPX*"[place % 8], markersize=3)
            self.lines[name] = row[-1].plot([], [], label=name.removesuffix(".weight"), **look)[0]
        if self.tensors:
            row[-1].legend(fontsize=6, loc="upper left")
        self._frames = None

    def update(self, history, learning_rates=()) -> Figure:
        """The figure of a `History` so far.

        Args:
            history: as `train` returns it.
            learning_rates: (iteration, {name: learned learning rate}) pairs.
        """
        parts = {"loss": history.losses}
        if self.accuracy:
            parts["accuracy (%)"] = [100 * accuracy for accuracy in history.accuracies]
            done = [(iteration, 100 * score) for iteration, score in history.validation]
            self.lines["validation"].set_data(*zip(*done) if done else ((), ()))
        for part, values in parts.items():
            self.lines[part].set_data(range(1, len(values) + 1), values)
            window = min(20, 1 + len(values) // 4)
            means = np.convolve(values, np.full(window, 1 / window), "valid") if values else []
            self.lines[f"{part} mean"].set_data(range(window, len(values) + 1) if values else [], means)
        for name in self.tensors:
            self.lines[name].set_data([at for at, _ in learning_rates], [values[name] for _, values in learning_rates])
        self._widen("loss", history.losses)
        self._widen("learned inner LR", [value for _, values in learning_rates for value in values.values()])
        return self.figure

    def _widen(self, part, values) -> None:
        """Double an axis that has become too short: everything has to be drawn anew then, which should be rare."""
        low, high = self.limits[part]
        values = [value for value in values if math.isfinite(value)]
        while values and max(values) > high:
            high *= 2
        while values and min(values) < low:
            low = min(2 * low, -0.1)
        if (low, high) != self.limits[part]:
            self.limits[part] = low, high
            self.axes[part].set_ylim(low, high)
            self._frames = None

    def png(self, history, learning_rates=()) -> bytes:
        """The figure as PNG, quickly."""
        self.update(history, learning_rates)
        self._frames = self._frames or Frames(self.figure, list(self.lines.values()))
        return self._frames.png()


def training_figure(history, iterations: int | None = None, learning_rates=()) -> Figure:
    """The curves of a finished or stopped run.

    Args:
        history: as `train` returns it.
        iterations: of the whole run; default those that were done.
        learning_rates: (iteration, {name: learned learning rate}) pairs, as `TrainingMonitor` keeps them.

    Raises:
        InputError: nothing has been trained yet.
    """
    if not history.losses:
        raise InputError("The history is empty: train for at least one iteration.")
    tensors = learning_rates[0][1] if learning_rates else ()
    curves = TrainingCurves(iterations or len(history.losses), bool(history.accuracies), tensors)
    return curves.update(history, learning_rates)
