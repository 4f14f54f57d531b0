"""Resizing as Pillow does it, which is what the published models were trained and measured with."""

import tensorflow as tf

from beit_jax.errors import UserError

KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic", "lanczos": "lanczos3"}


def check_method(method: str) -> None:
    """Raises UserError unless `method` names a filter."""
    if method not in KERNELS:
        raise UserError(f"found the resize method {method!r}; expected one of {', '.join(KERNELS)}")


def resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, method: str) -> tf.Tensor:
    """uint8 `[h, w, 3]` to uint8 `[height, width, 3]` with Pillow's filter of that name, within a level or two of it.

    The filter widens with the reduction, bicubic has a = -0.5, and overshoot is cut after each of the two passes,
    columns first: what Pillow cuts in between shows at sharp edges. Each pass sees the other side as batch or channels,
    so that TensorFlow's kernel, made for both sides at once, does no work on it.
    """
    if image.dtype != tf.uint8:
        raise UserError(f"found {image.dtype.name} pixels to resize, expected uint8: put decode first, normalize later")
    shape = tf.shape(image)
    scale = tf.cast(tf.stack([height, width]) / shape[:2], tf.float32)
    columns = _pass(image[:, None], tf.stack([1, width]), tf.stack([1.0, scale[1]]), method)
    columns = tf.reshape(columns, [1, shape[0], 1, width * 3])
    rows = _pass(columns, tf.stack([height, 1]), tf.stack([scale[0], 1.0]), method)
    return tf.reshape(rows, [height, width, 3])


def _pass(images: tf.Tensor, size: tf.Tensor, scale: tf.Tensor, method: str) -> tf.Tensor:
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=images, size=size, scale=scale, translation=[0.0, 0.0], kernel_type=KERNELS[method]
    )
    return tf.saturate_cast(tf.round(scaled), tf.uint8)
