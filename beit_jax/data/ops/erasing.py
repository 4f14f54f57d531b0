"""Random erasing (arXiv 1708.04896) as in the official fine-tuning: timm's, in mode "pixel", one rectangle an image."""

import math

import tensorflow as tf

from beit_jax.data.features import Features
from beit_jax.data.ops.registry import Op, register
from beit_jax.errors import UserError

ATTEMPTS = 10


@register(random=True)
def random_erasing(probability: float = 0.25, area: tuple = (0.02, 1 / 3), aspect: float = 0.3) -> Op:
    """Fills a rectangle of `image` with normal noise (`--reprob`); it must follow normalize.

    Args:
      probability: that an image gets a rectangle.
      area: of the rectangle, uniform between two fractions of the image.
      aspect: the aspect ratio is log-uniform between this number and its inverse. Of 10 attempts the first one that is
        smaller than the image in both directions counts, and its position is uniform.
    """
    if not (0 <= probability <= 1 and len(area) == 2 and 0 < area[0] <= area[1] < 1 and 0 < aspect <= 1):
        raise UserError(
            f"random_erasing: found {probability}, {area}, {aspect}; expected a probability, two "
            "fractions of the area between 0 and 1, the smaller one first, and the smallest aspect ratio, at most 1"
        )

    def op(features: Features, seed: tf.Tensor) -> Features:
        image = features["image"]
        if not image.dtype.is_floating:
            raise UserError("random_erasing: expected normalized pixels; put it after normalize")
        draws = tf.random.stateless_uniform([4 * ATTEMPTS + 1], seed)
        inside = rectangle(tf.reshape(draws[1:], [4, ATTEMPTS]), tf.shape(image)[0], tf.shape(image)[1], area, aspect)

        def erased() -> tf.Tensor:
            noise_seed = tf.random.experimental.stateless_split(seed, 2)[0]
            return tf.where(inside[..., None], tf.random.stateless_normal(tf.shape(image), noise_seed), image)

        image = tf.cond(draws[0] < probability, erased, lambda: image)
        return {**features, "image": tf.ensure_shape(image, features["image"].shape)}

    return op


def rectangle(draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor, area: tuple, aspect: float) -> tf.Tensor:
    """bool `[height, width]`: the rectangle of the first attempt that fits; false everywhere if none fits.

    `draws` are uniform `[4, attempts]`: area, aspect ratio, top, left.
    """
    sides = tf.cast(tf.stack([height, width]), tf.float32)
    target = (area[0] + (area[1] - area[0]) * draws[0]) * sides[0] * sides[1]
    root = tf.exp(math.log(aspect) * (0.5 - draws[1]))  # of the aspect ratio
    sizes = tf.round(tf.sqrt(target) * tf.stack([root, 1 / root]))
    fits = tf.reduce_all(sizes < sides[:, None], axis=0)
    first = tf.argmax(fits)
    size = sizes[:, first] * tf.cast(fits[first], tf.float32)
    start = tf.floor(draws[2:, first] * (sides - size + 1))
    rows, columns = (tf.cast(tf.range(length), tf.float32) for length in (height, width))
    in_rows = (rows >= start[0]) & (rows < start[0] + size[0])
    in_columns = (columns >= start[1]) & (columns < start[1] + size[1])
    return in_rows[:, None] & in_columns[None, :]
