"""RandAugment (arXiv 1909.13719) with timm's increasing operations: the official `--aa rand-m9-mstd0.5-inc1`.

Pixels are uint8 levels, and each operation has Pillow's arithmetic. TensorFlow's own warping has no bicubic filter.
Libraries with RandAugment draw random numbers from a state; here every draw depends on (seed, epoch, example) alone.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from beit_jax.data.features import Features
from beit_jax.data.ops.color import brightness, contrast, require_rgb, saturation
from beit_jax.data.ops.image import named_or_pair
from beit_jax.data.ops.pixel_levels import columns_first, rows_first
from beit_jax.data.ops.registry import Op, register
from beit_jax.errors import UserError

MAX_LEVEL = 10.0
OUTSIDE = -1.0  # the level that a warp gives to pixels from outside of the image, before they are filled

# (image of whole levels float32 [h, w, 3], strength in [0, 1], sign -1 or 1) -> image.
Augmentation = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


@register(random=True)
def randaugment(
    count: int = 2,
    level: float = 9.0,
    deviation: float = 0.5,
    probability: float = 0.5,
    statistics: str | tuple = "inception",
) -> Op:
    """`count` operations on uint8 `image`, drawn with replacement (`--aa`).

    Args:
      count: operations drawn for each image.
      level: mean magnitude, 0 to 10.
      deviation: standard deviation of the magnitude, which is clipped to 0..10.
      probability: that a drawn operation is applied.
      statistics: whose mean fills what lies outside of the image, see `ops.image.normalize`.
    """
    if not (count >= 0 and 0 <= level <= MAX_LEVEL and deviation >= 0 and 0 <= probability <= 1):
        raise UserError(
            f"randaugment: found {count}, {level}, {deviation}, {probability}; expected a number of operations, a "
            "level from 0 to 10, a deviation and a probability"
        )
    mean = np.asarray(named_or_pair("randaugment", statistics)[0])
    mean = np.broadcast_to(mean if mean.size in (1, 3) else 0.5, 3)  # other images are refused below
    fill = tf.constant(np.round(255 * mean), tf.float32)

    def op(features: Features, seed: tf.Tensor) -> Features:
        require_rgb("randaugment", features["image"])
        seeds = tf.random.experimental.stateless_split(seed, 3)
        which = tf.random.stateless_uniform([count], seeds[0], maxval=len(AUGMENTATIONS), dtype=tf.int32)
        draws = tf.random.stateless_uniform([count, 2], seeds[1])
        levels = level + deviation * tf.random.stateless_normal([count], seeds[2])
        levels = tf.clip_by_value(levels, 0.0, MAX_LEVEL)
        image = tf.cast(features["image"], tf.float32)
        for index in range(count):
            sign = tf.where(draws[index, 1] < 0.5, -1.0, 1.0)
            image = tf.cond(
                draws[index, 0] < probability,
                lambda image=image, index=index, sign=sign: _apply(which[index], image, levels[index], sign),
                lambda image=image: image,
            )
            image = tf.where(image == OUTSIDE, fill, image)
        return {**features, "image": tf.ensure_shape(tf.cast(image, tf.uint8), features["image"].shape)}

    return op


def _apply(which: tf.Tensor, image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    strength = level / MAX_LEVEL
    branches = [lambda function=function: function(image, strength, sign) for function in AUGMENTATIONS.values()]
    return tf.switch_case(which, branches)


def _by_table(image: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Replaces levels by entries of a table `[256]`, or of one for each channel `[256, 3]`."""
    levels = tf.cast(image, tf.int32)
    if tables.shape.rank == 1:
        return tf.gather(tables, levels)
    return tf.stack([tf.gather(tables[:, channel], levels[..., channel]) for channel in range(3)], axis=-1)


def autocontrast(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255."""
    low, high = tf.reduce_min(image, axis=[0, 1]), tf.reduce_max(image, axis=[0, 1])
    # In float64, as in Pillow: a product just below a whole number would be rounded down by a level.
    low, high = tf.cast(low, tf.float64), tf.cast(high, tf.float64)
    scale = 255.0 / tf.maximum(high - low, 1.0)
    levels = tf.range(256, dtype=tf.float64)[:, None]
    stretched = tf.clip_by_value(tf.floor(levels * scale - low * scale), 0.0, 255.0)
    return _by_table(image, tf.cast(tf.where(high > low, stretched, levels), tf.float32))


def equalize(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Flattens the histogram of each channel."""
    tables = []
    for channel in range(3):
        counts = tf.math.bincount(
            tf.cast(tf.reshape(image[..., channel], [-1]), tf.int32), minlength=256, maxlength=256
        )
        used = tf.boolean_mask(counts, counts > 0)
        step = (tf.reduce_sum(counts) - used[-1]) // 255
        before = step // 2 + tf.cumsum(counts, exclusive=True)
        flat = tf.minimum(before // tf.maximum(step, 1), 255)
        tables.append(tf.where(step > 0, flat, tf.range(256)))
    return _by_table(image, tf.cast(tf.stack(tables, axis=-1), tf.float32))


def invert(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """255 minus the level."""
    return 255.0 - image


def posterize(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Keeps the highest 4 - int(4 * strength) bits."""
    unit = tf.pow(2.0, 4.0 + tf.floor(4.0 * strength))
    return tf.floor(image / unit) * unit


def solarize(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Inverts levels from 256 - int(256 * strength) on."""
    return tf.where(image < 256.0 - tf.floor(256.0 * strength), image, 255.0 - image)


def solarize_add(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Adds int(110 * strength) to levels below 128."""
    return tf.where(image < 128.0, tf.minimum(image + tf.floor(110.0 * strength), 255.0), image)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the image smoothed by a 3x3 filter; the smoothed image keeps its border."""
    weights = tf.reshape(tf.constant([1.0, 1, 1, 1, 5, 1, 1, 1, 1]) / 13.0, [3, 3, 1, 1])
    inner = tf.nn.depthwise_conv2d(image[None], tf.tile(weights, [1, 1, 3, 1]), [1, 1, 1, 1], "VALID")[0]
    inner = tf.floor(inner + 0.5)
    border = tf.pad(tf.zeros_like(inner[..., :1]), [[1, 1], [1, 1], [0, 0]], constant_values=1.0)
    smooth = tf.where(border > 0, image, tf.pad(inner, [[1, 1], [1, 1], [0, 0]]))
    return tf.floor(tf.clip_by_value(smooth + factor * (image - smooth), 0.0, 255.0))


def _enhanced(enhance: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Augmentation:
    """An enhancement with the factor 1 + sign * 0.9 * strength."""
    return lambda image, strength, sign: enhance(image, 1.0 + sign * 0.9 * strength)


def _on_float_images(
    enhance: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """An enhancement of `ops.color`, for uint8 columns, as one for float32 images."""

    def enhanced(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        return tf.cast(rows_first(enhance(columns_first(tf.cast(image, tf.uint8)), factor)), tf.float32)

    return enhanced


def rotate(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """By 30 degrees * strength around the centre."""
    angle = -sign * strength * math.radians(30.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width = _sides(image)
    x, y = width / 2, height / 2
    return warp(image, [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y])


def shear_x(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Shifts rows by 0.3 * strength, relative to their number."""
    return warp(image, [1.0, sign * 0.3 * strength, 0.0, 0.0, 1.0, 0.0])


def shear_y(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Shifts columns by 0.3 * strength, relative to their number."""
    return warp(image, [1.0, 0.0, 0.0, sign * 0.3 * strength, 1.0, 0.0])


def translate_x(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """By 0.45 * strength of the width."""
    return warp(image, [1.0, 0.0, sign * 0.45 * strength * _sides(image)[1], 0.0, 1.0, 0.0])


def translate_y(image: tf.Tensor, strength: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """By 0.45 * strength of the height."""
    return warp(image, [1.0, 0.0, 0.0, 0.0, 1.0, sign * 0.45 * strength * _sides(image)[0]])


def _sides(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.cast(tf.shape(image), tf.float32)
    return shape[0], shape[1]


def warp(image: tf.Tensor, matrix: list[tf.Tensor | float]) -> tf.Tensor:
    """Pillow's bicubic `Image.transform` with an affine map; pixels from outside of the image are `OUTSIDE`.

    Args:
      image: whole levels, float32 `[h, w, 3]`.
      matrix: a, b, c, d, e, f: the new pixel at (x, y) was at (a x + b y + c, d x + e y + f) before. The centre of the
        first pixel is (0.5, 0.5).
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    a, b, c, d, e, f = (tf.cast(entry, tf.float32) for entry in matrix)
    x = tf.cast(tf.range(width), tf.float32)[None, :] + 0.5
    y = tf.cast(tf.range(height), tf.float32)[:, None] + 0.5
    old_x, old_y = a * x + b * y + c, d * x + e * y + f
    inside = (old_x >= 0) & (old_x < tf.cast(width, tf.float32)) & (old_y >= 0) & (old_y < tf.cast(height, tf.float32))
    left, top = tf.floor(old_x - 0.5), tf.floor(old_y - 0.5)
    x_weights, y_weights = _cubic(old_x - 0.5 - left), _cubic(old_y - 0.5 - top)
    flat = tf.reshape(image, [-1, 3])
    total = tf.zeros_like(image)
    for i in range(4):
        row = tf.clip_by_value(tf.cast(top, tf.int32) + i - 1, 0, height - 1)
        line = tf.zeros_like(image)
        for j in range(4):
            column = tf.clip_by_value(tf.cast(left, tf.int32) + j - 1, 0, width - 1)
            line += x_weights[j][..., None] * tf.gather(flat, row * width + column)
        total += y_weights[i][..., None] * line
    return tf.where(inside[..., None], tf.floor(tf.clip_by_value(total, 0.0, 255.0)), OUTSIDE)


def _cubic(t: tf.Tensor) -> list[tf.Tensor]:
    """Weights of four neighbours at a distance t from the second of them, for Keys' kernel with a = -1 (Pillow)."""
    return [
        -t + 2 * t**2 - t**3,
        1 - 2 * t**2 + t**3,
        t + t**2 - t**3,
        -(t**2) + t**3,
    ]


AUGMENTATIONS: dict[str, Augmentation] = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "invert": invert,
    "rotate": rotate,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": _enhanced(_on_float_images(saturation)),
    "contrast": _enhanced(_on_float_images(contrast)),
    "brightness": _enhanced(_on_float_images(brightness)),
    "sharpness": _enhanced(sharpness),
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}
