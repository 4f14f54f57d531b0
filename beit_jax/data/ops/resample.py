"""Resizing as in Pillow, with which the published models were trained and evaluated.

Segmentation is the exception: mmsegmentation resizes with OpenCV, whose bilinear filter skips pixels when it reduces an
image.
"""

from typing import NamedTuple

import tensorflow as tf

from beit_jax.data.ops.pixel_levels import columns_first, round_to_levels
from beit_jax.data.size_limits import MOST_BETWEEN
from beit_jax.errors import UserError

KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic", "lanczos": "lanczos3"}
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}  # pixels on both sides that a filter reads


def check_method(method: str) -> None:
    """Raises UserError unless `method` names a filter."""
    if method not in KERNELS:
        raise UserError(f"found the resize method {method!r}; expected one of {', '.join(KERNELS)}")


def resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, method: str) -> tf.Tensor:
    """uint8 `[h, w, c]` to uint8 `[height, width, c]` with Pillow's filter of that name, within a level or two of it.

    float32 pixels stay float32, and are neither rounded nor clipped.

    As in Pillow, the filter gets wider the more an image is reduced, bicubic has a = -0.5, and levels are clipped after
    each of the two passes, columns first; without that, sharp edges differ. Both passes resize the first axis and treat
    all others as channels: TensorFlow's kernel adds channels as vectors, and takes nine times as long if there are
    only three.

    Rows come first if the image is so tall that the other order would take gigabytes.
    """
    check_pixels(image)
    channels = image.shape[2]

    def rows_then_columns() -> tf.Tensor:
        by_column = tf.transpose(tf.reshape(_resize_first_axis(image, height, method), [height, -1]))
        columns = _resize_first_axis(tf.reshape(by_column, [-1, height * channels]), width, method)
        return tf.reshape(tf.transpose(tf.reshape(columns, [width * channels, height])), [height, width, channels])

    return tf.cond(
        tf.shape(image, tf.int64)[0] <= MOST_BETWEEN // tf.cast(width, tf.int64),
        lambda: resize_columns(columns_first(image), height, width, method),
        rows_then_columns,
    )


Place = tuple[tf.Tensor, tf.Tensor]  # scale and translation of an axis


def resize_columns(
    columns: tf.Tensor,
    height: int | tf.Tensor,
    width: int | tf.Tensor,
    method: str,
    places: tuple[Place | None, Place | None] = (None, None),
) -> tf.Tensor:
    """`resize` for the `columns_first` of an image; several sizes of one image need that transposition only once.

    With `places`, of rows and of columns, the result is not all of the image but what they put into height x width.
    """
    channels = columns.shape[1]
    by_column = tf.reshape(_resize_first_axis(columns, width, method, places[1]), [width * channels, -1])
    by_row = _resize_first_axis(tf.transpose(by_column), height, method, places[0])
    return tf.reshape(by_row, [height, width, channels])


def resize_part(image: tf.Tensor, size: tf.Tensor, box: tf.Tensor, method: str) -> tf.Tensor:
    """A box of `resize(image, *size, method)`, without the pixels around it.

    Args:
      image: uint8 or float32 `[h, w, c]`.
      size: int64 `[2]`, height and width of the complete resized image.
      box: int64 `[4]`, its top, left, height and width in the resized image.
      method: the filter.

    Returns:
      `[height, width, c]` of its type.
    """
    check_pixels(image)
    old = tf.shape(image, tf.int64)
    rows, columns = (_part(old[axis], size[axis], box[axis], box[axis + 2], method) for axis in range(2))
    part = columns_first(image[rows.start : rows.end, columns.start : columns.end])
    return resize_columns(part, rows.count, columns.count, method, (rows.place, columns.place))


class _Part(NamedTuple):
    """What a part of a resized axis is made of: pixels `start` to `end`, by scale and translation (`place`)."""

    start: tf.Tensor
    end: tf.Tensor
    count: tf.Tensor  # pixels of the part
    place: Place


def _part(old: tf.Tensor, size: tf.Tensor, first: tf.Tensor, count: tf.Tensor, method: str) -> _Part:
    """Pixels `first` to `first + count` of an axis of `old` pixels that is resized to `size` pixels."""
    step = old / size  # float64
    reach = SUPPORT[method] * tf.maximum(step, 1.0) + 1.0
    left, right = (tf.cast(edge, tf.float64) * step for edge in (first, first + count))
    start = tf.maximum(tf.cast(tf.floor(left - reach), tf.int64), 0)
    end = tf.minimum(tf.cast(tf.math.ceil(right + reach), tf.int64), old)
    translation = tf.cast(start, tf.float64) / step - tf.cast(first, tf.float64)
    return _Part(start, end, tf.cast(count, tf.int32), (1.0 / step, translation))


def _resize_first_axis(levels: tf.Tensor, size: int | tf.Tensor, method: str, place: Place | None = None) -> tf.Tensor:
    """`[n, ...]` to `[1, size, 1, c]`: all of it, or where scale and translation place it.

    For small images, most of the time goes to the number of operations: this has as few as it can.
    """
    old = tf.shape(levels)[0]
    scale, translation = place or (tf.cast(size, tf.float32) / tf.cast(old, tf.float32), 0.0)
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(levels, [1, old, 1, -1]),
        size=tf.stack([size, 1]),
        scale=tf.stack([tf.cast(scale, tf.float32), 1.0]),
        translation=tf.stack([tf.cast(translation, tf.float32), 0.0]),
        kernel_type=KERNELS[method],
    )
    return round_to_levels(scaled) if levels.dtype == tf.uint8 else scaled


def resize_pair(
    image: tf.Tensor, labels: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`resize_bilinear` of an image `[h, w, 3]`, and `labels` `[h, w, 1]` by OpenCV's nearest neighbour.

    That takes the label at a new pixel's upper left corner and not at its centre: labels lie up to half a pixel beside
    the image. The published models were trained so.
    """
    shape = tf.shape(labels)[:2]
    rows, columns = (_at_corners(size, shape[axis]) for axis, size in enumerate((height, width)))
    labels = tf.gather(tf.gather(labels, rows), columns, axis=1)
    return resize_bilinear(image, height, width), labels


def _at_corners(size: int | tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """floor(i old / size) in OpenCV's arithmetic, two divisions in float64, which is sometimes one less."""
    step = 1 / (tf.cast(size, tf.float64) / tf.cast(old, tf.float64))
    corners = tf.cast(tf.floor(tf.cast(tf.range(size), tf.float64) * step), tf.int32)
    return tf.minimum(corners, old - 1)


def resize_bilinear(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """uint8 `[h, w, 3]` to uint8 `[height, width, 3]` from the four nearest pixels, within a level of OpenCV."""
    check_levels(image)
    resized = tf.raw_ops.ResizeBilinear(images=image[None], size=tf.stack([height, width]), half_pixel_centers=True)[0]
    return tf.cast(tf.round(resized), tf.uint8)


def check_pixels(image: tf.Tensor) -> None:
    """Raises UserError unless an image is uint8 or float32, of a number of channels that is known."""
    if image.dtype != tf.float32:
        check_levels(image)
    if image.shape[2] is None:
        raise UserError("found an image of an unknown number of channels to resize; put the op behind decode")


def check_levels(image: tf.Tensor) -> None:
    """Raises UserError unless an image is uint8."""
    if image.dtype != tf.uint8:
        raise UserError(
            f"found {image.dtype.name} pixels to resize, expected uint8: put the op between decode and normalize"
        )
