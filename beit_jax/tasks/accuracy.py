"""Accuracy, counted in one way for every task."""

import jax
import jax.numpy as jnp


def ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many other classes are at least as likely as the true class.

    The true class is among the k most likely ones if its rank is below k. Ties and NaN count against the model, so that
    constant or broken logits are never right. This takes one reduction over the classes; an argmax takes two.

    Args:
      logits: float `[..., c]`.
      labels: int `[...]`, the true classes.

    Returns:
      int32 `[...]`, 0 to c - 1.
    """
    true = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    return jnp.sum(~(logits < true), axis=-1, dtype=jnp.int32) - 1
