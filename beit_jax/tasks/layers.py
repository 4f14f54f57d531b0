"""Layers of an encoder by number, counted from 1 as in the paper, and the best of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from beit_jax.errors import UserError


def chosen(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """The layers that a config names; none named: all.

    Raises:
      UserError: one that the encoder does not have, or that is named twice.
    """
    missing = [layer for layer in layers if not (isinstance(layer, int) and 1 <= layer <= depth)]
    if missing:
        raise UserError(f"there is no layer {missing[0]!r}: the encoder has the layers 1 to {depth}")
    if len(set(layers)) < len(layers):
        raise UserError(f"layers={tuple(layers)} names a layer twice; expected each one once")
    return tuple(layers) or tuple(range(1, depth + 1))


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
