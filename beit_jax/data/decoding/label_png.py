"""Label maps in PNG files: the numbers that are stored. TensorFlow alone would give the colours of a palette."""

import zlib

import tensorflow as tf

from beit_jax.data.decoding.assertions import require
from beit_jax.data.decoding.rare_case import rare_case

SIGNATURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
BITS, KIND, CHECKSUM, END = 24, 25, 29, 33  # positions: bits per number, kind of pixels, the header's CRC-32, its end
GREY, PALETTE = 0, 3
# The CRC is linear: another kind of pixels flips the same bits of it, whatever else is in the header.
CHECKSUM_CHANGE = zlib.crc32(b"IHDR" + bytes(9) + bytes([PALETTE, 0, 0, 0])) ^ zlib.crc32(b"IHDR" + bytes(13))


def decode_labels(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """uint8 `[h, w, 1]` of the bytes of a PNG file, or TensorFlow's errors; and whether they are labels, a scalar bool.

    They are labels if a pixel is one number from 0 to 255: a grey level, also one that is written in 16 bits or as an
    opaque colour of three equal parts, or an index of a palette.
    """
    # TensorFlow would decode all frames of a GIF file here.
    with tf.control_dependencies([require(tf.strings.substr(encoded, 0, len(SIGNATURE)) == SIGNATURE, "no PNG file")]):
        encoded = tf.identity(encoded)
    bits, kind = tf.unstack(tf.cast(_bytes(encoded, BITS, KIND + 1), tf.int32), num=2)
    is_one_number = (kind == GREY) | (kind == PALETTE)
    branch = tf.where(~is_one_number, 2, tf.where(bits > 8, 1, 0))
    return tf.switch_case(
        branch,
        [
            lambda: _decode_indices(encoded, bits, kind),
            lambda: _decode_16_bits(encoded),
            lambda: _decode_colours(encoded),
        ],
    )


def _decode_indices(encoded: tf.Tensor, bits: tf.Tensor, kind: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    encoded = tf.cond(kind == PALETTE, lambda: _as_grey(encoded), lambda: encoded)
    levels = tf.cast(tf.io.decode_png(encoded, channels=1), tf.int32)
    # TensorFlow stretches numbers of 1, 2 and 4 bits to 0..255.
    stretch = 255 // (tf.bitwise.left_shift(1, tf.minimum(bits, 8)) - 1)
    return tf.cast(levels // stretch, tf.uint8), tf.constant(True)


@rare_case
def _decode_16_bits(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    levels = tf.cast(tf.io.decode_png(encoded, channels=1, dtype=tf.uint16), tf.int32)
    return tf.cast(tf.minimum(levels, 255), tf.uint8), tf.reduce_max(levels) <= 255


@rare_case
def _decode_colours(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of 16 bits per channel, TensorFlow keeps the upper ones: no label is left of them."""
    red, green, blue, alpha = tf.unstack(tf.io.decode_png(encoded, channels=4), num=4, axis=-1)
    has_8_bits = _bytes(encoded, BITS, KIND)[0] == 8
    is_grey = tf.reduce_all((red == green) & (green == blue) & (alpha == 255))
    return red[..., None], is_grey & has_8_bits


def _bytes(encoded: tf.Tensor, start: int, end: int) -> tf.Tensor:
    return tf.io.decode_raw(tf.strings.substr(encoded, start, end - start), tf.uint8)


def _as_grey(encoded: tf.Tensor) -> tf.Tensor:
    """The file with another header, in which the indices of the palette are grey levels."""
    change = tf.constant(list(CHECKSUM_CHANGE.to_bytes(4)), tf.uint8)
    checksum = tf.bitwise.bitwise_xor(_bytes(encoded, CHECKSUM, END), change)
    every_byte = tf.constant([bytes([value]) for value in range(256)])
    parts = [
        tf.strings.substr(encoded, 0, KIND),
        tf.constant(bytes([GREY])),
        tf.strings.substr(encoded, KIND + 1, CHECKSUM - KIND - 1),
        tf.strings.reduce_join(tf.gather(every_byte, tf.cast(checksum, tf.int32))),
        tf.strings.substr(encoded, END, -1),
    ]
    return tf.strings.join(parts)
