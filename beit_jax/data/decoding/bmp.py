"""BMP files, whose bytes TensorFlow takes for grey levels, or for blue, green, red and alpha, whatever they are."""

import tensorflow as tf

from beit_jax.data.decoding.assertions import require
from beit_jax.data.decoding.file_bytes import read_bytes
from beit_jax.data.decoding.transparency import Background, lay_on
from beit_jax.data.large_images import in_parts

HEADER_SIZE, COMPRESSION, MASKS = 14, 30, 54  # positions
BITFIELDS = 3  # the compression "none", with masks that tell which bits of a pixel are red, green, blue and alpha
WITH_ALPHA = 56  # bytes of the smallest header that has a mask of alpha


def decode_bmp(encoded: tf.Tensor, background: Background) -> tf.Tensor:
    """uint8 `[h, w, 3]` of a file of 8 (grey, or with a palette), 24 or 32 bits, or TensorFlow's errors."""
    fields = tf.io.decode_raw(tf.strings.substr(encoded, 2, 28), tf.int32)
    pixels, palette, bits = fields[2], fields[3] + 14, tf.bitwise.right_shift(fields[6], 16)

    def look_up() -> tf.Tensor:
        colours = tf.io.decode_raw(tf.strings.substr(encoded, palette, pixels - palette), tf.uint8)
        colours = tf.reshape(colours, [-1, 4])[:, 2::-1]  # blue, green, red, unused
        indices = tf.io.decode_bmp(encoded)
        return in_parts(lambda rows: tf.gather(colours, tf.cast(rows[..., 0], tf.int32)), indices)

    def decode() -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=3)

    cases = {8: look_up, 32: lambda: _decode_four_bytes(encoded, background)}
    return tf.switch_case(tf.where(bits == 8, 0, tf.where(bits == 32, 1, 2)), [cases[8], cases[32], decode])


def _decode_four_bytes(encoded: tf.Tensor, background: Background) -> tf.Tensor:
    """The fourth byte is alpha only if the file says so; other files leave there what they like."""
    red_first = tf.io.decode_bmp(encoded, channels=4)  # as if the bytes of a pixel were blue, green, red and alpha
    has_masks = read_bytes(encoded, COMPRESSION, 1)[0] == BITFIELDS
    masks = tf.reshape(read_bytes(encoded, MASKS, 16), [4, 4])  # of each channel in each byte
    has_alpha = has_masks & (read_bytes(encoded, HEADER_SIZE, 1)[0] >= WITH_ALPHA) & (tf.reduce_sum(masks[3]) > 0)
    usual = tf.constant([[0, 0, 255, 0], [0, 255, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]])
    masks = tf.where(has_masks & (has_alpha | [[True], [True], [True], [False]]), masks, usual)
    is_one_byte = (tf.reduce_sum(masks, 1) == 255) & (tf.reduce_max(masks, 1) == 255)
    with tf.control_dependencies([require(tf.reduce_all(is_one_byte), "the channels of this BMP file are no bytes")]):
        image = tf.gather(red_first, tf.gather([2, 1, 0, 3], tf.argmax(masks, 1)), axis=-1)
    return tf.cond(has_alpha, lambda: lay_on(background, image), lambda: image[..., :3])
