"""Label maps in PNG files: the numbers that are stored. TensorFlow alone would give the colours of a palette."""

import zlib

import tensorflow as tf

from beit_jax.data.decoding.assertions import require

SIGNATURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
BITS, KIND, CHECKSUM, END = 24, 25, 29, 33  # positions: bits per number, kind of pixels, the header's CRC-32, its end
GREY, PALETTE = 0, 3
# The CRC is linear: another kind of pixels flips the same bits of it, whatever else is in the header.
CHECKSUM_CHANGE = zlib.crc32(b"IHDR" + bytes(9) + bytes([PALETTE, 0, 0, 0])) ^ zlib.crc32(b"IHDR" + bytes(13))


def decode_labels(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """uint8 `[h, w, 1]` of the bytes of a PNG file, or TensorFlow's errors; and whether they are labels, a scalar bool.

    They are labels if a pixel is one number of at most 8 bits, a grey level or an index of a palette, and not a colour.
    """
    require(tf.strings.substr(encoded, 0, len(SIGNATURE)) == SIGNATURE, "this is no PNG file")
    bits, kind = tf.unstack(tf.cast(_bytes(encoded, BITS, KIND + 1), tf.int32), num=2)
    encoded = tf.cond(kind == PALETTE, lambda: _as_grey(encoded), lambda: encoded)
    levels = tf.cast(tf.io.decode_png(encoded, channels=1), tf.int32)
    # TensorFlow stretches numbers of 1, 2 and 4 bits to 0..255.
    stretch = 255 // (tf.bitwise.left_shift(1, tf.minimum(bits, 8)) - 1)
    return tf.cast(levels // stretch, tf.uint8), (bits <= 8) & ((kind == GREY) | (kind == PALETTE))


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
