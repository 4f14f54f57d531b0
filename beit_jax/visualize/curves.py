"""Curves of runs, as PNG."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from beit_jax.visualize.figures import DPI, to_png

Points = Sequence[tuple[float, float]]  # (epoch, value)
BELOW_PANEL = 6  # names for whose legend there is room there
WIDEST, THINNEST = 3.0, 1.5  # lines of evaluations: later names are thinner, so that equal curves are both seen
PALE = dict(linewidth=0.8, alpha=0.35)  # lines of training: single batches are noisy
LEGEND_CHARACTERS = 66  # that fit below a panel, with 8 for each line's sample


def draw_curves(
    title: str, curves: Mapping[str, Sequence[Points]], unit: str, in_training: Mapping[str, Sequence[Points]]
) -> bytes:
    """The PNG file of `make_panel`."""
    return to_png(make_panel(title, curves, unit, in_training))


def make_panel(
    title: str, curves: Mapping[str, Sequence[Points]], unit: str, in_training: Mapping[str, Sequence[Points]]
) -> Figure:
    """One panel with a colour for each name, which all curves of that name (seeds) have.

    Args:
      title: above the panel.
      curves: by name, one curve for each seed.
      unit: of the vertical axis.
      in_training: the same measured on training batches, in the colours of `curves`, thin and pale behind them.
    """
    names = list(dict.fromkeys([*curves, *in_training]))
    many = len(names) > BELOW_PANEL  # then the legend stands beside the panel
    figure = Figure(figsize=(7.4 if many else 5.2, 3.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    palette = colormaps["tab20" if len(names) > 10 else "tab10"]
    colours = {name: palette(number % palette.N) for number, name in enumerate(names)}
    for name, seeds in in_training.items():
        _plot(axes, seeds, color=colours[name], **PALE)
    for number, (name, seeds) in enumerate(curves.items(), 1):
        width = THINNEST + (WIDEST - THINNEST) * (1 - number / len(curves))
        _plot(axes, seeds, color=colours[name], linewidth=width)
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.grid(alpha=0.3)
    keys = [Line2D([], [], color=colours[name], linewidth=2, label=name) for name in names]
    if in_training:
        keys.append(Line2D([], [], color="black", linewidth=2, label="evaluation"))
        keys.append(Line2D([], [], color="black", **PALE, label="training batches"))
    columns = LEGEND_CHARACTERS // (8 + max(len(key.get_label()) for key in keys))
    place = dict(loc="outside right center") if many else dict(loc="outside lower center", ncols=max(columns, 1))
    figure.legend(handles=keys, frameon=False, fontsize=8, **place)
    return figure


def _plot(axes: Axes, seeds: Sequence[Points], **style: Any) -> None:
    for points in seeds:
        marker = "o" if len(points) == 1 else None  # a line through one point cannot be seen
        axes.plot(*zip(*points), marker=marker, markersize=4, **style)
