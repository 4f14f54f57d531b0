"""Ops for segmentation, on pairs of `image` and `label_map`, uint8 `[h, w, 1]`: joint augmentation, resizing, padding.

The ops, their numbers and their order are those of mmsegmentation, with which the official code trains and evaluates
(unilm `beit/semantic_segmentation/configs/_base_/datasets/ade20k.py`).
"""

from typing import Any

import numpy as np
import tensorflow as tf

from beit_jax.data.decoding.assertions import require
from beit_jax.data.features import ID, LABEL_MAP, Features
from beit_jax.data.ops import crop_box
from beit_jax.data.ops.crop import check_size
from beit_jax.data.ops.registry import Op, register
from beit_jax.data.ops.resample import resize_bilinear, resize_pair
from beit_jax.errors import UserError
from beit_jax.models.label_maps import IGNORE

ATTEMPTS = 10


@register(relabels=True)
def reduce_zero_label() -> Op:
    """Label 0 is no class any more: it becomes 255 (`IGNORE`), and 1..254 become 0..253."""

    def op(features: Features, seed: tf.Tensor) -> Features:
        labels = _labels("reduce_zero_label", features)
        return {**features, LABEL_MAP: tf.where(labels == IGNORE, labels, labels - 1)}  # 0 - 1 is 255 in uint8

    return op


@register(relabels=True)
def map_labels(new: dict[int, int], others: int | None = None) -> Op:
    """Replaces labels, all at once.

    Args:
      new: the new label of a stored one, as {255: 1} for masks of 0 and 255; 255 as a new label is no class.
      others: the new label of all that `new` does not name; None: they stay.
    """
    if not isinstance(new, dict) or not new or not all(map(_is_level, [*new, *new.values(), others or 0])):
        raise UserError(
            f"map_labels: found {new!r} and {others!r}; expected labels 0 to 255, as map_labels({{255: 1}})"
        )
    table = np.arange(256) if others is None else np.full(256, others)
    table[list(new)] = list(new.values())
    table = table.astype(np.uint8)

    def op(features: Features, seed: tf.Tensor) -> Features:
        labels = _labels("map_labels", features)
        return {**features, LABEL_MAP: tf.gather(table, tf.cast(labels, tf.int32))}

    return op


def _is_level(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


@register(random=True)
def random_ratio_resize(short: int, long: int, smallest: float = 0.5, largest: float = 2.0) -> Op:
    """Resizes both to fit into `short` x `long` pixels times a number from U[smallest, largest]; see `fit_within`."""
    _check_sides("random_ratio_resize", short, long)
    if not 0 < smallest <= largest:
        raise UserError(
            f"random_ratio_resize: found ratios from {smallest} to {largest}; expected 0 < smallest <= largest"
        )

    def op(features: Features, seed: tf.Tensor) -> Features:
        labels = _labels("random_ratio_resize", features)
        ratio = smallest + (largest - smallest) * tf.random.stateless_uniform([], seed, dtype=tf.float64)
        height, width = fit_within(tf.shape(labels), tf.floor(short * ratio), tf.floor(long * ratio))
        image, labels = resize_pair(features["image"], labels, height, width)
        return {**features, "image": image, LABEL_MAP: labels}

    return op


@register()
def resize_within(short: int, long: int) -> Op:
    """Resizes `image`, but not the labels, to fit into `short` x `long` pixels, for evaluation; see `fit_within`."""
    _check_sides("resize_within", short, long)

    def op(features: Features, seed: tf.Tensor) -> Features:
        image = features["image"]
        height, width = fit_within(tf.shape(image), tf.constant(short, tf.float64), tf.constant(long, tf.float64))
        return {**features, "image": resize_bilinear(image, height, width)}

    return op


def fit_within(shape: tf.Tensor, short: tf.Tensor, long: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width of the largest image with the aspect ratio of `shape` that fits into short x long pixels.

    This is mmcv's `rescale_size`: `short` bounds the image's shorter side, `long` its longer one (float64 scalars), and
    halves are rounded up. At least one pixel remains.
    """
    sides = tf.cast(shape[:2], tf.float64)
    factor = tf.minimum(long / tf.reduce_max(sides), short / tf.reduce_min(sides))
    height, width = tf.unstack(tf.maximum(tf.cast(tf.floor(sides * factor + 0.5), tf.int32), 1), num=2)
    return height, width


@register(random=True)
def random_segment_crop(size: int, cat_max_ratio: float = 0.75) -> Op:
    """A random part of both, `size` pixels high and wide (or less if they are smaller), with more than one class.

    Of 10 attempts the first one counts that has two classes or more, none of them on the fraction `cat_max_ratio` or
    more of the labelled pixels. If there is none, an eleventh attempt counts whatever it shows. With a ratio of 1 the
    first attempt always counts.
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
    """bool: whether uint8 labels hold two classes or more, each on less than that fraction of the labelled pixels."""
    levels = tf.reshape(tf.cast(labels, tf.int32), [-1])
    counts = tf.math.bincount(levels, minlength=IGNORE + 1, maxlength=IGNORE + 1)[:IGNORE]
    largest, total = tf.reduce_max(counts), tf.maximum(tf.reduce_sum(counts), 1)
    return (tf.math.count_nonzero(counts) > 1) & (largest / total < cat_max_ratio)


@register()
def pad_to(height: int, width: int) -> Op:
    """Pads both at the bottom and on the right to `[height, width]`: `image` with 0, `label_map` with 255 (`IGNORE`).

    It must follow normalize, after which 0 is the mean. A larger image stops the input.
    """
    check_size("pad_to", height, width)

    def op(features: Features, seed: tf.Tensor) -> Features:
        labels = _labels("pad_to", features)
        advice = "; crop it before, or pad to more"
        image = _pad(_normalized("pad_to", features), 0, height, width, features, advice)
        return {**features, "image": image, LABEL_MAP: _pad(labels, IGNORE, height, width, features, advice)}

    return op


@register()
def pad_for_evaluation(short: int, long: int, label_side: int) -> Op:
    """`pad_to` for evaluation, where images and label maps have different sizes: a canvas for each.

    `image` becomes `[short, long, 3]`; an image higher than wide lies on it transposed. `label_map` becomes
    `[label_side, label_side, 1]` and is never transposed. `size` and `label_size`, int32 `[2]`, are height and width
    before. Larger ones stop the input.
    """
    _check_sides("pad_for_evaluation", short, long)
    check_size("pad_for_evaluation", label_side)

    def op(features: Features, seed: tf.Tensor) -> Features:
        image, labels = _normalized("pad_for_evaluation", features), _labels("pad_for_evaluation", features)
        size, label_size = tf.shape(image)[:2], tf.shape(labels)[:2]
        image = tf.cond(size[0] > size[1], lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        image = _pad(image, 0, short, long, features, "; reduce it before, or raise inference.long_side")
        labels = _pad(labels, IGNORE, label_side, label_side, features, "; raise inference.label_side")
        return {**features, "size": size, "label_size": label_size, "image": image, LABEL_MAP: labels}

    return op


def _pad(pixels: tf.Tensor, value: int, height: int, width: int, features: Features, advice: str) -> tf.Tensor:
    """Pixels `[h, w, c]`, padded with `value` to `[height, width, c]`; `advice` ends the message for larger ones."""
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
    padded = padded[:height, :width]  # cuts nothing, but keeps TensorFlow from an error before ours
    return tf.ensure_shape(padded, [height, width, pixels.shape[-1]])


def _labels(op: str, features: Features) -> tf.Tensor:
    if LABEL_MAP not in features:
        raise UserError(f"{op}: there is no '{LABEL_MAP}'; take a source that has label maps beside its images")
    return features[LABEL_MAP]


def _normalized(op: str, features: Features) -> tf.Tensor:
    if not features["image"].dtype.is_floating:
        raise UserError(f"{op}: expected normalized pixels; put it after normalize")
    return features["image"]


def _check_sides(op: str, short: int, long: int) -> None:
    check_size(op, short, long)
    if short > long:
        raise UserError(f"{op}: found {short} for the shorter and {long} for the longer side; expected the reverse")
