"""How well classes are told apart: a confusion matrix, and a sheet of right and wrong predictions, as PNG files."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from beit_jax.tasks.report import Table
from beit_jax.training.evaluation import Example
from beit_jax.visualize.figures import DPI, draw_panels, to_png

NAMED = 40  # classes whose names fit beside a matrix
COUNTED = 15  # classes whose counts fit into its cells
COLUMNS = 6  # of a sheet
LONGEST = 24  # characters of a name


def draw_confusion(names: Sequence[str], counts: np.ndarray, title: str = "") -> bytes:
    """A confusion matrix, coloured by the fraction of each true class.

    Args:
      names: of the classes.
      counts: `[c, c]`, row the true class, column the predicted one.
      title: above it.

    Returns:
      The PNG file.
    """
    classes = len(counts)
    side = min(2.6 + 0.28 * classes, 9.0)
    figure = Figure(figsize=(side + 1.2, side), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted class", ylabel="true class")
    if title:
        axes.set_title(title, fontsize=10, parse_math=False)
    if classes <= NAMED:
        size = 8 if classes <= COUNTED else 6
        short = [_shorten(name) for name in names]
        axes.set_xticks(range(classes), short, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(classes), short, fontsize=size, parse_math=False)
    if classes <= COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if fractions[row, column] > 0.6 else "black"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, ax=axes, label="fraction of the true class", shrink=0.8)
    return to_png(figure)


def draw_matrix(table: Table) -> bytes:
    """The picture of a table that `tasks.confusion.confusion_table` made."""
    return draw_confusion(table.columns[1:], np.array([row[1:] for row in table.rows], np.float64))


def draw_sheet(
    right: Sequence[Example],
    wrong: Sequence[Example],
    names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> bytes:
    """Images with their true class, the predicted class and its probability: right ones, and then wrong ones in red.

    Args:
      right: examples that are classified rightly.
      wrong: examples that are not.
      names: of the classes.
      mean: of each channel, of the normalization that is undone.
      std: of each channel.

    Returns:
      The PNG file.
    """
    panels, colours = [], []
    for examples, colour in ((right, "black"), (wrong, "firebrick")):
        for example in examples:
            pixels = example.image * np.float32(std) + np.float32(mean)
            predicted, true = (_shorten(names[label]) for label in (example.predicted, example.label))
            words = f"predicted: {predicted} ({example.probability:.0%})\ntrue: {true}"
            panels.append((words, (pixels.clip(0, 1) * 255).round().astype(np.uint8)))
            colours.append(colour)
    return draw_panels(panels, min(COLUMNS, len(panels)), inches=1.6, colours=colours)


def _shorten(name: str) -> str:
    """One line that fits."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
