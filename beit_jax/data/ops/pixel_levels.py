"""Arithmetic on the levels of pixels, uint8 from 0 to 255, in one pass over the pixels for each function.

TensorFlow runs one operation at a time: to scale, clip, round and cast it would take four passes over float32. Its
kernels for quantized networks do the same in one pass.
"""

import tensorflow as tf

# Added to a value, it makes `round_to_levels` round down. The last part is larger than errors of float32: a whole level
# stays as it is.
DOWN = -0.5 + 1e-4


def scale_levels(levels: tf.Tensor, scale: float | tf.Tensor, offset: float | tf.Tensor = 0.0) -> tf.Tensor:
    """float32 scale * levels + offset, for uint8 levels of any shape."""
    high = offset + 255.0 * scale
    return tf.raw_ops.Dequantize(input=tf.bitcast(levels, tf.quint8), min_range=offset, max_range=high)


def round_to_levels(values: tf.Tensor, unit: float = 1.0) -> tf.Tensor:
    """The uint8 levels nearest to float32 values / unit, clipped to 0 and 255; halves are rounded up, as in Pillow."""
    levels = tf.raw_ops.QuantizeV2(input=values, min_range=0.0, max_range=255.0 * unit, T=tf.quint8)
    return tf.bitcast(levels.output, tf.uint8)


def columns_first(image: tf.Tensor) -> tf.Tensor:
    """`[w, c, h]` of an image `[h, w, c]`: its innermost axis is long, which is fast."""
    height = tf.shape(image)[0]
    return tf.reshape(tf.transpose(tf.reshape(image, [height, -1])), [-1, image.shape[2], height])


def rows_first(columns: tf.Tensor) -> tf.Tensor:
    """The image `[h, w, c]` from `[w, c, h]`, the inverse of `columns_first`."""
    height = tf.shape(columns)[2]
    return tf.reshape(tf.transpose(tf.reshape(columns, [-1, height])), [height, -1, columns.shape[1]])
