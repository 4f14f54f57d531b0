"""Pixels of patches as what is predicted: the paper's ablation of visual tokens."""

import jax
import jax.numpy as jnp
from einops import rearrange


def of_patches(images: jax.Array, grid: int) -> jax.Array:
    """Images `[b, h, w, c]` -> `[b, n, p * p * c]`: patches row-major, and in each its rows, columns, channels."""
    return rearrange(images, "b (gh ph) (gw pw) c -> b (gh gw) (ph pw c)", gh=grid, gw=grid)


def to_images(patches: jax.Array, grid: int, channels: int = 3) -> jax.Array:
    """The inverse of `of_patches` for square patches."""
    side = round((patches.shape[-1] // channels) ** 0.5)
    return rearrange(patches, "b (gh gw) (ph pw c) -> b (gh ph) (gw pw) c", gh=grid, ph=side, c=channels)


def squared_error(predicted: jax.Array, true: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum and count of patches' errors, each the mean over the values of a patch.

    Args:
      predicted: `[b, k, values]`.
      true: `[b, k, values]`.
      weights: `[b, k]` of 0 and 1.
    """
    errors = jnp.mean((predicted - true) ** 2, axis=-1)
    return jnp.sum(errors * weights), jnp.sum(weights)
