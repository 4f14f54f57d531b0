"""Ops on pairs of `image` and `label_map`, uint8 `[h, w, 1]`: the joint augmentation and the frames of segmentation.

The numbers and their order are those of mmsegmentation, with which the official code trains and evaluates (unilm
`beit/semantic_segmentation/configs/_base_/datasets/ade20k.py`).
"""

import tensorflow as tf

from beit_jax.data.decoding.assertions import require
from beit_jax.data.decoding.decode import IGNORED, LABEL_MAP
from beit_jax.data.ops import crop_box
from beit_jax.data.ops.crop import check_size
from beit_jax.data.ops.resample import resize_bilinear, resize_pair
from beit_jax.data.preprocessing import Features, Op, register
from beit_jax.data.sources.source import ID
from beit_jax.errors import UserError

ATTEMPTS = 10


@register()
def reduce_zero_label() -> Op:
    """Takes the class out of label 0: it becomes 255, which counts nowhere, and 1..254 become 0..253."""

    def op(features: Features, seed: tf.Tensor) -> Features:
        labels = _labels("reduce_zero_label", features)
        return {**features, LABEL_MAP: tf.where(labels == IGNORED, labels, labels - 1)}  # 0 - 1 is 255 in uint8

    return op


@register(random=True)
def random_ratio_resize(short: int, long: int, smallest: float = 0.5, largest: float = 2.0) -> Op:
    """Resizes both to fit into `short` x `long` pixels times a number from U[smallest, largest]; see `fitted`."""
    _check_sides("random_ratio_resize", short, long)
    if not 0 < smallest <= largest:
        raise UserError(
            f"random_ratio_resize: found ratios from {smallest} to {largest}; expected 0 < smallest <= largest"
        )

    def op(features: Features, seed: tf.Tensor) -> Features:
        labels = _labels("random_ratio_resize", features)
        ratio = smallest + (largest - smallest) * tf.random.stateless_uniform([], seed, dtype=tf.float64)
        height, width = fitted(tf.shape(labels), tf.floor(short * ratio), tf.floor(long * ratio))
        image, labels = resize_pair(features["image"], labels, height, width)
        return {**features, "image": image, LABEL_MAP: labels}

    return op


@register()
def resize_within(short: int, long: int) -> Op:
    """Resizes `image` to fit into `short` x `long` pixels, for evaluation; labels stay as they are. See `fitted`."""
    _check_sides("resize_within", short, long)

    def op(features: Features, seed: tf.Tensor) -> Features:
        image = features["image"]
        height, width = fitted(tf.shape(image), tf.constant(short, tf.float64), tf.constant(long, tf.float64))
        return {**features, "image": resize_bilinear(image, height, width)}

    return op


def fitted(shape: tf.Tensor, short: tf.Tensor, long: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width of the largest image of the aspect ratio of `shape` whose sides are within (short, long).

    mmcv's `rescale_size`: the sides, float64 scalars, are compared with the shorter and the longer one of the image,
    and halves are rounded up. At least one pixel remains.
    """
    sides = tf.cast(shape[:2], tf.float64)
    factor = tf.minimum(long / tf.reduce_max(sides), short / tf.reduce_min(sides))
    height, width = tf.unstack(tf.maximum(tf.cast(tf.floor(sides * factor + 0.5), tf.int32), 1), num=2)
    return height, width


@register(random=True)
def random_segment_crop(size: int, cat_max_ratio: float = 0.75) -> Op:
    """A random part of both, `size` pixels high and wide or as far as they reach, that shows more than one class.

    Of 10 attempts the first counts in which there are two classes and none has `cat_max_ratio` or more of the labelled
    pixels; if none has that, an eleventh counts as it is. A ratio of 1 asks for nothing.
    """
    check_size("random_segment_crop", size)
    if not 0 < cat_max_ratio <= 1:
        raise UserError(f"random_segment_crop: found cat_max_ratio={cat_max_ratio}; expected above 0 and at most 1")

    def op(features: Features, seed: tf.Tensor) -> Features:
        labels = _labels("random_segment_crop", features)
        shape = tf.shape(labels)[:2]
        sides = tf.minimum(shape, size)
        draws = tf.random.stateless_uniform([ATTEMPTS + 1, 2], seed, dtype=tf.float64)
        corners = tf.cast(tf.floor(draws * tf.cast(shape - sides + 1, tf.float64)), tf.int32)

        def box(attempt: tf.Tensor) -> tf.Tensor:
            return tf.concat([corners[attempt], sides], 0)

        def rejected(attempt: tf.Tensor) -> tf.Tensor:
            return (attempt < ATTEMPTS) & ~is_mixed(crop_box.crop(labels, box(attempt)), cat_max_ratio)

        attempt = tf.constant(0)
        if cat_max_ratio < 1:
            (attempt,) = tf.while_loop(rejected, lambda attempt: [attempt + 1], [attempt])
        parts = {key: crop_box.crop(features[key], box(attempt)) for key in ("image", LABEL_MAP)}
        return {**features, **parts}

    return op


def is_mixed(labels: tf.Tensor, cat_max_ratio: float) -> tf.Tensor:
    """bool: whether uint8 labels hold two classes or more, the largest below that share of what has a class."""
    levels = tf.reshape(tf.cast(labels, tf.int32), [-1])
    counts = tf.math.bincount(levels, minlength=IGNORED + 1, maxlength=IGNORED + 1)[:IGNORED]
    largest, total = tf.reduce_max(counts), tf.maximum(tf.reduce_sum(counts), 1)
    return (tf.math.count_nonzero(counts) > 1) & (largest / total < cat_max_ratio)


@register()
def pad_to(height: int, width: int) -> Op:
    """Fills both up at the bottom and on the right, `image` with 0 and `label_map` with 255, to `[height, width]`.

    Behind normalize, whose zero is the mean. A larger image ends the input.
    """
    check_size("pad_to", height, width)

    def op(features: Features, seed: tf.Tensor) -> Features:
        labels = _labels("pad_to", features)
        advice = "; crop it before, or pad to more"
        image = _padded(_normalized("pad_to", features), 0, height, width, features, advice)
        return {**features, "image": image, LABEL_MAP: _padded(labels, IGNORED, height, width, features, advice)}

    return op


@register()
def pad_for_evaluation(side: int, label_side: int) -> Op:
    """`pad_to` of squares of two sides, for images and labels of any size in one batch.

    `image` becomes `[side, side, 3]` and `label_map` `[label_side, label_side, 1]`; `size` and `label_size`, int32
    `[2]`, are their heights and widths before. Larger ones end the input.
    """
    check_size("pad_for_evaluation", side, label_side)

    def op(features: Features, seed: tf.Tensor) -> Features:
        image, labels = _normalized("pad_for_evaluation", features), _labels("pad_for_evaluation", features)
        sizes = {"size": tf.shape(image)[:2], "label_size": tf.shape(labels)[:2]}
        found = f"pad_for_evaluation({side}, {label_side})"
        image = _padded(image, 0, side, side, features, f"; raise the first number of {found}")
        labels = _padded(labels, IGNORED, label_side, label_side, features, f"; raise the second number of {found}")
        return {**features, **sizes, "image": image, LABEL_MAP: labels}

    return op


def _padded(pixels: tf.Tensor, value: int, height: int, width: int, features: Features, advice: str) -> tf.Tensor:
    """Pixels `[h, w, c]` with `value` below and to the right of them, `[height, width, c]`."""
    shape = tf.shape(pixels)
    kind = "image" if pixels.dtype.is_floating else "label map of"
    name = features.get(ID, tf.constant(""))
    require(
        (shape[0] <= height) & (shape[1] <= width),
        *(f"the {kind} ", name, " has ", shape[0], " x ", shape[1], " pixels to pad, expected at most "),
        f"{height} x {width}{advice}",
    )
    padding = [[0, tf.maximum(height - shape[0], 0)], [0, tf.maximum(width - shape[1], 0)], [0, 0]]
    padded = tf.pad(pixels, padding, constant_values=tf.constant(value, pixels.dtype))
    padded = padded[:height, :width]  # cuts nothing: keeps TensorFlow from a complaint of its own before ours
    return tf.ensure_shape(padded, [height, width, pixels.shape[-1]])


def _labels(op: str, features: Features) -> tf.Tensor:
    if LABEL_MAP not in features:
        raise UserError(f"{op}: there is no '{LABEL_MAP}'; take a source that has label maps beside its images")
    return features[LABEL_MAP]


def _normalized(op: str, features: Features) -> tf.Tensor:
    if not features["image"].dtype.is_floating:
        raise UserError(f"{op}: expected normalized pixels; put it behind normalize")
    return features["image"]


def _check_sides(op: str, short: int, long: int) -> None:
    check_size(op, short, long)
    if short > long:
        raise UserError(f"{op}: found {short} for the shorter and {long} for the longer side; expected the reverse")
