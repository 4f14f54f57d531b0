"""Colours of uint8 images as the first part of the training step, which the input then need not compute.

The same arithmetic as `color_jitter` of the input (Pillow's: whole levels after each enhancement), and `normalize` and
`map_pixels` after it. What is jittered is the crop and not the whole image, whose mean grey level contrast takes there;
and the tokenizer's view is a smaller one of the encoder's, where the input resizes the crop itself twice.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from beit_jax.config import statistics
from beit_jax.config.op_arguments import tokenizer_method
from beit_jax.models.image_size import sides
from beit_jax.models.pixel_statistics import LUMA
from beit_jax.models.tokenizer import Tokenizer
from beit_jax.typing import Batch

SLACK = 1e-4  # see `data.ops.pixel_levels.DOWN`
JITTER = 0.4  # of brightness, contrast and saturation (official `--color_jitter`)
KINDS = 3  # brightness, contrast, saturation
FILTERS = {"lanczos": "lanczos3", "bicubic": "cubic", "bilinear": "linear"}  # by their names in data.ops, JAX's names
COLOURS = 0x636F6C  # folded into the key of the step, which is that of dropped paths too


def make_views(batch: Batch, key: jax.Array, config: ConfigDict, tokenizer: Tokenizer) -> Batch:
    """What `data.ops` have left to the step: both float32 views of a batch's uint8 images.

    Args:
      batch: with `image` uint8 `[b, h, w, 3]`.
      key: of the step; the same one gives the same colours.
      config: of the run, with the statistics by which the encoder's view is normalised; the filter by which the
        tokenizer's view is made smaller is that of its evaluation ops.
      tokenizer: whose view is `tokenizer_image`.
    """
    images = batch["image"]
    factors, order = draws(jax.random.fold_in(key, COLOURS), len(images), JITTER)
    mean, std = (jnp.array(numbers, jnp.float32).reshape(1, 1, 1, 3) for numbers in statistics.of_config(config))
    views = (images, smaller(images, sides(tokenizer.image_size), tokenizer_method(config)))
    image, tokenizer_image = (jitter(levels, factors, order) / 255.0 for levels in views)
    return {**batch, "image": (image - mean) / std, "tokenizer_image": tokenizer.from_pixels(tokenizer_image)}


def smaller(images: jax.Array, size: tuple[int, int], method: str) -> jax.Array:
    """float32 whole levels `[b, *size, 3]` of uint8 `[b, h, w, 3]`, by a filter of Pillow."""
    shape = (len(images), *size, images.shape[-1])
    return jnp.clip(jnp.round(jax.image.resize(images.astype(jnp.float32), shape, FILTERS[method])), 0.0, 255.0)


def draws(key: jax.Array, b: int, strength: float) -> tuple[jax.Array, jax.Array]:
    """Factors from U[1 - strength, 1 + strength], and the order of the enhancements: float32 and int32 `[b, 3]`."""
    of_factors, of_order = jax.random.split(key)
    factors = 1.0 - strength + 2.0 * strength * jax.random.uniform(of_factors, (b, KINDS))
    return factors, jnp.argsort(jax.random.uniform(of_order, (b, KINDS)), axis=1).astype(jnp.int32)


def jitter(images: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """float32 whole levels of images `[b, h, w, 3]`, enhanced three times.

    Args:
      images: whole levels of any type.
      factors: float32 `[b, 3]`, of the first, second and third enhancement; 1 changes nothing.
      order: int32 `[b, 3]`, which ones these are: 0 brightness, 1 contrast, 2 saturation.
    """
    levels = images.astype(jnp.float32)
    for turn in range(KINDS):
        kind = order[:, turn, None, None, None]
        factor = factors[:, turn, None, None, None]
        red, green, blue = (levels[..., channel, None] * LUMA[channel] for channel in range(3))
        grey = jnp.floor((red + green + blue + 32768.0) / 65536.0)
        mean = jnp.floor(jnp.mean(grey, axis=(1, 2, 3), keepdims=True) + 0.5)
        # All three blend the image with another one: black, its mean grey level, or the grey image.
        other = jnp.where(kind == 0, 0.0, jnp.where(kind == 1, mean, grey))
        levels = jnp.floor(jnp.clip(other + factor * (levels - other) + SLACK, 0.0, 255.0))
    return levels
