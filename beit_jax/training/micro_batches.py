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
    return carry_over_micro_batches(lambda carried, *part: (carried, function(*part)), {}, batch, count)[1]


def carry_over_micro_batches(
    function: Callable[[Any, Batch, jax.Array], tuple[Any, Any]], carried: Any, batch: Batch, count: int
) -> tuple[Any, Any]:
    """As `sum_over_micro_batches`, for a function that hands something on from each micro-batch to the next.

    Args:
      function: `function(carried, micro_batch, index)` gives what it hands on, and the sums.
      carried: what the first micro-batch gets, a tree of arrays.
      batch: see `sum_over_micro_batches`.
      count: of micro-batches.

    Returns:
      What the last micro-batch hands on, and the sums.
    """
    parts = {name: rearrange(values, "(b n) ... -> n b ...", n=count) for name, values in batch.items()}
    first = jax.tree.map(lambda values: values[0], parts)
    _, sums = jax.eval_shape(function, carried, first, jnp.int32(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sums)

    def add(state: tuple[Any, Any], part: tuple[Batch, jax.Array]) -> tuple[tuple[Any, Any], None]:
        carried, sums = function(state[0], *part)
        return (carried, jax.tree.map(jnp.add, state[1], sums)), None

    return jax.lax.scan(add, (carried, zeros), (parts, jnp.arange(count)))[0]
