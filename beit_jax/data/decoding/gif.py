"""The first frame of a GIF file. TensorFlow paints its transparent pixels black, and leaves out what is around it.

A frame has a transparent colour if a block before it says so. That block is switched off, and the background takes the
place of the colour in the palette: then the file holds the image on its background.
"""

from typing import NamedTuple

import tensorflow as tf

from beit_jax.data.decoding.assertions import require
from beit_jax.data.decoding.file_bytes import read_bytes, replace_bytes
from beit_jax.data.decoding.image_header import MAX_PIXELS
from beit_jax.data.decoding.transparency import Background

CANVAS, FLAGS, PALETTE = 6, 10, 13  # positions in the file
EXTENSION, CONTROL = 0x21, 0xF9
BLACK = (0, 0, 0)
HAS_PALETTE, SIZE_BITS, IS_TRANSPARENT = 0x80, 7, 1


class _Frame(NamedTuple):
    control: tf.Tensor  # where its control block is, or -1
    descriptor: tf.Tensor  # where its description is


def decode_gif(encoded: tf.Tensor, background: Background) -> tf.Tensor:
    """uint8 `[h, w, 3]`, or TensorFlow's errors.

    Without a background, transparent pixels have the colour that the palette gives them, as in Pillow.
    """
    frame = _first_frame(encoded)
    encoded = tf.cond(frame.control < 0, lambda: encoded, lambda: _opaque(encoded, frame, background))
    canvas, box = _numbers(encoded, CANVAS, 2), _numbers(encoded, frame.descriptor + 1, 4)
    size = tf.maximum(canvas, box[:2] + box[2:])
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    with tf.control_dependencies([require(pixels <= MAX_PIXELS, "unexpected number of pixels")]):
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return _pad(image, size, box, background)


def _numbers(encoded: tf.Tensor, start: int | tf.Tensor, count: int) -> tf.Tensor:
    """int32 `[count]`, of 16 bits each, in pairs that are exchanged: vertical numbers come first."""
    low, high = tf.unstack(tf.reshape(read_bytes(encoded, start, 2 * count), [count, 2]), axis=1)
    return tf.reshape(tf.reshape(low + 256 * high, [-1, 2])[:, ::-1], [count])


def _first_frame(encoded: tf.Tensor) -> _Frame:
    """Goes through the blocks in front of the frame. The parts of an extension begin with their length."""

    def step(position: tf.Tensor, in_extension: tf.Tensor, control: tf.Tensor, _: tf.Tensor) -> list[tf.Tensor]:
        first, second = tf.unstack(read_bytes(encoded, position, 2))
        starts_extension = ~in_extension & (first == EXTENSION)
        control = tf.where(starts_extension & (second == CONTROL), position, control)
        ahead = tf.where(starts_extension, 2, tf.where(in_extension, first + 1, 0))
        return [position + ahead, starts_extension | (in_extension & (first > 0)), control, ahead > 0]

    start = PALETTE + _palette_bytes(read_bytes(encoded, FLAGS, 1)[0])
    length = tf.strings.length(encoded)
    position, _, control, _ = tf.while_loop(
        lambda position, _, control, goes_on: goes_on & (position < length), step, [start, False, -1, True]
    )
    return _Frame(control, position)


def _palette_bytes(flags: tf.Tensor) -> tf.Tensor:
    return tf.where(flags & HAS_PALETTE > 0, 3 * 2 ** ((flags & SIZE_BITS) + 1), 0)


def _opaque(encoded: tf.Tensor, frame: _Frame, background: Background) -> tf.Tensor:
    """The file without transparency, if the frame has a transparent colour."""
    flags, _, _, index = tf.unstack(read_bytes(encoded, frame.control + 3, 4))
    own = _palette_bytes(read_bytes(encoded, frame.descriptor + 9, 1)[0])
    shared = _palette_bytes(read_bytes(encoded, FLAGS, 1)[0])
    palette, size = tf.where(own > 0, frame.descriptor + 10, PALETTE), tf.where(own > 0, own, shared)

    def change() -> tf.Tensor:
        opaque = replace_bytes(encoded, frame.control + 3, b"\0")
        return opaque if background is None else replace_bytes(opaque, palette + 3 * index, bytes(background))

    return tf.cond((flags & IS_TRANSPARENT > 0) & (3 * index < size), change, lambda: encoded)


def _pad(image: tf.Tensor, size: tf.Tensor, box: tf.Tensor, background: Background) -> tf.Tensor:
    """The frame in its place in the image, of which TensorFlow gives the frame alone."""
    before = box[:2]
    behind = size - before - box[2:]

    def pad() -> tf.Tensor:
        channels = [
            tf.pad(image[..., channel], tf.stack([before, behind], 1), constant_values=tf.constant(level, tf.uint8))
            for channel, level in enumerate(background or BLACK)
        ]
        return tf.stack(channels, -1)

    return tf.cond(tf.reduce_any(box[2:] < size), pad, lambda: image)
