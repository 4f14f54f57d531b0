"""Stochastic depth."""

import jax
import jax.numpy as jnp


def drop_path(key: jax.Array, y: jax.Array, rate: jax.Array) -> jax.Array:
    """Stochastic depth (arXiv 1603.09382): `y` `[b, n, d]`, each example 0 at probability `rate`, else y / (1 - rate).

    Args:
      key: random key.
      y: `[b, n, d]`.
      rate: scalar in [0, 1).
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, (y.shape[0], 1, 1))
    return y * (kept.astype(jnp.float32) / (1.0 - rate)).astype(y.dtype)
