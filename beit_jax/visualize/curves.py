"""Curves of runs, as PNG."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]  # (epoch, value)


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
    figure = Figure(figsize=(5.2, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys([*curves, *(dashed or {})]))
    for style, drawn in (("-", curves), ("--", dashed or {})):
        for name, seeds in drawn.items():
            for number, points in enumerate(seeds):
                epochs, values = zip(*points)
                axes.plot(
                    epochs,
                    values,
                    style,
                    color=f"C{names.index(name)}",
                    linewidth=1.6 if len(seeds) == 1 and style == "-" else 1.0,
                    marker="o" if len(points) == 1 else None,
                    label=name if number == 0 and drawn is not dashed else None,
                )
    axes.set(title=title, xlabel="epoch (dashed: in training)" if dashed else "epoch", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
