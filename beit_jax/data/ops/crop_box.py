"""Boxes to crop: int32 `[4]` tensors (top, left, height, width) in pixels."""

import math

import tensorflow as tf

from beit_jax.data.decoding.rare_case import rare_case
from beit_jax.errors import UserError
from beit_jax.models.image_size import ImageSize, sides

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
    sides = tf.stack([height, width])
    image = tf.cast(sides, tf.float64)
    fraction, aspect, top, left = tf.unstack(draws, axis=-1)
    area = tf.reduce_prod(image) * (scale[0] + (scale[1] - scale[0]) * fraction)
    aspect = tf.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect)
    boxes = tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect])))  # heights and widths, [2, attempts]
    margin = image[:, None] - boxes
    fits = tf.reduce_all((boxes > 0) & (margin >= 0), axis=0)
    corner = tf.floor(tf.stack([top, left]) * (margin + 1))
    chosen = tf.gather(tf.concat([corner, boxes], 0), tf.argmax(fits), axis=1)
    return tf.cond(
        tf.reduce_any(fits), lambda: tf.cast(chosen, tf.int32), lambda: _largest_central_box(sides, image, ratio)
    )


@rare_case
def _largest_central_box(sides: tf.Tensor, image: tf.Tensor, ratio: tuple[float, float]) -> tf.Tensor:
    """In an image of these sides, int32 and float64 `[2]`."""
    limits = tf.cast(tf.round(image[::-1] * [1 / ratio[0], ratio[1]]), tf.int32)
    box = tf.minimum(sides, tf.maximum(1, limits))
    return tf.concat([(sides - box) // 2, box], 0)


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


def central_box(image: tf.Tensor, fraction: float, size: ImageSize = 1) -> tf.Tensor:
    """The central box with the shape of `size`, `fraction` of the largest one in the image, at least one pixel.

    Of a square, it is the central square whose side is `fraction` of the image's shorter side.
    """
    shape, target = tf.shape(image)[:2], sides(size)
    if target[0] == target[1]:
        side = tf.cast(tf.round(tf.cast(tf.reduce_min(shape), tf.float64) * fraction), tf.int32)
        box = tf.stack([tf.maximum(side, 1)] * 2)
    else:
        scale = tf.reduce_min(tf.cast(shape, tf.float64) / target) * fraction
        box = tf.clip_by_value(tf.cast(tf.round(scale * target), tf.int32), 1, shape)
    return tf.concat([(shape - box) // 2, box], 0)


def ratio_of(size: ImageSize, ratio: tuple[float, float] = RATIO) -> tuple[float, float]:
    """The limits of the aspect ratio (width / height) of boxes for views of another shape than a square."""
    height, width = sides(size)
    return ratio if height == width else (ratio[0] * width / height, ratio[1] * width / height)


def crop(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The part of an image `[h, w, c]` inside a box."""
    top, left, height, width = tf.unstack(box, num=4)
    return image[top : top + height, left : left + width]
