"""Pixels of images, patch by patch."""

import jax
from einops import rearrange


def to_patches(images: jax.Array, grid: int) -> jax.Array:
    """Images `[b, h, w, c]` -> `[b, n, p * p * c]`: patches row-major, and in each its rows, columns, channels."""
    return rearrange(images, "b (gh ph) (gw pw) c -> b (gh gw) (ph pw c)", gh=grid, gw=grid)


def to_images(patches: jax.Array, grid: int, channels: int = 3) -> jax.Array:
    """The inverse of `to_patches` for square patches."""
    side = round((patches.shape[-1] // channels) ** 0.5)
    return rearrange(patches, "b (gh gw) (ph pw c) -> b (gh ph) (gw pw) c", gh=grid, ph=side, c=channels)
