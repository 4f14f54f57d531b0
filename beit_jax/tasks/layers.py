"""The best layer of an encoder, by number, counted from 1 as in the paper."""

from collections.abc import Mapping, Sequence

import numpy as np


def best(means: Mapping[str, np.ndarray], layers: Sequence[int], prefix: str = "") -> dict[str, float]:
    """Named numbers of the layer with the largest `top1`, its number, and every layer's `top1`.

    Args:
      means: float `[l]` by name, `top1` among them.
      layers: their numbers.
      prefix: put before every name.
    """
    winner = int(np.argmax(means["top1"]))
    numbers = {name: float(values[winner]) for name, values in means.items()} | {"best_layer": float(layers[winner])}
    numbers |= {f"top1_layer{layer:02d}": float(value) for layer, value in zip(layers, means["top1"], strict=True)}
    return {prefix + name: value for name, value in numbers.items()}
