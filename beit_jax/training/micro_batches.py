"""Sums over a batch, computed in parts so that less is in memory at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from beit_jax.typing import Batch


def sum_over_micro_batches(function: Callable[[Batch, jax.Array], Any], batch: Batch, count: int) -> Any:
    """The sum of `function(micro_batch, index)` over micro-batches, one after the other.

    Args:
      function: gives a tree of sums over the examples of a micro-batch.
      batch: entries `[b, ...]`.
      count: of micro-batches; it divides b. Micro-batch i has the examples i, i + count, ...: each device splits its
        own examples and sends none.
    """
    parts = {name: rearrange(values, "(b n) ... -> n b ...", n=count) for name, values in batch.items()}
    first = jax.tree.map(lambda values: values[0], parts)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, first, jnp.int32(0)))

    def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(*part)), None

    return jax.lax.scan(add, zeros, (parts, jnp.arange(count)))[0]
