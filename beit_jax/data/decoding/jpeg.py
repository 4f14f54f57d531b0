"""JPEG files, whose size and number of scans are known before their pixels are decoded."""

import tensorflow as tf

from beit_jax.data.decoding.image_header import MAX_PIXELS

DCT = "INTEGER_ACCURATE"  # Pillow's inverse transform; TensorFlow's own default is faster and differs by a few levels
# Each scan goes through all blocks of the image, though it may be ten bytes that change nothing. Progressive files have
# about ten; a hundred of the largest image take seconds.
MOST_SCANS = 100
SCAN = b"\xff\xda\0"  # how one begins; pixels never hold these bytes, and 16 MB of random metadata hold them once
MOST_COUNTED = 10**6  # scans


def decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """uint8 `[h, w, 3]`, or TensorFlow's errors."""
    with tf.control_dependencies([require_cheap(encoded, tf.io.extract_jpeg_shape(encoded))]):
        return tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT)


def require_cheap(encoded: tf.Tensor, shape: tf.Tensor) -> tf.Operation:
    """Fails if the file has more pixels or scans than are tolerated; `shape`, int32 `[3]`, is that of its header."""
    is_small = tf.reduce_prod(tf.cast(shape[:2], tf.int64)) <= MAX_PIXELS
    scans = count_scans(encoded, MOST_SCANS + 1)
    return tf.raw_ops.Assert(condition=is_small & (scans <= MOST_SCANS), data=[shape])


def count_scans(encoded: tf.Tensor, most: int = MOST_COUNTED) -> tf.Tensor:
    """Scans of a JPEG file, int32; no more than `most` are counted."""
    return tf.size(tf.raw_ops.StringSplitV2(input=[encoded], sep=SCAN, maxsplit=most).values) - 1
