"""The first frame of a GIF file. TensorFlow paints its transparent pixels black, and cuts off what is beside a corner.

TensorFlow would also decode all frames, so it gets a file of the first one alone. The transparent colour of the frame
is not declared in that file, and the background takes its place in the palette: it holds the image on its background.
"""

import tensorflow as tf

from beit_jax.data.decoding.assertions import require
from beit_jax.data.decoding.file_bytes import part, read_bytes, replace_bytes
from beit_jax.data.decoding.gif_blocks import DESCRIPTOR, FLAGS, PALETTE, Frame, first_frame, palette_bytes
from beit_jax.data.decoding.image_header import MAX_PIXELS
from beit_jax.data.decoding.transparency import Background

CANVAS = 6  # position in the file
CONTROL_BYTES, END = 8, b";"
BLACK = (0, 0, 0)
IS_TRANSPARENT = 1


def decode_gif(encoded: tf.Tensor, background: Background) -> tf.Tensor:
    """uint8 `[h, w, 3]`, or TensorFlow's errors.

    Without a background, transparent pixels have the colour that the palette gives them, as in Pillow.
    """
    frame = first_frame(encoded)
    canvas, box = _numbers(encoded, CANVAS, 2), _numbers(encoded, frame.start + 1, 4)
    size = tf.maximum(canvas, box[:2] + box[2:])
    is_small = tf.reduce_prod(tf.cast(size, tf.int64)) <= MAX_PIXELS
    with tf.control_dependencies([require(frame.is_whole & is_small, "no whole frame, or too large a one")]):
        alone, around = _alone(encoded, frame, background)
    return _pad(tf.io.decode_image(alone, channels=3, expand_animations=False), size, box, around)


def _numbers(encoded: tf.Tensor, start: int | tf.Tensor, count: int) -> tf.Tensor:
    """int32 `[count]`, of 16 bits each, in pairs that are exchanged: vertical numbers come first."""
    low, high = tf.unstack(tf.reshape(read_bytes(encoded, start, 2 * count), [count, 2]), axis=1)
    return tf.reshape(tf.reshape(low + 256 * high, [-1, 2])[:, ::-1], [count])


def _alone(encoded: tf.Tensor, frame: Frame, background: Background) -> tuple[tf.Tensor, tf.Tensor]:
    """A file of the frame alone, and the colour, uint8 `[3]`, of what is around it.

    That is the transparent colour, or else the first one of the palette, as in Pillow. A transparent colour that the
    palette has is not transparent in the new file.
    """
    flags, _, _, index = tf.unstack(read_bytes(encoded, frame.control + 3, 4))
    is_transparent = (frame.control >= 0) & (flags & IS_TRANSPARENT > 0)
    shared = palette_bytes(read_bytes(encoded, FLAGS, 1)[0])
    own = palette_bytes(read_bytes(encoded, frame.start + DESCRIPTOR - 1, 1)[0])
    has_own, pixels = own > 0, frame.start + DESCRIPTOR + own
    palette = tf.where(has_own, part(encoded, frame.start + DESCRIPTOR, own), part(encoded, PALETTE, shared))
    place = tf.where(is_transparent, 3 * index, 0)
    in_palette = place < tf.strings.length(palette)
    if background is not None:
        is_changed = is_transparent & in_palette
        palette = tf.where(is_changed, replace_bytes(palette, place, bytes(background)), palette)
    around = tf.where(in_palette, read_bytes(palette, place, 3), background or BLACK)
    parts = [
        part(encoded, 0, PALETTE),
        tf.where(has_own, part(encoded, PALETTE, shared), palette),
        tf.where(is_transparent & ~in_palette, part(encoded, frame.control, CONTROL_BYTES), b""),
        b"," + bytes(4),  # in the corner, because TensorFlow gives no more pixels than a frame has
        part(encoded, frame.start + 5, DESCRIPTOR - 5),
        tf.where(has_own, palette, b""),
        part(encoded, pixels, frame.end - pixels),
        END,
    ]
    return tf.strings.join(parts), tf.cast(around, tf.uint8)


def _pad(image: tf.Tensor, size: tf.Tensor, box: tf.Tensor, around: tf.Tensor) -> tf.Tensor:
    """The frame in its place in the image."""
    before = box[:2]
    behind = size - before - box[2:]

    def pad() -> tf.Tensor:
        channels = [
            tf.pad(image[..., channel], tf.stack([before, behind], 1), constant_values=level)
            for channel, level in enumerate(tf.unstack(around))
        ]
        return tf.stack(channels, -1)

    return tf.cond(tf.reduce_any(box[2:] < size), pad, lambda: image)
