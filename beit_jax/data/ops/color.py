"""Colour jitter with Pillow's arithmetic: every enhancement rounds down to whole levels before the next one.

Images are uint8 `[w, 3, h]` here, see `pixel_levels.columns_first`.
"""

import functools

import tensorflow as tf

from beit_jax.data.features import Features
from beit_jax.data.large_images import in_parts
from beit_jax.data.ops.pixel_levels import DOWN, columns_first, round_to_levels, rows_first, scale_levels
from beit_jax.data.ops.registry import Op, register
from beit_jax.errors import UserError
from beit_jax.models.pixel_statistics import LUMA

CONTRAST = 1  # of brightness, contrast, saturation


def grey(columns: tf.Tensor) -> tf.Tensor:
    """uint8 `[w, 1, h]` grey levels of uint8 `[w, 3, h]` (ITU-R 601, as Pillow's mode L)."""
    red, green, blue = tf.split(columns, 3, axis=1)
    return round_to_levels(
        scale_levels(red, LUMA[0]) + scale_levels(green, LUMA[1]) + scale_levels(blue, LUMA[2]), 65536.0
    )


def brightness(columns: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends uint8 `[w, 3, h]` with black; as in all three enhancements, factor 1 changes nothing."""
    return round_to_levels(scale_levels(columns, factor, DOWN))


def contrast(columns: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the mean of the grey image, rounded to a whole level."""
    return _blend_with(mean_level(columns), columns, factor)


def mean_level(columns: tf.Tensor) -> tf.Tensor:
    """Mean of the grey image, a whole float32 level."""
    levels = tf.cast(in_parts(grey, columns), tf.float32)
    column_sums = tf.reduce_sum(levels, axis=[1, 2])  # exact in float32
    mean = tf.reduce_sum(tf.cast(column_sums, tf.float64)) / tf.cast(tf.size(levels), tf.float64)
    return tf.cast(tf.floor(mean + 0.5), tf.float32)


def _blend_with(level: tf.Tensor, columns: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return round_to_levels(scale_levels(columns, factor, (1 - factor) * level + DOWN))


def saturation(columns: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the grey image."""
    return round_to_levels(scale_levels(columns, factor, DOWN) + scale_levels(grey(columns), 1 - factor))


def require_rgb(op: str, image: tf.Tensor) -> None:
    """
    Raises:
      UserError: the image is not red, green and blue in whole levels.
    """
    if image.shape[-1] != 3:
        raise UserError(
            f"{op} is for red, green and blue, and images have {image.shape[-1]} channels: leave it out of data.ops, "
            f"as channels={image.shape[-1]} of the config files does"
        )
    if image.dtype != tf.uint8:
        raise UserError(f"{op}: expected uint8 pixels; put it before normalize; with data.max_value, leave it out")


@register(random=True)
def color_jitter(strength: float = 0.4) -> Op:
    """Brightness, contrast and saturation of uint8 `image` in random order, each with a factor from U[1 - s, 1 + s].

    The official code jitters the whole image before flipping and cropping (unilm `beit/datasets.py`, `--color_jitter`).
    """
    if not 0 <= strength <= 1:
        raise UserError(f"color_jitter: found the strength {strength}; expected a number between 0 and 1")

    def op(features: Features, seed: tf.Tensor) -> Features:
        require_rgb("color_jitter", features["image"])
        draws = tf.random.stateless_uniform([2, 3], seed)
        factors = 1 - strength + 2 * strength * draws[0]
        order = tf.argsort(draws[1])
        columns = columns_first(features["image"])
        for index in range(3):
            columns = _enhance(columns, order[index], factors[index])
        return {**features, "image": rows_first(columns)}

    return op


def _enhance(columns: tf.Tensor, which: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    mean = tf.cond(which == CONTRAST, lambda: mean_level(columns), lambda: 0.0)
    kinds = [brightness, functools.partial(_blend_with, mean), saturation]
    return in_parts(
        lambda part: tf.switch_case(which, [functools.partial(kind, part, factor) for kind in kinds]), columns
    )
