"""The registry of ops, the functions that `data.ops` chains.

An op maps features and an int64 seed to features. Ops on single examples get a seed `[2]`, ops on batches get seeds
`[b, 2]`. A registered factory makes the op from the arguments in the config.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import tensorflow as tf

from beit_jax.data.features import Features

Op = Callable[[Features, tf.Tensor], Features]
Level = Literal["example", "batch", "any"]


class RegisteredOp(NamedTuple):
    """What the registry knows of an op; see `register`."""

    factory: Callable[..., Op]
    level: Level
    random: bool
    relabels: bool


OPS: dict[str, RegisteredOp] = {}


def register(
    level: Level = "example", *, random: bool = False, relabels: bool = False
) -> Callable[[Callable[..., Op]], Callable[..., Op]]:
    """Registers the factory of an op under its name, as a decorator.

    Args:
      level: what the op works on: one example, a batch, or "any" for arithmetic on pixels that works on both. "any" ops
        run on single examples, whose pixels stay in a processor's cache, unless they follow an op on batches.
      random: whether the op draws random numbers, so that its result for an image changes from epoch to epoch.
      relabels: whether the op does nothing but replace the values of label maps, each by another one.

    Examples:
      >>> from beit_jax.data.ops.registry import Op, register
      >>> from beit_jax.data.preprocessing import build_program
      >>> @register()
      ... def negative(strength: float = 1.0) -> Op:
      ...     def op(features, seed):
      ...         return {**features, "image": features["image"] * (1 - 2 * strength) + strength}
      ...
      ...     return op
      >>> program = build_program("negative(1.0)|keep('image')")
      >>> program.example({"image": np.float32([0.25])}, np.int64([0, 0]))["image"]
      array([0.75], dtype=float32)
    """

    def add(factory: Callable[..., Op]) -> Callable[..., Op]:
        OPS[factory.__name__] = RegisteredOp(factory, level, random, relabels)
        return factory

    return add
