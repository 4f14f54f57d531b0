"""Figures of several titled pictures, and of attention distances, as PNG files."""

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

DPI = 110
CHARACTER = 0.072  # inches, of a title
Square = tuple[float, float, float, float, str]  # left, top, width and height as fractions of the picture, and a label


def draw_panels(
    pictures: Sequence[tuple[str, np.ndarray]],
    columns: int,
    marks: Sequence[Sequence[Square]] = (),
    labels: Sequence[Sequence[Square]] = (),
    inches: float = 2.6,
    title: str = "",
    colours: Sequence[str] = (),
) -> bytes:
    """Pictures of one shape, each under its title, row by row; apart from each other where titles need it.

    Args:
      pictures: titles and uint8 `[h, w, 3]`.
      columns: pictures in a row.
      marks: for each picture, what to outline on it.
      labels: for each picture, what to write on it, in the middle of squares.
      inches: width of a picture; of the longer side.
      title: above all.
      colours: for each picture, that of its title; empty: black.

    Returns:
      The PNG file.
    """
    rows = math.ceil(len(pictures) / columns)
    height, width = (side * inches / max(pictures[0][1].shape[:2]) for side in pictures[0][1].shape[:2])
    lines = 1 + max(name.count("\n") for name, _ in pictures)
    longest = max(len(line) for name, _ in pictures for line in name.splitlines())
    above = 0.18 + 0.17 * len(title.splitlines()) if title else 0
    size = (columns * (max(width, CHARACTER * longest) + 0.12), rows * (height + 0.14 + 0.14 * lines) + above)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells:
        axes.set_axis_off()
    for i, (axes, (name, picture)) in enumerate(zip(cells, pictures)):
        axes.imshow(picture, interpolation="nearest", extent=(0, 1, 1, 0), aspect=height / width)
        axes.set_title(name, fontsize=9, pad=3, color=colours[i] if colours else "black", parse_math=False)
        for square in marks[i] if marks else ():
            _outline(axes, square)
        for left, top, wide, high, text in labels[i] if labels else ():
            _write(axes, left + wide / 2, top + high / 2, text, min(8.0, 72 * wide * width / (0.75 * len(text))))
    if title:
        figure.suptitle(title, fontsize=10)
    return to_png(figure)


def _outline(axes: object, square: Square) -> None:
    """White on black, to be visible on any picture; the label beside it, within the picture."""
    left, top, width, height, label = square
    for colour, line in (("black", 3.0), ("white", 1.4)):
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=line))
    if label:
        right = left + width < 0.9
        axes.text(
            left + width + 0.015 if right else left - 0.015,
            top + height / 2,
            label,
            color="black",
            fontsize=9,
            fontweight="bold",
            ha="left" if right else "right",
            va="center",
            bbox=dict(boxstyle="circle,pad=0.15", facecolor="white", edgecolor="none", alpha=0.9),
        )


def _write(axes: object, x: float, y: float, text: str, points: float) -> None:
    """Small text, legible on any colour."""
    edge = [withStroke(linewidth=1.2, foreground="black")]
    axes.text(x, y, text, color="white", fontsize=points, ha="center", va="center", path_effects=edge)


def draw_distances(values: np.ndarray, uniform: float) -> bytes:
    """Mean attention distance by layer: a dot for each head, a line through the means.

    Args:
      values: `[L, h]` in pixels.
      uniform: the mean distance with uniform attention.

    Returns:
      The PNG file.
    """
    layers = np.arange(1, len(values) + 1)
    figure = Figure(figsize=(5.2, 3.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    heads = axes.plot(layers, values, "o", color="C0", alpha=0.45, markersize=5, markeredgewidth=0)
    heads[0].set_label("heads")
    axes.plot(layers, values.mean(axis=1), "-o", color="C1", markersize=4, label="their mean")
    axes.axhline(uniform, color="0.5", linestyle="--", linewidth=1, label="uniform attention")
    highest = max(values.max(), uniform) or 1.0  # one patch alone has no distances
    axes.set(title="Mean attention distance", xlabel="layer", ylabel="pixels", ylim=(0, 1.1 * highest))
    axes.set_xticks(layers if len(layers) <= 12 else layers[1::2])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def to_png(figure: Figure) -> bytes:
    """The PNG file of a figure."""
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
