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
    """

    def add(factory: Callable[..., Op]) -> Callable[..., Op]:
        OPS[factory.__name__] = RegisteredOp(factory, level, random, relabels)
        return factory

    return add
