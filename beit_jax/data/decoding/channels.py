"""Images of other channels than red, green and blue, or of more than 8 bits, from the bytes of a file.

What a pixel is: the number in the file over `max_value`, float32; without `max_value` the number itself, uint8, where
of 16 bits the upper eight count. With the largest number of 16 bits as `max_value`, numbers of 8 bits are widened as
PNG has it, times 257, so that white is 1 in both. Grey is what Pillow makes of colours. Two and four channels are those
of a PNG file with as many; no file that is read here holds more.
"""

from collections.abc import Callable

import tensorflow as tf

from beit_jax.data.decoding.array_pixels import LARGEST
from beit_jax.data.decoding.assertions import require
from beit_jax.data.decoding.file_bytes import read_bytes
from beit_jax.data.decoding.transparency import Background
from beit_jax.errors import UserError
from beit_jax.models.pixel_statistics import LUMA

IN_FILES = (1, 2, 3, 4)
WIDENED = 257.0  # a number of 8 bits as 16, in units of itself
_PNG, _DEPTH, _KIND = b"\x89PNG", 24, 25  # where the header of a PNG file has bits and kind of its pixels
_CHANNELS_OF_KIND = [1, 0, 3, 3, 2, 0, 4]  # grey, colours, palette, grey and alpha, colours and alpha


def check_channels(op: str, channels: int, max_value: float) -> None:
    """Raises UserError unless both are numbers that images can have."""
    if not isinstance(channels, int) or channels < 1 or not isinstance(max_value, int | float) or max_value < 0:
        raise UserError(f"{op}: found channels={channels!r} and max_value={max_value!r}; expected numbers above 0")


def check_in_files(channels: int) -> None:
    """Raises UserError unless image files can have so many channels."""
    if channels not in IN_FILES:
        raise UserError(
            f"data.channels={channels}, and image files have 1 to 4: expected arrays: data.source=npz:FILE or "
            "npy:FOLDER, or --images FILE.npy"
        )


def count_channels(encoded: tf.Tensor) -> tf.Tensor:
    """Of a PNG file, by its header; 3 of other files. A scalar int32."""
    header = tf.cast(read_bytes(encoded, 0, _KIND + 1), tf.int32)
    of_png = tf.gather(_CHANNELS_OF_KIND, tf.clip_by_value(header[_KIND], 0, 6))
    return tf.where(tf.strings.substr(encoded, 0, 4) == _PNG, of_png, 3)


def require_channels(encoded: tf.Tensor, channels: int) -> tf.Operation | None:
    """Fails if a file has another number of channels; grey and colours become each other."""
    return require(count_channels(encoded) == channels, "other channels") if channels in (2, 4) else None


def describe_channels(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """What is wrong with the channels of a file, or an error if nothing is."""
    found = count_channels(encoded)
    with tf.control_dependencies([require((found != channels) & (channels in (2, 4)), "the right channels")]):
        return tf.strings.join([tf.strings.as_string(found), f" channels, expected data.channels={channels}"])


def decode_channels(
    encoded: tf.Tensor,
    channels: int,
    max_value: float,
    background: Background,
    decode_rgb: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """`[h, w, channels]`, uint8 or float32 (see above), or TensorFlow's errors.

    Args:
      encoded: the bytes of a file.
      channels: 1 to 4.
      max_value: the number that means 1; 0: the numbers of 8 bits stay as they are.
      background: behind transparent pixels of 16 bits, where transparency is no channel.
      decode_rgb: from the bytes to uint8 `[h, w, 3]`, for all formats.
    """
    if channels in (2, 4):
        with tf.control_dependencies([require_channels(encoded, channels)]):
            dtype = tf.uint16 if max_value else tf.uint8
            stored = tf.ensure_shape(tf.io.decode_png(tf.identity(encoded), 0, dtype), [None, None, None])
            stored = tf.reshape(stored, [*tf.unstack(tf.shape(stored)[:2]), channels])
        if not max_value:
            return stored
        return _over(stored if max_value == LARGEST else _undo_widening(encoded, stored), max_value)
    if not max_value:
        return _grey(tf.cast(decode_rgb(encoded), tf.float32), tf.uint8)
    is_deep = tf.reduce_all(read_bytes(encoded, 0, _KIND)[_DEPTH] == 16) & (tf.strings.substr(encoded, 0, 4) == _PNG)
    levels = tf.cond(
        is_deep,
        lambda: _decode_deep(encoded, background),
        lambda: tf.cast(decode_rgb(encoded), tf.float32) * (WIDENED if max_value == LARGEST else 1.0),
    )
    levels = tf.ensure_shape(levels, [None, None, 3])
    return _over(levels if channels == 3 else _grey(levels, tf.float32), max_value)


def _over(levels: tf.Tensor, max_value: float) -> tf.Tensor:
    return tf.cast(levels, tf.float32) / max_value


def _undo_widening(encoded: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
    """The numbers in a file, from what they are as 16 bits: those of 8 bits are there times 257."""
    is_deep = read_bytes(encoded, 0, _KIND)[_DEPTH] == 16
    return tf.cast(levels, tf.float32) / tf.where(is_deep, 1.0, WIDENED)


def _grey(levels: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """`[h, w, 1]` of float32 `[h, w, 3]`; grey stays as it is."""
    red, green, blue = tf.split(tf.cast(levels, tf.float64), 3, axis=-1)  # sums of 16 bits are exact in float64
    grey = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) / 65536.0
    return tf.cast(tf.floor(grey + 0.5), dtype)


def _decode_deep(encoded: tf.Tensor, background: Background) -> tf.Tensor:
    """float32 `[h, w, 3]` of a PNG file of 16 bits; transparent colours that are no channel are dropped."""
    stored = tf.cast(tf.io.decode_png(encoded, 0, tf.uint16), tf.float32)
    count = tf.shape(stored)[2]
    colours = tf.cond(count < 3, lambda: tf.repeat(stored[..., :1], 3, axis=-1), lambda: stored[..., :3])
    if background is None:
        return colours
    ground = WIDENED * tf.constant(background, tf.float32)
    alpha = tf.where(count % 2 == 0, stored[..., -1:] / 65535.0, 1.0)
    return tf.where(alpha == 1.0, colours, alpha * colours + (1.0 - alpha) * ground)
