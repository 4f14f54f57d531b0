"""Colour jitter with Pillow's arithmetic: every enhancement rounds down to whole levels before the next."""

import tensorflow as tf

from beit_jax.data.registry import Features, Op, register
from beit_jax.errors import UserError

LUMA = (19595.0, 38470.0, 7471.0)  # 65536 * (0.299, 0.587, 0.114); sums of levels stay exact in float32


def grey(image: tf.Tensor) -> tf.Tensor:
    """float32 `[h, w, 1]` whole grey levels of float32 `[h, w, 3]` whole levels (ITU-R 601, as Pillow's mode L)."""
    return tf.floor((tf.tensordot(image, tf.constant(LUMA), 1)[..., None] + 32768.0) / 65536.0)


def blend(degenerate: tf.Tensor, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """degenerate + factor * (image - degenerate), cut to [0, 255] and to whole levels."""
    return tf.floor(tf.clip_by_value(degenerate + factor * (image - degenerate), 0.0, 255.0))


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends float32 `[h, w, 3]` levels with black; factor 1 changes nothing, in all three enhancements."""
    return blend(tf.zeros([1, 1, 1]), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the mean of the grey image, rounded to a whole level."""
    mean = tf.reduce_mean(tf.cast(grey(image), tf.float64))
    return blend(tf.cast(tf.floor(mean + 0.5), tf.float32), image, factor)


def saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the grey image."""
    return blend(grey(image), image, factor)


@register(random=True)
def color_jitter(strength: float = 0.4) -> Op:
    """Brightness, contrast and saturation of uint8 `image` in random order, each by a factor from U[1 - s, 1 + s].

    The official code jitters the whole image before flipping and cropping (unilm `beit/datasets.py`, `--color_jitter`).
    """
    if not 0 <= strength <= 1:
        raise UserError(f"color_jitter: found the strength {strength}; expected a number between 0 and 1")

    def op(features: Features, seed: tf.Tensor) -> Features:
        if features["image"].dtype != tf.uint8:
            raise UserError("color_jitter: expected uint8 pixels; put it behind decode and before normalize")
        draws = tf.random.stateless_uniform([2, 3], seed)
        factors = 1 - strength + 2 * strength * draws[0]
        order = tf.argsort(draws[1])
        image = tf.cast(features["image"], tf.float32)
        for turn in range(3):
            image = _enhance(image, order[turn], factors[turn])
        return {**features, "image": tf.cast(image, tf.uint8)}

    return op


def _enhance(image: tf.Tensor, which: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    kinds = [brightness, contrast, saturation]
    return tf.switch_case(which, [lambda kind=kind: kind(image, factor) for kind in kinds])
