"""Figures of the course. Each function returns a Matplotlib figure and shows nothing itself."""

from __future__ import annotations

from matplotlib.figure import Figure

from .characters import Characters


def character_sheet(characters: Characters, classes=None, drawings=None) -> Figure:
    """Show characters as a table: a row for each class, a column for each writer.

    Args:
        characters: the set to show.
        classes: class numbers of the rows; default ten, spread evenly over the set.
        drawings: drawing numbers of the columns, from 0; default all.
    """
    if classes is None:
        rows = min(10, len(characters))
        classes = [row * len(characters) // rows for row in range(rows)]
    classes = list(classes)
    drawings = list(range(characters.images.shape[1])) if drawings is None else list(drawings)
    sheet = characters.images[classes][:, drawings]  # (rows, columns, height, width)
    # One picture of the whole table is drawn far faster than a small one for each cell.
    height, width = sheet.shape[2:]
    table = sheet.transpose(1, 2).reshape(len(classes) * height, len(drawings) * width)
    extent = (-0.5, len(drawings) - 0.5, len(classes) - 0.5, -0.5)  # so that rows and columns are units of the axes

    figure = Figure(figsize=(3.0 + 0.42 * len(drawings), 0.9 + 0.42 * len(classes)), layout="constrained")
    figure.suptitle(f"{characters.name}: characters by writers", fontsize=10)
    axes = figure.subplots()
    axes.imshow(table.numpy(), cmap="gray_r", vmin=0, vmax=255, extent=extent, interpolation="nearest")
    labels = [f"{characters.alphabets[c]}\n{characters.names[c].lower()}" for c in classes]
    axes.set_yticks(range(len(classes)), labels, fontsize=7)
    axes.set_xticks(range(len(drawings)), [str(d + 1) for d in drawings], fontsize=7)
    axes.set_xlabel("writer")
    axes.set_xticks([column + 0.5 for column in range(len(drawings) - 1)], minor=True)
    axes.set_yticks([row + 0.5 for row in range(len(classes) - 1)], minor=True)
    axes.grid(which="minor", color="lightgray", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    return figure
