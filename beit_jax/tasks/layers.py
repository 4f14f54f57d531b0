"""The layer of an encoder whose features serve best."""

from collections.abc import Mapping, Sequence

import numpy as np


def best_layer_metrics(means: Mapping[str, np.ndarray], layers: Sequence[int], prefix: str = "") -> dict[str, float]:
    """The numbers of the layer with the largest `top1`, `best_layer`, and the `top1` of every layer.

    Args:
      means: float `[l]` by name, `top1` among them.
      layers: the numbers of these layers, counted from 1.
      prefix: put before every name.
    """
    best = int(np.argmax(means["top1"]))
    numbers = {name: float(values[best]) for name, values in means.items()} | {"best_layer": float(layers[best])}
    numbers |= {f"top1_layer{layer:02d}": float(value) for layer, value in zip(layers, means["top1"], strict=True)}
    return {prefix + name: value for name, value in numbers.items()}
