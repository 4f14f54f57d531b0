"""Curves of runs, as PNG."""

import io
from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]  # (epoch, value)
BESIDE_CURVES = 6  # names for which there is room in the panel


def draw_curves(
    title: str,
    curves: Mapping[str, Sequence[Points]],
    unit: str,
    dashed: Mapping[str, Sequence[Points]] | None = None,
) -> bytes:
    """One panel with a colour for each name; several curves of one name (seeds) are drawn thinner.

    Args:
      title: above the panel.
      curves: by name, one curve for each seed.
      unit: of the vertical axis.
      dashed: the same measured in training, in the colours of `curves`.

    Returns:
      The PNG file.
    """
    names = list(dict.fromkeys([*curves, *(dashed or {})]))
    many = len(names) > BESIDE_CURVES  # then the legend gets a place of its own
    figure = Figure(figsize=(7.4 if many else 5.2, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab20" if len(names) > 10 else "tab10"]
    for style, drawn in (("-", curves), ("--", dashed or {})):
        for name, seeds in drawn.items():
            for number, points in enumerate(seeds):
                epochs, values = zip(*points)
                axes.plot(
                    epochs,
                    values,
                    style,
                    color=colours(names.index(name) % colours.N),
                    linewidth=1.6 if len(seeds) == 1 and style == "-" else 1.0,
                    marker="o" if len(points) == 1 else None,
                    label=name if number == 0 and drawn is not dashed else None,
                )
    axes.set(title=title, xlabel="epoch (dashed: in training)" if dashed else "epoch", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, **(dict(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8) if many else {}))
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
