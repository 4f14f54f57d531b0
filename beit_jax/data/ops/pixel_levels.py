"""Whole levels of pixels, uint8, and arithmetic on them: each function is one pass over the pixels.

TensorFlow runs an operation at a time, and clips, rounds and casts in four passes over float32. Its kernels for
quantised networks do the same in one.
"""

import tensorflow as tf

# Added to a value, makes `rounded` cut it down to a whole level. The last part is more than the errors of float32: what
# should be a whole level does not fall to the one below.
DOWN = -0.5 + 1e-4


def line(levels: tf.Tensor, slope: float | tf.Tensor, offset: float | tf.Tensor = 0.0) -> tf.Tensor:
    """float32 slope * levels + offset of uint8 levels of any shape."""
    high = offset + 255.0 * slope
    return tf.raw_ops.Dequantize(input=tf.bitcast(levels, tf.quint8), min_range=offset, max_range=high)


def rounded(values: tf.Tensor, unit: float = 1.0) -> tf.Tensor:
    """uint8 levels nearest to float32 values / unit, those outside cut to 0 and 255; halves go up, as in Pillow."""
    levels = tf.raw_ops.QuantizeV2(input=values, min_range=0.0, max_range=255.0 * unit, T=tf.quint8)
    return tf.bitcast(levels.output, tf.uint8)


def columns_first(image: tf.Tensor) -> tf.Tensor:
    """`[w, 3, h]` of an image `[h, w, 3]`: rows of pixels are long there, and what differs between columns is cheap."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return tf.reshape(tf.transpose(tf.reshape(image, [height, width * 3])), [width, 3, height])


def rows_first(columns: tf.Tensor) -> tf.Tensor:
    """The image `[h, w, 3]` of `columns_first`."""
    width, _, height = tf.unstack(tf.shape(columns))
    return tf.reshape(tf.transpose(tf.reshape(columns, [width * 3, height])), [height, width, 3])
