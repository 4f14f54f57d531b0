"""Colour jitter for segmentation: mmsegmentation's PhotoMetricDistortion, with OpenCV's rounding after every step."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from beit_jax.data.features import Features
from beit_jax.data.ops.color import require_rgb
from beit_jax.data.ops.registry import Op, register

BRIGHTNESS = 32  # levels
RANGE = (0.5, 1.5)  # of the factors of contrast and saturation
STEPS = 180  # of the hue, in a full circle
HUE = 18  # steps
ONE = 1 << 12  # the number 1 in OpenCV's fixed point


@register(random=True)
def photometric_distortion() -> Op:
    """Brightness, contrast, saturation and hue of uint8 `image`, each changed with probability 1/2.

    Brightness changes by U[-32, 32] levels, contrast and saturation by factors from U[0.5, 1.5], the hue by -18 to 17
    steps of 2 degrees. That is also their order; with probability 1/2 contrast comes last.
    """

    def op(features: Features, seed: tf.Tensor) -> Features:
        require_rgb("photometric_distortion", features["image"])
        draws = tf.random.stateless_uniform([9], seed)
        early, coins = draws[0] < 0.5, draws[1:5] < 0.5
        shift = BRIGHTNESS * (2 * draws[5] - 1)
        factors = RANGE[0] + (RANGE[1] - RANGE[0]) * draws[6:8]
        steps = tf.floor(2 * HUE * draws[8]) - HUE
        image = tf.cast(features["image"], tf.float32)
        image = _if(coins[0], lambda image: linear(image, 1.0, shift), image)
        image = _if(coins[1] & early, lambda image: linear(image, factors[0], 0.0), image)
        image = _if(coins[2], lambda image: scale_saturation(image, factors[1]), image)
        image = _if(coins[3], lambda image: shift_hue(image, steps), image)
        image = _if(coins[1] & ~early, lambda image: linear(image, factors[0], 0.0), image)
        return {**features, "image": tf.cast(image, tf.uint8)}

    return op


def _if(condition: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor) -> tf.Tensor:
    return tf.cond(condition, lambda: change(image), lambda: image)


def linear(levels: tf.Tensor, factor: float | tf.Tensor, shift: float | tf.Tensor) -> tf.Tensor:
    """factor * levels + shift, clipped to [0, 255] and rounded down; float32 as all levels here."""
    return tf.floor(tf.clip_by_value(levels * factor + shift, 0.0, 255.0))


def scale_saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """An image `[h, w, 3]` with its saturation times a factor."""
    hue, saturation, value = to_hsv(image)
    return from_hsv(hue, linear(saturation, factor, 0.0), value)


def shift_hue(image: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """An image `[h, w, 3]` with its hues shifted by steps of 2 degrees."""
    hue, saturation, value = to_hsv(image)
    return from_hsv(tf.math.floormod(hue + steps, STEPS), saturation, value)


def to_hsv(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Whole levels of hue (0 to 179), saturation and value (0 to 255), each `[h, w]`, of an image `[h, w, 3]`."""
    image = tf.cast(image, tf.int32)
    red, green, blue = tf.unstack(image, num=3, axis=-1)
    value = tf.reduce_max(image, axis=-1)
    spread = value - tf.reduce_min(image, axis=-1)
    after_red = tf.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    hue = _divided(tf.where(value == red, green - blue, after_red), spread, STEPS // 6)
    saturation = _divided(spread, value, 255)
    return tuple(tf.cast(part, tf.float32) for part in (tf.where(hue < 0, hue + STEPS, hue), saturation, value))


def _divided(number: tf.Tensor, level: tf.Tensor, factor: int) -> tf.Tensor:
    """factor * number / level in OpenCV's fixed point, which shows in one colour of sixty; 0 for level 0."""
    inverse = np.rint(factor * ONE / np.maximum(np.arange(256), 1)).astype(np.int32)
    inverse[0] = 0
    return (number * tf.gather(inverse, level) + ONE // 2) // ONE


def from_hsv(hue: tf.Tensor, saturation: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Whole levels `[h, w, 3]` of red, green and blue, the inverse of `to_hsv` up to rounding."""

    def channel(offset: float) -> tf.Tensor:
        sector = tf.math.floormod(offset + hue / (STEPS / 6), 6.0)
        lack = tf.clip_by_value(tf.minimum(sector, 4.0 - sector), 0.0, 1.0)
        return tf.round(value * (1.0 - saturation / 255.0 * lack))

    return tf.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)
