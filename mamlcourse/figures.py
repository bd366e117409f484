"""Figures of the course. Each function returns a Matplotlib figure and shows nothing itself."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .data import Characters
from .stats import ci95
from .styles import COLOURS, colour_of, mark_of, title_of


def chart(title: str, x: str, y: str, size=(6.4, 3.8)) -> tuple[Figure, Axes]:
    """An empty chart to draw in: (figure, axes), with its title and what the axes show, units included."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def character_sheet(characters: Characters, classes=None, drawings=None) -> Figure:
    """Show characters as a table: a row for each class, a column for each writer.

    Args:
        characters: the set to show.
        classes: class numbers of the rows; default ten, spread evenly over the set.
        drawings: numbers of the columns, one for each writer's drawing, from 0; default all.
    """
    if classes is None:
        rows = min(10, len(characters))
        classes = [row * len(characters) // rows for row in range(rows)]
    classes = list(classes)
    drawings = list(range(characters.images.shape[1])) if drawings is None else list(drawings)
    sheet = characters.images[classes][:, drawings]  # (rows, columns, height, width)
    # One image of the whole table is drawn far faster than a small one for each cell.
    height, width = sheet.shape[2:]
    table = sheet.transpose(1, 2).reshape(len(classes) * height, len(drawings) * width)
    extent = (-0.5, len(drawings) - 0.5, len(classes) - 0.5, -0.5)  # so that rows and columns are units of the axes

    figure = Figure(figsize=(3.0 + 0.42 * len(drawings), 0.9 + 0.42 * len(classes)), layout="constrained")
    figure.suptitle(f"{characters.name}: characters by writers", fontsize=10)
    axes = figure.subplots()
    axes.imshow(table.numpy(), cmap="gray_r", vmin=0, vmax=255, extent=extent, interpolation="nearest")
    labels = [textwrap.fill(f"{characters.alphabets[c]}: {characters.names[c].lower()}", 34) for c in classes]
    axes.set_yticks(range(len(classes)), labels, fontsize=7)
    axes.set_xticks(range(len(drawings)), [str(d + 1) for d in drawings], fontsize=7)
    axes.set_xlabel("writer")
    axes.set_xticks([column + 0.5 for column in range(len(drawings) - 1)], minor=True)
    axes.set_yticks([row + 0.5 for row in range(len(classes) - 1)], minor=True)
    axes.grid(which="minor", color="lightgray", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    return figure


def episode_figure(batch, task: int = 0, queries: int = 6, outputs=None) -> Figure:
    """Show one task: a row for each class with its support images, then its first queries.

    Args:
        batch: a `TaskBatch` of characters, sorted by label as `CharacterTasks` makes it.
        task: which task of the batch.
        queries: how many queries of each class to show.
        outputs: (queries of all classes, ways) outputs of a network for that task; each query then carries its
            predicted class: a plain number when correct, a number in a box with a cross when not.
    """
    support_y, query_y = batch.support_y[task], batch.query_y[task]
    ways = int(support_y.max()) + 1
    shots = int((support_y == 0).sum())
    queries = min(queries, int((query_y == 0).sum()))
    figure = Figure(figsize=(1.6 + 0.8 * (shots + queries), 0.6 + 0.85 * ways), layout="constrained")
    grid = figure.subplots(ways, shots + queries, squeeze=False)
    for label in range(ways):
        of_class = (query_y == label).nonzero().flatten()[:queries]
        images = [*batch.support_x[task][support_y == label], *batch.query_x[task][of_class]]
        for column, (axes, image) in enumerate(zip(grid[label], images)):
            axes.imshow(image[0].cpu(), cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            if column < shots:
                axes.set_facecolor("#EEEEEE")
                for spine in axes.spines.values():
                    spine.set(color=COLOURS["maml"], linewidth=2)
            elif outputs is not None:
                _mark_prediction(axes, int(outputs[of_class[column - shots]].argmax()), label)
        grid[label, 0].set_ylabel(f"class {label}", fontsize=9)
    grid[0, 0].set_title("support", fontsize=9)
    grid[0, shots].set_title("queries", fontsize=9, loc="left")
    return figure


def _mark_prediction(axes, predicted, label):
    """The predicted class in the corner; correct and wrong differ by shape as well as by colour."""
    correct = predicted == label
    axes.text(
        0.97, 0.03, f"{predicted}" if correct else f"{predicted} ✗", transform=axes.transAxes, ha="right", va="bottom",
        fontsize=8, color="#005A32" if correct else "white",
        bbox=None if correct else dict(facecolor="#B2182B", edgecolor="none", pad=1.5),
    )  # fmt: skip


def adaptation_figure(evaluations: dict) -> Figure:
    """Query accuracy after each adaptation step: the mean over tasks, with its 95% confidence interval as a band.

    Args:
        evaluations: {recipe's name: `Evaluation`} of a classification.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, evaluation in evaluations.items():
        mean = [100 * value for value in evaluation.by_step]
        half = [100 * ci95(step) for step in evaluation.accuracies.T.tolist()]
        steps = range(len(mean))
        axes.plot(steps, mean, color=colour_of(name), marker=mark_of(name), label=title_of(name))
        low, high = ([m + sign * h for m, h in zip(mean, half)] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=colour_of(name), alpha=0.2)
    axes.set(xlabel="adaptation steps", ylabel="query accuracy (%)", ylim=(0, 100), xticks=list(steps))
    axes.set_title(f"Accuracy on unseen characters, {len(evaluation.per_task)} tasks, 95% CI", fontsize=10)
    axes.legend(loc="lower right")
    return figure
