"""Boxes to crop: int32 `[4]` tensors (top, left, height, width) in pixels."""

import math

import tensorflow as tf

from beit_jax.errors import UserError

ATTEMPTS = 10
RATIO = (3 / 4, 4 / 3)


def check_scale(op: str, scale_min: float, scale_max: float, ratio: tuple[float, float] = RATIO) -> None:
    """Raises UserError unless 0 < scale_min <= scale_max <= 1 and 0 < ratio[0] <= ratio[1]."""
    if not 0 < scale_min <= scale_max <= 1:
        raise UserError(f"{op}: found scales {scale_min} to {scale_max}; expected 0 < scale_min <= scale_max <= 1")
    if not 0 < ratio[0] <= ratio[1]:
        raise UserError(f"{op}: found aspect ratios {ratio}; expected (smallest, largest), both above 0")


def box_from_draws(
    draws: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float] = RATIO,
) -> tf.Tensor:
    """The box that uniform numbers `[attempts, 4]` (area, aspect, top, left; float64) choose in an image.

    The rule is that of torchvision's RandomResizedCrop (unilm `beit/transforms.py`). The area is a uniform fraction of
    the image, the aspect ratio (width / height) is log-uniform, and sides are rounded, halves to the even number. The
    first attempt that fits into the image counts. If none fits, the box is the largest central one whose aspect ratio
    lies within the limits.
    """
    high, wide = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    fraction, aspect, top, left = tf.unstack(draws, axis=-1)
    area = high * wide * (scale[0] + (scale[1] - scale[0]) * fraction)
    aspect = tf.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect)
    sides = tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect])))
    margin = tf.stack([high, wide])[:, None] - sides
    fits = tf.reduce_all((sides > 0) & (margin >= 0), axis=0)
    corner = tf.floor(tf.stack([top, left]) * (margin + 1))
    first = tf.argmax(fits)
    chosen = tf.cast(tf.concat([corner, sides], 0)[:, first], tf.int32)
    return tf.where(tf.reduce_any(fits), chosen, _central_box_within(height, width, ratio))


def _central_box_within(height: tf.Tensor, width: tf.Tensor, ratio: tuple[float, float]) -> tf.Tensor:
    high, wide = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    box_height = tf.minimum(height, tf.maximum(1, tf.cast(tf.round(wide / ratio[0]), tf.int32)))
    box_width = tf.minimum(width, tf.maximum(1, tf.cast(tf.round(high * ratio[1]), tf.int32)))
    return tf.stack([(height - box_height) // 2, (width - box_width) // 2, box_height, box_width])


def random_box(
    seed: tf.Tensor, image: tf.Tensor, scale: tuple[float, float], ratio: tuple[float, float] = RATIO
) -> tf.Tensor:
    """`box_from_draws` for an image `[h, w, c]` with the numbers of an integer seed `[2]`."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return random_box_within(seed, height, width, scale, ratio)


def random_box_within(
    seed: tf.Tensor, height: tf.Tensor, width: tf.Tensor, scale: tuple[float, float], ratio: tuple[float, float] = RATIO
) -> tf.Tensor:
    """`random_box` for an image of which only height and width are known."""
    draws = tf.random.stateless_uniform([ATTEMPTS, 4], seed, dtype=tf.float64)
    return box_from_draws(draws, height, width, scale, ratio)


def central_square(image: tf.Tensor, fraction: float) -> tf.Tensor:
    """The box of the central square whose side is `fraction` of the image's shorter side, at least one pixel."""
    shape = tf.shape(image)[:2]
    side = tf.cast(tf.round(tf.cast(tf.reduce_min(shape), tf.float64) * fraction), tf.int32)
    side = tf.maximum(side, 1)
    corner = (shape - side) // 2
    return tf.stack([corner[0], corner[1], side, side])


def crop(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The part of an image `[h, w, c]` inside a box."""
    top, left, height, width = tf.unstack(box, num=4)
    return image[top : top + height, left : left + width]
