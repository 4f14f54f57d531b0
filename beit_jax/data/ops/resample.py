"""Resizing as in Pillow, with which the published models were trained and evaluated.

Segmentation is the exception: mmsegmentation resizes with OpenCV, whose bilinear filter skips pixels when it reduces an
image.
"""

import tensorflow as tf

from beit_jax.data.ops.pixel_levels import columns_first, round_to_levels, rows_first
from beit_jax.errors import UserError

KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic", "lanczos": "lanczos3"}


def check_method(method: str) -> None:
    """Raises UserError unless `method` names a filter."""
    if method not in KERNELS:
        raise UserError(f"found the resize method {method!r}; expected one of {', '.join(KERNELS)}")


def resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, method: str) -> tf.Tensor:
    """uint8 `[h, w, 3]` to uint8 `[height, width, 3]` with Pillow's filter of that name, within a level or two of it.

    As in Pillow, the filter gets wider the more an image is reduced, bicubic has a = -0.5, and levels are clipped after
    each of the two passes, columns first; without that, sharp edges differ. Both passes resize the first axis and treat
    all others as channels: TensorFlow's kernel adds channels as vectors, and takes nine times as long if there are
    only three.
    """
    check_levels(image)
    return resize_columns(columns_first(image), height, width, method)


def resize_columns(columns: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, method: str) -> tf.Tensor:
    """`resize` for the `columns_first` of an image; several sizes of one image need that transposition only once."""
    return _resize_first_axis(rows_first(_resize_first_axis(columns, width, method)), height, method)


def _resize_first_axis(levels: tf.Tensor, size: int | tf.Tensor, method: str) -> tf.Tensor:
    """uint8 `[n, ...]` to `[size, ...]`."""
    old = tf.shape(levels)
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(levels, [1, old[0], 1, -1]),
        size=tf.stack([size, 1]),
        scale=tf.stack([tf.cast(size / old[0], tf.float32), 1.0]),
        translation=[0.0, 0.0],
        kernel_type=KERNELS[method],
    )
    return tf.reshape(round_to_levels(scaled), tf.concat([[size], old[1:]], 0))


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


def check_levels(image: tf.Tensor) -> None:
    """Raises UserError unless an image is uint8."""
    if image.dtype != tf.uint8:
        raise UserError(
            f"found {image.dtype.name} pixels to resize, expected uint8: put the op between decode and normalize"
        )
