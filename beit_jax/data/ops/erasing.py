"""Random erasing (arXiv 1708.04896) as the official fine-tuning has it: timm's, in mode "pixel", once an image."""

import math

import tensorflow as tf

from beit_jax.data.preprocessing import Features, Op, register
from beit_jax.errors import UserError

ATTEMPTS = 10


@register(random=True)
def random_erasing(probability: float = 0.25, area: tuple = (0.02, 1 / 3), aspect: float = 0.3) -> Op:
    """Fills a rectangle of `image` with normal noise (`--reprob`); behind normalize, whose unit the noise has.

    The area is uniform between shares of the image, the aspect ratio log-uniform between `aspect` and 1 / `aspect`; of
    10 attempts the first that is smaller than the image in both directions counts, and its place is uniform.
    """
    if not (0 <= probability <= 1 and len(area) == 2 and 0 < area[0] <= area[1] < 1 and 0 < aspect <= 1):
        raise UserError(
            f"random_erasing: found {probability}, {area}, {aspect}; expected a probability, two shares of the area "
            "between 0 and 1, the smaller first, and the narrowest aspect ratio"
        )

    def op(features: Features, seed: tf.Tensor) -> Features:
        image = features["image"]
        if not image.dtype.is_floating:
            raise UserError("random_erasing: expected normalized pixels; put it behind normalize")
        draws = tf.random.stateless_uniform([4 * ATTEMPTS + 1], seed)
        inside = rectangle(tf.reshape(draws[1:], [4, ATTEMPTS]), tf.shape(image)[0], tf.shape(image)[1], area, aspect)

        def erased() -> tf.Tensor:
            noise_seed = tf.random.experimental.stateless_split(seed, 2)[0]
            return tf.where(inside[..., None], tf.random.stateless_normal(tf.shape(image), noise_seed), image)

        image = tf.cond(draws[0] < probability, erased, lambda: image)
        return {**features, "image": tf.ensure_shape(image, features["image"].shape)}

    return op


def rectangle(draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor, area: tuple, aspect: float) -> tf.Tensor:
    """bool `[height, width]`: the rectangle of the first attempt that fits; nothing where none does.

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
