"""Pixels of images, patch by patch."""

import jax
from einops import rearrange

from beit_jax.models.image_size import ImageSize, sides


def to_patches(images: jax.Array, grid: ImageSize) -> jax.Array:
    """Images `[b, h, w, c]` -> `[b, n, p * p * c]`: patches row-major, and in each its rows, columns, channels."""
    rows, columns = sides(grid)
    return rearrange(images, "b (gh ph) (gw pw) c -> b (gh gw) (ph pw c)", gh=rows, gw=columns)


def to_images(patches: jax.Array, grid: ImageSize, channels: int = 3) -> jax.Array:
    """The inverse of `to_patches` for square patches."""
    side = round((patches.shape[-1] // channels) ** 0.5)
    return rearrange(patches, "b (gh gw) (ph pw c) -> b (gh ph) (gw pw) c", gh=sides(grid)[0], ph=side, c=channels)
