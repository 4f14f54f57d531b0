"""Curves of runs, as PNG."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float]]  # (epoch, value)


def draw(title: str, curves: Mapping[str, Sequence[Curve]], unit: str) -> bytes:
    """One panel with a colour for each name; several curves of one name (seeds) are drawn thinner.

    Args:
      title: above the panel.
      curves: by name, one curve for each seed.
      unit: of the vertical axis.

    Returns:
      The PNG file.
    """
    figure = Figure(figsize=(5.2, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for index, (name, seeds) in enumerate(curves.items()):
        for number, curve in enumerate(seeds):
            epochs, values = zip(*curve)
            axes.plot(
                epochs,
                values,
                color=f"C{index}",
                linewidth=1.6 if len(seeds) == 1 else 1.0,
                marker="o" if len(curve) == 1 else None,
                label=name if number == 0 else None,
            )
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
